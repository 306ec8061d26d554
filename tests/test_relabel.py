"""Robot video without labels becomes a dataset: what is written, and that it is what was done."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from align.check import check_dataset
from align.control_group import ControlGroup
from align.datasets import open_dataset
from align.embodiment import RobotEmbodiment, load_embodiment
from align.guess import guess_embodiment
from align.inverse import learn_inverse, write_inverse
from align.presets import AlignConfig
from align.relabel import actions_of, as_changes, relabel
from align.rotations import read_rotations
from align.told_controls import changes_of
from align.train import align, frame_codes, read_episodes
from common.errors import BadData, UserError
from common.video import write_video
from tests.tiny_robot import CODE, FPS, NAMES, robot_episodes, square, write_robot_dataset, write_video_model
from video_model.generator import load_generator

BODY = RobotEmbodiment(
    "arm",
    ("x", "y", "angle", "qx", "qy", "qz", "qw", "dz", "speed", "grip"),
    10.0,
    (
        ControlGroup("position", 0, 2, "absolute", unit="m", limits=((-1.0, 1.0), (-2.0, 2.0))),
        ControlGroup("angle", 2, 3, "absolute", wraps=True, unit="deg"),
        ControlGroup("wrist", 3, 7, "absolute", rotation="quaternion_xyzw", frame="world"),
        ControlGroup("dz", 7, 8, "delta", unit="m"),
        ControlGroup("speed", 8, 9, "velocity", unit="m/s"),
        ControlGroup("grip", 9, 10, "gripper", unit="0 to 1"),
    ),
    seen=((-1.0, 1.0),) * 9 + ((0.0, 1.0),),
)


def arm_controls(rows: int) -> np.ndarray:
    random = np.random.default_rng(0)
    turns = Rotation.from_rotvec(random.normal(0, 0.3, (rows, 3)))
    quaternions = [turns[0]]
    for turn in turns[1:]:
        quaternions.append(turn * quaternions[-1])
    return np.concatenate(
        (
            np.cumsum(random.normal(0, 0.05, (rows, 2)), axis=0),
            (np.cumsum(random.normal(0, 30, (rows, 1)), axis=0) + 180) % 360 - 180,
            np.stack([rotation.as_quat() for rotation in quaternions]),
            random.normal(0, 0.1, (rows, 2)),
            0.5 + 0.5 * np.sin(np.arange(rows) / 3)[:, None],
        ),
        axis=1,
    )


def test_what_is_absolute_becomes_a_change_and_nothing_else() -> None:
    written = as_changes(BODY)
    names = ("x.delta", "y.delta", "angle.delta", "wrist.delta.x", "wrist.delta.y", "wrist.delta.z", "dz", "speed")
    assert written.columns == (*names, "grip")
    assert [group.kind for group in written.groups] == ["delta", "delta", "delta", "delta", "velocity", "gripper"]
    wrist = written.groups[2]
    assert (wrist.rotation, wrist.unit, wrist.frame) == ("axis_angle", "rad", "world")
    assert written.groups[0].unit == "m" and written.groups[0].limits is None and not written.groups[1].wraps
    assert written.relative_dim == BODY.relative_dim, "the same changes, spelt otherwise"


def test_actions_are_the_changes_added_up() -> None:
    controls = arm_controls(40)
    changes = changes_of(BODY, controls[None], controls[:1])[0]
    actions = actions_of(BODY, as_changes(BODY), changes)
    assert actions.shape == (41, 9) and actions.dtype == np.float32
    np.testing.assert_allclose(actions[1:-1, :2], np.diff(controls[:, :2], axis=0), atol=1e-6)
    turned = (np.diff(controls[:, 2]) + 180) % 360 - 180
    np.testing.assert_allclose(actions[1:-1, 2], turned, atol=1e-3)
    now = read_rotations(controls[:1, 3:7], "quaternion_xyzw")
    for row in range(1, 40):
        now = Rotation.from_rotvec(actions[row : row + 1, 3:6]) * now
    last = read_rotations(controls[-1:, 3:7], "quaternion_xyzw")
    assert (now * last.inv()).magnitude()[0] < 1e-4
    np.testing.assert_allclose(actions[:-1, 6:8], controls[:, 7:9], atol=1e-6)
    np.testing.assert_allclose(np.diff(actions[:-1, 8]), np.diff(controls[:, 9]), atol=1e-6)
    assert actions[:-1, 8].min() == pytest.approx(1 - actions[:-1, 8].max(), abs=1e-5), "in the middle of what was seen"
    assert not actions[-1, :8].any() and actions[-1, 8] == actions[-2, 8], "the last row leads nowhere"


def test_openings_stay_within_what_was_seen() -> None:
    changes = np.zeros((6, BODY.relative_dim))
    changes[:, -1] = (0.9, 0.9, -0.4, -0.9, -0.9, 0.5)
    opened = actions_of(BODY, as_changes(BODY), changes)[:, -1]
    assert opened.min() == 0 and opened.max() == 1
    np.testing.assert_allclose(opened[2], opened[1] - 0.4, atol=1e-6)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`robot`: a checkpoint that knows the square; `taught`: its dataset; `new`: unseen episodes."""
    root = tmp_path_factory.mktemp("relabel")
    taught = write_robot_dataset(root / "taught", 4, length=60)
    checkpoint = write_video_model(root)
    align(checkpoint, taught, mode="adapter", out=root / "robot", config=AlignConfig(), name="square")
    if not (root / "robot/inverses").exists():
        teach(checkpoint, taught, root / "robot")
    return root


