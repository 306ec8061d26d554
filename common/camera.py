"""How the camera moved between two frames: a warp of the whole picture, computed and not learned.

Gauss-Newton alignment of the two frames (inverse compositional: Baker and Matthews, "Lucas-Kanade 20 Years On", IJCV
2004) on grey pictures whose local brightness and contrast are taken out, with Cauchy weights whose scale follows the
median residual. Hands, sleeves and whatever else moves by itself are outliers, so the background decides, even where it
is faint; gentle and hard changes of light do not count.

The camera's motion is 8 numbers: the logarithm of a homography in the basis `_GENERATORS`. All zero means that the
camera stood still, the negative is the way back, and halves are half the way. Coordinates are in half heights of the
picture: y from -1 to 1, x from -width/height to width/height.

Axes: B pairs, N pixels of a level, M starting points, K = 8 parameters.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.texture import full_precision, grey, slopes, texture_at

CAMERA_DIM = 8
UNIT = 0.05
"""One unit of a camera parameter; 0.05 is 1.6 pixels of a picture 64 pixels high."""
_WINDOW, _NOISE = 7, 0.01
"""Of the textures: a faint background tells more of the camera than a strong hand."""
_COARSE, _FINE = 32, 64
"""Rows of the two levels at which frames are aligned."""
_REACH = 7
"""Pixels of the coarse level that the search for a starting point looks around: 22 % of the picture's height."""
_STARTS = 3
"""Starting points that are refined: no motion, and the best two of the search."""
_TRUST_STILL = 0.12
"""A start other than "no motion" must fit better by this share: on plain backgrounds a hand can fit as well."""


def _generator(*entries: tuple[int, int, float]) -> Tensor:
    matrix = torch.zeros(3, 3)
    for row, column, value in entries:
        matrix[row, column] = value
    return matrix


_GENERATORS = torch.stack(
    (
        _generator((0, 2, 1.0)),  # shift to the right
        _generator((1, 2, 1.0)),  # shift down
        _generator((0, 1, -1.0), (1, 0, 1.0)),  # turn
        _generator((0, 0, 1 / 3), (1, 1, 1 / 3), (2, 2, -2 / 3)),  # zoom
        _generator((0, 0, 1.0), (1, 1, -1.0)),  # stretch
        _generator((0, 1, 1.0), (1, 0, 1.0)),  # shear
        _generator((2, 0, 1.0)),  # tilt about the vertical
        _generator((2, 1, 1.0)),  # tilt about the horizontal
    )
)
"""A basis of the 3x3 matrices of trace 0 (the Lie algebra sl(3)); the first 3 or 4 make a stiff picture."""


def homography(camera: Tensor) -> Tensor:
    """camera (B, 8) -> (B, 3, 3): where a point of the second frame was in the first."""
    with torch.autocast(camera.device.type, enabled=False):
        return torch.linalg.matrix_exp(torch.einsum("bk,kij->bij", camera * UNIT, _GENERATORS.to(camera)))


def camera_of(homographies: Tensor) -> Tensor:
    """The inverse of `homography`, for matrices near the identity: (B, 3, 3) -> (B, 8)."""
    matrix = homographies / torch.linalg.det(homographies).pow(1 / 3)[:, None, None]
    rest = matrix - torch.eye(3).to(matrix)
    logarithm, power = torch.zeros_like(rest), rest
    for order in range(1, 13):  # log(I + X) = X - X²/2 + X³/3 - …
        logarithm = logarithm + power * ((-1) ** (order + 1) / order)
        power = power @ rest
    flat = _GENERATORS.to(matrix).flatten(1)
    return logarithm.flatten(1) @ torch.linalg.pinv(flat) / UNIT


