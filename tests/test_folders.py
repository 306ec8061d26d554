"""open_folder and its index, and the split into training and validation."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import common.folders
from common.errors import BadData, UserError
from common.folders import INDEX_NAME, Clip, open_folder, printable, split_by_file
from common.video import VideoInfo, probe
from tests.bad_videos import NOT_UTF8, encode, image_folder


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are probed from now on."""
    names: list[str] = []

    def counting(path: Path) -> VideoInfo:
        names.append(path.name)
        return probe(path)

    monkeypatch.setattr(common.folders, "probe", counting)
    return names


def names_in(root: Path) -> list[str]:
    return [clip.name for clip in open_folder(root).clips]


def test_clips_come_sorted_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2.mp4", "b/10.MKV", "z.webm", "a.mp4"):
        encode(tmp_path / name, codec="libvpx-vp9" if name.endswith("webm") else "libx264", count=5)
    image_folder()(tmp_path / "b/images")
    for name in ("notes.txt", "b/table.csv", ".hidden.mp4"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".trash").mkdir()
    encode(tmp_path / ".trash/old.mp4")
    folder = open_folder(tmp_path)
    assert [clip.name for clip in folder.clips] == ["a.mp4", "b/10.MKV", "b/2.mp4", "b/images", "z.webm"]
    assert folder.bad == () and folder.ignored == 2
    assert all(clip.info == probe(clip.path) for clip in folder.clips)


def test_second_opening_probes_only_what_changed(tmp_path: Path, probed: list[str]) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        encode(tmp_path / name, count=5)
    (tmp_path / "bad.mp4").write_bytes(b"")
    image_folder()(tmp_path / "images")
    first = open_folder(tmp_path)
    assert sorted(probed) == ["a.mp4", "b.mp4", "bad.mp4", "c.mp4", "images"]
    probed.clear()
    assert open_folder(tmp_path) == first and probed == ["bad.mp4"]  # what was bad is tried again
    probed.clear()
    encode(tmp_path / "b.mp4", count=9)
    os.utime(tmp_path / "c.mp4", ns=(1, 1))
    (tmp_path / "images" / "fps.txt").write_text("20")
    (tmp_path / "a.mp4").unlink()
    second = {clip.name: clip.info for clip in open_folder(tmp_path).clips}
    assert sorted(probed) == ["b.mp4", "bad.mp4", "c.mp4", "images"]
    assert second["b.mp4"].frames == 9 and second["images"].fps == 20 and "a.mp4" not in second
    assert "a.mp4" not in json.loads((tmp_path / INDEX_NAME).read_text())["files"]
    probed.clear()
    open_folder(tmp_path, refresh=True)
    assert sorted(probed) == ["b.mp4", "bad.mp4", "c.mp4", "images"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[" * 100_000,
        lambda text: "[]",
        lambda text: text.replace('"version":1', '"version":0'),
        lambda text: text.replace('"keyframes"', '"key"'),
        lambda text: text.replace('"fps"', '"rate"'),
        lambda text: text.replace('"stamp":{', '"stamp":[{').replace('},"info"', '}],"info"'),
        lambda text: '{"version":1,"files":{"a.mp4":7}}',
        lambda text: '{"version":1,"files":7}',
        lambda text: "\xff\xfe",
    ],
)
def test_a_damaged_index_is_built_again(tmp_path: Path, damage, probed: list[str]) -> None:
    encode(tmp_path / "a.mp4", count=5)
    first = open_folder(tmp_path)
    index = tmp_path / INDEX_NAME
    whole = index.read_text()
    index.write_text(damage(whole), encoding="latin-1")
    assert open_folder(tmp_path) == first and probed == ["a.mp4"] * 2
    assert index.read_text() == whole


def test_the_index_leaves_no_rubbish_and_is_plain_json(tmp_path: Path) -> None:
    encode(tmp_path / NOT_UTF8, count=5)
    folder = open_folder(tmp_path)
    assert open_folder(tmp_path) == folder and folder.clips[0].name == NOT_UTF8
    assert sorted(os.listdir(tmp_path)) == sorted([INDEX_NAME, NOT_UTF8])
    assert json.loads((tmp_path / INDEX_NAME).read_bytes().decode("ascii"))["version"] == 1
    assert printable(NOT_UTF8) == "caf\\xe9.mp4"


