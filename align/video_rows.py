"""The frames of a video as rows of a table: when each is shown, whether the clocks agree, and the pictures of some."""

from pathlib import Path

import numpy as np

from align.robot_dataset import WHOLE
from common.containers import PacketReader, UnreadableVideo, check_file, open_container, reasons, video_stream
from common.errors import BadData
from common.video import decode

RATE_TOLERANCE = 0.01  # 30 against 29.97 frames per second is no other rate, 30 against 25 is


def shown_times(path: Path, *, where: str) -> np.ndarray:
    """Seconds (frames,) at which each frame that `common.video.decode` yields is shown, from the packets alone.

    where: the episode and camera, for messages. BadData if the file cannot be read.
    """
    try:
        with reasons(path):
            check_file(path)
            with open_container(path) as container:
                stream = video_stream(container)
                reader = PacketReader(container, stream)
                ticks = [packet.pts for packet in reader.packets() if packet.size and not packet.is_discard]
                shown = sorted({tick for tick in ticks if tick >= (reader.first_tick or 0)})
                if not shown:
                    raise UnreadableVideo("no frame of it is whole")
                return np.array([float(tick * stream.time_base) for tick in shown])
    except UnreadableVideo as error:
        raise BadData(f"{where}: {path}: {error.reason}", hint=WHOLE) from error


def check_clock(times: np.ndarray, seconds: np.ndarray, *, fps: float, where: str) -> None:
    """BadData unless a video shows its frames at `times` (T,) as the rows were taken at `seconds` (T,).

    A step that differs by more than half a frame is a frame that is missing on one side, and a whole that does is
    another rate; RATE_TOLERANCE allows for clocks that run a little differently over a long episode.
    """
    frame = 1 / fps
    steps = np.diff(times) - np.diff(seconds)
    if len(steps) and np.abs(steps).max() > frame / 2:
        row = int(np.abs(steps).argmax())
        video = times[row + 1] - times[row]
        takes = f"takes {video:.3f} s, the table {video - steps[row]:.3f} s"
        raise BadData(f"{where}: from frame {row} to the next the video {takes}: frames are missing or not at its rate")
    passed = seconds - seconds[:1]
    slip = np.abs((times - times[:1]) - passed) - RATE_TOLERANCE * passed
    if len(slip) and slip.max() > frame / 2:
        row = int(slip.argmax())
        reached = f"the video is at {times[row] - times[0]:.3f} s, the table at {passed[row]:.3f} s"
        raise BadData(f"{where}: at frame {row} {reached}: they run at different frame rates")


def pictures_at(path: Path, wanted: np.ndarray, size: tuple[int, int] | None, *, where: str) -> np.ndarray:
    """The frames shown at these times (N,), which increase and come from `shown_times`: uint8 RGB (N, H, W, 3).

    BadData if they cannot all be decoded.
    """
    pictures: list[np.ndarray] = []
    try:
        for shown in decode(path, size=size, start=wanted[0]):
            if abs(shown.seconds - wanted[len(pictures)]) < 1e-6:
                pictures.append(shown.image)
            if len(pictures) == len(wanted):
                break
    except UnreadableVideo as error:
        raise BadData(f"{where}: {path}: {error.reason}", hint=WHOLE) from error
    if len(pictures) != len(wanted):
        raise BadData(f"{where}: only {len(pictures)} of {len(wanted)} frames can be decoded from {path}", hint=WHOLE)
    return np.stack(pictures)
