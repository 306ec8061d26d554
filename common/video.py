"""One video: what is in the file (`probe`), its frames at any size (`decode`), and writing one (`write_video`).

A video is a file, or a folder of numbered images (see `numbered_images`). Time is in seconds, taken from the
presentation timestamps in the file, so files of any frame rate, constant or not, can be mixed.

What counts as a frame of a file, for `probe` and `decode` alike: pictures from the first key frame on whose packets are
whole. A cut-off file keeps the part that can be read, and `VideoInfo.warnings` says what is missing; damage inside
that part raises `UnreadableVideo` when `decode` comes to it. Fewer than two frames are unreadable: they make no pair.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.filter
import numpy as np

from common.containers import (
    PacketReader,
    UnreadableVideo,
    check_file,
    open_container,
    reasons,
    video_stream,
)

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
HDR_TRANSFERS = (16, 18)  # PQ and HLG, numbered as in ITU-T H.273
IMAGE_RATE = 10  # frames per second of numbered images, unless the folder holds a file `fps.txt` with another number

__all__ = ["Frame", "Keyframe", "UnreadableVideo", "VideoInfo", "decode", "numbered_images", "probe", "write_video"]


@dataclass(frozen=True)
class Keyframe:
    """A place where decoding can start. `frame` counts from 0 in presentation order."""

    frame: int
    seconds: float


@dataclass(frozen=True)
class VideoInfo:
    """What `probe` found. `width` and `height` are those of the picture as shown, after `rotation` is applied.

    Pixels are taken to be square, and a mirrored picture stays mirrored.
    """

    codec: str
    pixel_format: str
    width: int
    height: int
    rotation: int  # 0, 90, 180 or 270: degrees clockwise that decode() turns the stored picture
    frames: int  # counted, not what the header claims
    fps: float  # from the timestamps
    variable_rate: bool
    start_seconds: float  # time of the first frame
    duration_seconds: float  # from the first frame to the end of the last
    keyframes: tuple[Keyframe, ...]  # the first frame is always one
    warnings: tuple[str, ...] = ()  # what is wrong with a file that can be used all the same

    @property
    def longest_gop(self) -> int:
        """Most frames from one key frame to the next (or to the end)."""
        starts = [keyframe.frame for keyframe in self.keyframes] + [self.frames]
        return max(after - before for before, after in pairwise(starts))


class Frame(NamedTuple):
    seconds: float
    image: np.ndarray  # uint8 (H, W, 3) RGB


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Read all packets (no decoding but for the first frame, to prove that it works) and say what is there.

    Reads the file once from end to end, so it takes as long as the disk does, and it ends: no more packets are
    accepted than the file has bytes. Raises UnreadableVideo.
    """
    path = Path(path)
    with reasons(path):
        return _probe_images(path) if path.is_dir() else _probe_file(path)


