"""Windows of held-out robot recordings, and the controls that a model is told in each: the true ones and others.

Controls are turned round and exchanged as changes from row to row, so that absolute ones begin where the robot is.

Axes: B windows, T steps, A columns of controls, C numbers of a change, S columns of a state.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from align.embodiment import RobotEmbodiment
from align.recordings import Recording


@dataclass(frozen=True)
class RobotWindow:
    """1 + T frames of one episode. ValueError if its arrays do not fit each other."""

    episode: str
    frames: np.ndarray
    """uint8 (1 + T, H, W, 3)."""
    controls: np.ndarray
    """float32 (T, A): row t leads from frame t to frame t + 1."""
    before: np.ndarray
    """(A,): those in force at frame 0."""
    states: np.ndarray | None = None
    """(1 + T, S), at each frame; None where they are not known."""

    def __post_init__(self) -> None:
        count = len(self.frames)
        if len(self.controls) != count - 1 or (self.states is not None and len(self.states) != count):
            states = "no" if self.states is None else len(self.states)
            raise ValueError(f"{count} frames, {len(self.controls)} rows of controls and {states} states do not fit")


def cut_windows(recordings: Iterable[Recording], *, steps: int, each: int) -> list[RobotWindow]:
    """At most `each` windows of 1 + `steps` frames of every recording, evenly spread; no step lies in two.

    They begin after the first frame where there is room, since what was in force at the first is not known.
    """
    windows = []
    for recording in recordings:
        spare = len(recording.frames) - 1 - steps
        if spare < 0:
            continue
        count = min(each, max(1, (spare - 1) // steps + 1))
        for start in np.linspace(min(1, spare), spare, count).astype(int) if count > 1 else [(spare + 1) // 2]:
            stop = start + steps
            windows.append(
                RobotWindow(
                    episode=recording.name,
                    frames=recording.frames[start : stop + 1],
                    controls=recording.controls[start:stop],
                    before=recording.before(start),
                    states=None if recording.states is None else recording.states[start : stop + 1],
                )
            )
    return windows


def told_controls(
    embodiment: RobotEmbodiment, windows: Sequence[RobotWindow], givers: Sequence[RobotWindow]
) -> dict[str, np.ndarray]:
    """What a model is told for each kind of film: float32 (B, T, A). givers: windows of other episodes."""
    true, before = _stacked(windows)
    return {
        "true": true,
        "shuffled": controls_of(embodiment, changes_of(embodiment, *_stacked(givers)), before),
        "zero": embodiment.neutral(before, rows=true.shape[1]),
        "opposite": controls_of(embodiment, -changes_of(embodiment, true, before), before),
    }


def changes_of(embodiment: RobotEmbodiment, controls: np.ndarray, before: np.ndarray) -> np.ndarray:
    """What each row of controls (B, T, A) changes, float64 (B, T, C); before (B, A) are in force at first.

    Unlike `RobotEmbodiment.relative`, it takes the difference of openings, too.
    """
    controls, before = controls.astype(np.float64), before.astype(np.float64)
    changes = embodiment.relative(controls, before, chunk=1)
    for columns, numbers in _openings(embodiment):
        changes[..., numbers] = np.diff(controls[..., columns], axis=1, prepend=before[:, None, columns])
    return changes


def controls_of(embodiment: RobotEmbodiment, changes: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The controls, float32 (B, T, A), that make these changes (B, T, C) from `before` (B, A) on.

    Openings stay within what the robot's data has, since there is none beyond open and closed.
    """
    relative, before = changes.astype(np.float64), before.astype(np.float64)
    for columns, numbers in _openings(embodiment):
        seen = np.array(embodiment.seen[columns]) if embodiment.seen else np.array([[-np.inf, np.inf]])
        opening = before[:, columns]
        low, high = np.minimum(seen[:, 0], opening), np.maximum(seen[:, 1], opening)
        for row in range(relative.shape[1]):
            opening = np.clip(opening + changes[:, row, numbers], low, high)
            relative[:, row, numbers] = opening
    return embodiment.controls(relative, before, chunk=1).astype(np.float32)


def _stacked(windows: Sequence[RobotWindow]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([window.controls for window in windows]), np.stack([window.before for window in windows])


def _openings(embodiment: RobotEmbodiment) -> list[tuple[slice, slice]]:
    """Of each gripper, its columns among the controls and its numbers among the changes."""
    found, first = [], 0
    for group in embodiment.groups:
        if group.kind == "gripper":
            found.append((slice(group.start, group.stop), slice(first, first + group.relative_width)))
        first += group.relative_width
    return found
