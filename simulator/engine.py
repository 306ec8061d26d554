"""The engine of live sessions: one thread that owns the model and makes a pass whenever one is due.

Whoever looks or drives asks from any thread and is answered at once: what is asked for is decided under a lock
(`simulator.desk`), and the model's thread does it before its next pass. So a pause, a stop or a reset never waits for
more than the pass that is under way. Each pass is encoded once, for all who look.
"""

import base64
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import simplejpeg

from simulator import protocol
from simulator.columns import session_columns
from simulator.desk import Desk, Plan
from simulator.recorder import Recorder
from simulator.recording import Origin
from simulator.sources import FRAMES, Policy
from simulator.takes import Pass, Scene, Shown, Take, frame_hash

if TYPE_CHECKING:  # torch, which is not imported before a model is loaded
    from simulator.session import Step

__all__ = ["Engine", "Event", "Live", "PassMessage", "Scene"]

QUALITY = 85
SMALL = 160
"""Largest side of a picture in a list, in pixels."""


@dataclass(frozen=True)
class PassMessage:
    """One pass of the model, encoded once for all who look."""

    number: int
    """Counts from 1 over the engine's whole life; what `protocol.Ack` names."""
    data: bytes
    """`protocol.pack(header, JPEGs)`."""


Event = PassMessage | dict[str, Any]
"""A dict is sent as it is: "state", "scene", "recorded" or "error"."""


class Live(Protocol):
    """What the engine drives: a `simulator.session.Session` of one film."""

    robot: Any
    generator: Any

    @property
    def width(self) -> int: ...

    def reset(self, first_frame: np.ndarray, *, seed: int, before: np.ndarray | None = None) -> np.ndarray: ...

    def step(self, controls: np.ndarray) -> "Step": ...


