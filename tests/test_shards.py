"""Shards hold the frames that decoding gives, at the same times; pairs from them keep the rules of pairs from files."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

from common import shards
from common.errors import BadData, UserError
from common.folders import Clip, open_folder
from common.pairs import PairConfig
from common.shard_pairs import ShardFolder, ShardPairs
from common.shards import is_shard_folder, shard_path, write_shards
from common.video import decode, probe
from tests.counted_clips import SIZE, damage, number_of, numbered_frame, write_clip

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "ego"
CONFIG = PairConfig(height=SIZE[0], width=SIZE[1], gap_seconds=(0.03, 0.14), buffer_pairs=64)


def times_at(rate: float, frames: int) -> list[float]:
    return (np.arange(frames) / rate).tolist()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(np.float64) - other) ** 2)))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Three clips: 30 fps with a cut at frame 50, uneven times, 60 fps."""
    root = tmp_path_factory.mktemp("videos")
    scenes = [numbered_frame(n, scene=n // 50) for n in range(90)]
    write_clip(root / "a.mp4", times_at(30.0, 90), gop=30, images=scenes)
    uneven = np.cumsum(np.random.default_rng(5).uniform(0.017, 0.066, 80)).round(3).tolist()
    write_clip(root / "b.mp4", uneven, gop=30)
    write_clip(root / "c.mp4", times_at(60.0, 100), gop=30)
    return root


@pytest.fixture(scope="module")
def prepared(videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    report = write_shards(open_folder(videos).clips, out, size=SIZE)
    assert (report.clips, report.frames, report.bad) == (3, 270, ())
    return out


def test_shards_hold_every_frame_at_its_time(videos, prepared):
    folder = ShardFolder(prepared)
    assert [clip.name for clip in folder.clips] == ["a.mp4", "b.mp4", "c.mp4"]
    for clip in folder.clips:
        decoded = list(decode(videos / clip.name, size=SIZE))
        assert clip.frames == len(decoded)
        for number, frame in enumerate(decoded):
            stored = folder.read_frame(clip.first + number)
            assert stored.seconds == frame.seconds and number_of(stored.image) == number
            assert psnr(stored.image, frame.image) > 35


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real clips at {REAL}")
def test_natural_pictures_keep_their_quality(tmp_path):
    clip = Clip(REAL, "catania.mp4", probe(REAL / "catania.mp4"))
    write_shards([clip], tmp_path / "out", size=(240, 320), fps=5)
    folder = ShardFolder(tmp_path / "out")
    kept = {folder.read_frame(row).seconds: folder.read_frame(row).image for row in range(folder.clips[0].frames)}
    assert len(kept) == 50
    assert all(psnr(kept[f.seconds], f.image) > 35 for f in decode(clip.path, size=(240, 320)) if f.seconds in kept)


def test_pairs_show_the_frames_at_their_times(videos, prepared):
    pairs = ShardPairs([ShardFolder(prepared).clips], config=CONFIG, batch_size=16, seed=0)
    times = {name: [frame.seconds for frame in decode(videos / name)] for name in ("a.mp4", "b.mp4", "c.mp4")}
    for block in map(pairs.block, range(4)):
        assert len(block.first) == pairs.block_pairs == 64 and len(block.clips) == 3 and not block.bad
        for p, name in enumerate(np.array(block.clips)[block.clip]):
            first, second = number_of(block.first[p]), number_of(block.second[p])
            assert second > first
            assert block.seconds[p].tolist() == [times[name][first], times[name][second]]
            gap = times[name][second] - times[name][first]
            assert second == first + 1 or 0.03 - 0.033 <= gap <= 0.14 + 0.033
            assert name != "a.mp4" or first // 50 == second // 50, "a pair crosses the cut"


def test_blocks_are_a_function_of_seed_number_and_rank(prepared):
    def times(number: int, **options) -> list:
        folders = pickle.loads(pickle.dumps([ShardFolder(prepared).clips]))  # as a data worker gets them
        pairs = ShardPairs(folders, config=CONFIG, batch_size=16, **options)
        block = pairs.block(number)
        assert len(np.unique(block.seconds, axis=0)) > 40
        return block.seconds.tolist()

    assert times(3, seed=0) == times(3, seed=0)
    others = [times(4, seed=0), times(3, seed=1), times(3, seed=0, rank=1, world_size=2)]
    assert all(times(3, seed=0) != other for other in others)


def test_every_frame_has_the_same_chance(prepared):
    folder = ShardFolder(prepared)
    pairs = ShardPairs([folder.clips], config=CONFIG, batch_size=16, seed=0)
    rng = np.random.default_rng(0)
    draws = [pairs._draw_frame(0, rng) for _ in range(27_000)]
    counts = np.bincount([row for _, row in draws], minlength=270)
    assert len(counts) == 270 and counts.min() > 50 and counts.max() < 170  # 100 each, give or take 10
    assert all(c.first <= row < c.first + c.frames for number, row in draws for c in [folder.clips[number]])


def test_near_identical_pairs_are_rationed(tmp_path):
    images = [numbered_frame(0)] * 100 + [numbered_frame(n) for n in range(50)]
    write_clip(tmp_path / "in" / "clip.mp4", times_at(30.0, 150), gop=150, images=images)
    write_shards(open_folder(tmp_path / "in").clips, tmp_path / "out", size=SIZE)
    clips = ShardFolder(tmp_path / "out").clips
    for static_share, most in ((0.1, 7), (0.0, 0)):
        config = dataclasses.replace(CONFIG, static_share=static_share)
        block = ShardPairs([clips], config=config, batch_size=16, seed=0).block(0)
        assert np.sum(block.seconds[:, 1] < 99 / 30) == most


def test_thinning_keeps_the_nearest_frames(tmp_path, videos):
    write_shards(open_folder(videos).clips, tmp_path / "out", size=SIZE, fps=10)
    folder = ShardFolder(tmp_path / "out")
    shown = {
        clip.name: [number_of(folder.read_frame(clip.first + n).image) for n in range(clip.frames)]
        for clip in folder.clips
    }
    assert shown["a.mp4"] == list(range(0, 90, 3)) and shown["c.mp4"] == list(range(0, 100, 6))
    assert [clip.fps for clip in folder.clips] == [10, 10, 10]
    uneven = folder.clips[1]
    gaps = np.diff(folder.seconds[uneven.first : uneven.first + uneven.frames])
    assert abs(gaps.mean() - 0.1) < 0.005 and gaps.min() > 0.04
    assert np.flatnonzero(np.diff(folder.scene[: folder.clips[0].frames])).tolist() == [16]  # 48 | cut at 50 | 51


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path, videos, prepared, monkeypatch):
    clips, out, encode = open_folder(videos).clips, tmp_path / "out", shards._encode_clip

    def run_until_killed(at: int) -> None:
        def killed(number, clip, **options):
            result = encode(number, clip, **options)
            if number == at:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(shards, "_encode_clip", killed)
        with pytest.raises(KeyboardInterrupt):
            write_shards(clips, out, size=SIZE)
        assert not is_shard_folder(out)

    for number in (1, 1, 2):
        run_until_killed(number)
        for name in ("journal.jsonl", "rows.bin", "shard-00000.bin"):  # and in the middle of taking over a clip
            with open(out / name, "ab") as file:
                file.write(b'{"rows": 9')
    monkeypatch.setattr(shards, "_encode_clip", encode)
    with pytest.raises(UserError, match="other settings"):
        write_shards(clips, out, size=SIZE, quality=50)
    report = write_shards(clips, out, size=SIZE)
    assert report.frames == 270 and files_of(out) == files_of(prepared)
    with pytest.raises(UserError, match="already holds shards"):
        write_shards(clips, out, size=SIZE)


def test_two_workers_write_the_same(tmp_path, videos, prepared):
    write_shards(open_folder(videos).clips, tmp_path / "out", size=SIZE, workers=2)
    assert files_of(tmp_path / "out") == files_of(prepared)


def test_several_shards_read_like_one(tmp_path, videos, prepared, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1000)
    write_shards(open_folder(videos).clips, tmp_path / "out", size=SIZE)
    assert sorted(path.name for path in tmp_path.glob("out/*.bin")) == [f"shard-0000{n}.bin" for n in range(3)]
    one, several = ShardFolder(prepared), ShardFolder(tmp_path / "out")
    for row in (0, 89, 90, 169, 170, 269):
        assert np.array_equal(one.read_frame(row).image, several.read_frame(row).image)


def test_damaged_clips_are_left_out_and_reported(tmp_path):
    for name in "abc":
        write_clip(tmp_path / "in" / f"{name}.mp4", times_at(30.0, 60), gop=60)
    clips = open_folder(tmp_path / "in").clips
    damage(tmp_path / "in" / "b.mp4", after=0.5)
    report = write_shards(clips, tmp_path / "out", size=SIZE)
    assert [file.name for file in report.bad] == ["b.mp4"] and report.clips == 2
    folder = ShardFolder(tmp_path / "out")
    assert [(clip.name, clip.first, clip.frames) for clip in folder.clips] == [("a.mp4", 0, 60), ("c.mp4", 60, 60)]
    assert number_of(folder.read_frame(60 + 7).image) == 7
    with pytest.raises(BadData, match=r"none of 1 clips can be read\n  b\.mp4: ."):
        write_shards(clips[1:2], tmp_path / "none", size=SIZE)


def test_damaged_shards_are_found(tmp_path, videos):
    write_shards(open_folder(videos).clips, tmp_path / "out", size=SIZE)
    file = shard_path(tmp_path / "out", 0)
    content = bytearray(file.read_bytes())
    folder = ShardFolder(tmp_path / "out")
    start = int(folder._offset[folder.clips[1].first])
    content[start : start + int(folder._length[90:170].sum())] = bytes(int(folder._length[90:170].sum()))
    file.write_bytes(content)
    block = ShardPairs([folder.clips], config=CONFIG, batch_size=16, seed=0).block(0)
    assert {bad.name for bad in block.bad} == {"b.mp4"} and block.clips == ("a.mp4", "c.mp4")
    with pytest.raises(BadData, match=r"b\.mp4: a damaged frame"):
        ShardPairs([folder.clips[1:2]], config=CONFIG, batch_size=16, seed=0).block(0)
    file.write_bytes(content[:-1])
    with pytest.raises(BadData, match="instead of"):
        ShardFolder(tmp_path / "out")
    with pytest.raises(BadData, match="no readable shards"):
        ShardFolder(tmp_path)


def test_the_size_must_be_that_of_the_shards(prepared):
    config = dataclasses.replace(CONFIG, height=48, width=64)
    with pytest.raises(UserError, match=r"frames of \(96, 128\), not \(48, 64\)"):
        ShardPairs([ShardFolder(prepared).clips], config=config, batch_size=16, seed=0)
