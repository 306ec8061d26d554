"""What a group of a robot's controls means, and its part of the way from controls to changes and back.

A change is seen from the start of its chunk, `before` being what was in force just before that:

    absolute           target - target before the chunk
    delta              sum of the chunk's deltas up to and with this row
    velocity           the same, times the time that a row lasts
    gripper            the opening itself: whether a hand is closed matters, not by how much more than before
    absolute rotation  the turn from the target before the chunk to this row's, as a rotation vector
    delta rotation     the turn made since the start of the chunk, as a rotation vector
    velocity rotation  the same, from angular velocities

Turns are taken in one of two frames. `body`: about the axes of the turned thing; b follows a as R_a R_b, and the turn
from a to b is R_a^-1 R_b. `world`: about the axes of the room; R_b R_a, and R_b R_a^-1. Robots' deltas come in both
(those of robosuite's operational space controller are `world`).

Axes: B batch, T rows, W columns of the group, C columns of its change.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import pi
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from align.rotations import ANGLES, WIDTHS, RotationName, read_rotations, write_rotations
from common.errors import BadData, UserError

Kind = Literal["absolute", "delta", "velocity", "gripper"]
Frame = Literal["world", "body"]


@dataclass(frozen=True)
class ControlGroup:
    """Neighbouring columns of the action vector that mean the same kind of thing. UserError if that cannot be."""

    name: str
    start: int
    """First of its columns."""
    stop: int
    """First column after it."""
    kind: Kind
    rotation: RotationName | None = None
    """How its columns spell one rotation; None where each column is a number of its own."""
    frame: Frame = "body"
    """For rotations: whose axes turns are about (see the head of this file)."""
    wraps: bool = False
    """For absolute angles that go round: a step from +179 to -179 degrees is one of 2 degrees."""
    unit: str = ""
    """As text. Must begin with "rad" or "deg" for angles of rotations and for angles that wrap."""
    limits: tuple[tuple[float, float], ...] | None = None
    """Lowest and highest value of each column, for those who send controls; nothing here is clipped to it."""
    reason: str = ""
    """Why it is thought to be so, for people to read."""

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise UserError(f"the control group '{self.name}' has the columns {self.start} to {self.stop}, so none")
        if self.rotation and self.kind == "gripper":
            raise UserError(f"the control group '{self.name}' cannot be a gripper and a rotation")
        if self.rotation and self.width != WIDTHS[self.rotation]:
            needs = f"{self.rotation} takes {WIDTHS[self.rotation]}"
            raise UserError(f"the control group '{self.name}' has {self.width} columns; {needs}")
        if self.rotation and self.kind == "velocity" and self.rotation != "axis_angle":
            hint = "Rates of Euler angles are a velocity without rotation."
            raise UserError(f"angular velocities such as '{self.name}' must be axis_angle", hint=hint)
        if self.wraps and (self.rotation or self.kind != "absolute"):
            raise UserError(f"the control group '{self.name}' cannot wrap: only absolute angles do")
        if (self.wraps or self.rotation in ANGLES) and not self.unit.startswith(("rad", "deg")):
            raise UserError(f"the control group '{self.name}' holds angles in {self.unit!r}; it must be rad or deg")
        if self.limits is not None:
            if len(self.limits) != self.width:
                raise UserError(f"the control group '{self.name}' has {self.width} columns, {len(self.limits)} limits")
            for low, high in self.limits:
                if not low < high:
                    raise UserError(f"the control group '{self.name}' has the limits {low} to {high}")

    @property
    def width(self) -> int:
        return self.stop - self.start

    @property
    def relative_width(self) -> int:
        """Columns of its change: three for a rotation, else as many as it has."""
        return 3 if self.rotation else self.width

    def relative(self, values_BTW: np.ndarray, before_BW: np.ndarray, *, chunk: int, rate: float) -> np.ndarray:
        """Changes (B, T, C), float64, each from the start of its chunk of `chunk` rows. `rate` in rows per second."""
        if self.kind == "gripper":
            return values_BTW
        if self.rotation:
            return self._turns(values_BTW, before_BW, chunk=chunk, rate=rate)
        batch, rows, width = values_BTW.shape
        values_BNKW = values_BTW.reshape(batch, rows // chunk, chunk, width)
        if self.kind == "absolute":
            ends = np.concatenate([before_BW[:, None], values_BNKW[:, :-1, -1]], axis=1)
            changes = self._wrapped(values_BNKW - ends[:, :, None], low=-self._period / 2)
        else:
            changes = np.cumsum(values_BNKW, axis=2) / (rate if self.kind == "velocity" else 1)
        return changes.reshape(batch, rows, width)

    def controls(self, relative_BTC: np.ndarray, before_BW: np.ndarray, *, chunk: int, rate: float) -> np.ndarray:
        """The controls (B, T, W), float64, that make these changes: `relative` undone.

        Angles that wrap come back in the turn that begins at the lower limit, or at minus half a turn. Absolute
        quaternions come back with the sign that continues the row before.
        """
        if self.kind == "gripper":
            return relative_BTC
        if self.rotation:
            return self._turned(relative_BTC, before_BW, chunk=chunk, rate=rate)
        batch, rows, width = relative_BTC.shape
        changes_BNKW = relative_BTC.reshape(batch, rows // chunk, chunk, width)
        if self.kind == "absolute":
            moved = np.cumsum(changes_BNKW[:, :-1, -1], axis=1) + before_BW[:, None]
            starts = np.concatenate([before_BW[:, None], moved], axis=1)
            low = np.array(self.limits)[:, 0] if self.limits else -self._period / 2
            values = self._wrapped(changes_BNKW + starts[:, :, None], low=low)
        else:
            values = np.diff(changes_BNKW, axis=2, prepend=0) * (rate if self.kind == "velocity" else 1)
        return values.reshape(batch, rows, width)

    def neutral(self, before_BW: np.ndarray) -> np.ndarray:
        """The controls (B, W) that change nothing when `before` is in force."""
        if self.kind in ("absolute", "gripper"):
            return before_BW
        if self.rotation:
            return self._written(Rotation.identity(len(before_BW)))
        return np.zeros_like(before_BW)

    def _turns(self, values_BTW: np.ndarray, before_BW: np.ndarray, *, chunk: int, rate: float) -> np.ndarray:
        batch, rows, _ = values_BTW.shape
        changes = np.empty((batch, rows, 3))
        current = start = self._read(before_BW) if self.kind == "absolute" else Rotation.identity(batch)
        for row in range(rows):
            step = values_BTW[:, row] / (rate if self.kind == "velocity" else 1)
            if self.kind == "absolute":
                start = current if row % chunk == 0 else start
                current = self._read(step)
                changes[:, row] = self._between(start, current).as_rotvec()
            else:
                start = Rotation.identity(batch) if row % chunk == 0 else current
                current = self._then(start, self._read(step))
                changes[:, row] = current.as_rotvec()
        return changes

    def _turned(self, relative_BTC: np.ndarray, before_BW: np.ndarray, *, chunk: int, rate: float) -> np.ndarray:
        batch, rows, _ = relative_BTC.shape
        values = np.empty((batch, rows, self.width))
        current = start = self._read(before_BW) if self.kind == "absolute" else Rotation.identity(batch)
        for row in range(rows):
            turn = Rotation.from_rotvec(relative_BTC[:, row])
            if self.kind == "absolute":
                start = current if row % chunk == 0 else start
                current = self._then(start, turn)
                values[:, row] = self._written(current)
            else:
                start = Rotation.identity(batch) if row % chunk == 0 else current
                current = turn
                values[:, row] = self._written(self._between(start, current))
        if self.kind == "velocity":
            return values * rate
        if self.kind == "absolute" and self.rotation in ("quaternion_xyzw", "quaternion_wxyz"):
            return _continued(values, before_BW)
        return values

    def _then(self, first: Rotation, second: Rotation) -> Rotation:
        return first * second if self.frame == "body" else second * first

    def _between(self, first: Rotation, second: Rotation) -> Rotation:
        """The turn with which `_then(first, turn)` is `second`."""
        return first.inv() * second if self.frame == "body" else second * first.inv()

    def _read(self, values_BW: np.ndarray) -> Rotation:
        assert self.rotation is not None
        try:
            return read_rotations(values_BW, self.rotation, degrees=self.unit.startswith("deg"))
        except BadData as error:
            raise BadData(f"control group '{self.name}': {error}", hint=error.hint) from error

    def _written(self, rotation: Rotation) -> np.ndarray:
        assert self.rotation is not None
        return write_rotations(rotation, self.rotation, degrees=self.unit.startswith("deg"))

    @property
    def _period(self) -> float:
        return 360.0 if self.unit.startswith("deg") else 2 * pi

    def _wrapped(self, values: np.ndarray, *, low: np.ndarray | float) -> np.ndarray:
        return (values - low) % self._period + low if self.wraps else values


def check_groups(groups: tuple[ControlGroup, ...], width: int) -> None:
    """UserError unless the groups are in order, of different names, and hold each of `width` columns once."""
    names = [group.name for group in groups]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"there are two control groups '{name}'")
    for group in groups:
        if group.stop > width:
            raise UserError(f"the control group '{group.name}' ends at column {group.stop}; there are {width}")
    edges = [0, *(edge for group in groups for edge in (group.start, group.stop)), width]
    for end, start in list(pairwise(edges))[::2]:
        if start < end:
            raise UserError(f"column {start} belongs to more than one control group, or they are not in order")
        if start > end:
            raise UserError(f"column {end} belongs to no control group")


def _continued(quaternions_BTW: np.ndarray, before_BW: np.ndarray) -> np.ndarray:
    """The same rotations, each with the sign nearer to the row before."""
    rows = np.concatenate([before_BW[:, None], quaternions_BTW], axis=1)
    flips = np.where((rows[:, 1:] * rows[:, :-1]).sum(axis=2) < 0, -1.0, 1.0)
    return quaternions_BTW * np.cumprod(flips, axis=1)[:, :, None]
