"""Blocks of training data, loaded ahead by worker processes and cut into batches, the same for any number of them."""

import itertools
import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.errors import UserError
from common.folders import BadFile, printable
from common.training import DataPosition


@dataclass
class Block:
    """So many samples as are shuffled together."""

    frames: Tensor
    """One row per sample."""
    names: tuple[str, ...]
    """The clip that each sample comes from."""
    bad: tuple[BadFile, ...]
    """What could not be read."""


def block_batches(
    load: Callable[[int], Block], position: DataPosition, *, block_size: int, workers: int, log: Path | None
) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
    """Endless (frames, names) of `position.batch_size` rows from `position` on.

    load: block number -> Block of `block_size` samples, a multiple of the batch size; it runs in `workers` processes
    (0: in this one) and goes there pickled. log: a JSON line per file that could not be read goes there.
    """
    first_block, skip = divmod(position.first_batch * position.batch_size, block_size)
    loader = DataLoader(
        _Numbered(load),
        batch_size=None,
        sampler=_From(first_block),
        num_workers=workers,
        prefetch_factor=1 if workers else None,  # one block is some hundred samples
        worker_init_fn=_leave_signals_to_the_trainer,
    )
    seen: set[BadFile] = set()
    for block in loader:
        if isinstance(block, UserError):
            raise block
        _report(set(block.bad) - seen, log)
        seen.update(block.bad)
        for start in range(skip, block_size, position.batch_size):
            part = slice(start, start + position.batch_size)
            yield block.frames[part], block.names[part]
        skip = 0


class _Numbered(Dataset):
    """Blocks by number: a map, so that their order does not depend on the workers."""

    def __init__(self, load: Callable[[int], Block]) -> None:
        self.load = load

    def __getitem__(self, number: int) -> Block | UserError:
        try:
            return self.load(number)
        except UserError as error:  # raised anew in the training process; torch would wrap it in a traceback
            return error


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
