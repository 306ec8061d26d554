"""Folders that are on disk whole or not at all.

A checkpoint is a folder that loads from itself alone: `config.json`, `model.safetensors`, a model card `README.md`, and
`manifest.json` with size and CRC-32 of each file. It is written under a temporary name, fsynced and renamed, so that a
kill at any moment leaves either the whole folder or none. Safetensors and JSON only: nothing here can run code.
"""

import contextlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from common.errors import BadData, UserError

MANIFEST = "manifest.json"
_STEP = re.compile(r"step-(\d+)$")
_SPACE_MARGIN = 1.2


@contextlib.contextmanager
def durable_folder(target: Path) -> Iterator[Path]:
    """A folder to fill; at the end of the block it appears at `target`, whole and fsynced. An error leaves no trace.

    An existing `target` is replaced: it stays in place until the new one is on disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    temporary.mkdir()
    try:
        yield temporary
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        manifest = {path.relative_to(temporary).as_posix(): _fingerprint(path) for path in files}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in [*temporary.rglob("*"), temporary]:
            _fsync(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if target.exists():
        old = target.with_name(f".{target.name}.old-{os.getpid()}")
        target.rename(old)
        temporary.rename(target)
        _fsync(target.parent)
        shutil.rmtree(old)
    else:
        temporary.rename(target)
        _fsync(target.parent)


@contextlib.contextmanager
def durable_file(path: Path) -> Iterator[Path]:
    """A name to write to; at the end of the block it becomes `path`: a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        _fsync(temporary)
        temporary.rename(path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a kill leaves the old text or the new one."""
    with durable_file(path) as temporary:
        temporary.write_text(text)


def weights_checksum(folder: Path) -> str:
    """CRC-32 of a checkpoint's weights, to tell whether something was made with this checkpoint."""
    return f"{_fingerprint(folder / 'model.safetensors')['crc32']:08x}"


def verify(folder: Path) -> None:
    """Check each file of the folder against its manifest; BadData names the first that is missing or damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise BadData(f"{folder / MANIFEST} is missing or unreadable: {error}") from error
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file():
            raise BadData(f"{path} is missing")
        if path.stat().st_size != expected["bytes"] or _fingerprint(path) != expected:
            raise BadData(f"{path} is damaged (size or checksum differ from the manifest)")


def save_model(folder: Path, *, tensors: dict[str, torch.Tensor], config: dict[str, Any], card: str) -> None:
    """Write a checkpoint folder, whole or not at all. `card` is the text of its README.md."""
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    require_space(folder, needed)
    with durable_folder(folder) as temporary:
        write_model_files(temporary, tensors=tensors, config=config, card=card)


def write_model_files(folder: Path, *, tensors: dict[str, torch.Tensor], config: dict[str, Any], card: str) -> None:
    """The three files of a checkpoint, into a folder that exists."""
    # A clone, because safetensors refuses views and shared memory.
    save_file(
        {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "README.md").write_text(card)


def load_model_folder(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Config and tensors of a checkpoint folder, or of the newest whole checkpoint of a run folder.

    A folder with a manifest is checked against it; one without (downloaded from elsewhere) is read as it is.
    Raises BadData when something is missing or damaged.
    """
    folder = find_checkpoint(path)
    if (folder / MANIFEST).exists():
        verify(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        return config, load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise BadData(f"{folder} is not a checkpoint: {error}") from error


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder that `path` means: itself, or the newest whole checkpoint of a run folder."""
    path = Path(path)
    if (path / "model.safetensors").exists():
        return path
    if (path / "checkpoints").is_dir():
        newest, damaged = newest_checkpoint(path)
        if newest is not None:
            return newest
        raise BadData(f"{path} holds no whole checkpoint" + "".join(f"; {reason}" for reason in damaged))
    hint = "A checkpoint is a folder with config.json and model.safetensors, or the --out folder of a training run."
    raise UserError(f"{path} is not a checkpoint" if path.exists() else f"{path} does not exist", hint=hint)


def newest_checkpoint(run: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a run that is whole, and a reason for each newer one that is not."""
    damaged = []
    for _, folder in reversed(step_folders(run)):
        try:
            verify(folder)
            return folder, damaged
        except BadData as error:
            damaged.append(str(error))
    return None, damaged


def step_folders(run: Path) -> list[tuple[int, Path]]:
    """(step, folder) of a run's checkpoints, oldest first."""
    found = [
        (int(match[1]), path) for path in (run / "checkpoints").glob("step-*") if (match := _STEP.match(path.name))
    ]
    return sorted(found)


def prune(run: Path, *, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what killed writers left. Call after the newest is on disk."""
    for _, folder in step_folders(run)[:-keep]:
        folder.rename(folder.with_name(f".pruned-{folder.name}"))  # a kill while deleting leaves no half a checkpoint
    for pattern in (".pruned-*", ".step-*.tmp-*"):
        for left in (run / "checkpoints").glob(pattern):
            shutil.rmtree(left)


def require_space(path: Path, needed_bytes: int) -> None:
    """Raise UserError unless the disk of `path` has room for `needed_bytes` and a fifth more."""
    existing = path
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes * _SPACE_MARGIN:
        raise UserError(
            f"{path} needs {needed_bytes * _SPACE_MARGIN / 1e6:.0f} MB of free disk; there are {free / 1e6:.0f} MB",
            hint="Free some space or choose another --out, then run the same command again.",
        )


def _sweep(target: Path) -> None:
    """Remove what a killed writer of `target` left; bring back an old folder that was killed between two renames."""
    for left in target.parent.glob(f".{target.name}.old-*"):
        if target.exists():
            shutil.rmtree(left)
        else:
            left.rename(target)
    for left in target.parent.glob(f".{target.name}.tmp-*"):
        shutil.rmtree(left, ignore_errors=True)


def _fingerprint(path: Path) -> dict[str, int]:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            checksum = zlib.crc32(chunk, checksum)
    return {"bytes": path.stat().st_size, "crc32": checksum}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
