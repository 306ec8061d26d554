"""How far rollouts leave the truth as time goes on, on clips that training never sees.

Three things that PSNR does not tell: whether the foreground still does what it should, whether the picture is still as
sharp, and whether its colours have stayed.

Axes: B windows, T steps (between 1 + T frames).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from video_model.following import LEAST_PATH, motion_of, sharpness
from video_model.generator import Generator
from video_model.presets import TIME_FACTOR
from video_model.rollout import rollout
from video_model.validation import HeldOut

ROLLOUTS_AT_ONCE = 8
DECIBELS = 10.0
"""So many dB of sharpness, lost or invented, weigh as much as a path that is wrong by its whole length."""


@dataclass(frozen=True)
class Decay:
    """Over a stretch of time."""

    path: float
    """Root mean square of the foreground's made steps minus the true ones, over that of the true ones: 0 is perfect, 1
    is no better than standing still (`video_model.following.motion_of`)."""
    sharpness: float
    """dB, made minus true."""
    colour: float
    """Mean difference of the frames' mean colours, of pictures in [-1, 1]."""

    @property
    def score(self) -> float:
        """What a student is judged by, the smaller the better: the path's error and a tenth of |sharpness|."""
        return self.path + abs(self.sharpness) / DECIBELS

    def numbers(self) -> dict[str, float]:
        """All of them by name, for a log."""
        return {"path": self.path, "sharpness": self.sharpness, "colour": self.colour, "score": self.score}


@dataclass(frozen=True)
class Drift:
    """The curve. NaN where a rollout was not finite."""

    seconds: tuple[float, ...]
    """Of the last frame of each latent that was made."""
    by_latent: tuple[Decay, ...]
    late: Decay
    """Over the second half of the time."""


def measure_drift(generator: Generator, held_out: HeldOut) -> Drift:
    """Of rollouts from the first frames under the true actions, as the generator's config samples."""
    parts = []
    for first in range(0, len(held_out.names), ROLLOUTS_AT_ONCE):
        here = slice(first, first + ROLLOUTS_AT_ONCE)
        truth = held_out.frames[here].to(generator.device)
        parts.append(off_truth(rollout(generator, truth[:, 0], held_out.actions[here], seed=first), truth))
    off = torch.cat(parts, dim=1).cpu()  # (4, B, T)
    chunks = off.split(TIME_FACTOR, dim=2)
    fps, length = generator.config.data.fps, off.shape[2]
    return Drift(
        seconds=tuple(min(length, (number + 1) * TIME_FACTOR) / fps for number in range(len(chunks))),
        by_latent=tuple(_decay(chunk) for chunk in chunks),
        late=_decay(off[:, :, length // 2 :]),
    )


def off_truth(made: Tensor, truth: Tensor) -> Tensor:
    """Films (B, 1 + T, 3, H, W) -> (4, B, T): squares of the path's error and of the true path, sharpness, colour."""
    if not made.isfinite().all():
        return torch.full((4, len(made), made.shape[1] - 1), torch.nan)
    path, true = motion_of(made).path, motion_of(truth).path
    made, truth = made[:, 1:].float(), truth[:, 1:]
    numbers = (
        (path - true).square().sum(-1),
        true.square().sum(-1),
        sharpness(made) - sharpness(truth),
        (made.mean((-2, -1)) - truth.mean((-2, -1))).abs().mean(-1),
    )
    return torch.stack(numbers)


def decay_numbers(off: Tensor) -> Tensor:
    """Means (4, ...) of what `off_truth` gives -> (3, ...): the numbers of a `Decay`."""
    error, true, sharp, colour = off
    return torch.stack(((error / true.clamp(min=LEAST_PATH**2)).sqrt(), sharp, colour))


def _decay(off: Tensor) -> Decay:
    """off (4, B, T) as `off_truth` gives it."""
    return Decay(*decay_numbers(off.double().mean((1, 2))).tolist())
