"""What a tokenizer loses, given back to a film from its forecast, or from its first frame.

A forecast is made of pixels, the video model's film of latents. A small tokenizer shows latents without their finest
grain, and with a flicker of its own that is easily taken for motion. So where the model agrees with the forecast, up to
what the tokenizer blurs, the film shows the forecast itself.

Under a camera that stands still the same holds for the first frame, for as long as the film goes on: what has never
moved, or comes into view again, need not be remembered by a model that sees a second back.

Axes: B samples, T frames.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 0.2
"""Mean difference of two pictures in [-1, 1] at a place at which agreement has fallen to exp(-1)."""
STILL_TOLERANCE = 0.1
"""The same, for the first frame; with more, what moves leaves a ghost where it was at first (docs/log.md)."""
PLACE = 5
"""Side in pixels of a place."""


def with_detail(made: Tensor, *, shown: Tensor, forecast: Tensor) -> Tensor:
    """made: the film's frames, decoded; forecast: frames; shown: these, encoded and decoded. All (B, T, 3, H, W).

    Where made equals shown the result is the forecast, where they differ much it is made.
    """
    return torch.lerp(made, forecast, agreement(made, shown, tolerance=TOLERANCE)).clamp(-1, 1)


@dataclass(frozen=True)
class FirstFrame:
    """Where a film under a still camera began."""

    frame: Tensor
    """(B, 3, H, W)."""
    shown: Tensor
    """(B, 3, H, W): the same, encoded and decoded, as the last of some frames in which nothing happens."""

    def seen_in(self, film: Tensor, *, made: Tensor) -> Tensor:
        """film (B, T, 3, H, W), the first frame in place of it where made, its frames as decoded, equals `shown`."""
        alike = agreement(made, self.shown[:, None].expand_as(made), tolerance=STILL_TOLERANCE)
        return torch.lerp(film, self.frame[:, None].expand_as(film), alike)


def agreement(made: Tensor, shown: Tensor, *, tolerance: float) -> Tensor:
    """(B, T, 1, H, W) from 0 to 1: how little two films (B, T, 3, H, W) differ at each place."""
    difference = (made - shown).flatten(0, 1).abs().mean(1, keepdim=True)  # (B T, 1, H, W)
    near = F.avg_pool2d(F.pad(difference, [PLACE // 2] * 4, mode="replicate"), PLACE, stride=1)
    return torch.exp(-(near / tolerance).square()).unflatten(0, made.shape[:2])
