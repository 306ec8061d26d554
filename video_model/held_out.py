"""Windows of labelled clips to measure on: evenly spread, never overlapping, within one scene and without a hole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import BadData
from common.folders import Clip, printable
from common.video import UnreadableVideo
from video_model.labels import ClipLabels

LONGEST_STEP = 1.5
"""A step of more than so many usual steps of its clip is a hole."""


@dataclass(frozen=True)
class Window:
    """1 + T frames of one clip. ValueError if its arrays do not fit each other."""

    clip: str
    frames: np.ndarray
    """uint8 (1 + T, H, W, 3)."""
    seconds: np.ndarray
    """float64 (1 + T,)."""
    actions: np.ndarray
    """float32 (T, A): row t is the change from frame t to frame t + 1."""
    hand: np.ndarray | None = None
    """(1 + T, 2): the hand's place in each frame in half heights, right and down; None where it is not known."""

    def __post_init__(self) -> None:
        count = len(self.frames)
        if len(self.actions) != count - 1 or len(self.seconds) != count:
            raise ValueError(f"{count} frames, {len(self.seconds)} times and {len(self.actions)} actions do not fit")
        if self.hand is not None and self.hand.shape != (count, 2):
            raise ValueError(f"{count} frames, but places of the shape {self.hand.shape}")


def read_windows(
    clips: Sequence[Clip],
    labels: Callable[[str], ClipLabels],
    *,
    size: tuple[int, int],
    steps: int,
    limit: int,
) -> list[Window]:
    """About `limit` windows of 1 + `steps` labelled frames, as many of each clip as can be; [] if none is so long.

    labels: those of a clip by its name. size: (height, width). BadData if a clip cannot be read or has no frame at a
    labelled time.
    """
    plans = [(clip, known, window_starts(known, steps)) for clip in clips for known in (labels(clip.name),)]
    plans = [plan for plan in plans if plan[2]]
    if len(plans) > limit:
        plans = [plans[place] for place in spread(len(plans), limit)]
    each = max(1, round(limit / max(1, len(plans))))
    windows = []
    for clip, known, starts in plans:
        chosen = [starts[place] for place in spread(len(starts), min(each, len(starts)))]
        windows += _read(clip, known, chosen, size=size, steps=steps)
    return windows


def window_starts(known: ClipLabels, steps: int) -> list[int]:
    """First frames of windows that follow each other without overlap, each in one scene and without a hole."""
    step = np.diff(known.seconds)
    broken = (np.diff(known.scenes) != 0) | (step > LONGEST_STEP * np.median(step))
    starts, first = [], 0
    while first + steps < len(known.seconds):
        holes = np.flatnonzero(broken[first : first + steps])
        if len(holes):
            first += int(holes[-1]) + 1
        else:
            starts.append(first)
            first += steps
    return starts


def _read(clip: Clip, known: ClipLabels, starts: Sequence[int], *, size: tuple[int, int], steps: int) -> list[Window]:
    rows = {row for start in starts for row in range(start, start + steps + 1)}
    wanted = {round(float(known.seconds[row]), 5): row for row in rows}
    frames: dict[int, np.ndarray] = {}
    try:
        for frame in clip.decode(size=size):
            row = wanted.get(round(frame.seconds, 5))
            if row is not None:
                frames[row] = frame.image
    except UnreadableVideo as error:
        raise BadData(f"{printable(clip.name)} cannot be read: {error.reason}") from error
    missing = rows - frames.keys()
    if missing:
        raise BadData(
            f"{printable(clip.name)} has no frame at {known.seconds[min(missing)]:.3f} s, for which it has a label",
            hint="The labels were made from another video; run `understudy label` again.",
        )
    return [
        Window(
            clip=clip.name,
            frames=np.stack([frames[row] for row in range(start, start + steps + 1)]),
            seconds=known.seconds[start : start + steps + 1],
            actions=known.actions[start : start + steps],
        )
        for start in starts
    ]


def other_clips(clips: Sequence[str], *, seed: int) -> np.ndarray:
    """For each window, given its clip, a window of another clip (W,); all windows of a clip get theirs from one.

    A derangement of the clips: each gives its actions to one other. BadData with fewer than 2 clips.
    """
    names = sorted(set(clips))
    if len(names) < 2:
        raise BadData(
            f"the actions of another clip are needed to compare with, and there are windows of {len(names)} clip only",
            hint="Give a folder with two clips or more that are long enough.",
        )
    order = [names[place] for place in np.random.default_rng(seed).permutation(len(names))]
    giver = dict(zip(order, order[1:] + order[:1], strict=True))
    rows = {name: [row for row, clip in enumerate(clips) if clip == name] for name in names}
    return np.array(
        [rows[giver[clip]][rows[clip].index(row) % len(rows[giver[clip]])] for row, clip in enumerate(clips)]
    )


def spread(count: int, chosen: int) -> list[int]:
    """`chosen` of `count` places, evenly; not more than there are."""
    return [int((place + 0.5) * count / chosen) for place in range(chosen)]
