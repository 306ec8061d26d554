"""What a tokenizer loses, given back to a film from its forecast.

A forecast is made of pixels, the video model's film of latents. A small tokenizer shows latents without their finest
grain, and with a flicker of its own that is easily taken for motion. So where the model agrees with the forecast, up to
what the tokenizer blurs, the film shows the forecast itself.

Axes: B samples, T frames.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 0.2
"""Mean difference of two pictures in [-1, 1] at a place at which agreement has fallen to exp(-1)."""
PLACE = 5
"""Side in pixels of a place."""


def with_detail(made: Tensor, *, shown: Tensor, forecast: Tensor) -> Tensor:
    """made: the film's frames, decoded; forecast: frames; shown: these, encoded and decoded. All (B, T, 3, H, W).

    Where made equals shown the result is the forecast, where they differ much it is made.
    """
    difference = (made - shown).flatten(0, 1).abs().mean(1, keepdim=True)  # (B T, 1, H, W)
    near = F.avg_pool2d(F.pad(difference, [PLACE // 2] * 4, mode="replicate"), PLACE, stride=1)
    agreement = torch.exp(-(near / TOLERANCE).square()).unflatten(0, made.shape[:2])
    return torch.lerp(made, forecast, agreement).clamp(-1, 1)