def decode(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    start: float | None = None,
    stop: float | None = None,
) -> Iterator[Frame]:
    """Frames with start <= time < stop in presentation order, time strictly increasing.

    size: (height, width): the centre of the picture with that aspect, resized by area averaging in the same pass that
        turns YUV into RGB; None keeps the picture as it is.
    start, stop: seconds, compared to the nearest tick of the file's clock. Starting at a key frame's time costs
        nothing; any other start decodes from the key frame before it. Cutting a file at its key frames gives the same
        frames as one pass.
    Raises UnreadableVideo when the file cannot be opened, on damage (after the frames before it), or when the range
        holds no frame. One decoding thread: loaders run several processes.
    """
    path = Path(path)
    if size is not None and min(size) < 1:
        raise ValueError(f"size must be at least (1, 1), got {size}")
    picture = _Picture(size)
    seconds = None
    try:
        with reasons(path):
            frames = _decode_images if path.is_dir() else _decode_file
            for frame in frames(path, picture, start=start, stop=stop):
                seconds = frame.seconds
                yield frame
    except UnreadableVideo as error:
        raise error if seconds is None else UnreadableVideo(f"{error.reason}, after {seconds:.2f} s") from error
    if seconds is None:
        raise UnreadableVideo(f"no frame could be decoded between {start} s and {stop} s")


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    codec: str = "libx264",
    crf: int = 18,
    gop: int | None = None,
) -> None:
    """Write uint8 RGB pictures (H, W, 3), all of one size, as an mp4 (yuv420p, plays everywhere).

    yuv420p needs even sizes: an odd one grows by one pixel, the last row or column repeated. The file appears under its
    name only when it is whole. gop: frames from key frame to key frame (None: the codec's default).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    rate = Fraction(fps).limit_denominator(1001)
    try:
        with av.open(os.path.abspath(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream: Any = None
            for index, image in enumerate(frames):
                image = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
                if stream is None:
                    stream = container.add_stream(codec, rate=rate, options={"crf": str(crf)})
                    stream.height, stream.width = image.shape[:2]
                    stream.pix_fmt = "yuv420p"
                    if gop is not None:
                        stream.gop_size = gop
                if image.shape[:2] != (stream.height, stream.width):
                    raise ValueError(f"frame {index} is {image.shape}, the first was {(stream.height, stream.width)}")
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame.pts, frame.time_base = index, 1 / rate
                container.mux(stream.encode(frame))
            if stream is None:
                raise ValueError(f"no frames to write to {path}")
            container.mux(stream.encode(None))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def numbered_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The images of a folder that is a video: at least two names that differ only in their number, in its order.

    Returns [] when the folder is no such thing. Gaps in the numbers are allowed and take no time. Raises
    UnreadableVideo when two series lie in one folder, since nothing says which is meant.
    """
    series: dict[tuple[str, str], list[tuple[int, Path]]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            match = re.fullmatch(r"(.*?)([0-9]+)(\.[A-Za-z]+)", entry.name)
            if match and match[3].lower() in IMAGE_SUFFIXES and not entry.name.startswith(".") and entry.is_file():
                series.setdefault((match[1], match[3]), []).append((int(match[2]), Path(entry.path)))
    series = {pattern: images for pattern, images in series.items() if len(images) >= 2}
    if len(series) > 1:
        names = ", ".join(sorted(f"{stem}#{suffix}" for stem, suffix in series))
        raise UnreadableVideo(f"several series of numbered images in one folder ({names}); give each its own folder")
    return [path for images in series.values() for _, path in sorted(images)]


def _probe_file(path: Path) -> VideoInfo:
    most_packets = check_file(path)
    with open_container(path) as container:
        stream = video_stream(container)
        reader = PacketReader(container, stream)
        first_frame: Any = None
        ticks: list[int] = []
        key_ticks: list[int] = []
        for packet in reader.packets():
            if first_frame is None:
                first_frame = next(iter(packet.decode()), None)
            if packet.size and not packet.is_discard:
                ticks.append(packet.pts)
                key_ticks.extend([packet.pts] if packet.is_keyframe else [])
            if len(ticks) > most_packets:
                raise UnreadableVideo("its header claims more frames than the file has bytes")
        if first_frame is None:
            raise UnreadableVideo("no frame in it can be decoded")
        info = _describe(
            codec=stream.codec_context.codec.canonical_name,
            picture=first_frame,
            ticks=[tick for tick in ticks if tick >= (reader.first_tick or 0)],
            key_ticks=key_ticks[:1] if reader.guessed_times else key_ticks,
            tick_seconds=stream.time_base,
        )
        texts = reader.warnings()
        claimed = _claimed_seconds(container, stream)
        if claimed - info.duration_seconds > max(3 / info.fps, 0.02 * claimed):
            texts.append(f"its header claims {claimed:.1f} s, {info.duration_seconds:.1f} s are there")
        if stream.codec_context.color_trc in HDR_TRANSFERS:
            texts.append("high dynamic range (HDR): its colours will look pale, as no tone mapping is done")
        return replace(info, warnings=tuple(texts))


def _claimed_seconds(container: Any, stream: Any) -> float:
    """How long the video is by its header, 0 if that says nothing. (Not its frame count: edit lists hide frames.)"""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # That of the whole file may well be that of a longer sound track.
    return 0.0 if container.streams.audio or not container.duration else float(container.duration / av.time_base)


def _describe(
    *, codec: str, picture: Any, ticks: Iterable[int], key_ticks: Iterable[int], tick_seconds: Fraction
) -> VideoInfo:
    """VideoInfo from one decoded picture and the presentation times of all (in ticks, any order)."""
    shown = sorted(set(ticks))
    if len(shown) < 2:
        raise UnreadableVideo(f"holds {'one frame' if shown else 'no frames'}; a pair needs two")
    place = {tick: index for index, tick in enumerate(shown)}
    # After an edit list the first frame shown may be no key frame; decode() reaches it from the hidden one before it.
    starts = sorted({tick for tick in key_ticks if tick in place} | {shown[0]})
    gaps = np.diff(np.array(shown, dtype=np.float64))
    median = float(np.median(gaps))
    usual = np.abs(gaps - median) <= max(0.1 * median, 1.5)  # a coarse clock rounds to a tick up or down
    variable = bool(np.mean(~usual) > 0.01)
    gap = float(np.mean(gaps if variable else gaps[usual]))
    rotation = _rotation(picture)
    sideways = rotation in (90, 270)
    return VideoInfo(
        codec=codec,
        pixel_format=picture.format.name,
        width=picture.height if sideways else picture.width,
        height=picture.width if sideways else picture.height,
        rotation=rotation,
        frames=len(shown),
        fps=float(1 / tick_seconds) / gap,
        variable_rate=variable,
        start_seconds=float(shown[0] * tick_seconds),
        duration_seconds=float(tick_seconds) * (shown[-1] - shown[0] + gap),
        keyframes=tuple(Keyframe(frame=place[tick], seconds=float(tick * tick_seconds)) for tick in starts),
    )


class _Picture:
    """Turns a decoded frame into RGB of the wanted size: crop, area resize and colours in one filter pass."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        self.size = size
        self.made_for: tuple[Any, ...] = ()
        self.graph: Any = None

    def __call__(self, frame: Any) -> np.ndarray:
        rotation = _rotation(frame)
        properties = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, rotation)
        if properties != self.made_for:  # the first frame, or the picture changed in mid-stream
            self.graph, self.made_for = self._build(frame, rotation), properties
        self.graph.vpush(frame)
        image = self.graph.vpull().to_ndarray()
        return np.ascontiguousarray(np.rot90(image, k=-rotation // 90)) if rotation else image

    def _build(self, frame: Any, rotation: int) -> Any:
        graph = av.filter.Graph()
        graph.threads = 1
        source = (
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000:pixel_aspect=1/1"
            f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}"
        )
        nodes = [graph.add("buffer", source)]
        if self.size is not None:
            height, width = self.size if rotation in (0, 180) else self.size[::-1]
            crop_height = min(frame.height, max(1, round(frame.width * height / width)))
            crop_width = min(frame.width, max(1, round(frame.height * width / height)))
            if (crop_height, crop_width) != (frame.height, frame.width):
                nodes.append(graph.add("crop", f"{crop_width}:{crop_height}:exact=1"))
            nodes.append(graph.add("scale", f"{width}:{height}:flags=area"))
        nodes += [graph.add("format", "rgb24"), graph.add("buffersink")]
        graph.link_nodes(*nodes)
        graph.configure()
        return graph


def _decode_file(
    path: Path, picture: _Picture, *, start: float | None, stop: float | None, seek: bool = True
) -> Iterator[Frame]:
    check_file(path)
    with open_container(path) as container:
        stream = video_stream(container)
        reader = PacketReader(container, stream)
        start_tick = None if start is None else round(start / stream.time_base)
        stop_tick = None if stop is None or math.isinf(stop) else round(stop / stream.time_base)
        packets = reader.packets_from(start_tick) if start_tick is not None and seek else reader.packets()
        if packets is not None:
            for packet in packets:
                for frame in packet.decode():
                    tick = reader.presentation_tick(frame)
                    if tick is None or (start_tick is not None and tick < start_tick):
                        continue
                    if stop_tick is not None and tick >= stop_tick:
                        return
                    yield Frame(float(tick * stream.time_base), picture(frame))
            return
    yield from _decode_file(path, picture, start=start, stop=stop, seek=False)


def _probe_images(folder: Path) -> VideoInfo:
    paths = numbered_images(folder)
    if not paths:
        raise UnreadableVideo("a folder without numbered images")
    return _describe(
        codec=f"{paths[0].suffix[1:].lower()} images",
        picture=_read_image(paths[0]),
        ticks=range(len(paths)),
        key_ticks=range(len(paths)),
        tick_seconds=1 / _image_rate(folder),
    )


def _decode_images(folder: Path, picture: _Picture, *, start: float | None, stop: float | None) -> Iterator[Frame]:
    rate = _image_rate(folder)
    paths = numbered_images(folder)
    first = 0 if start is None else max(0, round(start * rate))
    end = len(paths) if stop is None or math.isinf(stop) else round(stop * rate)
    for index, path in list(enumerate(paths))[first:end]:
        yield Frame(float(index / rate), picture(_read_image(path)))


def _read_image(path: Path) -> Any:
    """The decoded picture of one image file."""
    try:
        with reasons(path):
            check_file(path)
            with open_container(path, options={"pattern_type": "none"}) as container:
                for frame in container.decode(video_stream(container)):
                    return frame
                raise UnreadableVideo("no picture in it can be decoded")
    except UnreadableVideo as error:
        raise UnreadableVideo(f"{path.name}: {error.reason}") from error


def _image_rate(folder: Path) -> Fraction:
    """Frames per second of numbered images: the number in `fps.txt`, else IMAGE_RATE."""
    note = folder / "fps.txt"
    if not note.is_file():
        return Fraction(IMAGE_RATE)
    text = note.read_text(errors="replace").strip()
    try:
        rate = Fraction(text).limit_denominator(1001)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise UnreadableVideo(f"fps.txt must hold a number of frames per second, it holds {text[:40]!r}")
    return rate


def _rotation(frame: Any) -> int:
    """Degrees clockwise to the picture as shown: PyAV gives them counter-clockwise."""
    return round(-frame.rotation / 90) * 90 % 360
