"""`understudy evaluate lam` from the command to its files, and every mistake that a user can make with it."""

import json
from pathlib import Path

import pytest
import torch

from common.checkpoints import save_model
from common.video import write_video
from lam.checkpoint import build, checkpoint_config
from lam.presets import LamConfig, LamDataConfig, LamModelConfig
from scripts import cli
from scripts.demo_data import demo_set_path
from tests.moving_clips import moving_square, write_moving_clips

SMALL = LamConfig(
    model=LamModelConfig(height=24, width=24, patch=8, channels=16, heads=2, encoder_blocks=1, decoder_blocks=1),
    data=LamDataConfig(validation_share=0.5),
)
FUNCTIONS = """
import numpy as np

def difference(a, b):
    return (b.astype(np.float32) - a).reshape(len(a), -1)[:, ::97]

def broken(a, b):
    return difference(a, b) * np.nan

def growing(a, b, seen=[]):
    seen.append(1)
    return difference(a, b)[:, : 2 + len(seen)]

def transposed(a, b):
    return difference(a, b).T

def forgetful(a, b):
    raise KeyError("weights")
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving_clips(tmp_path_factory.mktemp("clips") / "squares", 4, frames=14)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "small")


def save(folder: Path, *, scale: float = 1.0) -> Path:
    torch.manual_seed(0)
    tensors = {name: value * scale for name, value in build(SMALL.model).state_dict().items()}
    save_model(folder, tensors=tensors, config=checkpoint_config(SMALL, preset="tiny"), card="untrained")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the current one, with functions to measure one level up."""
    (tmp_path / "encoders_of_test.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def evaluate(*words: object) -> int:
    return cli.main(["evaluate", "lam", *map(str, words)])


def test_a_checkpoint_on_plain_video(
    checkpoint: Path, clips: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (checkpoint, clips, "--fast", "--pairs", 24)
    assert evaluate(*words, "--json", "a/card.json", "--html", "a/card.html", "--sheet", "a/sheet.png") == 0
    assert {path.name for path in (here / "a").iterdir()} == {"card.json", "card.html", "sheet.png"}
    text = (here / "a/card.json").read_text()
    card = json.loads(text)
    assert "NaN" not in text
    assert [subject["role"] for subject in card["sets"][0]["subjects"]] == ["model"] + ["baseline"] * 5
    assert card["sets"][0]["subjects"][0]["label_free"]["decoder"]["psnr"].keys() >= {"own", "shuffled", "zero", "copy"}
    assert "http" not in (here / "a/card.html").read_text()
    printed = capsys.readouterr().out
    assert "PSNR, own action" in printed and "zero response" in printed and card["verdict"][:30] in printed
    assert evaluate(*words, "--json", "b.json") == 0
    assert json.loads((here / "b.json").read_text()) == card, "the same command gives the same card"


def test_a_function_against_a_checkpoint(checkpoint: Path, clips: Path, here: Path) -> None:
    words = ("encoders_of_test:difference", clips, "--size", 24, 32, "--against", checkpoint, "--fast", "--pairs", 24)
    assert evaluate(*words, "--json", "card.json", "--html", "card.html") == 0
    card = json.loads((here / "card.json").read_text())
    model, other, *_ = card["sets"][0]["subjects"]
    assert model["name"] == "encoders_of_test:difference" and other["name"] == str(checkpoint)
    assert model["label_free"]["code"]["all"]["zero_response"]["value"] == 0
    assert "has no decoder" in (here / "card.html").read_text()


def test_the_demo_world_knows_the_hand(checkpoint: Path, here: Path) -> None:
    demo = demo_set_path()
    words = (checkpoint, demo / "human/test", "--probe-onto", demo / "robot", "--fast", "--pairs", 60)
    assert evaluate(*words, "--json", "card.json") == 0
    card = json.loads((here / "card.json").read_text())
    data = card["sets"][0]
    assert data["target"] == "hand" and len(data["sha256"]) == 64
    known = data["subjects"][0]["known"]["blocks"]["z"]["groups"]
    assert known.keys() == {"hand", "turn", "opening", "camera", "sway", "light", "distractor"}
    assert card["probe_onto"]["scores"][str(checkpoint)].keys() == {"hand", "turn", "opening"}


def test_held_out_clips_alone(checkpoint: Path, here: Path) -> None:
    folder = write_moving_clips(here / "many", 8, frames=12)
    assert evaluate(checkpoint, folder, "--held-out", "--fast", "--pairs", 40, "--json", "card.json") == 0
    found = json.loads((here / "card.json").read_text())["sets"][0]
    assert 2 <= found["clips"] < 8


def test_clips_that_are_all_alike_rank_nothing(
    checkpoint: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "alike").mkdir()
    for number in range(4):
        write_video(here / "alike" / f"{number}.mp4", moving_square(0, frames=14), fps=10, gop=10)
    assert evaluate(checkpoint, here / "alike", "--fast", "--pairs", 40, "--json", "card.json") == 0
    assert json.loads((here / "card.json").read_text())["sets"][0]["ranking"] == []
    assert "wrong order" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("broken", "NaN or infinite"),
        ("growing", "the number must not change"),
        ("transposed", "shape (2, D)"),
        ("forgetful", "KeyError"),
    ],
)
def test_a_function_that_answers_nonsense_exits_4(
    model: str, message: str, clips: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"encoders_of_test:{model}", clips, "--size", 24, 24, "--fast", "--pairs", 24)
    assert evaluate(*words, "--json", "card.json", "--html", "card.html") == 4
    assert message in capsys.readouterr().err
    assert not list(here.iterdir())


