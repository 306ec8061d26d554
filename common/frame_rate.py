"""Thinning a clip to a lower frame rate by its timestamps."""

import math

from common.video import VideoInfo


class FrameRate:
    """Says of each frame in turn whether to keep it, so that the kept ones come at `fps` frames per second.

    The kept frames are those nearest to start, start + 1/fps, …; a clip slower than `fps` keeps all of its frames.
    """

    def __init__(self, info: VideoInfo, fps: float | None) -> None:
        """fps None keeps every frame."""
        self.fps = fps
        self.start = info.start_seconds
        self.half_a_frame = 0.5 / info.fps
        self.due = -math.inf

    def takes(self, seconds: float) -> bool:
        if self.fps is None:
            return True
        if seconds < self.due - self.half_a_frame:
            return False
        step = math.floor((seconds + self.half_a_frame - self.start) * self.fps)
        self.due = self.start + (step + 1) / self.fps
        return True
