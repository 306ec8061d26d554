"""How the light changed between two frames: one gain and one offset for the whole picture, computed and not learned.

Weighted least squares over the pixels that both frames show, with Cauchy weights whose scale follows the median
residual, so that hands and other moving things are outliers. The change is 2 numbers: the logarithm of the affine map
of brightness x -> gain x + offset. All zero means steady light, the negative is the way back, halves are half the way.

Axes: B pairs.
"""

import torch
from torch import Tensor

from common.texture import full_precision

EXPOSURE_DIM = 2
UNIT = 0.05
"""One unit: the logarithm of a gain of 1.05, or an offset of 0.05 where pixels run from -1 to 1."""
_FAINT = 0.002
"""Added to variance and covariance of the pixels: a plain picture tells no gain."""
_STEPS = 5


def expose(frames: Tensor, exposure: Tensor) -> Tensor:
    """frames (B, C, H, W) after a change of the light by exposure (B, 2); not clamped. Zeros change nothing."""
    with torch.autocast(frames.device.type, enabled=False):
        log_gain, shift = (exposure.float() * UNIT)[:, :, None, None, None].unbind(1)
        return (frames.float() * log_gain.exp() + shift * _slope(log_gain)).to(frames.dtype)


@torch.no_grad()
@full_precision
def estimate_exposure(first: Tensor, second: Tensor, seen: Tensor) -> Tensor:
    """The change of light (B, 2) from the first to the second frame, both (B, 3, H, W) in [-1, 1], already aligned.

    seen (B, 1, H, W), 1 where the first frame shows the place, else 0. Exactly zero for equal frames, or where nothing
    is seen.
    """
    first, second = first.float(), second.float()
    weight = seen.float().expand_as(first)
    for _ in range(_STEPS):
        total = _sum(weight).clamp(min=1e-6)
        mean, later = _sum(weight * first) / total, _sum(weight * second) / total
        variance = _sum(weight * (first - mean).square()) / total + _FAINT
        gain = (_sum(weight * (first - mean) * (second - later)) / total + _FAINT) / variance
        gain = gain.clamp(0.1, 10)
        offset = later - gain * mean
        residual = gain * first + offset - second
        scale = 2 * residual.abs().flatten(1).median(dim=1).values[:, None, None, None] + 0.02
        weight = seen / (1 + (residual / scale).square())
    log_gain = gain.log()
    return torch.cat((log_gain, offset / _slope(log_gain)), dim=1)[:, :, 0, 0] / UNIT


def _sum(values: Tensor) -> Tensor:
    return values.sum((1, 2, 3), keepdim=True)


def _slope(log_gain: Tensor) -> Tensor:
    """(e^a - 1) / a: the offset that an offset of 1 per unit of time makes while the gain grows to e^a."""
    still = log_gain.abs() < 1e-4
    return torch.where(still, 1 + log_gain / 2, log_gain.expm1() / log_gain.masked_fill(still, 1.0))
