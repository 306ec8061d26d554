"""Folders opened for measuring: what kind each is, that labels belong to their frames, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from common.errors import BadData, MissingDependency, UserError
from common.folders import open_folder
from common.shards import write_shards
from common.video import write_video
from lam.sequences import EvaluationSet, changes, pairs
from scripts.demo_data import demo_set_path
from scripts.evaluation_data import DEMO_GROUPS, TOOL_GROUPS, open_evaluation_set, render_demo_set
from tests.moving_clips import moving_square, write_moving_clips
from tests.test_lerobot_reader import V3_DATA, edit_column, written  # noqa: F401 (a fixture)
from tests.test_lerobot_writer import read_bars

SIZE = (64, 64)
EPISODES = ("test_0000", "test_0001", "test_0002")


def opened(path: Path, *, size: tuple[int, int] = SIZE, gap: float = 0.1, limit: int = 10_000, **options):
    return open_evaluation_set(path, size=size, gap_seconds=gap, limit=limit, **options)


@pytest.fixture
def demo(tmp_path) -> Path:
    """Three test episodes of the shipped demo set, as a demo set of its own."""
    root = tmp_path / "demo"
    for kind, suffix in (("human", "mp4"), ("factors/human", "npz")):
        (root / kind / "test").mkdir(parents=True)
        for name in EPISODES:
            shutil.copy(demo_set_path() / kind / "test" / f"{name}.{suffix}", root / kind / "test")
    shutil.copy(demo_set_path() / "demo.json", root)
    return root


def edit_factors(demo: Path, **edited: np.ndarray | None) -> None:
    """Replace factors of the first episode; None takes one away."""
    path = demo / f"factors/human/test/{EPISODES[0]}.npz"
    with np.load(path) as file:
        factors = {name: file[name] for name in file} | edited
    kept: dict = {name: values for name, values in factors.items() if values is not None}
    np.savez(path, **kept)


def episode(found: EvaluationSet, clip: str) -> np.ndarray:
    """The tool's place at all frames of a clip."""
    return np.concatenate([sequence.factors["hand"] for sequence in found.sequences if sequence.clip == clip])


def test_the_demo_world_comes_with_all_its_factors(demo) -> None:
    found = opened(demo / "human/test")
    assert (found.name, found.kind) == ("test", "demo")
    assert found.clips == tuple(f"{name}.mp4" for name in EPISODES)
    assert found.fields == {group: fields for group, (_, fields) in DEMO_GROUPS.items()}
    with np.load(demo_set_path() / "factors/human/test/test_0001.npz") as file:
        tool, camera, ball = file["tool"], file["camera"], file["distractor"]
    of_clip = [sequence for sequence in found.sequences if sequence.clip == "test_0001.mp4"]
    joined = {group: np.concatenate([sequence.factors[group] for sequence in of_clip]) for group in found.fields}
    assert np.array_equal(joined["hand"], tool[:, :3]) and np.array_equal(joined["opening"], tool[:, 4:])
    assert np.allclose(np.sin(joined["turn"]), np.sin(tool[:, 3:4]), atol=1e-6)
    assert np.allclose(joined["camera"], camera[:, 3:]) and np.array_equal(joined["sway"], camera[:, :3])
    assert np.array_equal(joined["distractor"], ball[:, :2])


def test_a_wider_gap_and_a_limit_keep_each_frame_with_its_factors(demo) -> None:
    whole = {name: episode(opened(demo / "human/test"), f"{name}.mp4") for name in EPISODES}
    for found in (opened(demo / "human/test", gap=0.2), opened(demo / "human", limit=60)):
        for sequence in found.sequences:
            rows = np.round(sequence.seconds * 10).astype(int)
            assert np.array_equal(sequence.factors["hand"], whole[Path(sequence.clip).stem][rows])
    assert found.clips == tuple(f"test/{name}.mp4" for name in EPISODES)
    assert sum(len(sequence.frames) for sequence in found.sequences) <= 60


def test_factors_slipped_by_a_frame_fit_the_pictures_worse(demo) -> None:
    """The more the camera turns, the more of the picture changes: best for the factors of the same frames."""
    found = opened(demo / "human/test")
    stacked = pairs(found.sequences)
    seen = np.abs(stacked.second.astype(float) - stacked.first).mean(axis=(1, 2, 3))
    turned = [np.abs(changes(sequence, "camera")).sum(axis=1) for sequence in found.sequences]

    def fit(slip: int) -> float:
        return float(np.corrcoef(seen, np.concatenate([np.roll(values, slip) for values in turned]))[0, 1])

    assert fit(0) > max(fit(-1), fit(1)) + 0.05


