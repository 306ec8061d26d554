"""Reading other projects' published weights: nothing is executed, and every tensor must have its place."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import BadData, UserError


def read_pickled(source: Path, *, example: str) -> Mapping[str, Any]:
    """What a file of torch.save holds, tensors on the CPU and memory-mapped; never runs code that is in it.

    example: the published file's name, for the hint. UserError if there is no such file; BadData if it is no PyTorch
    file, holds anything but tensors and plain values, or is no mapping.
    """
    if not source.is_file():
        raise UserError(f"{source} is not a file", hint=f"Give the path of the downloaded {example}.")
    try:
        held = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise BadData(
            f"{source} holds more than tensors and plain values, and was not opened because reading it could run code: "
            f"{str(error).splitlines()[0]}",
            hint="If you trust its origin, save it again with nothing but its tensors, then convert that file.",
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise BadData(f"{source} is not a PyTorch checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(held, Mapping):
        raise BadData(f"{source} holds no tensors by name")
    return held


def require_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], source: Path) -> None:
    """BadData unless the tensors have exactly the names and shapes of `expected`."""
    misshapen = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]
    wrong = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "of another shape": misshapen,
    }
    complaints = [f"{len(names)} {what}: {some(names)}" for what, names in wrong.items() if names]
    if complaints:
        raise BadData(f"{source} does not fit the published network; tensors {'; '.join(complaints)}")


def some(names: Sequence[str], limit: int = 8) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
