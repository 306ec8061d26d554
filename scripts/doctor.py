"""`understudy doctor`: what this machine has, what is missing, and the line that gets it."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.errors import MissingDependency

CORE = (
    "torch",
    "accelerate",
    "diffusers",
    "av",
    "datasets",
    "safetensors",
    "numpy",
    "scipy",
    "pyarrow",
    "simplejpeg",
    "tyro",
)
OPTIONAL = {"mujoco": "sim", "h5py": "hdf5", "starlette": "serve", "ray": "ray"}
TRACKERS = ("tensorboard", "wandb")
CODECS = {"h264": "H.264", "hevc": "HEVC", "libdav1d": "AV1", "vp9": "VP9"}
_LOW_BYTES = 5e9
_LOW_SHARED_BYTES = 1e9


def doctor() -> None:
    table = Table(
        title=f"understudy {_version('understudy')} on Python {platform.python_version()}, {platform.system()}"
    )
    for heading in ("", "found", "to mend it"):
        table.add_column(heading)
    for name in CORE:
        table.add_row(name, _version(name) or "[red]missing", "" if _version(name) else "pip install understudy")
    for name, extra in OPTIONAL.items():
        found = _version(name)
        table.add_row(name, found or "not installed", "" if found else f'pip install "understudy\\[{extra}]"')
    for name in TRACKERS:
        table.add_row(
            name, _version(name) or "not installed", "" if _version(name) else f"optional: pip install {name}"
        )
    for row in [_device(), _rendering(), *_codecs(), *_space()]:
        table.add_row(*row)
    Console().print(table)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _device() -> tuple[str, str, str]:
    import torch

    cores = f"{os.cpu_count()} CPU cores, torch uses {torch.get_num_threads()} threads"
    if not torch.cuda.is_available():
        hint = "" if torch.version.cuda is None else "torch is a CUDA build but finds no device: look at nvidia-smi"
        return "devices", cores, hint
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return "devices", f"{names}; {cores}", ""


def _rendering() -> tuple[str, str, str]:
    from scripts.demo_world import EpisodeSpec, render_episode

    try:
        render_episode(EpisodeSpec(seed=0, body="human", split="train", index=0, frames=2))
    except MissingDependency as error:
        return "demo rendering", str(error), f"{error.hint} (the packaged demo set needs none of it)"
    return "demo rendering", "works", ""


def _codecs() -> list[tuple[str, str, str]]:
    import av

    missing = [shown for name, shown in CODECS.items() if name not in av.codecs_available]
    found = ", ".join(shown for shown in CODECS.values() if shown not in missing)
    return [("video decoders", found, f"no {', '.join(missing)}: use the wheel of av from PyPI" if missing else "")]


def _space() -> list[tuple[str, str, str]]:
    rows = []
    free = shutil.disk_usage(Path.cwd()).free
    rows.append(("disk here", f"{free / 1e9:.0f} GB free", "make room before training" if free < _LOW_BYTES else ""))
    shared = Path("/dev/shm")
    if shared.is_dir():  # data workers hand their batches over in it
        free = shutil.disk_usage(shared).free
        hint = "in Docker: --shm-size=4g, or --training.workers 0" if free < _LOW_SHARED_BYTES else ""
        rows.append(("shared memory", f"{free / 1e9:.1f} GB free", hint))
    return rows
