"""Blocks of pairs from video files: the right frames, the right times, and the same again."""

import dataclasses
import pickle

import numpy as np
import pytest

from common.errors import BadData, UserError
from common.folders import open_folder
from common.pairs import PairConfig, VideoPairs, block_size, folder_sizes, partner
from common.plan import segments_of
from common.video import decode, probe
from tests.counted_clips import SIZE, damage, number_of, numbered_frame, write_clip

RATES = {"10": 10.0, "24": 24.0, "25": 25.0, "29.97": 30000 / 1001, "30": 30.0, "60": 60.0}
CONFIG = PairConfig(height=SIZE[0], width=SIZE[1], gap_seconds=(0.03, 0.14), buffer_pairs=32)


def times_at(rate: float, frames: int = 150) -> list[float]:
    return (np.arange(frames) / rate).tolist()


def uneven_times(frames: int = 150) -> list[float]:
    """A phone in the dark: the time between two frames wanders from 17 to 66 ms."""
    return np.cumsum(np.random.default_rng(5).uniform(0.017, 0.066, frames)).round(3).tolist()


def source(*roots, config=CONFIG, batch_size=8, seed=0, **options) -> VideoPairs:
    folders = [open_folder(root).clips for root in roots]
    return VideoPairs(folders, config=config, batch_size=batch_size, seed=seed, **options)


def same(one, other) -> bool:
    arrays = ("first", "second", "seconds", "clip")
    return one.clips == other.clips and all(np.array_equal(getattr(one, a), getattr(other, a)) for a in arrays)


def slow_partner(seconds, start, gap, interval):
    later = range(start + 1, len(seconds))
    if not later:
        return None
    wanted = seconds[start] + gap
    best = min(later, key=lambda index: (abs(seconds[index] - wanted), index))
    limit = interval / 2 if wanted > seconds[-1] else 1.5 * interval
    return best if abs(seconds[best] - wanted) <= limit else None


def test_partner_is_the_nearest_later_frame():
    rng = np.random.default_rng(0)
    for _ in range(300):
        seconds = np.cumsum(rng.choice([0.02, 0.03, 0.05, 0.4], size=20, p=[0.4, 0.3, 0.25, 0.05])).tolist()
        start, gap = int(rng.integers(20)), float(rng.uniform(0, 0.3))
        assert partner(seconds, start, gap, interval=0.03) == slow_partner(seconds, start, gap, 0.03)


def test_partner_at_the_edges():
    seconds = times_at(10.0, 5)
    assert partner(seconds, 0, 0.01, interval=0.1) == 1  # a gap below one frame: the next frame
    assert partner(seconds, 0, 0.26, interval=0.1) == 3
    assert partner(seconds, 2, 0.24, interval=0.1) == 4  # 0.04 s past the end: near enough
    assert partner(seconds, 2, 0.26, interval=0.1) is None
    assert partner(seconds, 4, 0.01, interval=0.1) is None
    assert partner([0.0, 0.1, 3.0, 3.1], 1, 0.1, interval=0.1) is None  # a hole in the recording


@pytest.mark.parametrize("rate", [*RATES, "uneven"])
def test_frames_are_those_at_the_times_given_and_lie_the_wanted_gap_apart(tmp_path, rate):
    times = uneven_times() if rate == "uneven" else times_at(RATES[rate])
    write_clip(tmp_path / "clip.mp4", times, gop=40)
    interval = float(np.mean(np.diff(times)))
    pairs = source(tmp_path)
    steps: set[int] = set()
    for block in map(pairs.block, range(3)):
        first = np.array([number_of(image) for image in block.first])
        second = np.array([number_of(image) for image in block.second])
        shown = np.stack([np.array(times)[first], np.array(times)[second]], axis=1)
        np.testing.assert_allclose(block.seconds, shown, atol=1e-4)  # one frame off would be 16 ms or more
        assert np.all(second > first)
        steps |= set((second - first).tolist())
        gaps = np.diff(block.seconds, axis=1)[:, 0]
        assert np.all((second == first + 1) | (gaps >= 0.03 - interval / 2 - 1e-6))
        assert np.all((second == first + 1) | (gaps <= 0.14 + 0.066 / 2 + 1e-6))
    if rate == "60":
        assert steps == set(range(2, 9)), "a gap of 0.03 to 0.14 s is 2 to 8 frames at 60 fps"
    if rate == "10":
        assert steps == {1}


@pytest.mark.parametrize("codec", ["libx264", "libx265"])  # x265 opens its groups: some frames need two of them
def test_decoding_by_segments_gives_every_frame_once(tmp_path, codec):
    clip = write_clip(tmp_path / "clip.mp4", times_at(30000 / 1001, 400), gop=50, codec=codec)
    segments = segments_of(probe(clip))
    assert len(segments) == 4
    numbers = []
    for frames, start, stop in segments:
        shown = list(decode(clip, start=start, stop=None if stop == float("inf") else stop))
        assert len(shown) == frames and shown[0].seconds == start
        numbers += [number_of(frame.image) for frame in shown]
    assert numbers == list(range(400))


