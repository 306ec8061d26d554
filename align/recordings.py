"""Robot episodes as a video model takes them: its size of picture, its rate, frames and controls row by row.

Axes: T frames, A columns of controls, C numbers of a change.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from align.embodiment import RobotEmbodiment
from align.robot_dataset import Episode, RobotDataset, episode_name
from common.errors import BadData, UserError

RATE_TOLERANCE = 0.02


@dataclass(frozen=True)
class Recording:
    """One episode. `controls[t]` leads from frame t to frame t+1."""

    name: str
    frames: np.ndarray
    """uint8 RGB (T, H, W, 3)."""
    controls: np.ndarray
    """float32 (T-1, A)."""
    states: np.ndarray | None
    """float32 (T, S), what was measured at each frame; None where the dataset holds none."""

    def before(self, frame: int) -> np.ndarray:
        """The controls (A,) in force when the frame was taken. Before the first row nothing is known: its own."""
        return self.controls[max(frame - 1, 0)]


def stride_of(fps: float, model_fps: float) -> int:
    """How many rows of a dataset make one of the model's: 1 for a dataset that is slower. UserError for a fraction."""
    stride = max(1, round(fps / model_fps))
    if fps > model_fps and abs(fps / stride / model_fps - 1) > RATE_TOLERANCE:
        raise UserError(
            f"the dataset has {fps:g} frames per second, the model {model_fps:g}: no whole number of frames fits",
            hint="Resample the dataset, or train the model at a rate that divides the dataset's.",
        )
    return stride


def read_recordings(
    dataset: RobotDataset[Any],
    episodes: Sequence[Episode],
    embodiment: RobotEmbodiment,
    *,
    size: tuple[int, int],
    stride: int,
    camera: str | None = None,
) -> Iterator[Recording]:
    """Episodes at every `stride`-th frame; `embodiment` tells the dataset's own rows. BadData as the dataset's reader.

    Of several rows in a stride the controls are those that do what these rows do together (`RobotEmbodiment.strided`).
    """
    for episode in episodes:
        rows = np.arange(0, episode.length, stride)
        where = episode_name(dataset.root, episode)
        if len(rows) < 2:
            raise BadData(f"{where} has {episode.length} frames; at the model's rate that is no pair")
        actions = dataset.actions(episode)[: rows[-1]]
        yield Recording(
            name=where,
            frames=dataset.frames(episode, size, camera=camera, rows=rows),
            controls=embodiment.strided(actions, stride) if stride > 1 else actions,
            states=dataset.states(episode)[rows] if dataset.state_keys else None,
        )
