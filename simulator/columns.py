"""The controls of a session, column by column: what a driver is shown, and the limits that a driver is held to.

A robot's columns reach half as far again as its data did, about the same middle, so that a driver can leave what was
seen, but not by much. A gripper stays within it. Latent actions reach three scales to either side of nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from align.embodiment import RobotEmbodiment
from common.errors import UserError

WIDENED = 1.5
"""Width of the limits over the width of what was seen."""
SCALES = 3.0
"""Limits of a latent action, in root mean squares of training."""


@dataclass(frozen=True)
class Column:
    """One number of a row of controls."""

    name: str
    group: str
    kind: str
    """As in `align.control_group`: absolute, delta, velocity or gripper; "latent" for a value of a latent action."""
    unit: str
    low: float
    high: float
    live: bool = True
    """Whether it ever moved in the data."""


def session_columns(session: Any) -> tuple[list[Column], float]:
    """Of a `simulator.session.Session`: its columns, and how many rows its model takes for a second of film."""
    if session.robot:
        return robot_columns(session.robot.embodiment), session.robot.embodiment.rate
    latent = session.generator.embodiment("latent")  # video_model.generator.LATENT, without torch
    return latent_columns(latent.scale, camera_dim=latent.camera_dim), latent.fps


def robot_columns(embodiment: RobotEmbodiment) -> list[Column]:
    """UserError for a robot that was never shown any data, since then nothing says how far its controls reach."""
    if not embodiment.seen:
        raise UserError(f"nothing says how far the controls of '{embodiment.name}' reach: it was fitted to no data")
    dead = embodiment.normalisation.dead if embodiment.normalisation else ()
    columns = []
    for group in embodiment.groups:
        for place in range(group.start, group.stop):
            name, (low, high) = embodiment.columns[place], embodiment.seen[place]
            moves = high > low and name not in dead
            if group.kind != "gripper":
                middle, reach = (low + high) / 2, WIDENED * (high - low) / 2
                low, high = middle - reach, middle + reach
            if group.limits:
                least, most = group.limits[place - group.start]
                low, high = max(low, least), min(high, most)
            columns.append(Column(name, group.name, group.kind, group.unit, low, high, moves))
    return columns


def latent_columns(scale: Sequence[float], *, camera_dim: int) -> list[Column]:
    """Of a latent action: the last `camera_dim` values are the camera's motion."""
    act_dim = len(scale) - camera_dim
    return [
        Column(
            f"act {place + 1}" if place < act_dim else f"camera {place - act_dim + 1}",
            "act" if place < act_dim else "camera",
            "latent",
            "",
            -SCALES * size,
            SCALES * size,
        )
        for place, size in enumerate(scale)
    ]


def limits(columns: Sequence[Column]) -> np.ndarray:
    """(2, A): lowest values, and highest."""
    return np.array([[column.low for column in columns], [column.high for column in columns]], np.float64)
