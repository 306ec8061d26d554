"""The one session that a server offers, who drives it, and who looks on.

All of it runs on the event loop's thread; the engine's thread hands its events over (`Room.from_engine`).
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from simulator.guard import Security
from simulator.metrics import Metrics
from simulator.outbox import Outbox
from simulator.protocol import BUSY, Role, header_of

if TYPE_CHECKING:
    from simulator.engine import Engine, Event

VIEWERS = 8
SOCKETS = 16
"""Connections at a time, with those that have not said hello yet."""
log = logging.getLogger(__name__)


class Member:
    """One who drives or looks on."""

    def __init__(self, role: Role, outbox: Outbox) -> None:
        self.role = role
        self.outbox = outbox
        self.since = int(1000 * time.time())
        """Unix milliseconds."""


class Room:
    def __init__(self, load: "Callable[[], Engine]", security: Security) -> None:
        """load: gives an engine that has not been started; called in a thread of its own, where it may take long."""
        self.security = security
        self.metrics = Metrics()
        self.engine: Engine | None = None
        self.failure = ""
        self.sockets = 0
        self.driver: Member | None = None
        self.viewers: set[Member] = set()
        self._load = load
        self._unsubscribe: Callable[[], None] | None = None
        self._closed = False

    @property
    def status(self) -> str:
        return "failed" if self.failure else "ready" if self.engine else "loading"

    @property
    def members(self) -> list[Member]:
        return [*([self.driver] if self.driver else []), *self.viewers]

    def open(self) -> None:
        """Begin to load."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._load_in_thread, name="understudy-load", daemon=True).start()

    async def close(self) -> None:
        """End the engine; a recording under way is finished."""
        self._closed = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self.engine is not None:
            await asyncio.to_thread(self.engine.close)

    def from_engine(self, event: "Event") -> None:
        """Called by the engine's thread."""
        self._loop.call_soon_threadsafe(self._deliver, event)

    def _load_in_thread(self) -> None:
        try:
            done = partial(self._ready, self._load())
        except Exception as error:  # whatever it is, those who wait must hear of it
            done = partial(self._failed, error)
        with suppress(RuntimeError):  # the loop is closed: the server has ended meanwhile
            self._loop.call_soon_threadsafe(done)

    def _failed(self, error: Exception) -> None:
        log.error("loading failed", exc_info=None if isinstance(error, UserError) else error)
        told = isinstance(error, UserError)
        self.failure = str(error) if told else "the model could not be loaded; the server's log says why"
        for member in self.members:
            self._greet(member)

    def _ready(self, engine: "Engine") -> None:
        if self._closed:
            engine.close()
            return
        self.engine = engine
        self._unsubscribe = engine.subscribe(self.from_engine)
        engine.start()
        for member in self.members:
            self._greet(member)

    def _deliver(self, event: "Event") -> None:
        """An event of the engine, to all. A pass is the same bytes for everybody."""
        if isinstance(event, dict):
            self._tell_all(event)
            return
        self.metrics.count(header_of(event.data))
        for member in self.members:
            member.outbox.show(event)

    def enter(self, role: Role, outbox: Outbox, *, takeover: bool) -> Member | None:
        """Take a place and be greeted. None if there is none left."""
        member = Member(role, outbox)
        if role == "viewer":
            if len(self.viewers) >= VIEWERS:
                return None
            self.viewers.add(member)
        elif self.driver is None:
            self.driver = member
        elif takeover and self.security.takeover:
            replaced, self.driver = self.driver, member
            self._lose_driver("another client took over")
            tell(replaced.outbox, self.busy())
            replaced.outbox.finish(BUSY)
        else:
            return None
        self._greet(member)
        return member

    def leave(self, member: Member) -> None:
        self.metrics.dropped += member.outbox.dropped
        self.viewers.discard(member)
        if self.driver is member:
            self.driver = None
            self._lose_driver("the driver's connection was lost")

    def busy(self) -> dict[str, Any]:
        """What one hears who cannot drive, since another does."""
        assert self.driver is not None
        return {"type": "busy", "since": self.driver.since, "takeover": self.security.takeover}

    def _lose_driver(self, reason: str) -> None:
        self.metrics.drivers_lost += 1
        if self.engine is not None:
            self.engine.driver_lost(reason)

    def _greet(self, member: Member) -> None:
        """Say where things stand."""
        if self.engine is None:
            tell(member.outbox, {"type": "state", "state": self.status, "reason": self.failure})
            return
        tell(member.outbox, {**self.engine.welcome(), "role": member.role})
        tell(member.outbox, self.engine.state())
        tell(member.outbox, self.engine.scene())

    def _tell_all(self, event: dict[str, Any]) -> None:
        text = json.dumps(event)
        for member in self.members:
            member.outbox.say(event["type"], text)


def tell(outbox: Outbox, message: dict[str, Any]) -> None:
    outbox.say(message["type"], json.dumps(message))
