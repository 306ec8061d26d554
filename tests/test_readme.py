"""What the README and the usage page promise: every command parses, and the ones on the first screen run."""

import re
import shutil
from pathlib import Path

import pytest

from common.video import probe
from scripts import cli, verbs
from scripts.demo_data import demo_set_path
from scripts.quickstart import quickstart
from tests.moving_clips import write_moving_clips
from tests.tiny_robot import write_robot_dataset, write_video_model

REPOSITORY = Path(__file__).parent.parent
PAGES = ["README.md", "docs/usage.md"]
OPTION = re.compile(r"--[a-z][\w.-]*")


def commands(page: str) -> list[str]:
    """Indented lines that call understudy, and calls in backticks."""
    text = (REPOSITORY / page).read_text()
    lines = [line.strip() for line in text.splitlines() if line.startswith("    understudy ")]
    return lines + [call for call in re.findall(r"`(understudy [^`]+)`", text) if "VERB" not in call]


@pytest.mark.parametrize(
    ("page", "command"), [(page, command) for page in PAGES for command in commands(page)], ids=str
)
def test_each_command_exists_with_its_options(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in command.split()[1:] if word not in ("PRESET",)]
    verb, rest, _ = cli.find_verb(words)
    assert callable(verb)
    if not rest and verb is not verbs.doctor:
        return
    place = words[: len(words) - len(rest)]
    assert cli.main([*place, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in OPTION.findall(command)), f"{page}: {command}"


@pytest.mark.parametrize("page", PAGES)
def test_options_in_prose_exist(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (REPOSITORY / page).read_text()
    for verb in (
        "train lam",
        "train video",
        "label",
        "rollout",
        "evaluate lam",
        "evaluate video",
        "data demo",
        "data scan",
        "data prepare",
        "data check",
        "align",
        "evaluate align",
        "train distill",
        "evaluate student",
        "bench student",
        "serve",
        "replay",
    ):
        assert cli.main([*verb.split(), "--help"]) == 0
    known = capsys.readouterr().out + "--cpu --debug"
    assert [option for option in OPTION.findall(text) if option not in known] == []


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, "docs/architecture.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", (REPOSITORY / page).read_text()):
            assert ((REPOSITORY / page).parent / target).exists(), f"{page}: {target}"


def test_use_it_on_your_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the README, word for word, but for short trainings."""
    monkeypatch.chdir(tmp_path)
    write_moving_clips(tmp_path / "VIDEOS", 4)
    (tmp_path / "VIDEOS" / "clip_00.mp4").rename(tmp_path / "VIDEOS" / "CLIP.mp4")
    text = (REPOSITORY / "README.md").read_text().split("## Use it on your videos")[1].split("##")[0]
    lines = [line.strip().split()[1:] for line in text.splitlines() if line.startswith("    understudy ")]
    assert [line[0] for line in lines] == ["data", "train", "label", "train", "train", "rollout"]
    for words in lines:
        short = ["--training.steps", "2", "--training.workers", "0"] if words[0] == "train" else []
        assert cli.main([*words, *short]) == 0
    assert len(list((tmp_path / "labels").glob("*.safetensors"))) == 4
    assert probe(tmp_path / "rollout.mp4").frames == 40


def test_align_it_to_your_robot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's commands, word for word, with a model and a dataset of test size."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    write_video_model(tmp_path / "runs")
    write_robot_dataset(tmp_path / "DATASET", 9)
    text = (REPOSITORY / "README.md").read_text().split("## Align it to your robot")[1].split("##")[0]
    lines = [line.strip().split()[1:] for line in text.splitlines() if line.startswith("    understudy ")]
    assert [line[0] for line in lines] == ["data", "align", "rollout"]
    for words in lines:
        assert cli.main(words) == 0, capsys.readouterr().err
    assert probe(tmp_path / "robot.mp4").frames > 10


def test_quickstart_writes_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, count in (("train", 3), ("test", 2)):
        (tmp_path / "videos" / split).mkdir(parents=True)
        for clip in sorted((demo_set_path() / "human" / split).glob("*.mp4"))[:count]:
            shutil.copy(clip, tmp_path / "videos" / split)
    quickstart(tmp_path / "out", lam_steps=2, video_steps=2, student_steps=1, videos=tmp_path / "videos")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and page.count("data:video/mp4;base64,") == 4
    assert "PSNR, own actions" in page and "PSNR, own action" in page and "2 test videos" in page
    assert "8 labelled episodes" in page and "frames/s" in page
    assert "http" not in page.replace("http-equiv", ""), "nothing is loaded from elsewhere"
    assert "report.html" in capsys.readouterr().out
