"""Augmentation of training pairs: the same change to both frames, so that what happens between them stays the same."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lam.loss import PairBatch
from lam.presets import LamAugmentConfig


def augment(batch: PairBatch, config: LamAugmentConfig) -> PairBatch:
    """Mirror, zoom into and brighten each pair at random, drawn from torch's generator. Frames stay in [-1, 1]."""
    frames = batch.frames
    count, device = len(frames), frames.device
    if config.mirror or config.zoom > 1:
        signs = (
            torch.randint(0, 2, (count,), device=device) * 2.0 - 1
            if config.mirror
            else torch.ones(count, device=device)
        )
        frames = crop(frames, *random_windows(count, zoom=config.zoom, device=device), signs)
    if config.brightness:
        offset = torch.empty(count, 1, 1, 1, 1, device=device).uniform_(-config.brightness, config.brightness)
        frames = (frames + 2 * offset).clamp(-1, 1)  # pixels in [0, 1] are half as far apart
    return PairBatch(frames, batch.names, batch.labels)


def random_windows(count: int, *, zoom: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """(side (B,), centre (B, 2)) of windows inside the picture [-1, 1]², with side 1/zoom to 1 of the picture's."""
    side = torch.empty(count, device=device).uniform_(1 / zoom, 1)
    centre = (torch.rand(count, 2, device=device) * 2 - 1) * (1 - side)[:, None]
    return side, centre


def crop(frames: Tensor, side: Tensor, centre: Tensor, signs: Tensor) -> Tensor:
    """Each pair's window, resized bilinearly to the whole frame; sign -1 mirrors it left to right.

    frames (B, 2, 3, H, W); side (B,) and centre (B, 2) as (x, y), in units of half a picture.
    """
    pairs, two, channels, height, width = frames.shape
    zero = torch.zeros_like(side)
    across = torch.stack((side * signs, zero, centre[:, 0]), dim=-1)
    down = torch.stack((zero, side, centre[:, 1]), dim=-1)
    grid = F.affine_grid(torch.stack((across, down), dim=1), [pairs, 1, height, width], align_corners=False)
    # Both frames ride through one sampling as channels.
    sampled = F.grid_sample(frames.flatten(1, 2), grid, padding_mode="border", align_corners=False)
    return sampled.unflatten(1, (two, channels))
