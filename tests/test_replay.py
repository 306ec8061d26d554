"""A recording of the demo's student is made again, every frame equal, and a difference is found."""

import json
import shutil
from pathlib import Path

import pytest

from align.datasets import open_dataset
from scripts import cli
from scripts.serve import Served, demo, open_engine
from simulator.engine import Engine
from simulator.protocol import Keep, Pause, Record, Resume, Source
from simulator.recording import finish, read_recording
from tests.test_recording import changed_line, recorded
from tests.watched_engine import Watched

PLACE = (0.0, 0.15, 0.1, 0.2, 0.8)


class WatchedDemo(Watched):
    def __init__(self, recordings: Path) -> None:
        super().__init__(recordings)
        self.engine: Engine = open_engine(demo(recordings))
        self.engine.subscribe(self._hear)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A recording of everything that can happen, one that began late, and the last seconds."""
    with WatchedDemo(tmp_path_factory.mktemp("recordings")) as watched:
        found: dict[str, Path] = {}
        watched.begin(seed=1)
        watched.say(Record(True))
        watched.step(*PLACE)
        watched.say(Source("recorded"), Resume())
        watched.wait(lambda: len(watched.passes) >= 3)
        watched.say(Pause())
        watched.say(Source("human"), Resume())  # and nobody drives: nothing is done, and it pauses
        watched.wait(lambda: watched.engine.state()["reason"].startswith("no controls"))
        watched.begin(seed=2, scene=watched.engine.welcome()["scenes"][1]["id"])
        watched.step(*PLACE)
        watched.say(Record(False))
        found["all"] = recorded(watched)
        watched.step(*PLACE)
        watched.say(Record(True))
        watched.step(-0.1, *PLACE[1:])
        watched.say(Record(False))
        watched.wait(lambda: len(watched.of("recorded")) == 2)
        found["late"] = recorded(watched)
        watched.say(Keep())
        watched.wait(lambda: len(watched.of("recorded")) == 3)
        found["kept"] = recorded(watched)
    return found


@pytest.mark.parametrize("name", ["all", "late", "kept"])
def test_every_frame_is_equal(folders: dict[str, Path], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = folders[name]
    if name == "all":
        sources = {made.source for filmed in read_recording(folder).takes for made in filmed.take.passes}
        assert sources == {"human", "recorded"}
    assert cli.main(["replay", str(folder), "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    frames = 4 * sum(len(filmed.take.passes) for filmed in read_recording(folder).takes)
    assert report["equal"] == report["frames"] == frames >= 12
    assert report["all_equal"] and report["same_model"] and report["same_machine"] and report["first_unequal"] is None
    assert f"{frames} of {frames} frames are equal" in capsys.readouterr().out


def test_a_difference_is_found(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """One control of the second pass a little to the side: what came before is equal, what came after is not."""
    folder = shutil.copytree(folders["late"], tmp_path / "changed")

    def push(line: dict) -> None:
        line["controls"][2][0] += 0.02

    changed_line(folder, 2, push)
    assert cli.main(["replay", str(folder), "--json", str(tmp_path / "report.json")]) == 4
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["first_unequal"] in (5, 6, 7), "the tokenizer makes four frames of a latent at a time"
    assert report["equal"] >= 4 and not report["all_equal"]
    assert f"frame {report['first_unequal']} is the first that is another" in capsys.readouterr().err


def test_another_seed_is_another_film(folders: dict[str, Path], tmp_path: Path):
    folder = shutil.copytree(folders["late"], tmp_path / "changed")
    changed_line(folder, 0, lambda line: line.update(seed=99))
    assert cli.main(["replay", str(folder)]) == 4


def test_what_was_cut_off_is_finished_and_made_again(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(folders["all"], tmp_path / "cut")
    session = json.loads((folder / "session.json").read_text())
    (folder / "session.json").write_text(json.dumps({**session, "finished": False}))
    lines = (folder / "passes.jsonl").read_text()
    (folder / "passes.jsonl").write_text(lines[: len(lines) - 100])
    assert cli.main(["replay", str(folder)]) == 0
    assert "was cut off; finished with" in capsys.readouterr().out
    assert read_recording(folder).finished


def test_another_model_is_said_to_be_another(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(folders["late"], tmp_path / "moved")
    session = json.loads((folder / "session.json").read_text())
    session["origin"] |= {"checkpoint": str(tmp_path / "gone"), "checksum": "another"}
    (folder / "session.json").write_text(json.dumps(session))
    assert cli.main(["replay", str(folder)]) == 2
    assert "--checkpoint" in capsys.readouterr().err
    assert cli.main(["replay", str(folder), "--checkpoint", session["origin"]["checkpoint"]]) == 2
    own = str(Path(cli.__file__).parent / "demo_student")
    assert cli.main(["replay", str(folder), "--checkpoint", own]) == 0
    assert "not the model that made the recording" in capsys.readouterr().out


def test_what_is_no_recording_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["replay", str(tmp_path)]) == 4
    assert "is no recording" in capsys.readouterr().err


def test_a_finished_recording_can_be_finished_again(folders: dict[str, Path], tmp_path: Path):
    folder = shutil.copytree(folders["kept"], tmp_path / "again")
    assert finish(folder) == json.loads((folder / "session.json").read_text())["frames"]


def test_the_demo_is_served_at_twice_its_rate(tmp_path: Path):
    served = demo(tmp_path)
    assert isinstance(served, Served) and served.fps == 20
    dataset = open_dataset(served.data[0])
    begun, held_out = ({e.index for e in dataset.episodes_of(split)} for split in (served.split or "", "test"))
    assert begun and begun < held_out
