"""A run's folder: the resolved config, metrics.jsonl, the progress line, and a tracker if one is asked for."""

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from common.checkpoints import write_text
from common.config import TrainingConfig, differences
from common.errors import MissingDependency, UserError

# What may change between two runs of the same command without becoming another experiment.
CHANGEABLE = ("steps", "save_every", "keep", "log_every", "evaluate_every", "workers", "tracker")


def open_run(out: Path, config: dict[str, Any]) -> None:
    """Create the run folder, or check that it holds the same experiment. `config` is the stage's whole config.

    Raises UserError naming each field that differs from the run that is already there.
    """
    path = out / "config.json"
    if path.exists():
        try:
            old = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}", hint="Choose another --out.") from error
        allowed = {f"training.{name}" for name in CHANGEABLE}
        changed = {k: v for k, v in differences(old, json.loads(json.dumps(config))).items() if k not in allowed}
        if changed:
            listed = ", ".join(f"{name}: {before!r} -> {after!r}" for name, (before, after) in changed.items())
            raise UserError(f"{out} holds a run with another config ({listed})", hint="Choose another --out.")
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and holds no run", hint="Choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(config, indent=1))


class MetricsLog:
    """Writes metrics.jsonl, the tracker and a line people can read. Only the main process makes one."""

    def __init__(self, out: Path, *, start: int, config: TrainingConfig, accelerator: Accelerator, title: str) -> None:
        self.path = out / "metrics.jsonl"
        self.config, self.accelerator, self.title = config, accelerator, title
        self._forget_after(start)
        # A bar for people at a terminal; in a log file one line per `log_every` steps instead.
        self.bar = tqdm(total=config.steps, initial=start, desc=title, unit="step", disable=not sys.stderr.isatty())
        self.started, self.start = time.monotonic(), start
        if config.tracker != "none":
            accelerator.init_trackers(title.replace(" ", "-"))

    def _forget_after(self, step: int) -> None:
        """Drop lines that a killed run wrote beyond its last checkpoint: they will be written again."""
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
            write_text(self.path, "".join(f"{line}\n" for line in lines))

    def advance(self) -> None:
        self.bar.update(1)

    def write(self, step: int, values: dict[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.config.tracker != "none":
            self.accelerator.log(values, step=step)

    def show(self, step: int, values: dict[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self.bar.disable:
            per_step = (time.monotonic() - self.started) / max(1, step - self.start)
            left = tqdm.format_interval((self.config.steps - step) * per_step)
            print(f"{self.title} {step}/{self.config.steps}  {shown}  {left} left", file=sys.stderr, flush=True)
        else:
            self.bar.write(f"{step}: {shown}", file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
        if self.config.tracker != "none":
            self.accelerator.end_training()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a kill


def require_tracker(name: str) -> None:
    """Raise MissingDependency unless the tracker is "none" or installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise MissingDependency(f"the tracker {name} is not installed", hint=f"pip install {name}")
