"""What moves by itself between two frames: optical flow, computed on textures and not learned.

Lucas and Kanade's least squares over small windows (IJCAI 1981), coarse to fine. It works on textures, so light does
not move, and it is damped, so that plain surfaces stand still rather than drift.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.texture import box_mean, full_precision, grey, slopes, texture_at

UNIT = 1 / 32
"""Flow is measured in this share of half the picture's height: pixels of a picture that is 64 pixels high."""
_WINDOW = 5
_STEPS = 3
_LEAST_ROWS = 12
"""The coarsest level has at least so many rows: below, a hand is not seen any more."""
_DAMPING = 0.05
"""Added to the squared slopes of the texture: far above noise, below an edge."""


@torch.no_grad()
@full_precision
def local_flow(first: Tensor, second: Tensor, grid: tuple[int, int]) -> Tensor:
    """Where the second frame's places were in the first, relative to there: (B, 2, rows, columns) as (x, y).

    first, second (B, 3, H, W) in [-1, 1]; grid: (rows, columns) of the result. In units of `UNIT`. `warp` of the first
    frame by it looks like the second. Exactly zero for equal frames.
    """
    first, second = grey(first.float()), grey(second.float())
    sizes = [grid]
    while sizes[-1][0] // 2 >= _LEAST_ROWS:
        sizes.append((sizes[-1][0] // 2, max(1, sizes[-1][1] // 2)))
    flow = torch.zeros(len(first), 2, *sizes[-1], device=first.device)
    for size in reversed(sizes):
        flow = F.interpolate(flow, size=size, mode="bilinear", align_corners=False)
        flow = _refine(texture_at(first, size), texture_at(second, size), flow)
    return flow


def _refine(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """Textures (B, 1, rows, columns) of one level; a few steps of least squares from the flow so far."""
    unit = 64 / second.shape[-2]  # pixels of this level to units
    right, down = slopes(second)
    xx, xy, yy = box_mean(torch.cat((right * right, right * down, down * down), dim=1), _WINDOW).split(1, dim=1)
    xx, yy = xx + _DAMPING, yy + _DAMPING
    determinant = xx * yy - xy * xy
    for _ in range(_STEPS):
        missing = second - warp(first, flow)
        x, y = box_mean(torch.cat((right * missing, down * missing), dim=1), _WINDOW).split(1, dim=1)
        step = torch.cat((yy * x - xy * y, xx * y - xy * x), dim=1) / determinant
        flow = flow + unit * step.clamp(-2, 2)
    return flow


def warp(frame: Tensor, flow: Tensor) -> Tensor:
    """Each place of the result shows what `frame` (B, C, H, W) shows at that place plus the flow there, bilinearly.

    flow (B, 2, rows, columns) as (x, y) in `UNIT`, grown to the frame's size; places outside show the nearest border.
    """
    height, width = frame.shape[-2:]
    if flow.shape[-2:] != frame.shape[-2:]:
        flow = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)
    with torch.autocast(frame.device.type, enabled=False):
        still = F.affine_grid(torch.eye(2, 3, device=frame.device)[None], [1, 1, height, width], align_corners=False)
    scale = flow.new_tensor([UNIT * height / width, UNIT])  # to shares of half the width, half the height
    return F.grid_sample(frame, still + flow.permute(0, 2, 3, 1) * scale, padding_mode="border", align_corners=False)
