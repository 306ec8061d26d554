"""Recordings of a robot that a checkpoint knows, as its controls and its video model take them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from align.recordings import RATE_TOLERANCE, Recording, read_recordings, stride_of
from align.robot import Robot
from align.robot_dataset import Episode, RobotDataset
from common.errors import UserError


def robot_recordings(
    robot: Robot, dataset: RobotDataset[Any], episodes: Sequence[Episode], *, camera: str | None = None
) -> Iterator[Recording]:
    """Episodes at the model's size and the robot's rate. UserError unless the dataset's actions are its controls."""
    body, data = robot.embodiment, robot.generator.config.data
    if dataset.action_names != body.columns:
        raise UserError(
            f"the controls of '{body.name}' are {', '.join(body.columns)}; "
            f"{dataset.root} has {', '.join(dataset.action_names) or 'none'}",
            hint="Take recordings of the robot that the checkpoint was aligned to; --robot names another.",
        )
    stride = stride_of(dataset.fps, body.rate)
    if abs(dataset.fps / stride / body.rate - 1) > RATE_TOLERANCE:
        raise UserError(f"'{body.name}' takes {body.rate:g} rows per second; {dataset.root} has {dataset.fps:g}")
    rows = replace(body, rate=body.rate * stride, normalisation=None)
    return read_recordings(dataset, episodes, rows, size=(data.height, data.width), stride=stride, camera=camera)
