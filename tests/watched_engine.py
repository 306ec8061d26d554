"""An engine over a drawn session, with a listener that remembers: what several test files need."""

import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from simulator import protocol
from simulator.client import Passed
from simulator.engine import Engine, Event
from simulator.sources import Policy
from tests.drawn_session import FPS, DrawnSession, drawn_scenes

PATIENCE = 20.0
"""Seconds; a busy machine is slow."""


class Watched:
    """Started, and closed at the end of the block. `told` are the dicts of its events, `passes` the passes."""

    def __init__(
        self,
        recordings: Path,
        *,
        robot: bool = True,
        seconds: float = 0.0,
        fps: float = FPS,
        policy: Policy | None = None,
    ) -> None:
        self.session = DrawnSession(robot=robot, seconds=seconds)
        self.engine = Engine(self.session, drawn_scenes(robot=robot), fps=fps, recordings=recordings, policy=policy)
        self.told: list[dict[str, Any]] = []
        self.passes: list[Passed] = []
        self.times: list[float] = []
        self.engine.subscribe(self._hear)

    def __enter__(self) -> "Watched":
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def _hear(self, event: Event) -> None:
        if isinstance(event, dict):
            self.told.append(event)
            return
        self.times.append(time.monotonic())
        self.passes.append(Passed(*protocol.unpack(event.data)))
        assert self.passes[-1].header["number"] == event.number

    def say(self, *messages: protocol.Message) -> None:
        for message in messages:
            self.engine.handle(message)

    def wait(self, true: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < end, f"{self.engine.state()}, {self.told[-3:]}"
            time.sleep(0.002)

    def begin(self, *, seed: int = 0, scene: str | None = None) -> None:
        """A reset that is done."""
        before = len(self.of("scene"))
        self.say(protocol.Reset(seed, scene))
        self.wait(lambda: len(self.of("scene")) > before)

    def step(self, *values: float) -> Passed:
        """A single step that is done, with these controls, if there are any."""
        before = len(self.passes)
        if values:
            self.say(protocol.Control(before + 1, values))
        self.say(protocol.SingleStep())
        self.wait(lambda: len(self.passes) > before)
        return self.passes[before]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.told if event["type"] == kind]

    @property
    def state(self) -> str:
        return self.engine.state()["state"]

    @property
    def reason(self) -> str:
        return self.engine.state()["reason"]

    def firsts(self) -> list[int]:
        return [made.header["first"] for made in self.passes]


def picture_of(event: dict[str, Any]) -> np.ndarray:
    return simplejpeg.decode_jpeg(base64.b64decode(event["picture"]))
