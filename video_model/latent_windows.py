"""Latent windows with their actions: what the video model is trained on, encoded from video as it goes.

A window of 1 + 4k frames gives 1 + k latents. Latent 0 stands for frame 0, latent n for the frames 4n-3 to 4n, so rows
4n-4 to 4n-1 of the actions lead from latent n-1 to latent n.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.training import DataPosition
from video_model.clip_batches import LabelledWindows, clip_batch, labelled_stream
from video_model.clips import ClipWindows
from video_model.tokenizer import Tokenizer


@dataclass(frozen=True)
class LatentBatch:
    """B windows of video as latents, with the actions between their frames, on one device."""

    latents: Tensor
    """(B, C, 1 + k, h, w), float32, normalised as the tokenizer gives them."""
    actions: Tensor
    """(B, 4k, A), float32, as the labels hold them, not scaled; `actions[:, t]` leads from frame t to frame t+1."""
    names: tuple[str, ...]
    """The clip that each of the B windows comes from."""

    def to(self, device: torch.device | str) -> "LatentBatch":
        latents, actions = (part.to(device, non_blocking=True) for part in (self.latents, self.actions))
        return LatentBatch(latents, actions, self.names)


@torch.no_grad()
def encode(tokenizer: Tokenizer, frames: Tensor) -> Tensor:
    """frames uint8 (B, 1 + 4k, H, W, 3) on any device -> latents (B, C, 1 + k, h, w) float32 on the tokenizer's.

    ValueError if the number or the size of the frames does not fit the tokenizer.
    """
    frames = frames.to(tokenizer.latents_mean.device)
    return tokenizer.encode(clip_batch(frames, ()).frames).float()


def encode_windows(tokenizer: Tokenizer, windows: LabelledWindows) -> LatentBatch:
    """The same windows as latents, on the tokenizer's device."""
    latents = encode(tokenizer, windows.frames)
    return LatentBatch(latents, windows.actions.to(latents.device), windows.names)


def encoded_batches(
    source: ClipWindows, tokenizer: Tokenizer, position: DataPosition, *, workers: int, log: Path | None
) -> Iterator[LatentBatch]:
    """Endless batches from `position` on: decoded by `workers` processes (0: by this one), encoded by this one.

    source: windows drawn by labels. log: a JSON line per file that could not be read goes there.
    """
    for windows in labelled_stream(source, position, workers=workers, log=log):
        yield encode_windows(tokenizer, windows)
