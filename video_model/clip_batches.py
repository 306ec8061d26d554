"""Windows of video as batches: opened from folders, split by file, decoded ahead by worker processes."""

import itertools
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.errors import UserError
from common.folders import BadFile, Clip, open_folder, printable, split_by_file
from common.training import DataPosition
from video_model.clips import ClipWindows, WindowBlock, WindowConfig


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
    first_block, skip = divmod(position.first_batch * position.batch_size, source.block_windows)
    loader = DataLoader(
        _Blocks(source),
        batch_size=None,
        sampler=_From(first_block),
        num_workers=workers,
        prefetch_factor=1 if workers else None,  # one block is some hundred windows
        worker_init_fn=_leave_signals_to_the_trainer,
    )
    seen: set[BadFile] = set()
    for block in loader:
        if "error" in block:
            raise block["error"]
        _report(set(block["bad"]) - seen, log)
        seen.update(block["bad"])
        for start in range(skip, source.block_windows, position.batch_size):
            part = slice(start, start + position.batch_size)
            yield clip_batch(block["frames"][part], block["names"][part])
        skip = 0


class _Blocks(Dataset):
    """Blocks by number: a map, so that their order does not depend on the workers."""

    def __init__(self, source: ClipWindows) -> None:
        self.source = source

    def __getitem__(self, number: int) -> dict[str, Any]:
        try:
            block: WindowBlock = self.source.block(number)
        except UserError as error:  # raised anew in the training process; torch would wrap it in a traceback
            return {"error": error}
        names = tuple(block.clips[clip] for clip in block.clip)
        return {"frames": torch.from_numpy(block.frames), "names": names, "bad": block.bad}


class _From:
    """first, first + 1, …: the order in which blocks are asked for."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first)


def _leave_signals_to_the_trainer(_: int) -> None:
    # Ctrl-C reaches the whole process group; workers must live until the trainer has saved.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _report(bad: set[BadFile], log: Path | None) -> None:
    for file in sorted(bad, key=lambda file: file.name):
        print(f"left out: {printable(file.name)}: {file.reason}", file=sys.stderr)
        if log:
            with log.open("a") as lines:
                lines.write(json.dumps({"file": file.name, "reason": file.reason}) + "\n")
