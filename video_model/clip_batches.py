"""Windows of video as batches: opened from folders, split by file, decoded ahead by worker processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.block_stream import Block, block_batches
from common.errors import UserError
from common.folders import Clip, open_folder, split_by_file
from common.training import DataPosition
from video_model.clips import ClipWindows, WindowBlock, WindowConfig
from video_model.labels import Labels


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
    block = _evaluation_block(clips, config, labels=None, windows=windows, seed=seed)
    frames = torch.from_numpy(block.frames).split(batch_size)
    names = [block.clips[clip] for clip in block.clip]
    return [clip_batch(part, names[start * batch_size : (start + 1) * batch_size]) for start, part in enumerate(frames)]


def _evaluation_block(
    clips: Sequence[Clip], config: WindowConfig, *, labels: Labels | None, windows: int, seed: int
) -> WindowBlock:
    dense = replace(config, windows_per_frame=1.0, buffer_windows=windows)
    there = ClipWindows(clips, config=dense, batch_size=1, seed=seed, labels=labels).windows
    # One block is one epoch then, and every clip gives its part of it.
    sparse = replace(dense, windows_per_frame=min(1.0, windows / there))
    return ClipWindows(clips, config=sparse, batch_size=min(windows, there), seed=seed, labels=labels).block(0)


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


@dataclass(frozen=True)
class LabelledWindows:
    """Windows of video with the actions between their frames, on the CPU."""

    frames: Tensor
    """uint8 (B, T, H, W, 3)."""
    actions: Tensor
    """float32 (B, T-1, A); `actions[:, t]` is the change from frame t to frame t+1."""
    names: tuple[str, ...]
    """The clip that each of the B windows comes from."""


def labelled_block(block: WindowBlock, labels: Labels) -> LabelledWindows:
    """All windows of a block with their actions. BadData when the labels of a clip are not those of its frames."""
    actions = np.empty((len(block.clip), block.seconds.shape[1] - 1, labels.dim), dtype=np.float32)
    names = [block.clips[clip] for clip in block.clip]
    for row in np.argsort(block.clip, kind="stable"):  # clip by clip: each is read once
        actions[row] = labels.actions(names[row], block.seconds[row])
    return LabelledWindows(torch.from_numpy(block.frames), torch.from_numpy(actions), tuple(names))


def labelled_stream(
    source: ClipWindows, position: DataPosition, *, workers: int, log: Path | None
) -> Iterator[LabelledWindows]:
    """As `stream`, with the actions of the windows; `source` draws them by labels."""
    labels = source.segments.labels
    assert labels, "the source has no labels"
    row = _labelled_row(source.config, labels)
    load = partial(_load_labelled, source, labels)
    for rows, names in block_batches(load, position, block_size=source.block_windows, workers=workers, log=log):
        both = rows.numpy().view(row)[:, 0]
        frames, actions = (torch.from_numpy(np.ascontiguousarray(both[part])) for part in ("frames", "actions"))
        yield LabelledWindows(frames, actions, names)


def labelled_evaluation_windows(
    clips: Sequence[Clip], config: WindowConfig, *, labels: Labels, windows: int, seed: int
) -> LabelledWindows:
    """As `evaluation_batches`, with the actions of the windows, all in one."""
    return labelled_block(_evaluation_block(clips, config, labels=labels, windows=windows, seed=seed), labels)


def _labelled_row(config: WindowConfig, labels: Labels) -> np.dtype:
    """How a window's frames and actions lie in one row of bytes, as `block_batches` takes it."""
    frames = ("frames", "u1", (config.frames, config.height, config.width, 3))
    return np.dtype([frames, ("actions", "f4", (config.frames - 1, labels.dim))])


def _load_labelled(source: ClipWindows, labels: Labels, number: int) -> Block:
    block = source.block(number)
    windows = labelled_block(block, labels)
    rows = np.empty((len(windows.names), 1), dtype=_labelled_row(source.config, labels))
    rows["frames"][:, 0], rows["actions"][:, 0] = windows.frames.numpy(), windows.actions.numpy()
    return Block(torch.from_numpy(rows.view(np.uint8)), windows.names, block.bad)