def move(frame: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
    """What the frame (B, C, H, W) looks like after the camera's motion (B, 8), if nothing else moves.

    Also where that is known: bool (B, 1, H, W), false for places that the frame did not show, which repeat its border.
    """
    with torch.autocast(frame.device.type, enabled=False):
        height, width = frame.shape[-2:]
        places = _moved_points(
            homography(camera.float()), _points(height, width, width / height, frame.device), width / height
        )
        places = places.unflatten(1, (height, width))
        moved = F.grid_sample(frame.float(), places, padding_mode="border", align_corners=False)
        return moved.to(frame.dtype), (places.abs() <= 1).all(-1)[:, None]


@torch.no_grad()
@full_precision
def estimate(first: Tensor, second: Tensor) -> Tensor:
    """The camera's motion (B, 8) from the first to the second frame, both (B, 3, H, W) in [-1, 1].

    Exactly zero for equal frames. Right where most of what has texture belongs to a background that is flat or far
    away; it finds shifts of up to a fifth of the picture's height. A picture without texture reads as no motion.
    """
    first, second = (grey(frame.float()) for frame in (first, second))
    coarse, fine = _Level.of(first, second, _COARSE), _Level.of(first, second, _FINE)
    starts = _search(coarse)  # (B, M, 3, 3)
    several = coarse.repeated(_STARTS)
    starts = _refine(several, starts.flatten(0, 1), parameters=3, steps=4, scale=1.0)
    costs = fine.repeated(_STARTS).misfit(starts).unflatten(0, (-1, _STARTS))
    costs[:, 0] = costs[:, 0] * (1 - _TRUST_STILL) - 1e-3
    best = starts.unflatten(0, (-1, _STARTS))[torch.arange(len(costs)), costs.argmin(1)]
    best = _refine(fine, best, parameters=4, steps=3, scale=0.7)
    return camera_of(_refine(fine, best, parameters=CAMERA_DIM, steps=4, scale=0.7))


class _Level:
    """Both frames at one size, as textures without light, and how the second would change with each parameter."""

    def __init__(self, first: Tensor, second: Tensor, aspect: float, jacobian: Tensor | None = None) -> None:
        self.first, self.second, self.aspect = first, second, aspect  # (B, 1, h, w)
        self.height, self.width = first.shape[-2:]
        self.points = _points(self.height, self.width, aspect, first.device)  # (N, 3)
        self.jacobian = self._jacobian() if jacobian is None else jacobian  # (B, K, N)

    @staticmethod
    def of(first: Tensor, second: Tensor, rows: int) -> "_Level":
        height, width = first.shape[-2:]
        size = (rows, max(rows // 2, round(rows * width / height)))
        first, second = (texture_at(frame, size, window=_WINDOW, noise=_NOISE) for frame in (first, second))
        return _Level(first, second, width / height)

    def repeated(self, times: int) -> "_Level":
        parts = (self.first, self.second, self.jacobian)
        first, second, jacobian = (part.repeat_interleave(times, 0) for part in parts)
        return _Level(first, second, self.aspect, jacobian)

    def _jacobian(self) -> Tensor:
        right, down = (slope.flatten(1) for slope in slopes(self.second))  # per pixel, (B, N)
        right, down = right * (self.width / self.aspect / 2), down * (self.height / 2)  # per half height
        x, y, _ = self.points.unbind(-1)
        outward = right * x + down * y
        return torch.stack(
            (
                right,
                down,
                down * x - right * y,
                outward,
                right * x - down * y,
                right * y + down * x,
                -outward * x,
                -outward * y,
            ),
            dim=1,
        )

    def residual(self, homographies: Tensor) -> tuple[Tensor, Tensor]:
        """First frame moved onto the second, minus the second; and which pixels the first frame shows: both (B, N)."""
        places = _moved_points(homographies, self.points, self.aspect)
        grid = places.unflatten(1, (self.height, self.width))
        moved = F.grid_sample(self.first, grid, padding_mode="border", align_corners=False)
        return (moved - self.second).flatten(1), places.abs().amax(-1) < 1 - 1 / self.height

    def misfit(self, homographies: Tensor) -> Tensor:
        """Mean of r² / (r² + 0.15²) over the pixels that both frames show: about the share that does not fit, (B,)."""
        residual, seen = self.residual(homographies)
        square = residual.square()
        # Fits are not compared by less than a quarter of the picture.
        least = seen.shape[1] / 4
        return (square / (square + 0.15**2) * seen).sum(1) / seen.sum(1).clamp(min=least)


def _refine(level: _Level, homographies: Tensor, *, parameters: int, steps: int, scale: float) -> Tensor:
    """Gauss-Newton over the first `parameters` generators; scale: that of the Cauchy weights, in median residuals."""
    jacobian = level.jacobian[:, :parameters]
    generators = _GENERATORS[:parameters].to(homographies)
    pixels = jacobian.shape[-1]
    for _ in range(steps):
        residual, seen = level.residual(homographies)
        spread = scale * (residual.abs().median(dim=1, keepdim=True).values + 0.002)
        weighted = jacobian * (seen / (1 + (residual / spread).square()))[:, None]
        curvature = weighted @ jacobian.transpose(1, 2)
        damping = curvature.diagonal(dim1=1, dim2=2) * 1e-3 + 1e-3 * pixels / 64
        step = torch.linalg.solve(curvature + torch.diag_embed(damping), (weighted @ residual[..., None])[..., 0])
        update = torch.einsum("bk,kij->bij", step.clamp(-0.2, 0.2), generators)
        # The step moves the second frame towards the first; its inverse, to first order, is what the first lacks.
        homographies = homographies @ torch.linalg.inv(torch.eye(3).to(update) + update)
        homographies = homographies / homographies[:, 2:, 2:]
    return homographies


def _search(level: _Level) -> Tensor:
    """Starting points (B, M, 3, 3): no motion, then the best local minima over whole-pixel shifts."""
    side = 2 * _REACH + 1
    outside = 1e4
    first = F.pad(level.first[:, 0], (_REACH,) * 4, value=outside)
    costs = []
    for row in range(side):
        shifted = first[:, row : row + level.height].unfold(2, level.width, 1).permute(0, 2, 1, 3)  # (B, side, h, w)
        seen = shifted < outside / 2
        square = (shifted - level.second).square()
        costs.append((square / (square + 0.25**2) * seen).flatten(2).sum(2) / seen.flatten(2).sum(2))
    cost = torch.stack(costs, dim=1)[:, None]  # (B, 1, side, side)
    minimum = cost <= -F.max_pool2d(-cost, 3, stride=1, padding=1)
    best = cost.masked_fill(~minimum, float("inf")).flatten(1).topk(_STARTS - 1, dim=1, largest=False).indices
    starts = torch.eye(3, device=cost.device).repeat(len(cost), _STARTS, 1, 1)
    starts[:, 1:, 0, 2] = (best % side - _REACH) * (2 / level.width * level.aspect)
    starts[:, 1:, 1, 2] = (best // side - _REACH) * (2 / level.height)
    return starts


def _points(height: int, width: int, aspect: float, device: torch.device) -> Tensor:
    """Pixel centres as homogeneous (x, y, 1), row by row: (H * W, 3)."""
    y = (torch.arange(height, device=device) + 0.5) / height * 2 - 1
    x = ((torch.arange(width, device=device) + 0.5) / width * 2 - 1) * aspect
    grid = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((grid[1], grid[0], torch.ones_like(grid[0])), dim=-1).flatten(0, 1)


def _moved_points(homographies: Tensor, points: Tensor, aspect: float) -> Tensor:
    """(B, N, 2): where each homography takes the points, in grid_sample's coordinates (both -1 to 1)."""
    moved = points @ homographies.transpose(1, 2)
    places = moved[..., :2] / moved[..., 2:].clamp(min=0.1)
    return places / places.new_tensor([aspect, 1.0])
