"""Makes a folder of difficult and broken videos, and says what must become of each.

`python -m tests.bad_videos` prints the table with what really becomes of them.
"""

import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

from common.folders import open_folder, printable

USABLE, WARNED, BAD = "usable", "usable with a warning", "unreadable"


@dataclass(frozen=True)
class Case:
    name: str  # posix path in the folder, as open_folder names it
    make: Callable[[Path], None]  # writes it at the path given
    outcome: str
    text: str = ""  # part of the reason or of the warning


def picture(index: int, *, height: int = 48, width: int = 64) -> np.ndarray:
    """A test picture with no symmetry: red top left, green top right, a bar that moves with the index."""
    image = np.full((height, width, 3), 90, np.uint8)
    image[: height // 2, : width // 2] = (220, 30, 30)
    image[: height // 2, width // 2 :] = (30, 200, 30)
    column = index * 3 % width
    image[height * 3 // 4 :, column : column + 6] = 255
    return image


def encode(
    path: Path,
    *,
    count: int = 24,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: str | None = None,
    flags: str = "",
    times: Iterable[int] | None = None,
    size: tuple[int, int] = (48, 64),
    gop: int = 8,
    tags: dict[str, int] | None = None,
) -> None:
    """Write `count` test pictures at 25 per second; `times` are presentation times in milliseconds instead."""
    with av.open(os.fspath(path), "w", format=container, options={"movflags": flags} if flags else {}) as output:
        stream: Any = output.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt, stream.gop_size = pixels, gop
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        output.start_encoding()
        for index, tick in enumerate(range(0, 40 * count, 40) if times is None else times):
            image = picture(index, height=size[0], width=size[1])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = tick, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def patch(path: Path, edit: Callable[[bytearray], bytearray | None]) -> None:
    content = bytearray(path.read_bytes())
    path.write_bytes(edit(content) or content)


def encoded(**arguments: Any) -> Callable[[Path], None]:
    return lambda path: encode(path, **arguments)


def cut_at(share: float, **arguments: Any) -> Callable[[Path], None]:
    """An encoded file of which only the first part is left."""

    def make(path: Path) -> None:
        encode(path, **arguments)
        patch(path, lambda content: content[: int(len(content) * share)])

    return make


def content(data: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(data)

    return make


def patched(edit: Callable[[bytearray], bytearray | None], **arguments: Any) -> Callable[[Path], None]:
    """An encoded file with its bytes edited."""

    def make(path: Path) -> None:
        encode(path, **arguments)
        patch(path, edit)

    return make


def replaced(old: bytes, new: bytes, **arguments: Any) -> Callable[[Path], None]:
    """An encoded file with one place in its header overwritten."""

    def make(path: Path) -> None:
        encode(path, **arguments)
        assert old in path.read_bytes(), f"{old!r} is not in {path.name}"
        patch(path, lambda data: data.replace(old, new, 1))

    return make


def rotated(degrees: int) -> Callable[[Path], None]:
    """A turn clockwise in the track's matrix (ISO 14496-12, 8.3.2): p' = a p + c q, q' = b p + d q."""
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]

    def edit(data: bytearray) -> None:
        start = data.index(b"tkhd") + 44
        data[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    return patched(edit)


def trim(data: bytearray) -> None:
    """An edit list (ISO 14496-12, 8.6.6) that shows 1.6 s from second 1 on, as telephones write it."""
    start = data.index(b"elst") + 12
    ticks_per_second = 12800
    data[start : start + 8] = struct.pack(">Ii", 1600, 1024 + ticks_per_second)


def eight_k_header(data: bytearray) -> None:
    start = data.index(b"avc1") + 28
    data[start : start + 4] = struct.pack(">2H", 8192, 4320)


def huge_number(box: bytes, offset: int) -> Callable[[Path], None]:
    """An mp4 in which one 32-bit number, `offset` bytes after a box's name, is as large as can be."""

    def edit(data: bytearray) -> None:
        start = data.index(box) + offset
        data[start : start + 4] = b"\xff\xff\xff\xff"

    return patched(edit, flags="faststart")


def long_claim(data: bytearray) -> None:
    """The header of a Matroska file claims a hundred times its duration."""
    start = data.index(b"\x44\x89\x88") + 3  # the element Duration: a float of 8 bytes, in milliseconds
    data[start : start + 8] = struct.pack(">d", struct.unpack(">d", data[start : start + 8])[0] * 100)


def zero_middle(data: bytearray) -> None:
    """Wipes an eighth of the pictures of an mp4 whose index comes first."""
    start = data.index(b"mdat") + 4
    length = len(data) - start
    data[start + length // 2 : start + length * 5 // 8] = bytes(length * 5 // 8 - length // 2)


zeroed_middle = patched(zero_middle, flags="faststart", count=60, size=(96, 128))


def audio(path: Path, *, cover: bool = False) -> None:
    with av.open(os.fspath(path), "w") as output:
        stream: Any = output.add_stream("aac", rate=44100)
        cover_stream: Any = output.add_stream("mjpeg", rate=1) if cover else None
        if cover:
            cover_stream.height, cover_stream.width, cover_stream.pix_fmt = 48, 64, "yuvj420p"
            cover_stream.disposition = Disposition.attached_pic
            image = av.VideoFrame.from_ndarray(picture(0), format="rgb24").reformat(format="yuvj420p")
            output.mux(cover_stream.encode(image))
            output.mux(cover_stream.encode(None))
        for index in range(20):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.rate, sound.pts = 44100, index * 1024
            output.mux(stream.encode(sound))
        output.mux(stream.encode(None))


def two_sizes(path: Path) -> None:
    """One transport stream in which the picture grows half way."""
    with av.open(os.fspath(path), "w", format="mpegts") as output:
        stream: Any = output.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for start, (height, width) in ((0, (48, 64)), (10, (96, 128))):
            encoder = av.VideoCodecContext.create("libx264", "w")
            encoder.height, encoder.width, encoder.pix_fmt = height, width, "yuv420p"
            encoder.framerate, encoder.time_base, encoder.options = Fraction(25), Fraction(1, 25), {"bf": "0"}
            for index in range(start, start + 10):
                image = picture(index, height=height, width=width)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                mux(output, stream, encoder.encode(frame))
            mux(output, stream, encoder.encode(None))


def mux(output: Any, stream: Any, packets: Iterable[Any]) -> None:
    for packet in packets:
        packet.stream = stream
        output.mux(packet)


def without_start(path: Path) -> None:
    """A transport stream that was switched on in the middle of a group of pictures."""
    encode(path, container="mpegts", options={"bf": "0"})
    with av.open(os.fspath(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    headers = path.read_bytes()[: places[0]]
    patch(path, lambda data: bytearray(headers) + data[places[3] :])


def image_folder(*, sizes: tuple[tuple[int, int], ...] = ((48, 64),) * 4, names: str = "frame_{:04d}.png") -> Any:
    def make(path: Path) -> None:
        path.mkdir()
        for index, (height, width) in enumerate(sizes):
            Image.fromarray(picture(index, height=height, width=width)).save(path / names.format(index))

    return make


def two_series(path: Path) -> None:
    image_folder(names="left_{}.png")(path)
    for index in range(3):
        Image.fromarray(picture(index)).save(path / f"right_{index}.png")


def image_bomb(path: Path) -> None:
    """PNG files of 100 bytes that unpack to 3.6 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", 30000, 30000, 8, 6, 0, 0, 0)
    image = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.mkdir()
    for index in range(2):
        (path / f"{index}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + image)


def in_folder(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def make_below(path: Path) -> None:
        path.parent.mkdir()
        make(path)

    return make_below


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
HTML = b"<!DOCTYPE html><html><body>Please sign in to download</body></html>"
PLAYLIST = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"
NOT_UTF8 = os.fsdecode(b"caf\xe9.mp4")
NEGATIVE = range(-160, 640, 40)  # milliseconds
UNEVEN = [0, 40, 80, 90, 100, 300, 310, 400, 440, 600, 610, 620, 630, 800]
OPEN_GOP = {"x264-params": "open-gop=1:keyint=8:min-keyint=8:scenecut=0:bframes=3"}
HDR_TAGS = {"color_trc": 16, "color_primaries": 9, "colorspace": 9}

CASES = (
    Case("good.mp4", encoded(), USABLE),
    Case("sub folder/good.mkv", in_folder(encoded()), USABLE),
    Case("vp9.webm", encoded(codec="libvpx-vp9"), USABLE),
    Case("av1.mp4", encoded(codec="libsvtav1", options={"preset": "12"}), USABLE),
    Case("hevc.mov", encoded(codec="libx265", options={"x265-params": "log-level=none"}), USABLE),
    Case("mpeg4.avi", encoded(codec="mpeg4"), USABLE),
    Case("reordered.avi", encoded(options={"bf": "2"}), USABLE),
    Case("animated.gif", encoded(codec="gif", pixels="rgb8"), USABLE),
    Case("images", image_folder(), USABLE),
    Case("images_with_gaps", image_folder(names="{}7.jpg"), USABLE),
    Case("images_of_two_sizes", image_folder(sizes=((48, 64), (32, 32), (48, 64))), USABLE),
    Case("b_frames_open_gop.mp4", encoded(options=OPEN_GOP), USABLE),
    Case("odd_size.mkv", encoded(codec="ffv1", size=(47, 63)), USABLE),
    Case("one_pixel.mkv", encoded(codec="ffv1", pixels="bgr0", size=(1, 1)), USABLE),
    Case("ten_bit.mp4", encoded(pixels="yuv420p10le"), USABLE),
    Case("alpha.mov", encoded(codec="qtrle", pixels="argb"), USABLE),
    Case("rotated_90.mp4", rotated(90), USABLE),
    Case("rotated_180.mp4", rotated(180), USABLE),
    Case("rotated_270.mp4", rotated(270), USABLE),
    Case("variable_rate.mp4", encoded(times=UNEVEN), USABLE),
    Case("negative_times.mkv", encoded(times=NEGATIVE), USABLE),
    Case("negative_times.mp4", encoded(times=NEGATIVE), USABLE),
    Case("trimmed_by_edit_list.mp4", patched(trim, count=100, options={"bf": "2"}), USABLE),
    Case("8k_in_header.mp4", patched(eight_k_header), USABLE),
    Case("size_changes.mts", two_sizes, USABLE),
    Case(NOT_UTF8, encoded(), USABLE),
    Case("100%d: name?.mp4", encoded(), USABLE),
    Case("hdr.mp4", encoded(pixels="yuv420p10le", tags=HDR_TAGS), WARNED, "dynamic range"),
    Case("cut_off.mp4", cut_at(0.6, flags="faststart", count=60), WARNED, "header claims 2.4 s"),
    Case("cut_off.mkv", cut_at(0.6, count=200), WARNED, "header claims 8.0 s"),
    Case("cut_off.avi", cut_at(0.6, codec="mpeg4", count=300, size=(96, 128)), WARNED, "cut off"),
    Case("cut_off_fragments.mp4", cut_at(0.6, flags="frag_keyframe+empty_moov", count=60), WARNED, "cut"),
    Case("claims_100_times_its_length.mkv", patched(long_claim), WARNED, "header claims 96.0 s"),
    Case("starts_between_key_frames.mts", without_start, WARNED, "before the first key frame"),
    Case("zeroed_middle.mp4", zeroed_middle, USABLE),  # found when it is decoded; see test_bad_video.py
    Case("empty.mp4", content(b""), BAD, "empty file"),
    Case("zeros.mp4", content(bytes(4096)), BAD, "begins with zeros"),
    Case("noise.mp4", content(np.random.default_rng(0).bytes(4096)), BAD, "not a video"),
    Case("lfs_pointer.mp4", content(LFS), BAD, "Git-LFS"),
    Case("web_page.mp4", content(HTML), BAD, "web page"),
    Case("text.mp4", content("notes: the left hand, café\n".encode()), BAD, "text file"),
    Case("playlist.mp4", content(PLAYLIST), BAD, "text file"),
    Case("audio_only.mp4", audio, BAD, "no video stream"),
    Case("audio_with_cover.mp4", lambda path: audio(path, cover=True), BAD, "no video stream"),
    Case("no_index.mp4", cut_at(0.6), BAD, "moov"),
    Case("unknown_codec.mkv", replaced(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/ZZZ"), BAD, "no decoder"),
    Case("no_frames.mp4", encoded(count=0), BAD, "no video stream"),
    Case("one_frame.mp4", encoded(count=1), BAD, "one frame"),
    Case("one_frame.gif", encoded(count=1, codec="gif", pixels="rgb8"), BAD, "one frame"),
    Case("raw_stream.mp4", encoded(container="h264"), BAD, "no timestamps"),
    Case("huge_frame_count.mp4", huge_number(b"stsz", 12), BAD, "damaged"),
    Case("huge_table.mp4", huge_number(b"stts", 8), BAD, "memory"),
    Case("huge_box.mp4", huge_number(b"mdat", -4), USABLE),
    Case("huge_duration.mp4", huge_number(b"mvhd", 20), USABLE),
    Case("image_bomb", image_bomb, BAD, "0.png"),
    Case("two_series_of_images", two_series, BAD, "several series"),
    Case("folder.mp4", lambda path: path.mkdir(), BAD, "a folder"),
    Case("leads_nowhere.mp4", lambda path: path.symlink_to("missing.mp4"), BAD, "leads nowhere"),
    Case("points_at_itself.mp4", lambda path: path.symlink_to(path.name), BAD, "symbolic links"),
    Case("loop", lambda path: path.symlink_to("."), BAD, "loop"),
    Case("pipe.mp4", lambda path: os.mkfifo(path), BAD, "pipe"),
)


def make_all(folder: Path, *, outcomes: tuple[str, ...] = (USABLE, WARNED, BAD)) -> list[Case]:
    """Write the cases with these outcomes into a folder that is there already."""
    cases = [case for case in CASES if case.outcome in outcomes]
    for case in cases:
        case.make(folder / case.name)
    return cases


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_all(Path(folder))
        found = open_folder(folder)
        rows = [
            (clip.name, WARNED if clip.info.warnings else USABLE, "; ".join(clip.info.warnings)) for clip in found.clips
        ]
        rows += [(file.name, BAD, file.reason) for file in found.bad]
    print("| file | outcome | reason |\n|---|---|---|")
    for name, outcome, text in sorted(rows):
        print(f"| {printable(name)} | {outcome} | {text} |")


if __name__ == "__main__":
    sys.exit(main())
