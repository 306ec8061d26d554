"""The bench runs every method on a small file and tells what it measured."""

import json

import numpy as np
import pytest

from common.errors import BadData
from common.folders import Clip
from common.pairs import PairBlock
from common.video import probe
from scripts import bench_decode as bench
from tests.counted_clips import write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("bench") / "clip.mp4", (np.arange(240) / 30).tolist(), gop=240)


def test_every_method_is_measured_in_one_run(clip, tmp_path, capsys):
    results = bench.bench_decode([clip], size=(48, 64), seconds=0.3, json_path=tmp_path / "bench.json")
    assert [result.method for result in results] == list(bench.METHODS)
    measured = {result.method: result for result in results if result.note != "not installed"}
    assert set(measured) >= set(bench.METHODS) - {bench.SEEK_CV2}
    costs = {method: result.milliseconds or 0.0 for method, result in measured.items()}
    assert min(costs.values()) > 0 and all(result.pairs > 0 for result in measured.values())
    assert all(20 < result.peak_megabytes < 400 for result in measured.values())
    for method in (bench.SPARSE, bench.DENSE, bench.SHARDS):
        assert measured[method].times_cheaper == pytest.approx(costs[bench.SEEK] / costs[method])
        assert costs[method] < costs[bench.SEEK]
    assert measured[bench.WRITE].pairs == 240
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["files"][0]["longest_gop"] == 240 and len(written["results"]) == len(results)
    assert "JPEG shards" in capsys.readouterr().out


def test_the_child_measures_without_torch(clip, tmp_path):
    task = bench.Task(bench.SPARSE, [str(clip)], 48, 64, 0.1, str(tmp_path / "shards"))
    assert bench._run_child(task)["torch"] is False


def test_a_method_that_fails_says_why(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(BadData, match=r"broken\.mp4"):
        bench.bench_decode([tmp_path / "broken.mp4"], seconds=0.1)


def test_repeats_are_not_counted():
    seconds = np.array([[0.0, 0.1], [0.0, 0.1], [0.0, 0.2], [0.0, 0.1]])
    images = np.zeros((4, 1, 1, 3), dtype=np.uint8)
    block = PairBlock(images, images, seconds, np.array([0, 0, 0, 1]), ("a", "b"), ())
    assert bench._distinct(block) == 3


def test_scattered_pairs_stay_inside_the_clip(clip):
    pairs = bench._scattered_pairs([Clip(clip.parent, clip.name, probe(clip))])
    drawn = [next(pairs) for _ in range(200)]
    assert {step for _, _, step in drawn} == {1, 2, 3, 4}
    assert all(0 <= first < 240 - step for _, first, step in drawn)
    assert np.histogram([first for _, first, _ in drawn], bins=8, range=(0, 240))[0].min() >= 24


def test_the_test_file_has_long_groups_of_pictures(clip, tmp_path):
    bench.make_test_file(tmp_path / "big.mp4", [clip], frames_each=4)
    info = probe(tmp_path / "big.mp4")
    assert (info.codec, info.width, info.height, info.frames, info.longest_gop) == ("h264", 1920, 1080, 4, 4)
