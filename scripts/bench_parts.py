"""What the benches share: the clock, the machine's name and memory, the file of numbers."""

from __future__ import annotations

import datetime
import json
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def seconds_of(run: Callable[[], object], device: str) -> float:
    """Wall time of one call, with all work on the device done."""
    import torch

    def finish() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    finish()
    started = time.perf_counter()
    run()
    finish()
    return time.perf_counter() - started


def device_name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def peak_gigabytes(device: torch.device) -> float:
    """Most memory that tensors took on a GPU so far; on a CPU, that the whole process took."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def write_numbers(path: Path, numbers: dict[str, Any]) -> None:
    """As JSON, with the date and the version of torch before them."""
    import torch

    about = {"date": datetime.date.today().isoformat(), "torch": torch.__version__}
    path.write_text(json.dumps({**about, **numbers}, indent=2) + "\n")
