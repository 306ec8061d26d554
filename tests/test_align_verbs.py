"""`understudy align`, `data check`, `rollout --robot` and `label --as-actions` from their words to what they write."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from align.control_group import ControlGroup
from align.datasets import open_dataset
from align.embodiment import load_embodiment
from align.inverse import learn_inverse, write_inverse
from align.robot import robot_names
from align.train import frame_codes, read_episodes
from common.errors import UserError
from common.video import decode, probe
from scripts.align_words import read_changes
from scripts.cli import main
from tests.tiny_robot import CODE, robot_episodes, write_robot_dataset, write_video_model
from video_model.generator import load_generator


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`set`: a robot dataset; `video`: a checkpoint; `robot`: the same, aligned."""
    root = tmp_path_factory.mktemp("verbs")
    write_robot_dataset(root / "set", 4)
    write_video_model(root)
    assert main(["align", str(root / "video"), str(root / "set"), "--out", str(root / "robot"), "--name", "arm"]) == 0
    if not (root / "robot/inverses").exists():
        generator = load_generator(root / "video")
        known = read_episodes(open_dataset(root / "set"), generator, name="arm", episodes=None, camera=None)
        codes = [frame_codes(generator, recording.frames) for recording in known.recordings]
        inverse = learn_inverse(known.embodiment, known.recordings, codes, code_scale=(1.0,) * CODE)
        write_inverse(root / "robot", "arm", inverse)
    return root


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_align_says_what_it_takes_the_controls_for_and_adds_robots(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "two"
    words = ["align", world / "robot", world / "set", "--out", out, "--episodes", "0:3", "--name", "other"]
    assert run(*words, "--set", "x.kind=delta", "--set", "x.unit=cm", "--set", "gripper.limits=[[0, 2]]") == 0
    shown = capsys.readouterr().out
    assert "--mode adapter: 3 episodes" in shown and "controls of other, 10 rows per second" in shown
    assert "set by hand" in shown and "--set GROUP.FIELD=VALUE" in shown
    assert shown.splitlines()[-1] == f"Next: understudy evaluate align {out} {world / 'set'}"
    assert "aligned in" in shown
    assert robot_names(out) == ["arm", "other"]
    x, y, opening = load_embodiment(out / "controls/other.json").groups
    assert (x.kind, x.unit, y.kind, opening.limits) == ("delta", "cm", "absolute", ((0.0, 2.0),))
    assert load_embodiment(out / "controls/arm.json") == load_embodiment(world / "robot/controls/arm.json")


def test_align_trains_a_network_of_the_robots_own(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["align", world / "video", world / "set", "--out", out, "--mode", "posttrain"]
    assert run(*words, "--training.steps", "2", "--training.batch-size", "2", "--window-every", "8") == 0
    assert (out / "networks/set.safetensors").exists() and (tmp_path / "out-run/checkpoints/step-2").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "psition.kind=delta"], "did you mean 'position'?"),
        (["--set", "position.knid=delta"], "did you mean 'kind'?"),
        (["--set", "position.kind=detla"], "did you mean 'delta'?"),
        (["--set", "position.kind"], "does not say what to set"),
        (["--set", "position.wraps=perhaps"], "'perhaps' is no JSON"),
        (["--set", "position.wraps=3"], "must be bool"),
        (["--mode", "adaptor"], "adapter"),
        (["--episodes", "7:9"], "no episodes '7:9'"),
        (["--camera", "left"], "no camera 'left'"),
        (["--name", "arm"], "knows a robot 'arm' already"),
        (["--training.stpes", "3"], "--training.steps"),
        (["--window-every", "0"], "at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_of_align_are_one_message(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run("align", world / "robot", world / "set", "--out", tmp_path / "out", *words) == 2
    shown = capsys.readouterr()
    assert message in shown.err + shown.out and "Traceback" not in shown.err
    assert not (tmp_path / "out").exists()


def test_corrections_have_the_type_of_their_field() -> None:
    words = ["arm.kind=gripper", "arm.pos.wraps=true", "arm.pos.rotation=none", "arm.unit=1", "hand.limits=[[0, 1]]"]
    assert read_changes(words) == {
        "arm": {"kind": "gripper", "unit": "1"},
        "arm.pos": {"wraps": True, "rotation": None},
        "hand": {"limits": [[0, 1]]},
    }
    for field in ("start", "stop", "reason"):
        assert field in ControlGroup.__dataclass_fields__
        with pytest.raises(UserError, match="unknown field"):
            read_changes([f"arm.{field}=1"])


def test_check_says_what_is_there_and_that_nothing_is_wrong(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("data", "check", world / "set", "--json", tmp_path / "check.json") == 0
    shown = capsys.readouterr().out
    for said in ("LeRobot v3.0", "fps  10", "observation.images.head", "observation.state (3 columns)", "absolute"):
        assert said in shown
    assert "Nothing is wrong with its 4 episodes, 160 frames" in shown
    numbers = json.loads((tmp_path / "check.json").read_text())
    assert numbers["good"] == [0, 1, 2, 3] and not numbers["problems"] and numbers["shifts"] is None
    assert numbers["controls"]["groups"][0]["kind"] == "absolute"


@pytest.mark.parametrize("late", [-1, 0, 1])
def test_check_finds_actions_that_come_a_row_too_late(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], late: int
) -> None:
    write_robot_dataset(tmp_path / "set", 3, late=late)
    words = ["data", "check", tmp_path / "set", "--checkpoint", world / "video", "--json", tmp_path / "check.json"]
    assert run(*words) == 0
    shown = capsys.readouterr().out
    says = {
        -1: "Its actions come 1 row (100 ms) before the frames show it (shift -1)",
        0: "Its actions fit the frames as is (shift 0",
        1: "Its actions come 1 row (100 ms) later than what the frames show (shift +1)",
    }
    assert says[late] in shown and "Its state fits the frames as is (shift 0" in shown
    assert json.loads((tmp_path / "check.json").read_text())["shifts"]["controls"]["best"] == late


def test_check_names_what_is_wrong_and_exits_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_robot_dataset(tmp_path / "set", 3)
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    rows = np.stack([np.asarray(row, np.float32) for row in table["action"].to_pylist()])
    rows[50, 1] = np.nan
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 3)
    pq.write_table(table.set_column(table.column_names.index("action"), "action", column), path)
    assert run("data", "check", root, "--json", tmp_path / "check.json") == 4
    shown = capsys.readouterr()
    assert "episode 1, action: " in shown.out and "'y' of frame 10 is nan" in shown.out
    assert "1 of 3 episodes" in shown.err and "episode 1, action: " in shown.err
    assert json.loads((tmp_path / "check.json").read_text())["good"] == [0, 2]
    assert run("data", "check", tmp_path / "nothing") == 2


