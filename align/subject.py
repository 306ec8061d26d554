"""What is measured of a robot in a video model: whatever makes films of first frames and controls.

Axes: B films, T steps, A columns of controls.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from align.embodiment import RobotEmbodiment
from video_model.films import Reconstruct, checked

Drive = Callable[[Tensor, np.ndarray, np.ndarray, int], Tensor]
"""(first frames (B, 3, H, W) in [-1, 1], controls float32 (B, T, A), those in force before (B, A), seed) -> films
(B, 1 + T, 3, H, W) in [-1, 1]. Sample i of a call is drawn by seed + i."""


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