def test_a_diverged_checkpoint_exits_4(clips: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diverged = save(here.parent / "diverged", scale=float("nan"))
    assert evaluate(diverged, clips, "--fast", "--json", "card.json") == 4
    assert "NaN" in capsys.readouterr().err
    assert not list(here.iterdir())


def one_clip(folder: Path) -> None:
    write_moving_clips(folder, 1, frames=14)


def no_motion(folder: Path) -> None:
    folder.mkdir()
    for seed in range(3):
        write_video(folder / f"{seed}.mp4", moving_square(seed, frames=1).repeat(14, 0), fps=10, gop=14)


def no_video(folder: Path) -> None:
    folder.mkdir()
    (folder / "film.mp4").write_text("404")


@pytest.mark.parametrize(
    ("make", "message"), [(one_clip, "one clip"), (no_motion, "nothing moves"), (no_video, "film.mp4")]
)
def test_data_that_cannot_be_measured_exits_4(
    make, message: str, checkpoint: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(here.parent / "data")
    assert evaluate(checkpoint, here.parent / "data", "--fast", "--json", "card.json", "--html", "card.html") == 4
    assert message in capsys.readouterr().err
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL"], "which data?"),
        (["MODEL", "CLIPS", "--size", "24", "24"], "--size 24 24 is for Python functions"),
        (["encoders_of_test:difference", "CLIPS"], "--size HEIGHT WIDTH"),
        (["encoders_of_test:nothing", "CLIPS", "--size", "24", "24"], "'nothing'"),
        (["encoders_of_test:difference", "CLIPS", "--size", "24", "24", "--sheet", "s.png"], "--sheet takes"),
        (["encoders_of_test:difference", "CLIPS", "--size", "24", "24", "--held-out"], "--held-out is for"),
        (["MODEL", "CLIPS", "--against", "MODEL"], "given twice"),
        (["MODEL", "CLIPS", "CLIPS"], "given twice"),
        (["MODEL", "CLIPS", "--probe-onto", "CLIPS"], "learned on"),
        (["MODEL", "CLIPS", "--split", "test"], "LeRobot"),
        (["MODEL", "CLIPS", "--json", "CLIPS"], "cannot be written"),
        (["MODEL", "/nowhere"], "/nowhere"),
        (["MODEL", "CLIPS", "--gap", "0"], "0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_exits_2(
    words: list[str],
    message: str,
    checkpoint: Path,
    clips: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"MODEL": str(checkpoint), "CLIPS": str(clips)}
    assert evaluate(*(places.get(word, word) for word in words)) == 2
    shown = capsys.readouterr()
    assert message in shown.err + shown.out
    assert not list(here.iterdir())
