"""Windows of video as batches: opened from folders, split by file, decoded ahead by worker processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from common.block_stream import Block, block_batches
from common.errors import UserError
from common.folders import Clip, open_folder, split_by_file
from common.training import DataPosition
from video_model.clips import ClipWindows, WindowConfig


@dataclass(frozen=True)
class ClipBatch:
    """Windows of video, on one device."""

    frames: Tensor
    """(B, T, 3, H, W), float in [-1, 1]."""
    names: tuple[str, ...]
    """The clip that each of the B windows comes from."""

    def to(self, device: torch.device | str) -> "ClipBatch":
        return ClipBatch(self.frames.to(device, non_blocking=True), self.names)


def clip_batch(frames: Tensor, names: Sequence[str]) -> ClipBatch:
    """frames uint8 (B, T, H, W, 3) -> ClipBatch."""
    return ClipBatch(frames=frames.movedim(-1, 2).float() / 127.5 - 1, names=tuple(names))


def open_split(paths: Sequence[Path], *, validation_share: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """(training, validation) clips of folders of video, whole files on one side, each folder split by itself.

    UserError if that leaves no file for one of them.
    """
    sides = [split_by_file(open_folder(path).clips, validation_share=validation_share, seed=seed) for path in paths]
    training = [clip for side, _ in sides for clip in side]
    validation = [clip for _, side in sides for clip in side]
    if not training or not validation:
        raise UserError(
            f"training and validation need a clip each; the data folders hold {len(training) + len(validation)}",
            hint="Add clips, or cut a long one into several files.",
        )
    return training, validation


def evaluation_batches(
    clips: Sequence[Clip], config: WindowConfig, *, windows: int, batch_size: int, seed: int
) -> list[ClipBatch]:
    """`windows` windows spread over all of these clips, always the same, in memory. Fewer when the clips give fewer."""
    dense = replace(config, windows_per_frame=1.0, buffer_windows=windows)
    there = ClipWindows(clips, config=dense, batch_size=1, seed=seed).windows
    # One block is one epoch then, and every clip gives its part of it.
    sparse = replace(dense, windows_per_frame=min(1.0, windows / there))
    block = ClipWindows(clips, config=sparse, batch_size=min(windows, there), seed=seed).block(0)
    frames = torch.from_numpy(block.frames).split(batch_size)
    names = [block.clips[clip] for clip in block.clip]
    return [clip_batch(part, names[start * batch_size : (start + 1) * batch_size]) for start, part in enumerate(frames)]


def stream(source: ClipWindows, position: DataPosition, *, workers: int, log: Path | None) -> Iterator[ClipBatch]:
    """Endless batches from `position` on, decoded ahead by `workers` processes (0: by this one).

    log: a JSON line per file that could not be read goes there.
    """
    load = partial(_load, source)
    for frames, names in block_batches(load, position, block_size=source.block_windows, workers=workers, log=log):
        yield clip_batch(frames, names)


def _load(source: ClipWindows, number: int) -> Block:
    block = source.block(number)
    return Block(torch.from_numpy(block.frames), tuple(block.clips[clip] for clip in block.clip), block.bad)
