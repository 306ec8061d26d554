"""The scan of a folder: its numbers, its table, its JSON and its cache."""

import json
from io import StringIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import scripts.scan
from common.errors import BadData
from common.folders import INDEX_NAME, Clip, open_folder
from common.video import Keyframe, VideoInfo, probe, write_video
from scripts.scan import PictureStatistics, look_at, print_report, sample_pieces, scan
from tests.bad_videos import NOT_UTF8, encode, patched, rotated, zero_middle
from tests.test_motion import scene, window


def clip_of(path: Path) -> Clip:
    return Clip(path.parent, path.name, probe(path))


def long_clip(*, seconds: float, gop_seconds: float, start: float = 0.0) -> Clip:
    count = int(np.ceil(seconds / gop_seconds))
    keyframes = tuple(Keyframe(int(30 * k * gop_seconds), start + k * gop_seconds) for k in range(count))
    info = VideoInfo("h264", "yuv420p", 640, 480, 0, int(30 * seconds), 30.0, False, start, seconds, keyframes)
    return Clip(Path("/data"), "long.mp4", info)


def text_of(report: scripts.scan.ScanReport, *, width: int = 80) -> str:
    console = Console(width=width, record=True, file=StringIO())
    print_report(report, console=console)
    return console.export_text()


def test_cuts_static_share_and_camera_are_measured(tmp_path: Path) -> None:
    """30 standing frames, a cut, 30 frames in which the picture moves 2 pixels of 320 per frame at 30 fps."""
    still = [window(scene(1))] * 30
    moving = [window(scene(2), right=2 * index) for index in range(30)]
    write_video(tmp_path / "clip.mp4", still + moving, fps=30)
    pictures = look_at(clip_of(tmp_path / "clip.mp4"), sample_seconds=10)
    assert pictures.cuts == pytest.approx([1.0], abs=1e-3)
    assert pictures.static_share == pytest.approx(0.5, abs=0.03)
    assert pictures.seconds == pytest.approx(2.0, abs=0.01) and not pictures.problem
    write_video(tmp_path / "moving.mp4", moving, fps=30)
    speed = look_at(clip_of(tmp_path / "moving.mp4"), sample_seconds=10).camera_speed
    assert speed == pytest.approx(2 * 30 / 320, rel=0.15)


def test_pieces_cover_a_short_clip_and_spread_over_a_long_one() -> None:
    assert sample_pieces(long_clip(seconds=8, gop_seconds=1, start=2.0), sample_seconds=20) == [(2.0, 10.0)]
    pieces = sample_pieces(long_clip(seconds=3600, gop_seconds=8, start=2.0), sample_seconds=20)
    assert pieces == [(2.0, 7.0), (898.0, 903.0), (1802.0, 1807.0), (2698.0, 2703.0)]  # each at a key frame
    assert sample_pieces(long_clip(seconds=3600, gop_seconds=3600), sample_seconds=20) == [(0.0, 20.0)]
    dense = sample_pieces(long_clip(seconds=21, gop_seconds=3), sample_seconds=20)
    assert all(start < stop <= after for (start, stop), (after, _) in pairwise(dense))


def test_report_counts_what_is_there(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", count=24)
    rotated(90)(tmp_path / "[red]turned.mp4")
    encode(tmp_path / "uneven.mkv", times=[0, 40, 80, 200, 240, 500, 540])
    encode(tmp_path / NOT_UTF8, codec="mpeg4", count=10)
    patched(zero_middle, flags="faststart", count=60, size=(96, 128))(tmp_path / "damaged.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("x")
    report = scan(tmp_path, json_path=tmp_path / "report.json")
    clips = {clip.name: clip for clip in report.clips}
    assert list(clips) == sorted(clips) and "caf\\xe9.mp4" in clips and report.ignored == 1
    assert report.seconds == pytest.approx(sum(clip.info.duration_seconds for clip in open_folder(tmp_path).clips))
    assert (clips["[red]turned.mp4"].width, clips["[red]turned.mp4"].height) == (48, 64)
    assert "damaged" in clips["damaged.mp4"].pictures.problem
    text = text_of(report)
    for part in (
        "[red]turned.mp4",
        "48x64 ↻90",
        "caf\\xe9.mp4",
        "~11.11",
        "1 vary (~)",
        "1 turned (↻)",
        "5 usable, 1 unreadable, 1 others not tried",
        "h264 (4), mpeg4 (1)",
        "UNREADABLE (1):\n  empty.mp4: empty file (0 bytes)",
        "usable, but (1):\n  damaged.mp4: damaged",
    ):
        assert part in text, part
    stored = json.loads((tmp_path / "report.json").read_text())
    assert [clip["name"] for clip in stored["clips"]] == list(clips)
    assert stored["unreadable"] == {"empty.mp4": "empty file (0 bytes)"}
    assert stored["clips"][0]["pictures"]["static_share"] == report.clips[0].pictures.static_share


def test_long_lists_are_cut_in_the_table_but_not_in_the_json(tmp_path: Path) -> None:
    deep = tmp_path / "0123456789/0123456789/0123456789/0123456789"
    deep.mkdir(parents=True)
    encode(deep / "0.mp4", count=3)
    content = (deep / "0.mp4").read_bytes()
    for index in range(1, 45):
        (tmp_path / f"{index}.mp4").write_bytes(content)
        (tmp_path / f"bad{index}.mp4").write_bytes(b"")
    report = scan(tmp_path, json_path=tmp_path / "report.json")
    text = text_of(report)
    assert "…/0123456789/0123456789/0123456789/0.mp4" in text_of(report, width=120)
    assert "... and 5 more files" in text and "... and 4 more (" in text
    stored = json.loads((tmp_path / "report.json").read_text())
    assert len(stored["clips"]) == 45 and len(stored["unreadable"]) == 44


def test_second_scan_decodes_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def counting(clip: Clip, *, sample_seconds: float) -> PictureStatistics:
        seen.append(clip.name)
        return look_at(clip, sample_seconds=sample_seconds)

    monkeypatch.setattr(scripts.scan, "look_at", counting)
    for name in ("a.mp4", "b.mp4"):
        encode(tmp_path / name)
    first = scan(tmp_path)
    assert sorted(seen) == ["a.mp4", "b.mp4"] and scan(tmp_path) == first and len(seen) == 2
    open_folder(tmp_path)  # others that write the index leave the statistics in it
    encode(tmp_path / "b.mp4", count=9)
    scan(tmp_path)
    assert seen[2:] == ["b.mp4"]
    scan(tmp_path, sample_seconds=3)
    assert sorted(seen[3:]) == ["a.mp4", "b.mp4"]
    index = tmp_path / INDEX_NAME
    index.write_text(index.read_text().replace('"static_share"', '"share"'))
    assert scan(tmp_path, sample_seconds=3).clips[0] == first.clips[0].__class__(
        **{**vars(first.clips[0]), "pictures": look_at(open_folder(tmp_path).clips[0], sample_seconds=3)}
    )
    seen.clear()
    scan(tmp_path, sample_seconds=3, refresh=True)
    assert sorted(seen) == ["a.mp4", "b.mp4"]


def test_nothing_readable_or_a_senseless_sample(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"<html>")
    with pytest.raises(BadData, match="web page"):
        scan(tmp_path, json_path=tmp_path / "report.json")
    assert not (tmp_path / "report.json").exists()
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=str(seconds)):
            scan(tmp_path, sample_seconds=seconds)
