"""Reads a robot's state from a single frame: learned on real frames, used on films that a model makes.

The network is that which finds the hand (`video_model.hand_probe`), with more maps and stronger changes of colour: a
robot's few episodes show few scenes, and none of them may tell where the robot is.

Axes: B films, T frames, S columns of a state.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from align.embodiment import RobotEmbodiment
from align.recordings import Recording
from common.errors import BadData
from video_model.hand_probe import HandProbe, relit, train_probe

ROWS = 64
"""Of the pictures that the probe sees; larger ones are made smaller."""
MAPS = 16
TINT, MIX, NOISE = 0.2, 0.25, 0.05
"""Standard deviations in training pictures: each channel's contrast, the share of the others in it, each pixel."""
STILL = 1e-6
"""A column that moves by no more than this, in its own unit, never moves."""

Find = Callable[[Tensor], Tensor]
"""Films (B, T, 3, H, W) in [-1, 1] to states (B, T, S), normalised."""


@dataclass(frozen=True)
class StateProbe:
    """States are normalised by mean and standard deviation of the episodes that it learned from."""

    names: tuple[str, ...]
    mean: np.ndarray
    """(S,), in the states' own units."""
    scale: np.ndarray
    """(S,); 1 for columns that never moved."""
    find: Find
    episodes: int
    """That it learned from."""
    still: tuple[str, ...] = ()
    """Columns that never moved in them."""

    def normalised(self, states: np.ndarray) -> np.ndarray:
        """(..., S), in units of `scale` from `mean`."""
        return (states - self.mean) / self.scale


def train_state_probe(
    recordings: Iterable[Recording],
    names: Sequence[str],
    *,
    seed: int,
    device: torch.device | str = "cpu",
    steps: int,
) -> StateProbe:
    """Learn from real frames and their states, which all recordings have. A function of its arguments."""
    frames, states = [], []
    for recording in recordings:
        assert recording.states is not None
        frames.append(_shrunk(recording.frames))
        states.append(recording.states.astype(np.float64))
    if not states:
        raise BadData("there is no episode for the state probe to learn from")
    known = np.concatenate(states)
    mean, spread = known.mean(0), known.std(0)
    still = spread <= STILL
    scale = np.where(still, 1.0, spread)
    probe = train_probe(
        lambda: HandProbe(values=known.shape[1], maps=MAPS, peaks=True),
        np.concatenate(frames),
        (known - mean) / scale,
        alter=recoloured,
        seed=seed,
        device=device,
        steps=steps,
    )

    def find(films: Tensor) -> Tensor:
        return probe.places(_small(films.flatten(0, 1)).unflatten(0, films.shape[:2]))

    unmoved = tuple(name for name, dead in zip(names, still, strict=True) if dead)
    return StateProbe(tuple(names), mean, scale, find, episodes=len(states), still=unmoved)


def held_names(embodiment: RobotEmbodiment) -> tuple[str, ...]:
    """Names of the controls that say where the robot is to be: absolute ones and openings, each a number of its own."""
    return tuple(embodiment.columns[column] for column in _held(embodiment))


def with_held_controls(recording: Recording, embodiment: RobotEmbodiment) -> Recording:
    """For a dataset without states: those of `held_names` that are in force at each frame stand for the state."""
    in_force = np.stack([recording.before(frame) for frame in range(len(recording.frames))])
    return replace(recording, states=in_force[:, _held(embodiment)])


def recoloured(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Each picture (B, 3, H, W) under other light, with other colours, and noisy."""
    batch = len(pictures)
    tinted = relit(pictures, random) * (1 + TINT * torch.randn(batch, 3, 1, 1, generator=random))
    mix = torch.eye(3) + MIX * torch.randn(batch, 3, 3, generator=random)
    mixed = torch.einsum("bij,bjhw->bihw", mix, tinted)
    return mixed + NOISE * torch.randn(mixed.shape, generator=random)


def _held(embodiment: RobotEmbodiment) -> list[int]:
    return [
        column
        for group in embodiment.groups
        if group.kind in ("absolute", "gripper") and not group.rotation and not group.wraps
        for column in range(group.start, group.stop)
    ]


def _small(pictures: Tensor) -> Tensor:
    """(N, 3, H, W), at most `ROWS` high."""
    height, width = pictures.shape[-2:]
    if height <= ROWS:
        return pictures
    return F.interpolate(pictures, size=(ROWS, round(ROWS * width / height)), mode="bilinear", antialias=True)


def _shrunk(frames: np.ndarray) -> np.ndarray:
    """The same for uint8 (T, H, W, 3)."""
    if frames.shape[1] <= ROWS:
        return frames
    pictures = _small(torch.from_numpy(frames).movedim(-1, 1).float())
    return pictures.round().clamp(0, 255).byte().movedim(1, -1).numpy()
