"""Windows for measuring: the labelled frames, each with the action that leads on, in one scene, and fair givers."""

from pathlib import Path

import numpy as np
import pytest

from common.errors import BadData
from common.folders import open_folder
from common.video import write_video
from video_model.held_out import Window, other_clips, read_windows, window_starts
from video_model.labels import ClipLabels


def known(count: int, *, fps: float = 10.0, cut: int | None = None, first: float = 0.0) -> ClipLabels:
    """Labels whose action t is (t, t): it says which frame it belongs to."""
    rows = np.arange(count)
    scenes = (rows >= cut).astype(np.int32) if cut is not None else np.zeros(count, np.int32)
    return ClipLabels(np.repeat(rows[:-1, None], 2, axis=1).astype(np.float32), first + rows / fps, scenes)


def test_windows_follow_each_other_within_a_scene() -> None:
    assert window_starts(known(13), 4) == [0, 4, 8]
    assert window_starts(known(12), 4) == [0, 4]
    assert window_starts(known(4), 4) == []
    assert window_starts(known(13, cut=6), 4) == [0, 6], "frame 6 begins a scene, so no window holds 5 and 6"
    assert window_starts(known(13, cut=5), 4) == [0, 5], "frames 0 to 4 are one scene"


def test_no_window_reaches_over_a_hole() -> None:
    labels = known(12)
    seconds = labels.seconds + 0.5 * (np.arange(12) >= 3)
    assert window_starts(ClipLabels(labels.actions, seconds, labels.scenes), 4) == [3, 7]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips at 20 fps whose frame k is grey level 8 k + 10."""
    root = tmp_path_factory.mktemp("grey")
    levels = (8 * np.arange(26) + 10).astype(np.uint8)
    for name in ("a", "b", "c"):
        write_video(root / f"{name}.mp4", np.broadcast_to(levels[:, None, None, None], (26, 32, 32, 3)), fps=20, gop=5)
    return root


def test_frames_and_actions_are_those_of_the_labelled_times(folder: Path) -> None:
    clips = open_folder(folder).clips
    found = read_windows(
        clips, lambda name: known(13), size=(16, 16), steps=4, limit=9
    )  # every other frame is labelled
    assert [window.clip for window in found] == [f"{name}.mp4" for name in "aaabbbccc"]
    for window, start in zip(found, (0, 4, 8) * 3, strict=True):
        rows = np.arange(start, start + 5)
        assert window.frames.shape == (5, 16, 16, 3)
        levels = window.frames.reshape(5, -1).mean(1)
        np.testing.assert_allclose(levels, 8 * 2 * rows + 10, atol=3)
        np.testing.assert_array_equal(window.actions[:, 0], rows[:-1])
        np.testing.assert_allclose(window.seconds, rows / 10)


def test_few_windows_are_spread(folder: Path) -> None:
    clips = open_folder(folder).clips

    def read(limit: int) -> list[tuple[str, float]]:
        found = read_windows(clips, lambda name: known(13), size=(16, 16), steps=4, limit=limit)
        return [(window.clip[0], float(window.seconds[0])) for window in found]

    assert read(3) == [("a", 0.4), ("b", 0.4), ("c", 0.4)]
    assert [name for name, _ in read(2)] == ["a", "c"]
    assert read_windows(clips, lambda name: known(13), size=(16, 16), steps=13, limit=3) == []


def test_labels_of_another_video_are_noticed(folder: Path) -> None:
    clips = open_folder(folder).clips
    with pytest.raises(BadData, match="no frame at"):
        read_windows(clips, lambda name: known(13, first=0.02), size=(16, 16), steps=4, limit=3)


def test_every_clip_gives_its_actions_to_one_other() -> None:
    clips = ["a", "a", "a", "b", "c", "c", "d"]
    for seed in range(10):
        rows = other_clips(clips, seed=seed)
        pairs = {(taker, clips[row]) for taker, row in zip(clips, rows, strict=True)}
        assert all(taker != giver for taker, giver in pairs)
        assert sorted(giver for _, giver in pairs) == ["a", "b", "c", "d"]
    assert len({tuple(other_clips(clips, seed=seed)) for seed in range(10)}) > 1
    with pytest.raises(BadData, match="1 clip"):
        other_clips(["a", "a"], seed=0)


def test_a_window_must_fit() -> None:
    frames, seconds = np.zeros((5, 8, 8, 3), np.uint8), np.arange(5.0)
    with pytest.raises(ValueError, match="5 frames"):
        Window("a", frames, seconds, np.zeros((5, 2), np.float32))