@pytest.mark.parametrize(
    ("edited", "message"),
    [
        ({"tool": np.zeros((79, 5))}, r"'tool' has the shape \(79, 5\); the video's 80 frames need \(80, 5\)"),
        ({"time": np.arange(81) / 10}, r"'time' has the shape \(81,\)"),
        ({"time": np.arange(80) / 10 + 0.2}, r"no factors for the frame at 0.000 s"),
        ({"time": np.full(80, np.nan)}, r"no factors for the frame"),
        ({"light": np.full((80, 5), np.nan)}, r"'light' of frame 0 holds nan"),
        ({"camera": None}, r"camera"),
    ],
)
def test_factors_that_do_not_fit_are_bad_data(demo, edited, message) -> None:
    edit_factors(demo, **edited)
    with pytest.raises(BadData, match=message):
        opened(demo / "human/test")


def test_missing_and_unreadable_factors(demo) -> None:
    path = demo / "factors/human/test/test_0001.npz"
    for spoil in (lambda: path.write_bytes(b"PK nothing"), path.unlink):
        spoil()
        with pytest.raises(BadData, match=r"factors in .*test_0001.npz cannot be read"):
            opened(demo / "human/test")


def test_the_demo_robot_shares_the_tool_groups_with_the_human() -> None:
    found = opened(demo_set_path() / "robot", split="test")
    assert found.kind == "robot" and len(found.clips) == 5
    assert found.fields["state"] == found.fields["command"] == ("x", "y", "z", "yaw", "opening")
    assert all(found.fields[group] == DEMO_GROUPS[group][1] for group in TOOL_GROUPS)
    for sequence in found.sequences:
        assert np.allclose(sequence.factors["hand"], sequence.factors["state"][:, :3], atol=1e-6)
        assert np.abs(np.diff(sequence.factors["turn"], axis=0)).max() < 1


@pytest.mark.parametrize(("gap", "step"), [(0.1, 1), (0.02, 1), (0.2, 2), (0.26, 3)])
def test_robot_states_belong_to_the_pictures(written, gap, step) -> None:  # noqa: F811
    found = opened(written, size=(32, 64), gap=gap)
    assert found.kind == "robot" and found.fields == {"state": ("reach", "lift"), "command": ("reach",)}
    assert [len(sequence.frames) for sequence in found.sequences] == [
        len(range(0, length, step)) for length in (7, 12, 5) if len(range(0, length, step)) >= 3
    ]
    for sequence in found.sequences:
        shown = [read_bars(frame) for frame in sequence.frames]
        assert shown == sequence.factors["state"][:, 0].tolist()
        assert set(changes(sequence, "state")[:, 0]) == {float(step)}
        assert np.allclose(np.diff(sequence.seconds), step / 10)


def test_windows_of_a_robot_lie_in_the_middle_of_its_episodes() -> None:
    found = opened(demo_set_path() / "robot", gap=0.2, limit=100, split="test")
    assert [len(sequence.frames) for sequence in found.sequences] == [20] * 5
    assert all(np.allclose(sequence.seconds, np.arange(20, 60, 2) / 10) for sequence in found.sequences)


def test_a_robot_rate_far_from_the_gap_is_said(written, capsys) -> None:  # noqa: F811
    opened(written, size=(32, 64), gap=0.02)
    assert "10 frames/s: frames are 0.100 s apart" in capsys.readouterr().err


def test_robot_labels_slipped_by_a_frame_show(written, tmp_path) -> None:  # noqa: F811
    """The planted slip: states moved by one row against the video. The numbers in the pictures give it away."""
    root = Path(shutil.copytree(written, tmp_path / "slipped"))
    states = pq.read_table(root / V3_DATA).column("observation.state").to_pylist()
    edit_column(root / V3_DATA, "observation.state", states[1:] + states[-1:])
    found = opened(root, size=(32, 64))
    for sequence in found.sequences:
        shown = np.array([read_bars(frame) for frame in sequence.frames])
        assert not np.array_equal(shown, sequence.factors["state"][:, 0])