def test_gaps_are_drawn_from_the_whole_range(tmp_path):
    write_clip(tmp_path / "clip.mp4", times_at(60.0, 600), gop=100)
    config = dataclasses.replace(CONFIG, gap_seconds=(0.05, 0.15), buffer_pairs=128)
    gaps = np.concatenate([np.diff(source(tmp_path, config=config).block(n).seconds)[:, 0] for n in range(3)])
    assert abs(gaps.mean() - 0.1) < 0.008 and gaps.min() < 0.06 and gaps.max() > 0.14


def test_pairs_come_from_all_over_the_clip(tmp_path):
    write_clip(tmp_path / "clip.mp4", times_at(30.0, 400), gop=130)
    config = dataclasses.replace(CONFIG, buffer_pairs=96)
    starts = np.array([number_of(image) for n in range(4) for image in source(tmp_path, config=config).block(n).first])
    counts, _ = np.histogram(starts, bins=8, range=(0, 400))
    assert counts.min() > 0.6 * len(starts) / 8, "some part of the clip is hardly seen"
    assert len(np.unique(starts[:96])) == 96, "without replacement within a block"


def test_no_pair_crosses_a_cut(tmp_path):
    scenes = [numbered_frame(n, scene=n // 17) for n in range(170)]
    write_clip(tmp_path / "clip.mp4", times_at(30.0, 170), gop=85, images=scenes)
    block = source(tmp_path, config=dataclasses.replace(CONFIG, buffer_pairs=64)).block(0)
    first = np.array([number_of(image) for image in block.first])
    second = np.array([number_of(image) for image in block.second])
    assert np.all(first // 17 == second // 17)
    assert len(set(first // 17)) == 10 and len(np.unique(block.seconds, axis=0)) == len(first)


def test_near_identical_pairs_are_rationed(tmp_path):
    images = [numbered_frame(0)] * 120 + [numbered_frame(n) for n in range(120)]
    write_clip(tmp_path / "clip.mp4", times_at(30.0, 240), gop=120, images=images)
    block = source(tmp_path).block(0)
    same_picture = np.abs(block.first.astype(int) - block.second).mean(axis=(1, 2, 3)) < 0.2
    assert len(block.first) == 32 and 0 < np.sum(same_picture) <= 4  # a tenth, rounded up
    none = source(tmp_path, config=dataclasses.replace(CONFIG, static_share=0.0)).block(0)
    assert np.all(none.seconds[:, 1] >= 4.0)


def test_a_still_folder_gives_still_pairs_unless_forbidden(tmp_path):
    write_clip(tmp_path / "clip.mp4", times_at(30.0, 60), gop=30, images=[numbered_frame(0)] * 60)
    assert len(source(tmp_path).block(0).first) == 8
    with pytest.raises(BadData, match="do not move"):
        source(tmp_path, config=dataclasses.replace(CONFIG, static_share=0.0)).block(0)


@pytest.fixture(scope="module")
def three_clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("three")
    for index, (rate, frames) in enumerate([(30.0, 150), (25.0, 100), (60.0, 200)]):
        write_clip(root / f"clip{index}.mp4", times_at(rate, frames), gop=24)
    return root


def test_a_block_is_a_function_of_its_number_alone(three_clips):
    straight = [source(three_clips).block(n) for n in range(4)]
    reused = source(three_clips)
    backwards = [reused.block(n) for n in (3, 2, 1, 0)][::-1]
    copied = pickle.loads(pickle.dumps(source(three_clips)))  # as a data worker gets it
    assert all(same(a, b) for a, b in zip(straight, backwards, strict=True))
    assert same(copied.block(2), straight[2])
    assert not same(straight[0], source(three_clips, seed=1).block(0))
    assert not np.array_equal(straight[0].seconds, straight[1].seconds)


def test_files_are_mixed_within_every_batch(three_clips):
    pairs = source(three_clips, config=dataclasses.replace(CONFIG, buffer_pairs=96), batch_size=16)
    block = pairs.block(0)
    assert len(block.first) == pairs.block_pairs == 96 and len(block.clips) == 3
    assert all(len(set(block.clip[start : start + 16])) >= 2 for start in range(0, 96, 16))


def test_ranks_share_an_epoch_without_overlap(tmp_path):
    for index in range(6):
        write_clip(tmp_path / f"{index}.mp4", times_at(30.0, 130), gop=130)
    ranks = [source(tmp_path, rank=rank, world_size=3) for rank in range(3)]
    epoch = ranks[0]._plans[0].blocks_per_epoch
    seen = [{name for n in range(epoch) for name in pairs.block(n).clips} for pairs in ranks]
    assert set.union(*seen) == {f"{n}.mp4" for n in range(6)}
    assert sum(len(names) for names in seen) == 6


def test_weights_decide_how_much_each_folder_gives(tmp_path):
    for folder, frames in (("a", 60), ("b", 240)):
        write_clip(tmp_path / folder / f"{folder}.mp4", times_at(30.0, frames), gop=60)
    config = dataclasses.replace(CONFIG, buffer_pairs=64)

    def share_of_a(**options) -> float:
        block = source(tmp_path / "a", tmp_path / "b", config=config, **options).block(1)
        return float(np.mean(np.array(block.clips)[block.clip] == "a.mp4"))

    assert share_of_a() == pytest.approx(0.2, abs=0.02)
    assert share_of_a(weights=[3, 1]) == 0.75
    with pytest.raises(UserError, match="weights above 0"):
        share_of_a(weights=[1, 0])


def test_a_folder_smaller_than_a_batch_fills_it_with_repeats(tmp_path):
    write_clip(tmp_path / "clip.mp4", times_at(30.0, 12), gop=12)
    block = source(tmp_path, batch_size=24).block(0)
    assert len(block.first) == 24 and 5 <= len(np.unique(block.seconds, axis=0)) <= 11
    shown = [[number_of(first), number_of(second)] for first, second in zip(block.first, block.second, strict=True)]
    np.testing.assert_allclose(block.seconds, np.array(shown) / 30, atol=1e-4)


def test_repeats_are_of_pairs_that_move(tmp_path):
    images = [numbered_frame(max(0, n - 24)) for n in range(32)]
    write_clip(tmp_path / "clip.mp4", times_at(30.0, 32), gop=32, images=images)
    block = source(tmp_path, batch_size=40).block(0)
    still = block.seconds[:, 1] < 24.5 / 30
    assert len(np.unique(block.seconds, axis=0)) < 20 and 1 <= np.sum(still) <= 4


def test_a_damaged_clip_is_reported_and_the_rest_goes_on(tmp_path):
    for name in "abc":
        write_clip(tmp_path / f"{name}.mp4", times_at(30.0, 120), gop=120)
    clean = source(tmp_path)
    clean_block = clean.block(0)
    damage(tmp_path / "b.mp4", after=0.5)
    pairs = VideoPairs(clean.folders, config=CONFIG, batch_size=8, seed=0)  # damaged after the folder was opened
    blocks = [pairs.block(n) for n in range(6)]
    bad = {file.name for block in blocks for file in block.bad}
    assert bad == {"b.mp4"} and all(len(block.first) == len(clean_block.first) for block in blocks)
    assert not any("b.mp4" in block.clips for block in blocks), "a segment that fails gives nothing"
    skipped = [pairs.block(n) for n in range(6)]
    assert all(same(one, other) and one.bad == other.bad for one, other in zip(blocks, skipped, strict=True))


def test_damage_near_the_end_of_a_segment_does_not_make_blocks_depend_on_history(tmp_path):
    for name in "ab":
        write_clip(tmp_path / f"{name}.mp4", times_at(30.0, 120), gop=120)
    folders = [open_folder(tmp_path).clips]
    damage(tmp_path / "b.mp4", after=0.68)  # after 105 frames: some blocks have all they want by then

    def fresh() -> VideoPairs:
        return VideoPairs(folders, config=dataclasses.replace(CONFIG, pairs_per_frame=0.1), batch_size=4, seed=0)

    used = fresh()
    for number in range(12):
        one, other = used.block(number), fresh().block(number)
        assert same(one, other) and one.bad == other.bad


def test_nothing_but_damage_is_bad_data_with_the_reasons(tmp_path):
    write_clip(tmp_path / "only.mp4", times_at(30.0, 120), gop=120)
    pairs = source(tmp_path)
    damage(tmp_path / "only.mp4", after=0.3)
    with pytest.raises(BadData, match=r"only\.mp4: .+") as caught:
        pairs.block(0)
    assert caught.value.exit_code == 4


def test_block_and_folder_sizes():
    assert block_size(CONFIG, 24, 1e6) == 48  # 32 rounded up to whole batches
    assert block_size(CONFIG, 8, 19.5) == 16  # all there is
    assert block_size(CONFIG, 8, 1) == 8
    assert folder_sizes(8, [1000, 1, 1], None).tolist() == [6, 1, 1]
    with pytest.raises(UserError, match="cannot hold 3 folders"):
        folder_sizes(2, [1, 1, 1], None)


@pytest.mark.parametrize(
    ("field", "value"),
    [("gap_seconds", (0.2, 0.1)), ("pairs_per_frame", 0.0), ("buffer_pairs", 0), ("static_share", 1.5), ("height", 0)],
)
def test_wrong_settings_are_refused(field, value):
    with pytest.raises(UserError, match=str(value).strip("()").split(",")[0]):
        dataclasses.replace(CONFIG, **{field: value})
