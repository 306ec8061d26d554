"""A live session: from a first picture and controls to frames, four at a time, for as long as one likes.

A session drives a robot (`align.robot`), or a plain generator with latent actions. Where it stands is a value, a
`Moment`, so that many sessions share one model, and each can go back. Same first picture, seed and controls: same
frames, whether they come in chunks or all at once (`Robot.rollout`, which has the full decoder and a camera that may
move). Sessions that begin at different times go on in one batch by `step_together`.

Axes: B sessions, T rows of controls, A columns, H x W pixels. Several sessions that begin together are one `Session`
with the axis B before all others; for a single one there is no such axis ("..." below).
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from align.adapter import HISTORY
from align.robot import Robot
from video_model.films import as_films, as_pictures
from video_model.generator import LATENT, Generator
from video_model.presets import TIME_FACTOR
from video_model.rollout import Stream, advance, joined, start


@dataclass(frozen=True)
class Step:
    """What a session shows next."""

    frames: np.ndarray
    """uint8 RGB (..., 4, H, W, 3)."""
    controls: np.ndarray
    """float32 (..., 4, A), as they were used: row i leads to frame i."""
    first: int
    """Number of the first of these frames; that of `Session.reset` is 0."""
    milliseconds: dict[str, float]
    """Of "controls", "forecast", "denoise", "cache" and "decode", and of all ("total")."""


@dataclass(frozen=True)
class Moment:
    """Where a session stands."""

    stream: Stream
    past: np.ndarray
    """float32 (B, P, A): the last rows of controls, at most HISTORY, the one in force last."""
    made: int
    """Frames after the first."""
    batched: bool
    """Whether there is an axis B for those who look from outside."""


class Stopwatch:
    """Milliseconds of each part of the work. On a GPU, a part ends when all that it asked for is done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = self._now()
        yield
        self.milliseconds[part] = 1000 * (self._now() - started)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Session:
    """One live session, or several that began together."""

    def __init__(
        self,
        driven: Robot | Generator,
        *,
        steps: int | None = None,
        decoder: Literal["tiny", "full"] = "tiny",
        still_camera: bool = False,
    ) -> None:
        """steps: from noise to a latent, by default as the model's config says; ValueError below 1.

        decoder: what makes frames of latents. The tiny one is quicker; where the model has none, it is the full one.
        still_camera: it does not move; what looks as in the first frame is shown as there, for as long as one likes.
        """
        if steps is not None and steps < 1:
            raise ValueError(f"a latent takes at least 1 step, not {steps}")
        self.robot = driven if isinstance(driven, Robot) else None
        generator = driven.generator if isinstance(driven, Robot) else driven
        self.generator = generator.live() if decoder == "tiny" else generator
        self.steps = steps or self.generator.config.sampling_steps
        self.still_camera = still_camera
        self._moment: Moment | None = None

    @property
    def width(self) -> int:
        """A, the columns of a row of controls: the robot's, or the values of a latent action."""
        return len(self.robot.embodiment.columns if self.robot else self.generator.embodiment(LATENT).scale)

    def reset(self, first_frame: np.ndarray, *, seed: int, before: np.ndarray | None = None) -> np.ndarray:
        """Begin anew from uint8 RGB (..., H, W, 3), of the model's size; returns that frame as the film shows it.

        before (..., A): a robot's controls that are in force at that frame. Session i of several has the seed
        seed + i. ValueError if something has another shape or is not finite.
        """
        first_frame = np.asarray(first_frame)
        if first_frame.dtype != np.uint8 or first_frame.ndim not in (3, 4):
            shape = f"{first_frame.dtype} {first_frame.shape}"
            raise ValueError(f"the first frame must be uint8 (H, W, 3), or (B, H, W, 3), not {shape}")
        if (before is None) != (self.robot is None):
            raise ValueError("a robot's session, and no other, needs the controls in force at the first frame (before)")
        batched = first_frame.ndim == 4
        frames = first_frame if batched else first_frame[None]
        in_force = np.zeros((len(frames), self.width)) if before is None else before if batched else [before]
        past = checked_rows(in_force, self.width)
        if len(past) != len(frames):
            raise ValueError(f"{len(frames)} first frames and {len(past)} rows of controls before them do not fit")
        seeds = [seed + i for i in range(len(frames))]
        pictures = as_films(list(frames[:, None]), self.generator.device)[:, 0]
        stream, shown = start(self.generator, pictures, seeds=seeds, still_camera=self.still_camera)
        self._moment = Moment(stream, past[:, None], 0, batched)
        return as_pictures(shown if batched else shown[0])

    def step(self, controls: np.ndarray | Sequence[np.ndarray]) -> Step:
        """The next four frames, under four rows of controls (..., T, A).

        Where there are fewer rows, down to none, the rest do nothing (`RobotEmbodiment.neutral`): targets are held,
        deltas, velocities and latent actions are zero. Sessions of one batch may have different numbers of rows.
        ValueError if something has another shape or is not finite; nothing has changed then.
        """
        moment = self._now()
        given = controls if moment.batched else [controls]
        if len(given) != len(moment.past):
            raise ValueError(f"{len(moment.past)} sessions need as many arrays of controls, not {len(given)}")
        pairs = zip(given, moment.past[:, -1], strict=True)
        rows = np.stack([self._four_rows(of_one, in_force) for of_one, in_force in pairs])
        frames, milliseconds = self._advanced(moment.stream, rows, list(moment.past))
        self._moment = _after(moment, moment.stream, rows)
        if not moment.batched:
            frames, rows = frames[0], rows[0]
        return Step(frames, rows, moment.made + 1, milliseconds)

    def snapshot(self) -> Moment:
        """This moment, to come back to as often as one likes, in any session over the same model."""
        moment = self._now()
        return replace(moment, stream=moment.stream.copy())

    def restore(self, moment: Moment) -> None:
        """Go on from a snapshot: the same controls make the same frames, bit for bit."""
        self._moment = replace(moment, stream=moment.stream.copy())

    @property
    def _kind(self) -> tuple[object, ...]:
        """What those have in common that can step together."""
        return self.generator.model, self.generator.decoder, self.robot, self.steps, self.still_camera

    def _now(self) -> Moment:
        if self._moment is None:
            raise ValueError("the session has no first frame: call reset")
        return self._moment

    def _advanced(
        self, stream: Stream, rows: np.ndarray, pasts: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, dict[str, float]]:
        """The stream's next frames, uint8 (B, 4, H, W, 3), under rows (B, 4, A), each after a past (P, A); times."""
        watch = Stopwatch(self.generator.device)
        with watch("total"):
            with watch("controls"):
                embodiment, actions, told = self._actions(rows, pasts)
            made = advance(
                self.generator, stream, actions, embodiment=embodiment, steps=self.steps, told=told, timed=watch
            )
            frames = as_pictures(made)
        return frames, watch.milliseconds

    def _four_rows(self, given: np.ndarray | Sequence[np.ndarray], in_force: np.ndarray) -> np.ndarray:
        """Rows (T, A) of one session, T <= 4, after the row (A,) in force -> (4, A)."""
        rows = checked_rows(given, self.width)
        missing = TIME_FACTOR - len(rows)
        if missing < 0:
            raise ValueError(f"a step takes {TIME_FACTOR} rows of controls, not {len(rows)}")
        if self.robot is None:
            return np.concatenate((rows, np.zeros((missing, self.width), np.float32)))
        last = rows[-1] if len(rows) else in_force
        return np.concatenate((rows, self.robot.embodiment.neutral(last, rows=missing)))

    def _actions(self, rows: np.ndarray, pasts: Sequence[np.ndarray]) -> tuple[str, Tensor, Tensor | None]:
        """Of rows (B, 4, A): the embodiment's name, its actions (B, 4, ...), what a forecast is told."""
        if self.robot is None:
            return LATENT, torch.from_numpy(rows), None
        told = None
        if self.robot.adapter is not None:  # looks back, but no further than a past goes
            told = torch.from_numpy(
                np.stack(
                    [
                        self.robot.latent_actions(np.concatenate((held[1:], new)), held[0])[-TIME_FACTOR:]
                        for new, held in zip(rows, pasts, strict=True)
                    ]
                )
            )
        if self.robot.own_network:
            embodiment = self.robot.embodiment
            in_force = np.stack([past[-1] for past in pasts])
            changes = embodiment.normalised(embodiment.relative(rows, in_force))
            return embodiment.name, torch.from_numpy(changes).float(), told
        assert told is not None
        return LATENT, told, told


