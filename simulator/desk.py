"""What is decided of a session: its state, its scene, where its controls come from, and what is to be done next.

Values and rules only: no thread, no model and no clock. The engine (`simulator.engine`) calls it under its lock, and
tells it what time it is, in seconds.

    stopped   at first, and after a stop or a failure; only a reset goes on from there
    paused    a pass is made when a single step is asked for
    running   a pass is made whenever one is due
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simulator import protocol
from simulator.columns import Column, limits
from simulator.sources import Asked, Human, Policy, Recorded, Taken
from simulator.takes import Scene

MOST_PICTURES = 32
"""That were added, and are kept to begin from."""
MOST_SINGLE_STEPS = 8
"""That may wait."""

State = Literal["stopped", "paused", "running"]


@dataclass(frozen=True)
class Plan:
    """What a pass begins with."""

    state: State
    source: str
    taken: Taken


class Desk:
    def __init__(self, scenes: Sequence[Scene], columns: Sequence[Column], policy: Policy | None) -> None:
        """ValueError without a scene."""
        if not scenes:
            raise ValueError("a session needs a scene to begin from")
        self.scenes = {scene.id: scene for scene in scenes}
        self.state: State = "stopped"
        self.reason = "nothing has begun yet"
        """Why it is in that state, where nobody asked for it."""
        self.source = "human"
        self.scene, self.seed = scenes[0], 0
        """Of the last reset that was asked for."""
        self.reset_wanted = False
        self._limits = limits(columns)
        self._human, self._recorded = Human(self._limits), Recorded()
        self._asked = Asked(policy, self._limits) if policy else None
        self._pictures = 0
        self._single_steps = 0
        self._ending = ""
        """Why the next pass does nothing and is the last for now; empty if it is not."""
        self._running_since = 0.0

    @property
    def sources(self) -> list[str]:
        recorded = any(scene.rows is not None for scene in self.scenes.values())
        return ["human", *(["recorded"] if recorded else []), *(["policy"] if self._asked else [])]

    @property
    def wants_pass(self) -> bool:
        return self.state == "running" or self._single_steps > 0

    @property
    def at_once(self) -> bool:
        """Whether that pass is a single step, for which nobody waits until it is due."""
        return self._single_steps > 0

    @property
    def waits_for_policy(self) -> bool:
        return self.wants_pass and self.source == "policy" and not self._ending

    def add_picture(self, name: str, picture: np.ndarray, *, robot: bool) -> Scene:
        """A scene of uint8 RGB (H, W, 3); a robot's controls are taken to be in the middle of what its data held.

        ValueError unless it has the size of the other scenes. The latest 32 are kept.
        """
        wanted = self.scene.first_frame.shape
        if picture.shape != wanted or picture.dtype != np.uint8:
            raise ValueError(f"a picture must be uint8 {wanted}, not {picture.dtype} {picture.shape}")
        self._pictures += 1
        before = self._limits.mean(axis=0).astype(np.float32) if robot else None
        scene = Scene(f"picture-{self._pictures}", name, picture, before, None)
        self.scenes[scene.id] = scene
        self.scenes.pop(f"picture-{self._pictures - MOST_PICTURES}", None)
        return scene

    def offer(self, control: protocol.Control, *, now: float) -> None:
        """ValueError for a wrong number of values."""
        self._human.offer(control, now=now)

    def decide(self, message: protocol.Message, *, now: float) -> None:
        """What the driver asks for. ValueError, with a text for the driver, if it cannot be done."""
        match message:
            case protocol.Reset():
                self._reset(message.seed, message.scene)
            case protocol.Pause():
                if self.state == "running":
                    self.stand("paused", "")
            case protocol.Resume():
                self._resume(now)
            case protocol.SingleStep():
                self._step()
            case protocol.Stop():
                self.stand("stopped", "")
                self.reset_wanted = False
            case protocol.Source():
                self._choose(message.name, now)
            case _:
                raise ValueError(f"'{protocol.NAMES[type(message)]}' is nothing to ask of a session")

    def stand(self, state: State, reason: str) -> None:
        """Go to a state in which no pass is made by itself. The row that was held is forgotten."""
        self.state, self.reason = state, reason
        self._single_steps, self._ending = 0, ""
        self._human.release()

    def driver_lost(self, reason: str) -> None:
        """One more pass, in which nothing is done, then paused."""
        self._human.release()
        self._single_steps = 0
        if self.state == "running":
            self._ending = reason

    def plan(self, now: float) -> Plan:
        """The next pass, which begins now: its controls are read here."""
        single = self.state != "running"
        self._single_steps -= single
        return Plan(self.state, self.source, self._taken(now, single=single))

    def follows(self, plan: Plan) -> bool:
        """Whether nothing else was decided since that pass began."""
        return not self.reset_wanted and (self.state, self.source) == (plan.state, plan.source)

    def policy_ready(
        self, frame: np.ndarray, controls: np.ndarray, *, now: float, wake: Callable[[object], None]
    ) -> bool:
        """Whether the policy has rows. If not, it is asked about the frame (H, W, 3) and the controls (A,) in force.

        wake: called when it answers, perhaps in another thread. Whatever it fails with is raised; TimeoutError where it
        thinks for too long.
        """
        assert self._asked
        self._asked.hear()
        if not self._asked.ready and (answer := self._asked.ask(frame, controls, now=now)):
            answer.add_done_callback(wake)
        if self._asked.remaining(now) <= 0 and not self._asked.ready:
            raise TimeoutError("it has not answered in time")
        return self._asked.ready

    def policy_patience(self, now: float) -> float:
        """Seconds for which the policy may still think."""
        assert self._asked
        return self._asked.remaining(now)

    def policy_failed(self, reason: str) -> None:
        self._release()
        self.stand("paused", reason)

    def _reset(self, seed: int, scene: str | None) -> None:
        if scene is not None and scene not in self.scenes:
            raise ValueError(f"there is no scene '{scene}'")
        self.scene, self.seed = self.scene if scene is None else self.scenes[scene], seed
        self.reset_wanted = True
        self.stand("paused", "")
        self._release()
        self._recorded.reset(self.scene)
        if self.source == "recorded" and self.scene.rows is None:
            self.source, self.reason = "human", "this scene has no recorded controls"

    def _resume(self, now: float) -> None:
        self._require_film()
        self._ending = ""
        if self.state == "paused":
            self.state, self.reason = "running", ""
            self._single_steps = 0
            self._running_since = now

    def _step(self) -> None:
        self._require_film()
        if self.state == "running":
            raise ValueError("a single step needs a pause first")
        if self._single_steps >= MOST_SINGLE_STEPS:
            raise ValueError(f"{MOST_SINGLE_STEPS} single steps are waiting already")
        self._single_steps += 1

    def _require_film(self) -> None:
        """ValueError unless there is something to go on from, and controls to do it with."""
        if self.state == "stopped":
            raise ValueError("stopped: reset first")
        if self.source == "recorded":
            self._recorded.check()

    def _choose(self, source: str, now: float) -> None:
        if source not in self.sources:
            raise ValueError(f"the sources here are {', '.join(self.sources)}, not '{source}'")
        if source == "recorded" and self.scene.rows is None:
            raise ValueError("this scene has no recorded controls")
        if source == "recorded" and self.wants_pass:
            self._recorded.check()
        if source != self.source:
            self._release()
            self.source, self._running_since = source, now

    def _taken(self, now: float, *, single: bool) -> Taken:
        if self._ending:
            return Taken(self._human.nothing, self._ending)
        if self.source == "recorded":
            return self._recorded.take()
        if self.source == "policy":
            assert self._asked
            return self._asked.take()
        return self._human.take(now, since=None if single else self._running_since)

    def _release(self) -> None:
        self._human.release()
        if self._asked:
            self._asked.release()
