"""Latent windows with their actions: what the video model is trained on, encoded from video as it goes.

A window of 1 + 4k frames gives 1 + k latents. Latent 0 stands for frame 0, latent n for the frames 4n-3 to 4n, so rows
4n-4 to 4n-1 of the actions lead from latent n-1 to latent n. The forecast of latent n is what the tokenizer makes of
the frames that are forecast from frame 0 and the actions up to there (`video_model.forecast`: or from a later frame).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.training import DataPosition
from video_model.clip_batches import LabelledWindows, clip_batch, labelled_stream
from video_model.clips import ClipWindows
from video_model.forecast import Forecaster
from video_model.presets import TIME_FACTOR
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
    forecasts: Tensor | None = None
    """As the latents: what is forecast of each; zeros for latent 0. None where nothing forecasts."""

    def to(self, device: torch.device | str) -> "LatentBatch":
        latents, actions = (part.to(device, non_blocking=True) for part in (self.latents, self.actions))
        forecasts = None if self.forecasts is None else self.forecasts.to(device, non_blocking=True)
        return LatentBatch(latents, actions, self.names, forecasts)


def row_batches(position: DataPosition, *, count: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of rows below `count` from `position` on: each once in an epoch, which may end in mid-batch.

    A pure function of its arguments; ranks take turns.
    """
    epoch, order = -1, np.empty(0, dtype=np.int64)
    step = position.first_batch
    while True:
        first = (step * position.world_size + position.rank) * position.batch_size
        rows = []
        for sample in range(first, first + position.batch_size):
            if sample // count != epoch:
                epoch = sample // count
                order = np.random.default_rng([seed, epoch]).permutation(count)
            rows.append(int(order[sample % count]))
        yield rows
        step += 1


@torch.no_grad()
def encode(tokenizer: Tokenizer, frames: Tensor) -> Tensor:
    """frames uint8 (B, 1 + 4k, H, W, 3) on any device -> latents (B, C, 1 + k, h, w) float32 on the tokenizer's.

    ValueError if the number or the size of the frames does not fit the tokenizer.
    """
    frames = frames.to(tokenizer.latents_mean.device)
    return tokenizer.encode(clip_batch(frames, ()).frames).float()


@torch.no_grad()
def encode_windows(tokenizer: Tokenizer, windows: LabelledWindows, forecaster: Forecaster | None = None) -> LatentBatch:
    """The same windows as latents, on the tokenizer's device, with forecasts where something forecasts."""
    device = tokenizer.latents_mean.device
    actions = windows.actions.to(device)
    if forecaster is None:
        return LatentBatch(encode(tokenizer, windows.frames), actions, windows.names)
    frames = clip_batch(windows.frames.to(device), ()).frames
    latent, state = tokenizer.encode_next(frames[:, :1], None)
    latents, forecasts, forecast = [latent], [torch.zeros_like(latent)], None
    for before in range(0, actions.shape[1], TIME_FACTOR):  # the frame before the latent's first, and the action there
        told, last = actions[:, before : before + TIME_FACTOR], frames[:, before]
        expected, forecast = forecaster.expect(forecast, told, last=last, seen=state, tokenizer=tokenizer)
        latent, state = tokenizer.encode_next(frames[:, before + 1 : before + 1 + TIME_FACTOR], state)
        forecasts.append(expected)
        latents.append(latent)
    return LatentBatch(torch.cat(latents, 2).float(), actions, windows.names, torch.cat(forecasts, 2).float())


def with_still(windows: LabelledWindows, *, share: float, first: int) -> LabelledWindows:
    """This share of the windows stands still at its first frame and has actions of zeros: they mean that nothing moves.

    first: the number of the first window among all, so that the share is right over many small batches.
    """
    numbers = np.arange(first, first + len(windows.names) + 1, dtype=np.float64)
    still = torch.from_numpy(np.diff(np.floor(numbers * share)) > 0)
    frames = torch.where(still[:, None, None, None, None], windows.frames[:, :1], windows.frames)
    actions = windows.actions.masked_fill(still[:, None, None], 0)
    return LabelledWindows(frames, actions, windows.names)


def encoded_batches(
    source: ClipWindows,
    tokenizer: Tokenizer,
    position: DataPosition,
    *,
    workers: int,
    log: Path | None,
    forecaster: Forecaster | None = None,
    still_share: float = 0.0,
) -> Iterator[LatentBatch]:
    """Endless batches from `position` on: decoded by `workers` processes (0: by this one), encoded by this one.

    source: windows drawn by labels. log: a JSON line per file that could not be read goes there.
    """
    for step, windows in enumerate(labelled_stream(source, position, workers=workers, log=log), position.first_batch):
        first = (step * position.world_size + position.rank) * position.batch_size
        yield encode_windows(tokenizer, with_still(windows, share=still_share, first=first), forecaster)
