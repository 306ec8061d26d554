"""A session without a model: it draws a square where the controls say, at once or after a delay.

It has the interface of `simulator.session.Session`, and like it makes the same film of the same first frame, seed and
controls; so engine, server and page can be tested without weights.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from align.control_group import ControlGroup
from align.embodiment import RobotEmbodiment
from simulator.engine import Engine, Scene
from simulator.session import Step

SIZE, SIDE, FPS = 64, 12, 20.0
NAMES = ("x", "y", "opening", "sweep")
BODY = RobotEmbodiment(
    name="square",
    columns=NAMES,
    rate=10.0,
    groups=(
        ControlGroup("place", 0, 2, "absolute", unit="m"),
        ControlGroup("grip", 2, 3, "gripper", unit="0 to 1"),
        ControlGroup("sweep", 3, 4, "velocity", unit="m/s"),
    ),
    seen=((0.2, 0.8), (0.2, 0.8), (0.0, 1.0), (-1.0, 1.0)),
)
"""x and y: where the square's middle is to be, from 0 to 1; opening: its colour; sweep: how fast a bar below moves."""
BEFORE = np.array([0.5, 0.5, 0.0, 0.0], np.float32)


@dataclass(frozen=True)
class DrawnRobot:
    embodiment: RobotEmbodiment = BODY


@dataclass(frozen=True)
class DrawnLatent:
    """The embodiment of latent actions that a plain generator has."""

    scale: tuple[float, ...] = (0.05, 0.05, 0.1)
    fps: float = 10.0
    camera_dim: int = 1


class DrawnGenerator:
    def embodiment(self, name: str) -> DrawnLatent:
        assert name == "latent"
        return DrawnLatent()


class DrawnSession:
    """robot: it takes the columns of BODY, else latent actions, which move the square. seconds: that a pass takes.

    `steps` lists the rows of every pass; a RuntimeError is raised in the pass before which `broken` was set.
    """

    def __init__(self, *, robot: bool = True, seconds: float = 0.0) -> None:
        self.robot: Any = DrawnRobot() if robot else None
        self.generator: Any = DrawnGenerator()
        self.seconds = seconds
        self.broken = ""
        self.steps: list[np.ndarray] = []
        self._made = -1
        self._ground = np.zeros((SIZE, SIZE, 3), np.uint8)
        self._in_force = BEFORE
        self._bar = 0.0
        self._tint = 0

    @property
    def width(self) -> int:
        return len(NAMES) if self.robot else len(DrawnLatent().scale)

    def reset(self, first_frame: np.ndarray, *, seed: int, before: np.ndarray | None = None) -> np.ndarray:
        assert (before is None) == (self.robot is None)
        self._fail()
        self._ground, self._made, self._bar, self._tint = first_frame, 0, 0.0, seed % 64
        self._in_force = np.array([0.5, 0.5, 0.0], np.float32) if before is None else before.astype(np.float32)
        return first_frame

    def step(self, controls: np.ndarray | Sequence[np.ndarray]) -> Step:
        rows = np.asarray(controls, np.float32).reshape(-1, self.width)
        if self._made < 0 or len(rows) > 4:
            raise ValueError("no first frame, or more than four rows")
        self._fail()
        time.sleep(self.seconds)
        held = rows[-1] if len(rows) else self._in_force
        missing = 4 - len(rows)
        if self.robot:
            rows = np.concatenate((rows, self.robot.embodiment.neutral(held, rows=missing)))
        else:
            rows = np.concatenate((rows, np.zeros((missing, self.width), np.float32)))
        frames = np.stack([self._drawn(row) for row in rows])
        self.steps.append(rows)
        self._made += 4
        return Step(frames, rows, self._made - 3, {"total": 1000 * self.seconds})

    def _drawn(self, row: np.ndarray) -> np.ndarray:
        self._in_force = row if self.robot else (self._in_force + row).clip(0, 1)
        x, y, opening = self._in_force[:3].clip(0, 1)
        if self.robot:
            self._bar = (self._bar + float(row[3]) / BODY.rate) % 1
        left, top = round(float(x) * (SIZE - SIDE)), round(float(y) * (SIZE - SIDE))
        frame = self._ground.copy()
        frame[-2:, : 1 + round(self._bar * (SIZE - 1))] = (40, 120, 240)
        frame[top : top + SIDE, left : left + SIDE] = (250, 60 + round(120 * float(opening)), self._tint)
        return frame

    def _fail(self) -> None:
        if self.broken:
            message, self.broken = self.broken, ""
            raise RuntimeError(message)


def ground(seed: int) -> np.ndarray:
    """uint8 (SIZE, SIZE, 3): dim tiles, never as red as the square."""
    tiles = np.random.default_rng(seed).integers(20, 110, (SIZE // 8, SIZE // 8, 3), np.uint8)
    return tiles.repeat(8, 0).repeat(8, 1)


def middle(frame: np.ndarray) -> tuple[float, float]:
    """Where the square's middle is, x and y from 0 to 1 as the controls say it, read from the pixels."""
    red = (frame[..., 0].astype(int) - frame[..., 2] > 100) & (frame[..., 0] > 180)
    rows, columns = np.nonzero(red)
    reach = SIZE - SIDE
    return (columns.mean() - (SIDE - 1) / 2) / reach, (rows.mean() - (SIDE - 1) / 2) / reach


def recorded_rows(length: int = 10) -> np.ndarray:
    """(length, 4): from left to right."""
    rows = np.tile(BEFORE, (length, 1))
    rows[:, 0] = np.linspace(0.3, 0.7, length)
    return rows


def drawn_scenes(*, robot: bool = True) -> list[Scene]:
    """Two; only the first has recorded controls, ten rows."""
    before = BEFORE if robot else None
    return [
        Scene("tiles-1", "Tiles, the first", ground(1), before, recorded_rows() if robot else None),
        Scene("tiles-2", "Tiles, the second", ground(2), before, None),
    ]


def drawn_engine(recordings: Path, *, robot: bool = True, seconds: float = 0.0, fps: float = FPS) -> Engine:
    """An engine over a drawn session, not started yet."""
    return Engine(DrawnSession(robot=robot, seconds=seconds), drawn_scenes(robot=robot), fps=fps, recordings=recordings)
