"""A world that does exactly what it is told: a square hand over a large still pattern, and a camera that pans.

Actions are [z_act | z_cam]: the hand's step and the camera's, each in whole pixels as (x, y).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from video_model.held_out import Window

SIZE, SIDE, CANVAS = 64, 14, 192
FPS = 10.0


@dataclass(frozen=True)
class World:
    """One clip's pattern, and where hand and camera begin, in pixels of the canvas."""

    canvas: np.ndarray
    """(CANVAS, CANVAS, 3) uint8."""
    hand: np.ndarray
    camera: np.ndarray

    def film(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions (T, 4) to frames uint8 (1 + T, H, W, 3) and the hand's places in half heights (1 + T, 2)."""
        steps = np.concatenate((np.zeros((1, 4)), np.cumsum(actions, axis=0))).round().astype(int)
        frames, places = [], []
        for step in steps:
            hand, camera = self.hand + step[:2], self.camera + step[2:]
            drawn = self.canvas.copy()
            drawn[hand[1] : hand[1] + SIDE, hand[0] : hand[0] + SIDE] = (250, 200, 90)
            drawn[hand[1] + 4 : hand[1] + SIDE - 4, hand[0] + 4 : hand[0] + SIDE - 4] = (90, 40, 30)
            frames.append(drawn[camera[1] : camera[1] + SIZE, camera[0] : camera[0] + SIZE])
            places.append((hand - camera + SIDE / 2) / (SIZE / 2) - 1)
        return np.stack(frames), np.stack(places)


def make_world(seed: int) -> World:
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, CANVAS // 6, CANVAS // 6, generator=random) * 110 + 20
    canvas = F.interpolate(coarse, size=(CANVAS, CANVAS), mode="bicubic").clamp(0, 255)[0].movedim(0, -1)
    middle = np.array([CANVAS // 2, CANVAS // 2])
    offset = torch.randint(-8, 9, (2,), generator=random).numpy()
    return World(canvas.byte().numpy(), middle - SIDE // 2 + offset, middle - SIZE // 2)


def make_actions(seed: int, steps: int) -> np.ndarray:
    """(T, 4) float32: the hand goes 2 or 3 pixels a step, to and fro; the camera 1 pixel a step on average."""
    random = np.random.default_rng(seed)
    angle = random.uniform(0, 2 * np.pi) + np.arange(steps) * random.choice((-1, 1)) * 0.6
    hand = 3 * np.stack((np.cos(angle), np.sin(angle)), axis=1)
    turn = random.uniform(0, 2 * np.pi) + np.arange(steps) * random.choice((-1, 1)) * 0.9
    camera = 2 * np.stack((np.cos(turn), np.sin(turn)), axis=1)
    return np.concatenate((hand, camera), axis=1).round().astype(np.float32)


def make_windows(clips: int, steps: int) -> list[Window]:
    """One window of each clip; the same clips however many steps."""
    windows = []
    for seed in range(clips):
        actions = make_actions(seed, steps)
        frames, places = make_world(seed).film(actions)
        windows.append(Window(f"clip{seed}", frames, np.arange(steps + 1) / FPS, actions, places))
    return windows


def floats(frames: np.ndarray) -> Tensor:
    """uint8 (..., H, W, 3) -> (..., 3, H, W) in [-1, 1]."""
    return torch.from_numpy(frames).movedim(-1, -3).float() / 127.5 - 1


class Simulator:
    """A perfect model: it knows the worlds by their first frames."""

    def __init__(self, clips: int) -> None:
        self.worlds = [make_world(seed) for seed in range(clips)]
        self.firsts = torch.stack([floats(world.film(np.zeros((0, 4)))[0])[0] for world in self.worlds])

    def __call__(self, first: Tensor, actions: Tensor, seed: int) -> Tensor:
        films = []
        for frame, told in zip(first, actions, strict=True):
            world = self.worlds[int((self.firsts - frame).square().flatten(1).mean(1).argmin())]
            films.append(floats(world.film(told.numpy())[0]))
        return torch.stack(films)