def teach(checkpoint: Path, taught: Path, robot: Path) -> None:
    generator = load_generator(checkpoint)
    known = read_episodes(open_dataset(taught), generator, name="square", episodes=None, camera=None)
    codes = [frame_codes(generator, recording.frames) for recording in known.recordings]
    inverse = learn_inverse(known.embodiment, known.recordings, codes, code_scale=(1.0,) * CODE)
    write_inverse(robot, "square", inverse)


def true_deltas(seeds: Sequence[int], length: int) -> np.ndarray:
    """(rows, 2) what x and y of these unseen episodes do at each step."""
    return np.concatenate([np.diff(robot_episodes(6, length=length)[seed].states[:, :2], axis=0) for seed in seeds])


def test_a_folder_of_video_becomes_a_dataset_of_what_was_done(world: Path, tmp_path: Path) -> None:
    for seed in (4, 5):
        frames = robot_episodes(6, length=40)[seed].frames
        (tmp_path / "videos").mkdir(exist_ok=True)
        write_video(tmp_path / "videos" / f"{seed}.mp4", frames, fps=FPS, crf=4)
    report, inverse = relabel(world / "robot", tmp_path / "videos", tmp_path / "out")
    assert (report.episodes, report.frames, report.left_out) == (2, 80, [])
    assert all(share is not None and share > 0.7 for share in inverse.readable)
    dataset = open_dataset(tmp_path / "out")
    assert dataset.action_names == ("x.delta", "y.delta", "opening") and not dataset.state_keys and dataset.fps == FPS
    assert not check_dataset(dataset).problems
    read = np.concatenate([dataset.actions(episode)[:-1] for episode in dataset.episodes])
    true = true_deltas((4, 5), 40)
    for column in (0, 1):
        assert np.corrcoef(read[:, column], true[:, column])[0, 1] > 0.8
        assert np.corrcoef(read[1:, column], true[:-1, column])[0, 1] < 0.5, "row by row"
    assert 0.7 < read[:, 0].std() / true[:, 0].std() < 1.2, "in the robot's units"
    kinds = {group.name: group.kind for group in guess_embodiment(dataset, name="again").groups}
    assert kinds == {"position": "delta", "gripper": "gripper"}
    body = load_embodiment(tmp_path / "out/controls/square.json")
    assert body.columns == dataset.action_names and [group.kind for group in body.groups] == ["delta", "gripper"]
    card = (tmp_path / "out/README.md").read_text()
    assert "Nobody recorded these actions" in card and "| x | 0." in card


def test_a_dataset_keeps_its_states_and_can_be_aligned_to_again(world: Path, tmp_path: Path) -> None:
    source = write_robot_dataset(tmp_path / "source", 3, length=30)
    report, _ = relabel(world / "robot", source, tmp_path / "out", size=(16, 16))
    dataset, before = open_dataset(tmp_path / "out"), open_dataset(source)
    assert report.episodes == 3 and dataset.state_names == NAMES
    states = [one.states(episode) for one in (dataset, before) for episode in one.episodes]
    np.testing.assert_allclose(np.concatenate(states[:3]), np.concatenate(states[3:]))
    assert dataset.frames(dataset.episodes[0], None).shape == (30, 16, 16, 3)
    again = align(world / "video", tmp_path / "out", mode="adapter", out=tmp_path / "again", config=AlignConfig())
    assert load_embodiment(again / "controls/out.json").columns == ("x.delta", "y.delta", "opening")


def test_a_video_is_cut_into_its_scenes(world: Path, tmp_path: Path) -> None:
    grey = np.stack([square(0.1 * step, 0.5, 0.5) for step in range(10)])
    other = np.random.default_rng(0).integers(0, 255, (1, *grey.shape[1:]), dtype=np.uint8).repeat(12, axis=0)
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/a.mp4", np.concatenate((grey, other)), fps=FPS, crf=4)
    report, _ = relabel(world / "robot", tmp_path / "videos", tmp_path / "out")
    assert [episode.length for episode in open_dataset(tmp_path / "out").episodes] == [10, 12]
    assert report.frames == 22


def test_what_cannot_be_is_refused(world: Path, tmp_path: Path) -> None:
    source = world / "taught"
    with pytest.raises(UserError, match="knows no robot"):
        relabel(world / "video", source, tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        relabel(world / "robot", source, tmp_path / "there")
    slow = tmp_path / "slow"
    slow.mkdir()
    write_video(slow / "a.mp4", robot_episodes(1)[0].frames, fps=5)
    with pytest.raises(BadData, match=r"a\.mp4 has 5 frames per second, the robot 10"):
        relabel(world / "robot", slow, tmp_path / "out")
    assert not (tmp_path / "out").exists()
