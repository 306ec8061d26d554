"""Pictures without their light: grey values as distances from their surroundings' mean, in standard deviations.

Gain and offset of the light cancel, whole or changing slowly over the picture, so what is left moves with the things.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

Function = TypeVar("Function", bound=Callable[..., Tensor])

WINDOW = 9
"""Side in pixels of the surroundings."""
NOISE = 0.03
"""Added to the standard deviation, so that noise on plain surfaces stays small; pixels run from 0 to 1."""


def full_precision(function: Function) -> Function:
    """Runs a function of tensors outside autocast: least squares in bfloat16 would not converge."""

    @functools.wraps(function)
    def run(first: Tensor, *others: object) -> Tensor:
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *others)

    return run  # type: ignore[return-value]


def grey(frames: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, 1, H, W) in [0, 1], by the weights of ITU-R BT.601."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=frames.device, dtype=frames.dtype)
    return ((frames + 1) / 2 * weights[:, None, None]).sum(1, keepdim=True)


def texture(frames: Tensor, *, window: int = WINDOW, noise: float = NOISE) -> Tensor:
    """frames (B, C, H, W) in [0, 1] -> the same shape, mostly within -3 to 3; a plain surface is 0."""
    mean = box_mean(frames, window)
    variance = (box_mean(frames.square(), window) - mean.square()).clamp(min=0)
    return (frames - mean) / (variance.sqrt() + noise)


def texture_at(frames: Tensor, size: tuple[int, int], *, window: int = WINDOW, noise: float = NOISE) -> Tensor:
    """The texture of frames (B, C, H, W) shrunk or grown to `size` and smoothed over 3x3 pixels."""
    if tuple(frames.shape[-2:]) != size:
        shrinks = frames.shape[-2] >= size[0] and frames.shape[-1] >= size[1]
        frames = F.interpolate(frames, size=size, mode="area" if shrinks else "bilinear")
    smooth = F.avg_pool2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return texture(smooth, window=window, noise=noise)


def box_mean(frames: Tensor, window: int) -> Tensor:
    """Mean over a window x window square around each pixel (window odd), over what lies inside the picture."""
    half = window // 2
    across = F.avg_pool2d(frames, (1, window), stride=1, padding=(0, half), count_include_pad=False)
    return F.avg_pool2d(across, (window, 1), stride=1, padding=(half, 0), count_include_pad=False)


def slopes(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Change per pixel to the right and down, by central differences: both of the frames' shape."""
    pad = F.pad(frames, (1, 1, 1, 1), mode="replicate")
    return (pad[..., 1:-1, 2:] - pad[..., 1:-1, :-2]) / 2, (pad[..., 2:, 1:-1] - pad[..., :-2, 1:-1]) / 2