def step_together(sessions: Sequence[Session], controls: Sequence[np.ndarray]) -> list[Step]:
    """One step of each of some sessions over one model, as each would make it alone, but in as few passes as can be.

    Those go in one batch whose streams are full, whenever they began, and those of equal age. controls: of each
    session, (T, A). Milliseconds are those of the pass that a session was in. ValueError if the sessions are not of one
    model or not single ones.
    """
    lead = sessions[0]
    for session in sessions:
        if session._kind != lead._kind:
            raise ValueError("sessions that step together are over one model, with the same settings")
    moments = [session._now() for session in sessions]
    if any(moment.batched for moment in moments):
        raise ValueError("sessions that step together are single ones")
    pairs = zip(sessions, controls, moments, strict=True)
    rows = [session._four_rows(given, moment.past[0, -1]) for session, given, moment in pairs]
    steps: dict[int, Step] = {}
    for age in {moment.stream.age for moment in moments}:
        which = [number for number, moment in enumerate(moments) if moment.stream.age == age]
        stream = joined([moments[number].stream for number in which])
        films, milliseconds = lead._advanced(
            stream, np.stack([rows[n] for n in which]), [moments[n].past[0] for n in which]
        )
        for row, (number, frames) in enumerate(zip(which, films, strict=True)):
            own = moments[number]
            sessions[number]._moment = _after(own, stream.video(row), rows[number][None])
            steps[number] = Step(frames, rows[number], own.made + 1, milliseconds)
    return [steps[number] for number in range(len(sessions))]


