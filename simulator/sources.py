"""Where a session's controls come from: a person, a scene's recorded rows, or a policy.

A source gives the rows of one pass when that begins. It keeps no clock and no thread of its own: the engine tells it
what time it is, in seconds, and calls it under its lock.
"""

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from simulator.protocol import Control
from simulator.takes import Scene

FRAMES = 4
"""Frames of one pass, and rows of controls."""
DEAD_MAN_SECONDS = 0.25
POLICY_SECONDS = 10.0
"""How long a policy may think."""


@dataclass(frozen=True)
class Taken:
    """The rows (T, A) of a pass, T <= 4; the session does nothing in the rest."""

    rows: np.ndarray
    pause: str = ""
    """Why the session pauses after this pass; empty if it goes on."""
    seq: int | None = None
    ts: float | None = None
    age_ms: float | None = None
    """Since the control message came."""


class Policy(Protocol):
    """What chooses controls by what it sees, in a thread of its own."""

    def ask(self, frame: np.ndarray, controls: np.ndarray) -> "Future[np.ndarray]":
        """Of the frame (H, W, 3) shown last and the controls (A,) in force: the next rows (T, A), when it has them."""
        ...

    def close(self) -> None: ...


class Human:
    """The row that came last, held. No row for 250 ms, and nothing is done and the session pauses."""

    def __init__(self, limits: np.ndarray) -> None:
        self.nothing = np.empty((0, limits.shape[1]), np.float32)
        self._limits = limits
        self._latest: tuple[Control, np.ndarray] | None = None
        self._heard = -np.inf

    def offer(self, control: Control, *, now: float) -> None:
        """ValueError for a wrong number of values. They are brought within the limits."""
        width = self._limits.shape[1]
        if len(control.values) != width:
            raise ValueError(f"a row of controls has {width} values here, not {len(control.values)}")
        row = np.clip(np.array(control.values), *self._limits).astype(np.float32)
        self._latest, self._heard = (control, np.tile(row, (FRAMES, 1))), now

    def release(self) -> None:
        """Forget the row: nothing is done until another comes."""
        self._latest = None

    def take(self, now: float, *, since: float | None) -> Taken:
        """since: when the session began to run; None for a single step, which needs nobody at the controls."""
        if since is not None and now - max(self._heard, since) > DEAD_MAN_SECONDS:
            return Taken(self.nothing, f"no controls came for {1000 * DEAD_MAN_SECONDS:.0f} ms")
        if self._latest is None:
            return Taken(self.nothing)
        control, rows = self._latest
        return Taken(rows, seq=control.seq, ts=control.ts, age_ms=1000 * (now - self._heard))


class Recorded:
    """The rows that follow a scene's first frame, one for each frame of the film."""

    def __init__(self) -> None:
        self._rows: np.ndarray | None = None
        self._next = 0

    def reset(self, scene: Scene) -> None:
        self._rows, self._next = scene.rows, 0

    def check(self) -> None:
        """ValueError if there is nothing to play."""
        if self._rows is None:
            raise ValueError("this scene has no recorded controls")
        if self._next >= len(self._rows):
            raise ValueError("the recorded controls are at their end: reset, or choose another source")

    def take(self) -> Taken:
        assert self._rows is not None
        rows = self._rows[self._next : self._next + FRAMES]
        self._next += FRAMES
        return Taken(rows, "the recorded controls are at their end" if self._next >= len(self._rows) else "")


class Asked:
    """A policy's rows, as long as they last; then it is asked again."""

    def __init__(self, policy: Policy, limits: np.ndarray) -> None:
        self._policy = policy
        self._limits = limits
        self._rows = np.empty((0, limits.shape[1]), np.float32)
        self._answer: Future[np.ndarray] | None = None
        self._asked_at = 0.0

    @property
    def ready(self) -> bool:
        return bool(len(self._rows))

    @property
    def thinking(self) -> bool:
        return self._answer is not None

    def release(self) -> None:
        """Forget its rows, and what it is thinking about: the picture will have changed."""
        self._rows, self._answer = self._rows[:0], None

    def ask(self, frame: np.ndarray, controls: np.ndarray, *, now: float) -> "Future[np.ndarray] | None":
        """The answer to wait for, if it had to be asked just now."""
        if self._answer is not None:
            return None
        self._answer, self._asked_at = self._policy.ask(frame, controls), now
        return self._answer

    def remaining(self, now: float) -> float:
        """Seconds that it may still think."""
        return self._asked_at + POLICY_SECONDS - now

    def hear(self) -> None:
        """Take the answer, if there is one. Whatever the policy failed with, or ValueError for rows of another width.

        Of a chunk that is longer than a pass, whole passes are used.
        """
        if self._answer is None or not self._answer.done():
            return
        answer, self._answer = self._answer, None
        rows = np.asarray(answer.result(), np.float64)
        width = self._limits.shape[1]
        if rows.ndim != 2 or rows.shape[1] != width or not len(rows) or not np.isfinite(rows).all():
            raise ValueError(f"the policy must answer with finite rows of {width} numbers, not {_described(rows)}")
        whole = len(rows) - len(rows) % FRAMES or len(rows)
        self._rows = np.clip(rows[:whole], *self._limits).astype(np.float32)

    def take(self) -> Taken:
        rows, self._rows = self._rows[:FRAMES], self._rows[FRAMES:]
        return Taken(rows)


def _described(rows: np.ndarray) -> Any:
    finite = np.isfinite(rows)
    return rows.shape if finite.all() else rows[~finite][0]