class Engine:
    """Owns the session. Every method may be called from any thread and returns at once, but for `close`."""

    def __init__(
        self,
        session: Live,
        scenes: Sequence[Scene],
        *,
        fps: float,
        recordings: Path,
        policy: Policy | None = None,
        origin: Origin | None = None,
        quality: int = QUALITY,
    ) -> None:
        """fps: frames that are shown per second, which need not be the model's rate. recordings: folder for them.
        origin: what recordings say of the model. quality: of the JPEGs. ValueError without a scene."""
        self._hashing = ThreadPoolExecutor(1, thread_name_prefix="hashes")  # beside the encoding
        self._session, self._policy = session, policy
        self._fps, self._quality = fps, quality
        self._columns, self._rate = session_columns(session)
        self._desk = Desk(scenes, self._columns, policy)
        self._recorder = Recorder(
            recordings, columns=self._columns, fps=fps, rate=self._rate, origin=origin, tell=self._tell
        )
        self._changed = threading.Condition()
        self._outbox: deque[Event] = deque()
        self._listeners: list[Callable[[Event], None]] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._last: Shown | None = None
        self._in_force = self._held_at_first(scenes[0])
        self._number = 0
        self._due = 0.0

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End after the pass under way; waits until recordings are finished. May be called again."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._hashing.shutdown()
        self._recorder.close()
        if self._policy:
            self._policy.close()

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with each event, in the model's thread, so it must return at once. Gives back the end."""
        with self._changed:
            self._listeners.append(listener)
        return partial(self._unsubscribe, listener)

    def welcome(self) -> dict[str, Any]:
        """What a newcomer is told first, but for its role."""
        with self._changed:
            height, width = self._desk.scene.first_frame.shape[:2]
            return {
                "type": "welcome",
                "version": protocol.VERSION,
                "robot": self._session.robot.embodiment.name if self._session.robot else None,
                "columns": [asdict(column) for column in self._columns],
                "height": height,
                "width": width,
                "fps": self._fps,
                "frames_per_pass": FRAMES,
                "granularity_ms": 1000 * FRAMES / self._fps,
                "sources": self._desk.sources,
                "scenes": [
                    {"id": scene.id, "name": scene.name, "picture": small_picture(scene.first_frame)}
                    for scene in self._desk.scenes.values()
                ],
                "state": self.state(),
            }

    def state(self) -> dict[str, Any]:
        with self._changed:
            begun = self._last is not None and not self._desk.reset_wanted
            return {
                "type": "state",
                "state": self._desk.state,
                "reason": self._desk.reason,
                "scene": self._desk.scene.id,
                "seed": self._desk.seed,
                "source": self._desk.source,
                "recording": self._recorder.recording,
                "made": self._last.end if self._last and begun else 0,
            }

    def scene(self) -> dict[str, Any]:
        """For a newcomer: the frame shown last and the controls in force, or, before any reset, those of a scene."""
        with self._changed:
            if self._last is None:
                scene = self._desk.scene
                return self._scene_event(scene.first_frame, scene.id, self._desk.seed)
            return self._scene_event(self._last.frames[-1], self._last.take.scene, self._last.take.seed)

    def add_scene(self, name: str, picture: np.ndarray) -> Scene:
        """A picture to begin from, uint8 RGB (H, W, 3). ValueError unless it has the model's size.

        A robot's controls are then taken to be in the middle of what its data held. The latest 32 pictures are kept.
        """
        with self._changed:
            return self._desk.add_picture(name, picture, robot=self._session.robot is not None)

    def handle(self, message: protocol.Message) -> None:
        """What the driver says. ValueError, with a text for the driver, if it cannot be done."""
        with self._changed:
            match message:
                case protocol.Control():
                    self._desk.offer(message, now=time.monotonic())
                    return  # a pass reads it when it begins
                case protocol.Record(on=True):
                    self._recorder.begin(None if self._desk.reset_wanted else self._last)
                case protocol.Record():
                    self._recorder.end()
                case protocol.Keep():
                    self._recorder.keep()
                case _:
                    self._desk.decide(message, now=time.monotonic())
            self._announce()

    def driver_lost(self, reason: str) -> None:
        """One pass in which nothing is done, then paused."""
        with self._changed:
            self._desk.driver_lost(reason)
            self._changed.notify()

    def _run(self) -> None:
        while job := self._next_job():
            job()

    def _next_job(self) -> Callable[[], None] | None:
        """Waits for what is to be done next; None when all is over."""
        with self._changed:
            while True:
                if self._outbox:
                    return partial(self._emit, self._outbox.popleft())
                if self._closing:
                    return None
                if self._desk.reset_wanted:
                    self._desk.reset_wanted = False
                    return partial(self._reset, self._desk.scene, self._desk.seed)
                if self._last is None or not self._desk.wants_pass:
                    self._changed.wait()
                elif self._desk.waits_for_policy and not self._policy_ready(self._last):
                    if not self._outbox:
                        self._changed.wait(self._desk.policy_patience(time.monotonic()))
                elif self._desk.at_once or (now := time.monotonic()) >= self._due:
                    return partial(self._pass, self._last.take, self._plan())
                else:
                    self._changed.wait(self._due - now)

    def _policy_ready(self, last: Shown) -> bool:
        """Whether the policy has rows for a pass. Where it fails, the session is paused."""
        now = time.monotonic()
        try:
            return self._desk.policy_ready(last.frames[-1], self._in_force, now=now, wake=self._wake)
        except Exception as error:  # whatever a foreign policy fails with
            reason = f"the policy failed: {error}"
            self._desk.policy_failed(reason)
            self._tell({"type": "error", "message": reason})
            self._announce()
            return False

    def _plan(self) -> Plan:
        now = time.monotonic()
        if not self._desk.at_once:
            self._due = next_due(self._due, now, period=FRAMES / self._fps)
        return self._desk.plan(now)

    def _pass(self, take: Take, plan: Plan) -> None:
        began, at = time.monotonic(), 1000 * time.time()
        try:
            step = self._session.step(plan.taken.rows)
        except Exception as error:  # out of memory, or controls that are no rotation: the engine lives on
            self._fail(error)
            return
        made = time.monotonic()
        hashes = self._hashing.submit(lambda: tuple(frame_hash(frame) for frame in step.frames))
        pictures = [encoded(frame, self._quality) for frame in step.frames]
        encoding = time.monotonic() - made
        noted = Pass(step.first, step.controls, hashes.result(), plan.source, plan.taken.seq, plan.taken.ts, at)
        self._note(Shown(take, step.first, step.frames, noted), noted, plan)
        self._number += 1
        header = {
            "number": self._number,
            "first": step.first,
            "n": len(step.frames),
            "seed": take.seed,
            "scene": take.scene,
            "state": plan.state,
            "source": plan.source,
            "action_seq": plan.taken.seq,
            "action_ts": plan.taken.ts,
            "age_ms": plan.taken.age_ms,
            "controls": step.controls.tolist(),
            "t_model_ms": 1000 * (made - began),
            "t_encode_ms": 1000 * encoding,
            "parts": step.milliseconds,
            "made_at": 1000 * time.time(),
            "sim_time": (step.first + len(step.frames) - 1) / self._rate,
        }
        self._emit(PassMessage(self._number, protocol.pack(header, pictures)))

    def _note(self, shown: Shown, made: Pass, plan: Plan) -> None:
        """Keep what a pass made, before anybody sees it, and pause if its controls say so."""
        with self._changed:
            shown.take.passes.append(made)
            self._last, self._in_force = shown, made.controls[-1]
            self._recorder.shown(shown)
            if plan.taken.pause and self._desk.follows(plan):
                self._desk.stand("paused", plan.taken.pause)
                self._announce()

    def _reset(self, scene: Scene, seed: int) -> None:
        try:
            frame = self._session.reset(scene.first_frame, seed=seed, before=scene.before)
        except Exception as error:
            self._fail(error)
            return
        shown = Shown(Take(scene.id, scene.name, seed, scene.first_frame, scene.before), 0, frame[None], None)
        with self._changed:
            self._last, self._in_force = shown, self._held_at_first(scene)
            self._recorder.shown(shown)
            event = self._scene_event(frame, scene.id, seed)
        self._emit(event)

    def _fail(self, error: Exception) -> None:
        logging.error("the model failed", exc_info=error)
        reason = f"the model failed: {error}"
        with self._changed:
            self._desk.stand("stopped", reason)
            self._desk.reset_wanted = False
            self._tell({"type": "error", "message": reason})
            self._announce()

    def _held_at_first(self, scene: Scene) -> np.ndarray:
        return np.zeros(self._session.width, np.float32) if scene.before is None else scene.before

    def _scene_event(self, frame: np.ndarray, scene: str, seed: int) -> dict[str, Any]:
        return {
            "type": "scene",
            "scene": scene,
            "seed": seed,
            "picture": base64.b64encode(encoded(frame, self._quality)).decode(),
            "controls": self._in_force.tolist(),
        }

    def _announce(self) -> None:
        self._tell(self.state())

    def _tell(self, event: Event) -> None:
        """Leave an event for the model's thread to send."""
        with self._changed:
            self._outbox.append(event)
            self._changed.notify()

    def _wake(self, _: object) -> None:
        with self._changed:
            self._changed.notify()

    def _emit(self, event: Event) -> None:
        with self._changed:
            listeners = tuple(self._listeners)
        for listener in listeners:
            try:
                listener(event)
            except Exception:  # one who looks must not hurt the others
                logging.exception("a listener failed, and hears nothing more")
                self._unsubscribe(listener)

    def _unsubscribe(self, listener: Callable[[Event], None]) -> None:
        with self._changed:
            if listener in self._listeners:
                self._listeners.remove(listener)


def next_due(due: float, now: float, *, period: float) -> float:
    """When to begin the pass after one that was due, and begins now: evenly, but never sooner to make up for delay."""
    punctual = now - due < period / 4
    return (due if punctual else now) + period


def small_picture(frame: np.ndarray) -> str:
    """A JPEG, in base64, of a frame (H, W, 3): every so many of its pixels, for a list of scenes."""
    step = -(-max(frame.shape[:2]) // SMALL)
    return base64.b64encode(encoded(frame[::step, ::step], QUALITY)).decode()


def encoded(frame: np.ndarray, quality: int) -> bytes:
    """A JPEG of uint8 RGB (H, W, 3)."""
    whole = np.ascontiguousarray(frame)
    return simplejpeg.encode_jpeg(whole, quality=quality, colorspace="RGB", colorsubsampling="420")
