"""Segments, and how they are dealt to blocks and ranks."""

import numpy as np
import pytest

from common.plan import SEGMENT_FRAMES, FolderPlan, segments_of, share_out
from common.video import Keyframe, VideoInfo


def info_of(frames: int, key_frames: list[int], *, fps: float = 30.0, start: float = 0.0) -> VideoInfo:
    return VideoInfo(
        codec="h264",
        pixel_format="yuv420p",
        width=64,
        height=48,
        rotation=0,
        frames=frames,
        fps=fps,
        variable_rate=False,
        start_seconds=start,
        duration_seconds=frames / fps,
        keyframes=tuple(Keyframe(frame=k, seconds=start + k / fps) for k in key_frames),
    )


@pytest.mark.parametrize(
    ("frames", "key_frames", "expected"),
    [
        (300, [0], [300]),  # one long group of pictures is never cut
        (500, [0, 250], [250, 250]),
        (290, list(range(0, 290, 2)), [128, 128, 34]),
        (100, list(range(0, 100, 12)), [100]),
        (260, [0, 128, 256], [128, 132]),  # 4 left-over frames join the segment before them
        (300, [0, 30, 60, 260], [60, 200, 40]),
        (1, [0], [1]),
    ],
)
def test_segments_join_short_groups_and_never_cut_long_ones(frames, key_frames, expected):
    assert [count for count, _, _ in segments_of(info_of(frames, key_frames))] == expected


def test_segments_cover_every_frame_once_and_start_at_key_frames():
    rng = np.random.default_rng(0)
    for _ in range(100):
        frames = int(rng.integers(2, 2000))
        inner = rng.choice(np.arange(1, frames), size=int(rng.integers(0, min(frames - 1, 50))), replace=False)
        info = info_of(frames, [0, *sorted(inner.tolist())], fps=25.0, start=1.5)
        segments = segments_of(info)
        assert sum(count for count, _, _ in segments) == frames
        assert [start for _, start, _ in segments][1:] == [stop for _, _, stop in segments][:-1]
        assert segments[0][1] == 1.5 and segments[-1][2] == float("inf")
        assert {start for _, start, _ in segments} <= {keyframe.seconds for keyframe in info.keyframes}
        ends = [*[k.frame for k in info.keyframes][1:], frames]
        gops = {k.seconds: end - k.frame for k, end in zip(info.keyframes, ends, strict=True)}
        limit = SEGMENT_FRAMES + SEGMENT_FRAMES // 4
        assert all(count <= limit or gops[start] > SEGMENT_FRAMES - 32 for count, start, _ in segments)


def test_share_out_sums_exactly():
    assert share_out(10, [1, 1, 1]).tolist() == [4, 3, 3]
    assert share_out(256, [3, 1]).tolist() == [192, 64]
    assert share_out(7, [0.5, 0.3, 0.2]).sum() == 7


def make_plan(frames, *, quota=64, world_size=1, seed=0) -> FolderPlan:
    return FolderPlan(np.array(frames), pairs_per_frame=0.25, quota=quota, world_size=world_size, seed=(seed,))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_epoch_deals_every_segment_once_over_blocks_and_ranks(world_size):
    frames = np.random.default_rng(1).integers(20, 300, size=200)
    plan = make_plan(frames, quota=256, world_size=world_size)
    for epoch in (0, 1, 7):
        blocks = range(epoch * plan.blocks_per_epoch, (epoch + 1) * plan.blocks_per_epoch)
        dealt = [plan.segments(block, rank) for block in blocks for rank in range(world_size)]
        assert sorted(np.concatenate(dealt).tolist()) == list(range(200))
        sums = [frames[numbers].sum() * 0.25 for numbers in dealt]
        assert 256 - 80 < min(sums) <= max(sums) < 256 + 100  # whole segments of up to 75 pairs


def test_the_order_changes_with_epoch_and_seed_and_with_nothing_else():
    plan, again, other = make_plan([100] * 50), make_plan([100] * 50), make_plan([100] * 50, seed=1)
    sequence = [plan.segments(block, 0).tolist() for block in range(40)]
    assert sequence == [again.segments(block, 0).tolist() for block in reversed(range(40))][::-1]
    assert sequence[: plan.blocks_per_epoch] != [other.segments(b, 0).tolist() for b in range(plan.blocks_per_epoch)]
    assert plan.blocks_per_epoch == 20 and sequence[:20] != sequence[20:]


def test_fewer_segments_than_blocks_or_ranks_leave_no_block_empty():
    for frames in ([10], [300, 300], [5, 900, 5]):
        for world_size in (1, 2, 8):
            plan = make_plan(frames, world_size=world_size)
            for block in range(5):
                assert all(len(plan.segments(block, rank)) for rank in range(world_size))


def test_looking_later_passes_every_segment_of_the_epoch():
    plan = make_plan([100] * 30, world_size=2)
    parts = plan.blocks_per_epoch * 2
    seen = np.concatenate([plan.segments(3, 1, later=step) for step in range(parts)])
    assert sorted(seen.tolist()) == list(range(30))
