"""How fast a client may talk: a budget for all messages, and a gate that lets the newest controls through."""

import asyncio
import time
from collections.abc import Callable

from simulator.protocol import Control

CONTROLS_PER_SECOND = 200


class Budget:
    """So many units per second, which can be saved up for one second. (A token bucket.)"""

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._left = per_second
        self._at = clock()

    def spend(self, units: float) -> bool:
        """Whether that much was left; nothing is spent if it was not."""
        now = self._clock()
        self._left = min(self._per_second, self._left + (now - self._at) * self._per_second)
        self._at = now
        if units > self._left:
            return False
        self._left -= units
        return True


class ControlGate:
    """Passes controls on at once, or, where the last were less than 1 / CONTROLS_PER_SECOND ago, the newest then."""

    def __init__(self, deliver: Callable[[Control], None]) -> None:
        self._deliver = deliver
        self._waiting: Control | None = None
        self._timer: asyncio.TimerHandle | None = None

    def offer(self, control: Control) -> None:
        self._waiting = control
        if self._timer is None:
            self._open()

    def flush(self) -> None:
        """Pass on what waits, because something else comes after it."""
        if self._waiting is not None:
            self.close()
            self._open()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _open(self) -> None:
        control, self._waiting, self._timer = self._waiting, None, None
        if control is not None:
            self._timer = asyncio.get_running_loop().call_later(1 / CONTROLS_PER_SECOND, self._open)
            self._deliver(control)
