"""Where the hand is in a picture: a small network that learns it from real frames with known places.

Its maps become weighted mean places (spatial soft-argmax, Finn et al., arXiv 1509.06113): it tells places, not looks.
"""

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


class HandProbe(nn.Module):
    """Frames (B, 3, H, W) in [-1, 1] to the hand's place (B, 2) as (x, y) in half heights, right and down."""

    def __init__(self) -> None:
        super().__init__()
        layers, widths = [], ((3, CHANNELS // 2, 2), (CHANNELS // 2, CHANNELS, 2), *[(CHANNELS, CHANNELS, 1)] * 2)
        for channels, out, stride in widths:
            layers += [nn.Conv2d(channels, out, 3, stride=stride, padding=1), nn.GroupNorm(4, out), nn.GELU()]
        self.maps = nn.Sequential(*layers, nn.Conv2d(CHANNELS, MAPS, 1))
        self.place = nn.Linear(2 * MAPS, 2)

    def forward(self, frames: Tensor) -> Tensor:
        weights = self.maps(frames)  # (B, M, rows, columns)
        rows, columns = weights.shape[-2:]
        weights = weights.flatten(2).softmax(-1)
        y, x = torch.meshgrid(_centres(rows, rows), _centres(columns, rows), indexing="ij")
        points = torch.stack((x, y), dim=-1).flatten(0, 1).to(weights)  # (rows columns, 2)
        return self.place((weights @ points).flatten(1))

    @torch.no_grad()
    def places(self, films: Tensor) -> Tensor:
        """films (B, T, 3, H, W) in [-1, 1] -> (B, T, 2)."""
        found = [self(part) for part in films.flatten(0, 1).split(AT_ONCE)]
        return torch.cat(found).unflatten(0, films.shape[:2])


def train_hand_probe(
    frames: np.ndarray, places: np.ndarray, *, seed: int, device: torch.device | str = "cpu", steps: int = STEPS
) -> HandProbe:
    """Learn from real frames uint8 (P, H, W, 3) and where the hand is in each (P, 2); a function of its arguments."""
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = HandProbe().to(device)
    pictures, known = torch.from_numpy(frames).movedim(-1, 1), torch.from_numpy(places).float()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(pictures), (BATCH,), generator=random)
        gain = 1 + GAIN * torch.randn(BATCH, 1, 1, 1, generator=random)
        offset = OFFSET * torch.randn(BATCH, 3, 1, 1, generator=random)
        lit = (pictures[rows].float() / 127.5 - 1) * gain + offset
        error = F.smooth_l1_loss(probe(lit.to(device)), known[rows].to(device), beta=0.1)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


def r2(said: np.ndarray, known: np.ndarray) -> tuple[float, float]:
    """Share of the variance of the places (P, 2) that is told, across and down: 1 is perfect, 0 the mean."""
    left = ((known - said) ** 2).sum(0) / ((known - known.mean(0)) ** 2).sum(0)
    return 1 - float(left[0]), 1 - float(left[1])


def _centres(count: int, rows: int) -> Tensor:
    """Middles of `count` places in half heights of a picture of `rows` rows."""
    return (2 * torch.arange(count) + 1 - count) / rows