def test_a_rollout_follows_an_episode_beside_the_truth(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    words = ["rollout", world / "robot", world / "set", "--robot", "arm", "--episode", "2", "--out", out]
    assert run(*words, "--start", "0.5", "--seconds", "0.8") == 0
    assert "8 frames after the first under the controls of set episode 2" in (told := capsys.readouterr().out)
    assert "dB from the episode at the left" in told and probe(out).fps == 10
    video = np.stack([frame.image for frame in decode(out, size=None)]).astype(float)
    assert video.shape == (9, 256, 512, 3)
    truth = robot_episodes(4)[2].frames[5:14].repeat(8, axis=1).repeat(8, axis=2)
    errors = [np.abs(video[:, :, :256] - np.roll(truth, slip, axis=0)).mean() for slip in (-1, 0, 1)]
    assert np.argmin(errors) == 1, "frame by frame"
    assert run(*words, "--use", "none", "--seconds", "0.4") == 0
    assert "controls that change nothing" in capsys.readouterr().out


def test_a_rollout_from_a_picture_takes_the_controls_of_an_episode(world: Path, tmp_path: Path) -> None:
    Image.fromarray(robot_episodes(1)[0].frames[7]).save(tmp_path / "first.png")
    out = tmp_path / "out.mp4"
    words = ["rollout", world / "robot", tmp_path / "first.png", "--actions", world / "set", "--episode", "1"]
    assert run(*words, "--out", out) == 0
    assert probe(out).frames == 40


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--episode", "9"], "no episode 9"),
        (["--robot", "amr"], "did you mean 'arm'?"),
        (["--robot", "arm", "--use", "opposite"], "all or none"),
        (["--robot", "arm", "--start", "40"], "controls from 0 to 3.9 s"),
        ([], "which actions?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_of_a_rollout(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run("rollout", world / "robot", world / "set", "--out", tmp_path / "out.mp4", *words) == 2
    assert message in capsys.readouterr().err


def test_another_robots_dataset_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("label", world / "robot", world / "set", "--as-actions", "--out", tmp_path / "deltas") == 0
    capsys.readouterr()
    words = ["rollout", world / "robot", tmp_path / "deltas", "--episode", "0", "--out", tmp_path / "out.mp4"]
    assert run(*words) == 2
    assert "the controls of 'arm' are x, y, opening" in capsys.readouterr().err


def test_label_writes_the_actions_that_it_reads(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["label", world / "robot", world / "set", "--as-actions", "--robot", "arm", "--out", tmp_path / "out"]
    assert run(*words) == 0
    shown = capsys.readouterr().out
    assert "4 episodes, 160 frames" in shown and "R2" in shown
    assert run("data", "check", tmp_path / "out") == 0
    assert run(*words) == 2, "it exists"
    assert run("label", world / "lam", world / "set", "--out", tmp_path / "labels", "--robot", "arm") == 2
    assert run(*words[:-1], tmp_path / "more", "--fps", "5") == 2
    assert "goes" not in capsys.readouterr().out
