"""A copy of a checkpoint that is small enough to ship: the same files, the networks' weights in half precision.

    python -m scripts.small_copy CHECKPOINT OUT [--decoder DECODER]

Loaded, they are in single precision again, rounded; films differ by less than a grey level (tests/test_small_copy.py).
"""

import shutil
from pathlib import Path

import torch
import tyro
from safetensors import safe_open
from safetensors.torch import save_file

from common.checkpoints import MANIFEST, durable_folder, find_checkpoint
from common.errors import UserError
from video_model.generator import write_decoder

NETWORK = "model.safetensors"


def small_copy(checkpoint: Path, out: Path, /, decoder: Path | None = None) -> None:
    """Write OUT without training states.

    Args:
        checkpoint: A checkpoint folder, or the folder of a run (its newest checkpoint).
        out: A new folder.
        decoder: A tiny decoder (`understudy train decoder`) that a video model is given on the way.
    """
    if out.exists():
        raise UserError(f"{out} exists already", hint="Choose another folder.")
    with durable_folder(out) as folder:
        left_out = shutil.ignore_patterns("training", MANIFEST)
        shutil.copytree(find_checkpoint(checkpoint), folder, ignore=left_out, dirs_exist_ok=True)
        if decoder:
            write_decoder(folder, decoder)
        for file in sorted(folder.rglob(NETWORK)):
            with safe_open(file, framework="pt") as opened:
                metadata = opened.metadata()
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            halved = {name: _halved(tensor, name=f"{file.parent.name}/{name}") for name, tensor in tensors.items()}
            save_file(halved, file, metadata)


def _halved(tensor: torch.Tensor, *, name: str) -> torch.Tensor:
    """float32 as float16, other types as they are. UserError if a number is too large."""
    if tensor.dtype != torch.float32:
        return tensor
    halved = tensor.half()
    if not halved.isfinite().all():
        raise UserError(f"{name} holds a number that half precision cannot")
    return halved


if __name__ == "__main__":
    tyro.cli(small_copy)
