"""What waits to be sent to one client: every text, and of the passes at most the newest.

At most WINDOW passes are under way before the client acknowledges one. What the model makes meanwhile replaces what
waits, so that a slow client sees fewer passes, but never old ones, and holds up nobody.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.protocol import TOO_SLOW, WINDOW
from simulator.thinning import MOST, Pace, thinned

if TYPE_CHECKING:
    from simulator.engine import PassMessage

LONGEST = 64
"""Texts that wait for a client; with more it is given up."""
LATEST_WINS = ("state", "scene", "pong")
"""Kinds of texts of which the last says all."""


@dataclass(frozen=True)
class Text:
    kind: str
    text: str


@dataclass(frozen=True)
class UnderWay:
    number: int
    pictures: int
    since: float


class Outbox:
    """One client's. Only the event loop's thread may touch it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.sent = 0
        """Passes."""
        self.dropped = 0
        """Passes that were made, but replaced before they could be sent."""
        self.closing: int | None = None
        """Code with which the connection is to be closed when all texts are sent."""
        self.changed = asyncio.Event()
        self.pace: Pace | None = None
        """None: this client gets whole passes only."""
        self._clock = clock
        self._waiting: deque[Text | PassMessage] = deque()
        self._under_way: deque[UnderWay] = deque()

    def say(self, kind: str, text: str) -> None:
        """Send a text. A new scene makes a pass that waits worthless."""
        if kind in LATEST_WINS:
            self._remove(kind)
        if kind == "scene":
            self._drop_pass()
        if self.closing is not None:
            return
        if len(self._waiting) >= LONGEST:
            self._waiting.clear()
            self.finish(TOO_SLOW)
        self._waiting.append(Text(kind, text))
        self.changed.set()

    def show(self, made: "PassMessage") -> None:
        """Send a pass, or let it wait in place of the one that waits."""
        self._drop_pass()
        if self.closing is not None:
            return
        if self.pace is not None:
            self.pace.made(self._clock(), room=self._has_room())
        self._waiting.append(made)
        self.changed.set()

    def acknowledge(self, number: int) -> bool:
        """The client has that pass and all before it. Whether one of them was under way."""
        if not self._under_way or not self._under_way[0].number <= number <= self._under_way[-1].number:
            return False
        while self._under_way and self._under_way[0].number <= number:
            arrived = self._under_way.popleft()
        if self.pace is not None:
            self.pace.arrived(self._clock() - arrived.since, pictures=arrived.pictures)
        self.changed.set()
        return True

    def finish(self, code: int) -> None:
        """Close the connection after the texts that wait."""
        if self.closing is None:
            self.closing = code
            self._drop_pass()
            self.changed.set()

    def next(self) -> str | bytes | None:
        """What can be sent now, in the order in which it came; texts overtake a pass that the window holds back."""
        for position, item in enumerate(self._waiting):
            if isinstance(item, Text):
                del self._waiting[position]
                return item.text
            if self._has_room():
                del self._waiting[position]
                return self._send(item)
        return None

    def _send(self, made: "PassMessage") -> bytes:
        pictures = self.pace.pictures if self.pace is not None else MOST
        self._under_way.append(UnderWay(made.number, pictures, self._clock()))
        self.sent += 1
        return made.data if pictures == MOST else thinned(made.data, pictures)

    def _has_room(self) -> bool:
        return len(self._under_way) < WINDOW

    def _remove(self, kind: str) -> None:
        for item in [item for item in self._waiting if isinstance(item, Text) and item.kind == kind]:
            self._waiting.remove(item)

    def _drop_pass(self) -> None:
        for item in [item for item in self._waiting if not isinstance(item, Text)]:
            self._waiting.remove(item)
            self.dropped += 1
