"""Sequences: which frames are read, that no pair crosses a cut or a hole, and that every row belongs to its pair."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from common.errors import BadData, UserError
from common.folders import open_folder
from common.shard_pairs import ShardFolder
from common.shards import write_shards
from lam.sequences import EvaluationSet, Sequence, changes, continuous, pairs, plan_windows, read_sequences
from tests.counted_clips import SIZE, damage, number_of, numbered_frame, write_clip

CUT = 60  # frame of b.mp4 with which its second scene begins
HOLE = 40  # frame of c.mp4 that comes a second late


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """At 30 fps: 120 frames; 120 frames with a cut; 90 frames with a hole."""
    root = tmp_path_factory.mktemp("clips")
    write_clip(root / "a.mp4", [number / 30 for number in range(120)], gop=50)
    images = [numbered_frame(number, scene=int(number >= CUT)) for number in range(120)]
    write_clip(root / "b.mp4", [number / 30 for number in range(120)], gop=50, images=images)
    write_clip(root / "c.mp4", [number / 30 + (number >= HOLE) for number in range(90)], gop=50)
    return root


@pytest.fixture(scope="module")
def whole(root) -> tuple[Sequence, ...]:
    return read_sequences(open_folder(root).clips, size=SIZE, gap_seconds=0.1, limit=1000)


def numbers(sequence: Sequence) -> list[int]:
    return [number_of(frame) for frame in sequence.frames]


def made(count: int = 5, *, clip: str = "x", start: int = 0, **groups: np.ndarray) -> Sequence:
    """A sequence whose frames show start, start + 1, …"""
    frames = np.stack([numbered_frame(start + index) for index in range(count)])
    return Sequence(clip, frames, np.arange(count) / 10, groups)


def test_frames_come_at_the_gap_with_their_own_times(whole) -> None:
    first = whole[0]
    assert first.clip == "a.mp4" and first.factors == {}
    assert numbers(first) == list(range(0, 120, 3))
    assert np.allclose(first.seconds, np.arange(0, 120, 3) / 30)
    assert first.frames.shape == (40, *SIZE, 3) and first.frames.dtype == np.uint8


def test_no_sequence_crosses_a_cut_or_a_hole_and_all_share_the_name_of_the_clip(whole) -> None:
    assert [sequence.clip for sequence in whole] == ["a.mp4", "b.mp4", "b.mp4", "c.mp4", "c.mp4"]
    before, after = whole[1], whole[2]
    assert max(numbers(before)) < CUT <= min(numbers(after))
    assert max(numbers(whole[3])) < HOLE <= min(numbers(whole[4]))
    assert all(np.diff(sequence.seconds).max() < 0.15 for sequence in whole)


@pytest.mark.parametrize("limit", [100, 60, 45])
def test_a_limit_takes_windows_from_every_clip_that_equal_the_whole(root, whole, limit) -> None:
    some = read_sequences(open_folder(root).clips, size=SIZE, gap_seconds=0.1, limit=limit)
    assert 0.6 * limit < sum(len(sequence.frames) for sequence in some) <= limit
    assert {sequence.clip for sequence in some} == {"a.mp4", "b.mp4", "c.mp4"}
    every = {
        (sequence.clip, round(second, 3)): frame
        for sequence in whole
        for second, frame in zip(sequence.seconds, sequence.frames, strict=True)
    }
    for sequence in some:
        for second, frame in zip(sequence.seconds, sequence.frames, strict=True):
            assert np.array_equal(frame, every[sequence.clip, round(second, 3)])


def test_a_cut_just_after_the_start_of_a_window_is_found(tmp_path) -> None:
    """Frame 33 begins a scene; the window begins at frame 30, so the cut detector must have looked before."""
    images = [numbered_frame(number, scene=int(number >= 33)) for number in range(120)]
    write_clip(tmp_path / "b.mp4", [number / 30 for number in range(120)], gop=50, images=images)
    (found,) = read_sequences(open_folder(tmp_path).clips, size=SIZE, gap_seconds=0.1, limit=20)
    assert numbers(found) == list(range(33, 90, 3))


def test_windows_are_disjoint_within_the_clips_and_share_the_limit_fairly() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        lengths = rng.integers(1, rng.choice([10, 100, 1000]), rng.integers(1, 40)).tolist()
        limit = int(rng.integers(3, 1000))
        plan = plan_windows(lengths, limit=limit)
        if sum(lengths) <= limit:
            assert plan == [[(0, None)]] * len(lengths)
            continue
        taken = []
        for length, windows in zip(lengths, plan, strict=True):
            ends = [(first, first + (length if frames is None else frames)) for first, frames in windows]
            assert all(first >= 0 and end <= length and end - first >= 3 for first, end in ends)
            assert all(before[1] <= after[0] for before, after in pairwise(ends))
            taken.append(sum(end - first for first, end in ends))
        assert sum(taken) <= limit
        level = max(taken)
        assert all(count >= min(length, level) * 0.7 - 3 for count, length in zip(taken, lengths, strict=True) if count)


def test_with_too_many_clips_some_give_enough_frames() -> None:
    plan = plan_windows([50] * 1000, limit=80)
    assert [len(windows) for windows in plan].count(1) == 10 and plan[0] and plan[-1]


def test_rows_of_changes_belong_to_their_pairs() -> None:
    places = np.array([0.0, 1, 3, 6, 10])[:, None]  # differences 1 2 3 4: any slip changes them
    lengths = [made(clip="x", place=places), made(4, clip="y", start=20, place=places[1:])]
    stacked = pairs(lengths)
    shown = [(number_of(first), number_of(second)) for first, second in zip(stacked.first, stacked.second, strict=True)]
    assert shown == [(0, 1), (1, 2), (2, 3), (3, 4), (20, 21), (21, 22), (22, 23)]
    assert stacked.clips == ("x",) * 4 + ("y",) * 3
    moved = np.concatenate([changes(sequence, "place") for sequence in lengths])
    assert moved[:, 0].tolist() == [1, 2, 3, 4, 2, 3, 4]


def test_angles_do_not_jump_and_other_columns_are_left_alone() -> None:
    turning = np.arange(0, 20, 0.5)
    wrapped = (turning + np.pi) % (2 * np.pi) - np.pi
    rows = continuous(np.stack([wrapped, wrapped], axis=1), ("yaw", "x"))
    assert np.allclose(np.diff(rows[:, 0]), 0.5)
    assert np.array_equal(rows[:, 1], wrapped)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (np.zeros((4, 2)), "5 frames, but 'hand' has the shape"),
        (np.zeros(5), "has the shape"),
        (np.array([[0.0], [1], [np.nan], [3], [4]]), "'hand' of frame 2 holds nan in column 0"),
        (np.array([[0.0], [1], [2], [3], [np.inf]]), "'hand' of frame 4 holds inf"),
    ],
)
def test_factors_that_do_not_fit_are_bad_data(group, message) -> None:
    with pytest.raises(BadData, match=message):
        made(hand=group)


def test_two_frames_are_no_sequence_and_sets_need_the_same_groups_everywhere() -> None:
    with pytest.raises(BadData, match="3 RGB frames"):
        made(2)
    with pytest.raises(BadData, match="widths"):
        EvaluationSet("s", "demo", (made(hand=np.zeros((5, 3))), made()), {"hand": ("x", "y", "z")})


def test_a_clip_slower_than_the_gap_gives_nothing(tmp_path) -> None:
    write_clip(tmp_path / "slow.mp4", [number / 5 for number in range(20)], gop=10)
    with pytest.raises(BadData, match=r"none of 1 clips gives 3 frames that are 0.1 s apart"):
        read_sequences(open_folder(tmp_path).clips, size=SIZE, gap_seconds=0.1, limit=100)


def test_a_damaged_clip_is_left_out_and_named(tmp_path, capsys) -> None:
    for name in "pq":
        write_clip(tmp_path / f"{name}.mp4", [number / 30 for number in range(60)], gop=20)
    clips = open_folder(tmp_path).clips
    damage(tmp_path / "p.mp4", after=0.4)
    found = read_sequences(clips, size=SIZE, gap_seconds=0.1, limit=1000)
    assert {sequence.clip for sequence in found} == {"q.mp4"}
    assert "left out: p.mp4" in capsys.readouterr().err


@pytest.mark.parametrize(("gap", "limit"), [(0.0, 100), (float("nan"), 100), (0.1, 2)])
def test_impossible_settings(root, gap, limit) -> None:
    with pytest.raises(UserError):
        read_sequences(open_folder(root).clips, size=SIZE, gap_seconds=gap, limit=limit)


def test_shards_give_the_same_frames_as_the_video(root, whole, tmp_path) -> None:
    write_shards(open_folder(root).clips, tmp_path / "shards", size=SIZE)
    clips = ShardFolder(tmp_path / "shards").clips
    found = read_sequences(clips, size=SIZE, gap_seconds=0.1, limit=1000)
    assert [sequence.clip for sequence in found] == [sequence.clip for sequence in whole]
    assert numbers(found[0]) == numbers(whole[0])
    assert max(numbers(found[1])) < CUT <= min(numbers(found[2]))
    assert all(np.allclose(np.diff(sequence.seconds), 0.1) for sequence in found)
    some = read_sequences(clips, size=SIZE, gap_seconds=0.1, limit=45)
    assert 24 <= sum(len(sequence.frames) for sequence in some) <= 45
    with pytest.raises(UserError, match=r"\(96, 128\)"):
        read_sequences(clips, size=(48, 64), gap_seconds=0.1, limit=45)