def test_a_read_only_folder_keeps_its_index_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probed: list[str]
) -> None:
    root, cache = tmp_path / "videos", tmp_path / "cache"
    root.mkdir()
    encode(root / "a.mp4", count=5)
    write_text = Path.write_text

    def refuse(self: Path, *arguments, **options) -> int:  # root may write anywhere, so permissions prove nothing here
        if self.parent == root:
            raise PermissionError(13, "Permission denied")
        return write_text(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    first = open_folder(root)
    assert os.listdir(root) == ["a.mp4"] and len(list(cache.rglob("*.json"))) == 1
    assert open_folder(root) == first and probed == ["a.mp4"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "a.mp4"))  # no cache either: slower, but it works, and says so
    with pytest.warns(UserWarning, match="cannot be stored"):
        assert open_folder(root) == first


def test_two_at_once(tmp_path: Path) -> None:
    for index in range(6):
        encode(tmp_path / f"{index}.mp4", count=5)
    results: list[list[str]] = []
    threads = [threading.Thread(target=lambda: results.append(names_in(tmp_path))) for _ in range(6)]
    code = f"from common.folders import open_folder; print(len(open_folder({str(tmp_path)!r}).clips))"
    others = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[f"{index}.mp4" for index in range(6)]] * 6
    assert [other.communicate()[0] for other in others] == [b"6\n"] * 2
    assert len(json.loads((tmp_path / INDEX_NAME).read_text())["files"]) == 6


def test_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "root"
    root.mkdir()
    encode(tmp_path / "elsewhere/far.mp4", count=5)
    (root / "sub").mkdir()
    encode(root / "sub/near.mp4", count=5)
    (root / "a_link").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(root / "sub")  # the same folder under a second name: its clips must not count twice
    (root / "sub/up").symlink_to(root)
    (root / "file.mp4").symlink_to(tmp_path / "elsewhere/far.mp4")
    (root / "gone").symlink_to(tmp_path / "deleted")
    folder = open_folder(root)
    assert [clip.name for clip in folder.clips] == ["a_link/far.mp4", "file.mp4", "sub/near.mp4"]
    assert [file.name for file in folder.bad] == ["again", "gone", "sub/up"]
    assert "a link that leads nowhere" in folder.bad[1].reason and not folder.ignored


def test_the_root_itself_may_be_a_series_of_images(tmp_path: Path) -> None:
    image_folder()(tmp_path / "clip")
    (clip,) = open_folder(tmp_path / "clip").clips
    assert clip.name == "." and clip.info.frames == 4 and probe(clip.path) == clip.info
    assert open_folder(tmp_path / "clip").clips == (clip,)


def test_nothing_readable_is_bad_data_with_reasons(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        open_folder(tmp_path / "missing")
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(BadData, match="no video file among 1"):
        open_folder(tmp_path)
    for index in range(25):
        (tmp_path / f"{index:02d}.mp4").write_bytes(b"")
    with pytest.raises(BadData) as error:
        open_folder(tmp_path)
    assert error.value.exit_code == 4
    text = str(error.value)
    assert "25 tried" in text and "00.mp4: empty file" in text and "and 5 more" in text and "20.mp4" not in text


def clips(count: int) -> list[Clip]:
    info = VideoInfo("h264", "yuv420p", 64, 48, 0, 5, 30.0, False, 0.0, 0.2, ())
    return [Clip(Path("/data"), f"clip {index}.mp4", info) for index in range(count)]


def test_split_is_by_file_and_stable_when_files_are_added() -> None:
    training, validation = split_by_file(clips(400), validation_share=0.2, seed=0)
    assert sorted(training + validation, key=lambda clip: clip.name) == sorted(clips(400), key=lambda clip: clip.name)
    assert 50 <= len(validation) <= 110
    more_training, more_validation = split_by_file(clips(500), validation_share=0.2, seed=0)
    assert set(names(training)) <= set(names(more_training)) and set(names(validation)) <= set(names(more_validation))
    other = split_by_file([replace(clip, root=Path("/moved")) for clip in clips(400)], validation_share=0.2, seed=0)
    assert names(other[1]) == names(validation) != names(split_by_file(clips(400), validation_share=0.2, seed=1)[1])


def names(some: list[Clip]) -> list[str]:
    return [clip.name for clip in some]


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_each_side_gets_a_clip(share: float, count: int) -> None:
    for seed in range(20):
        training, validation = split_by_file(clips(count), validation_share=share, seed=seed)
        assert training and validation


def test_one_clip_is_for_training() -> None:
    for seed in range(10):
        assert split_by_file(clips(1), validation_share=0.9, seed=seed) == (clips(1), [])
    assert split_by_file((), validation_share=0.5, seed=0) == ([], [])
    for share in (0.0, 1.0, -1.0, 20.0):
        with pytest.raises(ValueError, match=str(share)):
            split_by_file(clips(3), validation_share=share, seed=0)
