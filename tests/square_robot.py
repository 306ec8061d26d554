"""A robot that does at once what it is told: a square over a still pattern, with its place and opening as controls."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from align.control_group import ControlGroup
from align.embodiment import RobotEmbodiment
from align.recordings import Recording
from align.state_probe import StateProbe

SIZE, SIDE = 64, 14
NAMES = ("x", "y", "opening")
BODY = RobotEmbodiment(
    name="square",
    columns=NAMES,
    rate=10.0,
    groups=(ControlGroup("place", 0, 2, "absolute"), ControlGroup("grip", 2, 3, "gripper")),
)


def background(seed: int, *, size: int = SIZE) -> np.ndarray:
    """uint8 (size, size, 3), smooth and never as bright as the square."""
    coarse = np.random.default_rng(seed).integers(20, 130, (size // 8, size // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def draw(pattern: np.ndarray, state: np.ndarray) -> np.ndarray:
    """The square's upper left corner at (x, y) pixels, its blue the opening from 0 to 1."""
    picture = pattern.copy()
    x, y = state[:2].round().astype(int)
    picture[max(y, 0) : y + SIDE, max(x, 0) : x + SIDE] = (250, 200, 40 + round(180 * float(state[2].clip(0, 1))))
    return picture


def recording(seed: int, *, frames: int = 20, size: int = SIZE, left: bool = False) -> Recording:
    """The square circles slowly; left: in the left half of the picture."""
    random = np.random.default_rng(seed)
    turn = random.uniform(0, 6.28) + random.choice((-1, 1)) * 0.2 * np.arange(frames)
    middle, reach = (size - SIDE) / 2, size / 5
    across = 4 + 3 * (1 + np.cos(turn)) if left else middle + reach * np.cos(turn)
    states = np.stack((across, middle + reach * np.sin(turn), 0.5 + 0.4 * np.sin(1.7 * turn)), axis=1)
    states[:, :2] = states[:, :2].round()
    pictures = np.stack([draw(background(seed, size=size), state) for state in states])
    return Recording(f"episode {seed}", pictures, states[1:].astype(np.float32), states.astype(np.float32))


def fitted(recordings: Sequence[Recording]) -> RobotEmbodiment:
    return BODY.fitted([one.controls for one in recordings])


class Player:
    """A perfect model: it knows each episode's pattern by the first frame."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.patterns = [background(seed) for seed in seeds]

    def __call__(self, first: Tensor, controls: np.ndarray, before: np.ndarray, seed: int) -> Tensor:
        films = []
        for frame, rows in zip(first, controls, strict=True):
            pixels = ((frame + 1) * 127.5).round().byte().movedim(0, -1).numpy()
            pattern = min(self.patterns, key=lambda one: int((one != pixels).sum()))
            films.append(np.stack([pixels, *(draw(pattern, row) for row in rows)]))
        return torch.from_numpy(np.stack(films)).movedim(-1, 2).float() / 127.5 - 1


def seen(films: Tensor) -> Tensor:
    """The true state (B, T, 3), read from the pixels; the middle of the picture where no square is."""
    square = (films[:, :, 0] > 0.85).float()  # (B, T, H, W)
    many = square.sum((-2, -1))
    ramp = torch.arange(films.shape[-1]).float()
    x, y = ((square.sum(axis) * ramp).sum(-1) / many - (SIDE - 1) / 2 for axis in (-2, -1))
    blue = ((films[:, :, 2] + 1) * 127.5 * square).sum((-2, -1)) / many
    return torch.stack((x, y, (blue - 40) / 180), dim=-1).nan_to_num(SIZE / 2)


def perfect_probe(recordings: Sequence[Recording]) -> StateProbe:
    states = np.concatenate([one.states for one in recordings if one.states is not None]).astype(np.float64)
    mean, scale = states.mean(0), states.std(0)

    def find(films: Tensor) -> Tensor:
        return (seen(films) - torch.from_numpy(mean).float()) / torch.from_numpy(scale).float()

    return StateProbe(NAMES, mean, scale, find, episodes=len(recordings))
