"""Endless textured pictures, known at every point: what a camera's motion does to them is exact, not resampled."""

import math

import torch
from torch import Tensor


class Scene:
    """A sum of random waves in three colours; coordinates are in half heights of the picture, (0, 0) its centre."""

    def __init__(self, seed: int, *, waves: int = 32, longest: float = 1.2, shortest: float = 0.16) -> None:
        random = torch.Generator().manual_seed(seed)
        lengths = shortest * (longest / shortest) ** torch.rand(waves, generator=random, dtype=torch.float64)
        angles = torch.rand(waves, generator=random, dtype=torch.float64) * math.pi
        self.waves = torch.stack((angles.cos(), angles.sin())) * (2 * math.pi / lengths)  # (2, waves)
        self.phases = torch.rand(waves, generator=random, dtype=torch.float64) * 2 * math.pi
        colours = torch.randn(waves, 3, generator=random, dtype=torch.float64)
        self.colours = colours * (lengths[:, None] / longest).sqrt() * (0.45 / math.sqrt(waves / 2))

    def at(self, points: Tensor) -> Tensor:
        """points (..., 2) as (x, y) -> colours (..., 3), mostly within -1 to 1."""
        return torch.sin(points.double() @ self.waves + self.phases) @ self.colours

    def frame(self, size: tuple[int, int], seen_from: Tensor | None = None) -> Tensor:
        """(1, 3, height, width): what a camera sees whose point (x, y, 1) lies at `seen_from` (3, 3) times that."""
        points = centres(size)
        if seen_from is not None:
            homogeneous = torch.cat((points, torch.ones_like(points[..., :1])), dim=-1) @ seen_from.double().T
            points = homogeneous[..., :2] / homogeneous[..., 2:]
        return self.at(points).permute(2, 0, 1)[None].float().clamp(-1, 1)


def centres(size: tuple[int, int]) -> Tensor:
    """The middles of the pixels in half heights: (height, width, 2) as (x, y)."""
    height, width = size
    x = torch.tensor([(2 * column + 1 - width) / height for column in range(width)], dtype=torch.float64)
    y = torch.tensor([(2 * row + 1 - height) / height for row in range(height)], dtype=torch.float64)
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)