def test_robot_labels_that_are_not_finite_or_of_another_length(written, tmp_path) -> None:  # noqa: F811
    root = Path(shutil.copytree(written, tmp_path / "spoilt"))
    states = [[float(row), np.nan if row == 8 else 0.0] for row in range(24)]
    edit_column(root / V3_DATA, "observation.state", states)
    with pytest.raises(BadData, match="episode 1: 'lift' of frame 1 is nan"):
        opened(root)
    pq.write_table(pq.read_table(written / V3_DATA).slice(0, 20), root / V3_DATA)
    with pytest.raises(BadData, match="episode 2: its table has 1 rows"):
        opened(root)


def test_a_robot_without_camera_or_with_one_episode(written, tmp_path) -> None:  # noqa: F811
    with pytest.raises(BadData, match="one clip only"):
        opened(written, split="test")
    with pytest.raises(BadData, match=r"no episode of .* has 3 frames that are 5.000 s apart"):
        opened(written, gap=5.0)
    root = Path(shutil.copytree(written, tmp_path / "blind"))
    info = json.loads((root / "meta/info.json").read_text())
    features = {key: value for key, value in info["features"].items() if value["dtype"] != "video"}
    (root / "meta/info.json").write_text(json.dumps(info | {"features": features}))
    with pytest.raises(BadData, match="has no camera"):
        opened(root)


def test_plain_video_and_shards_know_nothing(tmp_path, capsys) -> None:
    folder = write_moving_clips(tmp_path / "clips", 3)
    (folder / "broken.mp4").write_bytes(b"\0" * 100)
    found = opened(folder)
    assert (found.name, found.kind, found.fields) == ("clips", "video", {})
    assert [len(sequence.frames) for sequence in found.sequences] == [40, 40, 40]
    assert "left out: broken.mp4" in capsys.readouterr().err
    write_shards(open_folder(folder).clips, tmp_path / "shards", size=SIZE)
    assert opened(tmp_path / "shards").clips == found.clips


def test_one_clip_or_no_motion_is_bad_data(tmp_path) -> None:
    with pytest.raises(BadData, match=r"one clip only \(clip_00.mp4\)"):
        opened(write_moving_clips(tmp_path / "one", 1))
    (tmp_path / "still").mkdir()
    for name in "ab":
        write_video(tmp_path / f"still/{name}.mp4", [moving_square(0)[0]] * 30, fps=10)
    with pytest.raises(BadData, match=r"nothing moves in .*still: 58 of 58 frame pairs are near-identical"):
        opened(tmp_path / "still")


def test_wrong_usage(demo, tmp_path) -> None:
    with pytest.raises(UserError, match="is a whole demo set") as caught:
        opened(demo)
    assert "human/test" in caught.value.hint
    with pytest.raises(UserError, match="no LeRobot dataset, so it has no split 'test'"):
        opened(demo / "human/test", split="test")
    with pytest.raises(UserError, match="is no folder"):
        opened(tmp_path / "nowhere")


def rendered(nuisance: float, *, gap_seconds: float, size: tuple[int, int]) -> EvaluationSet:
    try:
        return render_demo_set(nuisance, episodes=1, gap_seconds=gap_seconds, size=size)
    except MissingDependency as error:
        pytest.skip(f"cannot render here: {error}")


def test_rendered_episodes_are_those_of_the_shipped_set() -> None:
    found = rendered(1.0, gap_seconds=0.1, size=SIZE)
    shipped = opened(demo_set_path() / "human/test")
    sequence, reference = found.sequences[0], [s for s in shipped.sequences if s.clip == "test_0000.mp4"]
    assert found.kind == "demo" and found.fields == shipped.fields
    frames = np.concatenate([part.frames for part in reference])
    error = [np.abs(np.roll(sequence.frames, slip, axis=0) - frames.astype(float)).mean() for slip in (-1, 0, 1)]
    assert error[1] < 5 < 2 * error[1] < min(error[0], error[2])
    for group in found.fields:
        assert np.array_equal(sequence.factors[group], np.concatenate([part.factors[group] for part in reference]))


def test_nuisance_changes_the_camera_and_never_the_hand() -> None:
    mild, wild = (rendered(nuisance, gap_seconds=0.2, size=(32, 32)) for nuisance in (0.5, 4.0))
    a, b = mild.sequences[0], wild.sequences[0]
    assert a.frames.shape == (40, 32, 32, 3) and np.allclose(np.diff(a.seconds), 0.2)
    assert np.array_equal(a.factors["hand"], b.factors["hand"])
    assert np.abs(changes(b, "camera")).mean() > 2 * np.abs(changes(a, "camera")).mean()
