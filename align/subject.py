"""What is measured of a robot in a video model: whatever makes films of first frames and controls.

Axes: B films, T steps, A columns of controls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from align.embodiment import RobotEmbodiment
from align.told_controls import RobotWindow
from common.errors import BadData

Drive = Callable[[Tensor, np.ndarray, np.ndarray, int], Tensor]
"""(first frames (B, 3, H, W) in [-1, 1], controls float32 (B, T, A), those in force before (B, A), seed) -> films
(B, 1 + T, 3, H, W) in [-1, 1]. Sample i of a call is drawn by seed + i."""
Reconstruct = Callable[[Tensor], Tensor]
"""Films (B, 1 + T, 3, H, W) in [-1, 1], encoded and decoded."""


@dataclass(frozen=True)
class RobotSubject:
    """A robot, and what makes its films."""

    name: str
    embodiment: RobotEmbodiment
    """At the rate of the films, fitted."""
    drive: Drive
    reconstruct: Reconstruct
    device: torch.device | str = "cpu"

    def film(self, first: Tensor, controls: np.ndarray, before: np.ndarray, *, seed: int) -> Tensor:
        """Films (B, 1 + T, 3, H, W), checked as `checked` does."""
        shape = torch.Size((len(first), 1 + controls.shape[1], *first.shape[1:]))
        return checked(self.drive(first, controls, before, seed), shape)


def true_films(windows: Sequence[RobotWindow], device: torch.device | str) -> Tensor:
    """(B, 1 + T, 3, H, W) in [-1, 1]."""
    frames = torch.from_numpy(np.stack([window.frames for window in windows])).to(device)
    return frames.movedim(-1, 2).float() / 127.5 - 1


def checked(films: Tensor, shape: torch.Size) -> Tensor:
    """The films, float32. ValueError unless of this shape, BadData unless finite."""
    if films.shape != shape:
        raise ValueError(f"expected films of the shape {tuple(shape)}, got {tuple(films.shape)}")
    if not films.isfinite().all():
        raise BadData("the model's films hold NaN or infinite values", hint="Take an earlier checkpoint.")
    return films.float()


def as_pictures(frames: Tensor) -> np.ndarray:
    """(..., 3, H, W) in [-1, 1] -> uint8 (..., H, W, 3)."""
    return ((frames + 1) * 127.5).round().clamp(0, 255).byte().cpu().movedim(-3, -1).numpy()