def _after(moment: Moment, stream: Stream, rows: np.ndarray) -> Moment:
    """The moment after rows (B, 4, A)."""
    past = np.concatenate((moment.past, rows), axis=1)[:, -HISTORY:]
    return replace(moment, stream=stream, past=past, made=moment.made + TIME_FACTOR)


class LatestControls:
    """A live command: the row that was offered last, held for the four frames. Any thread may offer."""

    def __init__(self, width: int) -> None:
        self._rows = np.empty((0, width), np.float32)

    def offer(self, row: np.ndarray) -> None:
        """row (A,). ValueError if it has another shape or is not finite."""
        self._rows = np.repeat(checked_rows([row], self._rows.shape[1]), TIME_FACTOR, axis=0)

    def take(self) -> np.ndarray:
        """For `Session.step`: (4, A), or (0, A) before any was offered."""
        return self._rows


class QueuedControls:
    """Recorded rows, one for each frame; when they run dry, nothing is done. Any thread may offer."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._rows: deque[np.ndarray] = deque()

    def __len__(self) -> int:
        """Rows that are waiting."""
        return len(self._rows)

    def offer(self, rows: np.ndarray) -> None:
        """rows (T, A), to come after those that wait. ValueError if they have another shape or are not finite."""
        self._rows.extend(checked_rows(rows, self._width))

    def take(self) -> np.ndarray:
        """For `Session.step`: the next rows (T, A), four or as many as there are."""
        taken = [self._rows.popleft() for _ in range(min(TIME_FACTOR, len(self._rows)))]
        return np.array(taken, np.float32).reshape(-1, self._width)


def checked_rows(rows: object, width: int) -> np.ndarray:
    """Rows of controls as a new float32 array (T, width). ValueError if they have another shape or are not finite."""
    array = np.array(rows, np.float32)
    if array.ndim != 2 or array.shape[1] != width:
        raise ValueError(f"controls must be rows of {width} numbers, not an array {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"controls must be finite, not {array[~np.isfinite(array)][0]}")
    return array
