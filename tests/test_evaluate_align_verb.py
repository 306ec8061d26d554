"""`understudy evaluate align` from a checkpoint folder to the files it writes, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from align.adapter import learn_adapter
from align.lerobot import RobotEpisode, write_lerobot
from align.robot import write_robot
from common.video import write_video
from scripts import evaluate_align
from scripts.cli import main
from tests.square_robot import NAMES, fitted, recording
from tests.test_rollout import VALUES, generator, write  # noqa: F401 (a fixture)
from video_model.generator import Generator

RECORDINGS = [recording(seed, frames=12, size=32) for seed in range(5)]
SPLITS = {"train": 3, "test": 2}


def write_dataset(root: Path, *, names: tuple[str, ...] = NAMES, splits: dict[str, int] = SPLITS) -> Path:
    """The recordings as a LeRobot dataset, each with a row of controls for its last frame."""
    episodes = [
        RobotEpisode(one.frames, one.states, np.concatenate((one.controls, one.controls[-1:])), "go round")
        for one in RECORDINGS
        if one.states is not None
    ]
    write_lerobot(
        root, episodes, fps=10, robot_type="square", state_names=NAMES, action_names=names, splits=splits, camera="eye"
    )
    return root


def write_plain(root: Path) -> Path:
    """The recordings without states."""
    for number, one in enumerate(RECORDINGS):
        folder = root / f"episode_{number}"
        folder.mkdir(parents=True)
        write_video(folder / "video.mp4", one.frames, fps=10)
        np.save(folder / "actions.npy", one.controls)
    (root / "info.json").write_text(json.dumps({"fps": 10, "action_names": NAMES}))
    return root


@pytest.fixture
def world(generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A checkpoint `video` that knows the robot, with random weights, and the dataset `robot`; a hasty probe."""
    monkeypatch.setattr(evaluate_align, "PROBE_STEPS", 20)
    body = fitted(RECORDINGS)
    turned = np.random.default_rng(0).normal(size=(len(NAMES), VALUES))
    codes = [np.diff(one.states, axis=0) @ turned for one in RECORDINGS if one.states is not None]
    adapter = learn_adapter(body, RECORDINGS, codes, code_scale=(1.0,) * VALUES)
    folder, names = write(generator, tmp_path), [f"whole episode {number}" for number in range(3)]
    write_robot(folder, body, learned_from=names, adapter=adapter, network=None, base=generator.model)
    write_dataset(tmp_path / "robot")
    return tmp_path


def run(world: Path, *options: str, dataset: str = "robot") -> int:
    return main(["evaluate", "align", str(world / "video"), str(world / dataset), *options])


def test_a_robot_is_measured(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--json", str(world / "card.json"), "--html", str(world / "card.html")]
    assert run(world, "--windows", "2", *files) == 0
    card = json.loads((world / "card.json").read_text())
    assert (card["robot"], card["data"], card["episodes"], card["windows"]) == ("square", "robot", 2, 2)
    assert card["steps"] == 8 and len(card["fidelity"]["true"]["psnr"]["frames"]) == 8
    assert card["state"]["source"] == "measured" and card["state"]["probe_episodes"] == 3
    assert set(card["state"]["r2"]) == set(NAMES)
    assert [effect["name"] for effect in card["trials"]["controls"]] == list(NAMES)
    page = (world / "card.html").read_text()
    assert page.count("data:image") == 2 + 3 and "http" not in page.replace("http://www.w3.org", "")
    assert f"{card['fidelity']['true']['psnr']['mean']['value']:.2f}" in capsys.readouterr().out


def test_controls_stand_for_states_that_are_not_there(world: Path) -> None:
    write_plain(world / "plain")
    options = ["--episodes", "3:5", "--probe-episodes", "0:3", "--windows", "2", "--json", str(world / "card.json")]
    assert run(world, *options, dataset="plain") == 0
    state = json.loads((world / "card.json").read_text())["state"]
    assert state["source"] == "controls" and set(state["r2"]) == set(NAMES)


def test_what_is_refused(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*options: str, dataset: str = "robot") -> str:
        assert run(world, *options, "--json", str(world / "card.json"), dataset=dataset) in (2, 4)
        assert not (world / "card.json").exists()
        return capsys.readouterr().err

    assert "learn from episodes that are measured: 3" in said("--probe-episodes", "0:4")
    assert "leaves no episodes for the state probe" in said("--episodes", "train")
    assert "no robot 'sqare'" in said("--robot", "sqare")
    assert "must be at least 1" in said("--windows", "0")
    assert "only robot episode 4 can be measured" in said("--episodes", "4:5")
    write_dataset(world / "others", names=("x", "y", "grip"))
    assert "the controls of 'square' are x, y, opening" in said(dataset="others")
    write_dataset(world / "untold", splits={"train": 5})
    assert "no split 'test'" in said(dataset="untold") and "--episodes" in said(dataset="untold")


def test_what_it_was_aligned_with_is_not_measured(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(world / "whole", splits={"train": 5})
    assert run(world, "--episodes", "2:5", dataset="whole") == 2
    assert "aligned with episodes that would be measured: 2" in capsys.readouterr().err
    assert run(world, "--windows", "2", "--json", str(world / "card.json"), dataset="whole") == 0
    card = json.loads((world / "card.json").read_text())
    assert (card["episodes"], card["state"]["probe_episodes"]) == (2, 3)
