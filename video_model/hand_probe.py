"""Where the hand is in a picture: a small network that learns it from real frames with known places.

Its maps become weighted mean places (spatial soft-argmax, Finn et al., arXiv 1509.06113): it tells places, not looks.
The same network reads other numbers that a picture shows, such as a robot's state (`align.state_probe`).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 600
BATCH = 32
LEARNING_RATE = 1e-2
CHANNELS, MAPS = 32, 8
GAIN, OFFSET = 0.3, 0.15
"""Standard deviations of the random contrast and colour of training pictures: light must not tell the place."""
AT_ONCE = 256

Alter = Callable[[Tensor, torch.Generator], Tensor]
"""Training pictures (B, 3, H, W) in [-1, 1], on the CPU, to what the network learns from."""


class HandProbe(nn.Module):
    """Frames (B, 3, H, W) in [-1, 1] to numbers (B, V): the hand's place as (x, y) in half heights, right and down.

    peaks: the numbers may also depend on how high each map rises, so on what is seen and not only on where.
    """

    def __init__(self, values: int = 2, *, maps: int = MAPS, peaks: bool = False) -> None:
        super().__init__()
        layers, widths = [], ((3, CHANNELS // 2, 2), (CHANNELS // 2, CHANNELS, 2), *[(CHANNELS, CHANNELS, 1)] * 2)
        for channels, out, stride in widths:
            layers += [nn.Conv2d(channels, out, 3, stride=stride, padding=1), nn.GroupNorm(4, out), nn.GELU()]
        self.maps = nn.Sequential(*layers, nn.Conv2d(CHANNELS, maps, 1))
        self.place = nn.Linear((3 if peaks else 2) * maps, values)
        self.peaks = peaks

    def forward(self, frames: Tensor) -> Tensor:
        heights = self.maps(frames)  # (B, M, rows, columns)
        rows, columns = heights.shape[-2:]
        weights = heights.flatten(2).softmax(-1)
        y, x = torch.meshgrid(_centres(rows, rows), _centres(columns, rows), indexing="ij")
        points = torch.stack((x, y), dim=-1).flatten(0, 1).to(weights)  # (rows columns, 2)
        found = (weights @ points).flatten(1)  # (B, 2 M)
        if self.peaks:
            found = torch.cat((found, heights.flatten(2).logsumexp(-1)), dim=1)
        return self.place(found)

    @torch.no_grad()
    def places(self, films: Tensor) -> Tensor:
        """films (B, T, 3, H, W) in [-1, 1] -> (B, T, V)."""
        found = [self(part) for part in films.flatten(0, 1).split(AT_ONCE)]
        return torch.cat(found).unflatten(0, films.shape[:2])


def relit(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Each picture (B, 3, H, W) under other light."""
    gain = 1 + GAIN * torch.randn(len(pictures), 1, 1, 1, generator=random)
    offset = OFFSET * torch.randn(len(pictures), 3, 1, 1, generator=random)
    return pictures * gain + offset


def train_hand_probe(
    frames: np.ndarray, places: np.ndarray, *, seed: int, device: torch.device | str = "cpu", steps: int = STEPS
) -> HandProbe:
    """Learn from real frames uint8 (P, H, W, 3) and where the hand is in each (P, 2); a function of its arguments."""
    return train_probe(
        lambda: HandProbe(values=places.shape[1]), frames, places, alter=relit, seed=seed, device=device, steps=steps
    )


def train_probe(
    build: Callable[[], HandProbe],
    frames: np.ndarray,
    known: np.ndarray,
    *,
    alter: Alter,
    seed: int,
    device: torch.device | str,
    steps: int,
) -> HandProbe:
    """Have a new probe learn the numbers (P, V) that belong to real frames uint8 (P, H, W, 3).

    build: makes it; random weights come from the seed. A function of its arguments.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = build().to(device)
    pictures, wanted = torch.from_numpy(frames).movedim(-1, 1), torch.from_numpy(known).float()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(pictures), (BATCH,), generator=random)
        altered = alter(pictures[rows].float() / 127.5 - 1, random)
        error = F.smooth_l1_loss(probe(altered.to(device)), wanted[rows].to(device), beta=0.1)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


def r2(said: np.ndarray, known: np.ndarray) -> tuple[float, float]:
    """Share of the variance of the places (P, 2) that is told, across and down: 1 is perfect, 0 the mean."""
    across, down = column_r2(said, known)
    return float(across), float(down)


def column_r2(said: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The same for each column of (P, V): (V,). NaN, or minus infinity, for columns that never change."""
    left, all_of_it = ((known - said) ** 2).sum(0), ((known - known.mean(0)) ** 2).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - left / all_of_it


def _centres(count: int, rows: int) -> Tensor:
    """Middles of `count` places in half heights of a picture of `rows` rows."""
    return (2 * torch.arange(count) + 1 - count) / rows
