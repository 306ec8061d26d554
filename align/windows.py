"""Training windows of robot recordings as latents, all of them in memory: ten to a hundred episodes are small.

The robot's controls enter the video model as changes since the beginning of each latent's chunk of four rows; the
forecaster is told the latent actions that the adapter makes of them.

Axes: P windows, B windows of a batch, C numbers of a change, D of a latent action.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from align.embodiment import RobotEmbodiment
from align.recordings import Recording
from common.errors import UserError
from common.training import DataPosition
from video_model.clip_batches import LabelledWindows
from video_model.forecast import Forecaster
from video_model.latent_windows import LatentBatch, encode_windows, row_batches
from video_model.presets import TIME_FACTOR
from video_model.tokenizer import Tokenizer

ENCODING_BATCH = 16

Translate = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Controls (T, A) and those before them (A,) to latent actions (T, D)."""


@dataclass(frozen=True)
class RobotWindows:
    """P windows, encoded."""

    latents: Tensor
    """(P, Z, 1 + k, h, w), float16."""
    forecasts: Tensor | None
    """As the latents."""
    changes: Tensor
    """float32 (P, 4k, C), normalised, each row since the beginning of its chunk."""
    names: tuple[str, ...]

    def batches(self, position: DataPosition, *, seed: int, hold_share: float) -> Iterator[LatentBatch]:
        """Endless batches from `position` on, a pure function of it and the seed; every window once in an epoch.

        hold_share: so many samples are told each chunk's last row for all its rows, as a live stream holds it.
        """
        batches = row_batches(position, count=len(self.names), seed=seed)
        for step, rows in enumerate(batches, position.first_batch):
            drawn = np.random.default_rng([seed, step, position.rank, 1]).random(len(rows))
            yield LatentBatch(
                latents=self.latents[rows].float(),
                actions=hold_last(self.changes[rows], torch.from_numpy(drawn < hold_share)),
                names=tuple(self.names[row] for row in rows),
                forecasts=None if self.forecasts is None else self.forecasts[rows].float(),
            )


def hold_last(changes: Tensor, held: Tensor) -> Tensor:
    """changes (B, 4k, C): where held (B,), the rows of each chunk are its last."""
    chunks = changes.unflatten(1, (-1, TIME_FACTOR))
    last = chunks[:, :, -1:].expand_as(chunks)
    return torch.where(held[:, None, None, None], last, chunks).flatten(1, 2)


def encode_recordings(
    recordings: Sequence[Recording],
    embodiment: RobotEmbodiment,
    *,
    frames: int,
    every: int,
    tokenizer: Tokenizer,
    forecaster: Forecaster | None,
    translate: Translate | None,
) -> RobotWindows:
    """Windows of `frames` frames that begin at every `every`-th frame of each recording.

    `embodiment` tells rows at the recordings' rate and is fitted. With a forecaster goes `translate`, which says what
    it is told. UserError if no recording is long enough.
    """
    starts = [
        (recording, start) for recording in recordings for start in range(0, len(recording.frames) - frames + 1, every)
    ]
    if not starts:
        raise UserError(
            f"no recording has the {frames} frames of a training window at the model's rate",
            hint="Give longer episodes, or use --mode adapter, which learns from single steps.",
        )
    latents, forecasts, changes = [], [], []
    for first in range(0, len(starts), ENCODING_BATCH):
        part = starts[first : first + ENCODING_BATCH]
        controls = [recording.controls[start : start + frames - 1] for recording, start in part]
        before = [recording.before(start) for recording, start in part]
        told = [
            translate(rows, held) if translate else np.zeros((frames - 1, 0), np.float32)
            for rows, held in zip(controls, before, strict=True)
        ]
        pictures = np.stack([recording.frames[start : start + frames] for recording, start in part])
        names = tuple(recording.name for recording, _ in part)
        windows = LabelledWindows(torch.from_numpy(pictures), torch.from_numpy(np.stack(told)), names)
        batch = encode_windows(tokenizer, windows, forecaster)
        latents.append(batch.latents.half().cpu())
        if batch.forecasts is not None:
            forecasts.append(batch.forecasts.half().cpu())
        relative = embodiment.relative(np.stack(controls), np.stack(before))
        changes.append(torch.from_numpy(embodiment.normalised(relative)).float())
    return RobotWindows(
        latents=torch.cat(latents),
        forecasts=torch.cat(forecasts) if forecasts else None,
        changes=torch.cat(changes),
        names=tuple(recording.name for recording, _ in starts),
    )
