"""Does a film do what another does? The foreground's path and the camera's, measured by optical flow, and compared.

Nothing is matched place by place: a rollout may show the hand elsewhere than the true film and still do the same.

Axes: B films, T steps (between 1 + T frames), N pairs, 2 = (x, y) in half heights of the picture, right and down.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from common.camera import UNIT as CAMERA_UNIT
from common.camera import estimate, homography, move
from common.flow import UNIT as FLOW_UNIT
from common.flow import local_flow

PAIRS_AT_ONCE = 64
ROWS = 32
"""Of the grid on which motion is measured, or fewer for pictures that have not twice as many."""
BORDER = 2
"""Places of the grid by which what the first frame did not show is widened: the flow looks at windows of five."""
FLOOR = 0.25 * FLOW_UNIT
"""A quarter of a pixel of a picture 64 pixels high: below lies what compression and resampling move."""
MEDIANS = 3.0
"""The floor is at least so many medians of a pair's motion. Most of a picture is background, as it is for the camera's
estimate, so the median is what stands still and seems to move: a rollout's own flicker sets its own floor."""
PATCH = 0.01
"""Share of the picture: a foreground smaller than this fades out instead of giving its few noisy places full weight."""
LEAST_PATH = 0.5 * FLOW_UNIT
"""Root mean square per step, half a pixel of 64: where the foreground moves less, direction says nothing."""
LEAST_SHIFT = 0.25 * FLOW_UNIT
"""The same for the camera."""


@dataclass(frozen=True)
class Motion:
    """What happened between each two frames of B films."""

    camera: Tensor
    """(B, T, 8), see `common.camera`."""
    path: Tensor
    """(B, T, 2): how the foreground moved, the camera's motion taken out; 0 where nothing moves by itself."""

    @property
    def shift(self) -> Tensor:
        """(B, T, 2): how far the whole picture was shifted by the camera: the first two numbers of its motion."""
        return self.camera[..., :2] * CAMERA_UNIT


@torch.no_grad()
def motion_of(films: Tensor) -> Motion:
    """films (B, 1 + T, 3, H, W) in [-1, 1]. Exactly zero for films that stand still."""
    first, second = films[:, :-1].flatten(0, 1), films[:, 1:].flatten(0, 1)  # (N, 3, H, W)
    parts = zip(first.split(PAIRS_AT_ONCE), second.split(PAIRS_AT_ONCE), strict=True)
    cameras, paths = zip(*(_pairs(*part) for part in parts), strict=True)
    shape = (len(films), films.shape[1] - 1)
    return Motion(torch.cat(cameras).unflatten(0, shape), torch.cat(paths).unflatten(0, shape))


def _pairs(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of frames (N, 3, H, W) to the camera's motion (N, 8) and the foreground's (N, 2)."""
    camera = estimate(first, second)
    moved, seen = move(first, camera)
    height, width = first.shape[-2:]
    rows = min(ROWS, height // 2)
    grid = (rows, max(1, round(rows * width / height)))
    # The flow points from the second frame's places back to where they were.
    motion = -local_flow(moved, second, grid) * FLOW_UNIT
    unseen = F.interpolate(1 - seen.to(motion.dtype), size=grid, mode="area")
    unseen = F.max_pool2d(unseen, 2 * BORDER + 1, stride=1, padding=BORDER)
    return camera, foreground_motion(motion * (unseen == 0))


def foreground_motion(motion: Tensor) -> Tensor:
    """Weighted mean of a field (N, 2, rows, columns), by how far each place's motion is above the floor: (N, 2)."""
    speed = motion.norm(dim=1)  # (N, rows, columns)
    floor = (MEDIANS * speed.flatten(1).median(dim=1).values).clamp(min=FLOOR)[:, None, None]
    weight = (speed - floor).clamp(min=0)
    fading = PATCH * FLOOR * speed[0].numel()
    return (motion * weight[:, None]).sum((-2, -1)) / (weight.sum((-2, -1)) + fading)[:, None]


def root_mean_square(path: Tensor) -> Tensor:
    """(B, T, 2) -> (B,): the usual length of a step."""
    return path.square().sum(-1).mean(-1).sqrt()


def cosine(path: Tensor, true: Tensor) -> Tensor:
    """How alike two paths (B, T, 2) are, step by step, whatever their size: (B,), from 1 to -1; 0 without motion."""
    return F.cosine_similarity(path.flatten(1), true.flatten(1), dim=1)


def size_ratio(path: Tensor, true: Tensor) -> Tensor:
    """The length of a path (B, T, 2) over that of the true one, (B,)."""
    return root_mean_square(path) / root_mean_square(true)


def seen_from_first(points: Tensor, camera: Tensor) -> Tensor:
    """Points of each frame (B, 1 + T, 2), moved to where frame 0 shows the same place of a still scene.

    camera (B, T, 8): from each frame to the next.
    """
    steps = homography(camera.flatten(0, 1)).unflatten(0, camera.shape[:2])  # next frame's points to this frame's
    back = [torch.eye(3).to(steps).expand(len(steps), 3, 3)]
    for step in steps.unbind(1):
        back.append(back[-1] @ step)
    corners = torch.cat((points, torch.ones_like(points[..., :1])), dim=-1)
    placed = torch.einsum("btij,btj->bti", torch.stack(back, dim=1), corners)
    return placed[..., :2] / placed[..., 2:]


def frame_change(films: Tensor) -> Tensor:
    """(B, 1 + T, 3, H, W) -> (B,): mean absolute change from frame to frame."""
    return films.diff(dim=1).abs().flatten(1).mean(1)


def slope(values: Tensor, seconds: Tensor) -> Tensor:
    """Least-squares slope per second of values (B, T) at the times (B, T): (B,)."""
    times = seconds - seconds.mean(1, keepdim=True)
    return (times * values).sum(1) / times.square().sum(1)


def sharpness(frames: Tensor) -> Tensor:
    """High-frequency energy of frames (..., 3, H, W) in dB: mean square of what a 3 x 3 mean takes away, (...)."""
    flat = frames.flatten(0, -4)
    fine = flat - F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return 10 * fine.square().flatten(1).mean(1).clamp(min=1e-8).log10().unflatten(0, frames.shape[:-3])
