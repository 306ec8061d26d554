"""Open one video file and read its packets, or say in one line why it cannot be used.

A folder of strangers' videos holds anything: cut-off downloads, pointers, playlists, headers that lie. Whatever goes
wrong with a file becomes `UnreadableVideo`, so that one bad file never ends a run.
"""

import codecs
import heapq
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.error as av_error
from av.stream import Disposition

MAX_PIXELS = 8192 * 8192  # a larger picture is taken for a damaged or hostile header: one frame would take 200 MB
INDEX_CUT_OFF = "its index (moov) is missing: cut off, or the recording was never finished"
IO_TIMEOUT = 60.0  # seconds one open or one read may take


class UnreadableVideo(Exception):
    """A file that cannot be used; `reason` is one line for humans."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def open_container(path: Path, *, options: dict[str, str] | None = None) -> Any:
    # The white list keeps a playlist named .mp4 from making us read the network; the absolute path keeps a name with
    # a colon from being taken for a protocol.
    allowed = {"protocol_whitelist": "file", **(options or {})}
    return av.open(os.path.abspath(path), options=allowed, timeout=IO_TIMEOUT)


def video_stream(container: Any) -> Any:
    """The best video stream, ready to decode."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        if _index_cut_off(Path(container.name)):
            raise UnreadableVideo(INDEX_CUT_OFF)
        raise UnreadableVideo("no video stream (audio only)" if container.streams.audio else "no video stream")
    stream = container.streams.best("video") or streams[0]
    # Without this test older PyAV crashes on a codec it does not know.
    if stream.codec_context is None:
        raise UnreadableVideo("no decoder for its codec")
    if not stream.time_base:
        raise UnreadableVideo("has no clock (time base)")
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


class PacketReader:
    """The packets of a stream that count (from the first key frame on, whole), and what was left out."""

    def __init__(self, container: Any, stream: Any) -> None:
        self.container = container
        self.stream = stream
        self.first_tick: int | None = None  # presentation time of the first key frame read
        self.last_tick: int | None = None  # presentation time of the last frame shown
        self.before_key = 0  # packets left out because they come before the first key frame
        self.damaged = 0  # packets left out because they are not whole
        self.stopped_by = ""  # why the rest of the file cannot be read
        # An AVI stores no presentation times. For codecs that reorder frames the guesses are right as a set, but lie on
        # the wrong frames; the decoder's order is right, so the n-th frame gets the n-th time.
        self.guessed_times = container.format.name == "avi" and stream.codec_context.name in ("h264", "hevc")
        self.unused_ticks: list[int] = []

    def packets(self) -> Iterator[Any]:
        """From the first key frame to the end of what can be read, then the empty packet that flushes the decoder."""
        demuxer = self.container.demux(self.stream)
        while True:
            try:
                packet = next(demuxer, None)
            except (av_error.FFmpegError, ValueError) as error:
                if self.first_tick is None:
                    raise
                self.stopped_by = _first_line(error)
                packet = av.Packet()
                packet.stream = self.stream
            if packet is None:
                return
            if not packet.size:
                yield packet  # empty: flushes the decoder at the end; in an AVI, says "as before"
            elif packet.is_corrupt:
                self.damaged += 1
            elif self.first_tick is None and not packet.is_keyframe:
                self.before_key += 1
            elif packet.pts is None:
                raise UnreadableVideo("has no timestamps (a raw stream?); put it into an mp4 or mkv file first")
            else:
                self.first_tick = packet.pts if self.first_tick is None else self.first_tick
                if self.guessed_times:
                    heapq.heappush(self.unused_ticks, packet.pts)
                yield packet
            if self.stopped_by:
                return

    def packets_from(self, tick: int) -> Iterator[Any] | None:
        """As `packets`, from the last key frame at or before a time; None when the file cannot be entered there.

        After None the reader is used up: open the file again and read it from its beginning.
        """
        if self.guessed_times:
            return None
        try:
            self.container.seek(tick, stream=self.stream, backward=True)
        except av_error.FFmpegError:
            return None
        packets = self.packets()
        first = next(packets, None)
        if self.first_tick is None or self.first_tick > tick:
            return None
        return chain([first], packets)

    def presentation_tick(self, frame: Any) -> int | None:
        """Time of the next decoded frame in ticks of the stream's clock; None for a frame that is not to be shown."""
        tick = heapq.heappop(self.unused_ticks) if self.unused_ticks else frame.pts
        if tick is None or self.first_tick is None:
            raise UnreadableVideo("a decoded frame has no timestamp")
        if tick < self.first_tick or (self.last_tick is not None and tick <= self.last_tick):
            return None
        self.last_tick = tick
        return tick

    def warnings(self) -> list[str]:
        texts = []
        if self.before_key:
            texts.append(f"{_frames(self.before_key)} before the first key frame cannot be decoded")
        if self.damaged:
            texts.append(f"{_frames(self.damaged)} left out, damaged or cut off")
        if self.stopped_by:
            texts.append(f"cannot be read to its end ({self.stopped_by})")
        return texts


def check_file(path: Path) -> int:
    """The size in bytes of a file that may be a video; UnreadableVideo for what is plainly none."""
    size = path.stat().st_size
    if not path.is_file():
        raise UnreadableVideo("not a file (a pipe, socket or device)")
    if not size:
        raise UnreadableVideo("empty file (0 bytes)")
    with open(path, "rb") as file:
        head = file.read(512)
    if head.startswith(b"version https://git-lfs"):
        raise UnreadableVideo("a Git-LFS pointer, not the video itself (fetch it with `git lfs pull`)")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise UnreadableVideo("a web page, not a video (a download that failed?)")
    if _is_text(head):
        raise UnreadableVideo("a text file, not a video")
    if not any(head):
        raise UnreadableVideo("begins with zeros (a download or copy that was not finished?)")
    return size


@contextmanager
def reasons(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong with a file into UnreadableVideo; mistakes in the program pass through."""
    try:
        yield
    except (UnreadableVideo, AssertionError, AttributeError, NameError, TypeError):
        raise
    except Exception as error:  # twelve kinds were met in damaged files, from MemoryError to UnicodeDecodeError
        raise UnreadableVideo(_reason(path, error)) from error


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file (a link that leads nowhere?)"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, MemoryError):
        return "asks for more memory than there is (a damaged header?)"
    if isinstance(error, av_error.DecoderNotFoundError | av_error.PatchWelcomeError):
        return f"no decoder for its codec ({_first_line(error)})"
    if _index_cut_off(path):
        return INDEX_CUT_OFF
    return f"damaged, or not a video ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError | av_error.FFmpegError) else str(error)
    return text.splitlines()[0][:120] if text else type(error).__name__


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # incremental: the last letter may be cut in two
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\t\n\r\f" for letter in text)


def _index_cut_off(path: Path) -> bool:
    """Whether this is an mp4 or mov in which the box that says where the frames are (moov) is missing or cut off."""
    try:
        size, position = path.stat().st_size, 0
        with open(path, "rb") as file:
            for box in range(1000):
                if position >= size:
                    return True
                file.seek(position)
                header = file.read(16)
                length, kind = int.from_bytes(header[:4], "big"), header[4:8]
                length = int.from_bytes(header[8:], "big") if length == 1 else length or size
                if box == 0 and kind != b"ftyp":
                    return False
                position += max(length, 8)
                if kind == b"moov":
                    return position > size
    except OSError:  # this only looks for a better reason than the one there is
        return False
    return False
