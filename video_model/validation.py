"""What training of the video model follows on held-out clips: short rollouts with own, another clip's and no actions.

The whole measurement is `video_model.evaluate`. Axes: B windows, T frames, A values of one action.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.folders import Clip
from common.metrics import psnr
from common.sheets import write_sheet
from video_model.clip_batches import clip_batch, labelled_evaluation_windows
from video_model.clips import WindowConfig
from video_model.labels import Labels
from video_model.presets import TIME_FACTOR


@dataclass(frozen=True)
class HeldOut:
    """Windows of clips that training never sees."""

    frames: Tensor
    """(B, 1 + T, 3, H, W), float in [-1, 1]."""
    actions: Tensor
    """(B, T, A), not scaled."""
    names: tuple[str, ...]
    """The clip of each window, sorted."""

    def to(self, device: torch.device) -> "HeldOut":
        return HeldOut(self.frames.to(device), self.actions.to(device), self.names)

    def exchanged(self) -> Tensor:
        """Each window gets the actions of the one half a turn further: of another clip, where no clip has half."""
        return self.actions.roll(len(self.actions) // 2, dims=0)


def held_out_windows(
    clips: Sequence[Clip], labels: Labels, config: WindowConfig, *, windows: int, seed: int
) -> HeldOut:
    """So many windows spread over all of these clips, always the same; fewer when the clips give fewer."""
    found = labelled_evaluation_windows(clips, config, labels=labels, windows=windows, seed=seed)
    order = sorted(range(len(found.names)), key=lambda row: found.names[row])
    frames = clip_batch(found.frames[order], ()).frames
    return HeldOut(frames, found.actions[order], tuple(found.names[row] for row in order))


@dataclass(frozen=True)
class Rollouts:
    """Videos (B, 1 + T, 3, H, W) from the first frames of `HeldOut`."""

    own: Tensor
    shuffled: Tensor
    zero: Tensor


def make_rollouts(roll: Callable[[Tensor, Tensor], Tensor], held_out: HeldOut) -> Rollouts:
    """roll: (first frames (B, 3, H, W), actions (B, T, A)) -> (B, 1 + T, 3, H, W)."""
    first = held_out.frames[:, 0]
    return Rollouts(
        own=roll(first, held_out.actions),
        shuffled=roll(first, held_out.exchanged()),
        zero=roll(first, torch.zeros_like(held_out.actions)),
    )


def follow(rollouts: Rollouts, held_out: HeldOut) -> dict[str, float]:
    """Means over all windows and frames but the first; PSNR in dB.

    psnr, psnr_shuffled, psnr_zero: with own, another clip's, no actions; psnr_copy: the first frame all along. drift:
    what the own rollout loses from its first latent to its last. response: mean change that own actions make
    to the picture, against none, over how much the true pictures differ from the first.
    """
    truth = held_out.frames
    by_frame = frame_psnr(rollouts.own, truth).mean(0)
    moved = (truth[:, 1:] - truth[:, :1]).abs().mean()
    return {
        "psnr": by_frame.mean().item(),
        "psnr_shuffled": frame_psnr(rollouts.shuffled, truth).mean().item(),
        "psnr_zero": frame_psnr(rollouts.zero, truth).mean().item(),
        "psnr_copy": frame_psnr(truth[:, :1].expand_as(truth), truth).mean().item(),
        "drift": (by_frame[:TIME_FACTOR].mean() - by_frame[-TIME_FACTOR:].mean()).item(),
        "response": ((rollouts.own - rollouts.zero)[:, 1:].abs().mean() / moved).item(),
    }


def frame_psnr(guess: Tensor, truth: Tensor) -> Tensor:
    """PSNR in dB of each frame but the first, (B, T); both (B, 1 + T, 3, H, W) in [-1, 1]."""
    pictures = [(frames[:, 1:].flatten(0, 1) + 1) / 2 for frames in (guess, truth)]
    return psnr(*pictures).unflatten(0, (len(truth), -1))


def rollout_sheet(rollouts: Rollouts, held_out: HeldOut, path: Path, *, windows: int = 3, columns: int = 9) -> None:
    """Write a PNG: for some windows, every other frame of the truth and of the three rollouts."""
    rows: list[tuple[str, Tensor]] = []
    step = max(1, len(held_out.names) // windows)
    for number in range(0, step * windows, step)[: len(held_out.names)]:
        named = (
            ("truth", held_out.frames),
            ("own", rollouts.own),
            ("another's", rollouts.shuffled),
            ("none", rollouts.zero),
        )
        rows += [(label, frames[number, ::2][:columns]) for label, frames in named]
    write_sheet(rows, path, label_width=70)
