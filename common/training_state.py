"""What training must remember between steps, and how it goes to disk and back: weights, average, optimizer, progress.

State dicts are gathered through torch.distributed.checkpoint.state_dict, so that one process, DDP and FSDP2 write and
read the same files. Random numbers need no saving: `seed_step` makes them a function of (seed, step, rank).
"""

import contextlib
import dataclasses
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from common.config import TrainingConfig

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
_SPREAD = StateDictOptions(full_state_dict=True, cpu_offload=False)


@dataclass
class Progress:
    """The part of the state that is plain numbers; goes into `state.json`."""

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    window: dict[str, float] = field(default_factory=dict)
    """Sums since the last line in metrics.jsonl; floats survive JSON exactly."""
    window_updates: int = 0
    validation: dict[str, float] = field(default_factory=dict)
    """The last validation, for the model card."""


class ExponentialMovingAverage:
    """Averaged parameters: average <- decay * average + (1 - decay) * parameter, after every optimizer step.

    The decay warms up as min(decay, (1 + n) / (10 + n)) over the updates n, so that short runs are not mostly their
    random start. Buffers are not averaged. With decay 0 there is no average and `swapped_into` changes nothing.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.parameters = [p.detach().clone() for p in model.parameters()] if decay else []

    @torch.no_grad()
    def update(self, model: nn.Module, *, updates: int) -> None:
        if self.decay:
            decay = min(self.decay, (1 + updates) / (10 + updates))
            for average, parameter in zip(self.parameters, model.parameters(), strict=True):
                average.lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def copy_from(self, model: nn.Module) -> None:
        if self.decay:
            for average, parameter in zip(self.parameters, model.parameters(), strict=True):
                average.copy_(parameter)

    @contextlib.contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """Inside the block the model holds the averaged parameters."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        if self.decay:
            for average, parameter in zip(self.parameters, model.parameters(), strict=True):
                held = parameter.detach().clone()
                parameter.copy_(average)
                average.copy_(held)


def published_tensors(model: nn.Module, ema: ExponentialMovingAverage) -> dict[str, Tensor]:
    """The weights a checkpoint publishes: the average where there is one.

    Collective: call on every rank. With several processes only the first gets tensors, the others an empty dict.
    """
    with ema.swapped_into(model):
        return _weights(model)


def training_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, ema: ExponentialMovingAverage
) -> dict[str, dict[str, Tensor]]:
    """What resuming needs beyond the published weights, by file name. Collective, as `published_tensors`."""
    state = cast(
        dict[str, dict[str, Tensor]], get_optimizer_state_dict(model, optimizer, options=_FULL).get("state", {})
    )
    files = {"optimizer": {f"{name}|{slot}": t for name, slots in state.items() for slot, t in slots.items()}}
    if ema.decay:
        files["weights"] = _weights(model)
    return files


def save_training(folder: Path, files: dict[str, dict[str, Tensor]], progress: Progress) -> None:
    """Write the training part of a checkpoint into `folder`, which is created."""
    folder.mkdir()
    for name, tensors in files.items():
        save_file(
            {key: tensor.detach().cpu().clone() for key, tensor in tensors.items()}, folder / f"{name}.safetensors"
        )
    (folder / "state.json").write_text(json.dumps(dataclasses.asdict(progress)))


def load_training(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: ExponentialMovingAverage
) -> Progress:
    """Fill model, optimizer and average from a checkpoint folder; returns the progress it was saved at."""
    _set_weights(model, checkpoint / "model.safetensors")
    if ema.decay:
        ema.copy_from(model)
        _set_weights(model, checkpoint / "training" / "weights.safetensors")
    state: dict[str, Any] = {}
    for key, tensor in load_file(checkpoint / "training" / "optimizer.safetensors").items():
        name, slot = key.rsplit("|", 1)
        state.setdefault(name, {})[slot] = tensor
    groups = get_optimizer_state_dict(model, optimizer)["param_groups"]
    set_optimizer_state_dict(model, optimizer, {"state": state, "param_groups": groups}, options=_SPREAD)
    return Progress(**json.loads((checkpoint / "training" / "state.json").read_text()))


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then the config's decay to a tenth of the peak at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}[config.decay]
    return config.learning_rate * (share if config.decay == "constant" else 0.1 + 0.9 * share)


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only: biases, norms and single vectors are left alone."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def seed_step(seed: int, step: int, micro: int, rank: int) -> None:
    """Make the random numbers of a forward pass a function of (seed, step, micro-batch, rank), whatever ran before."""
    mixed = int(np.random.SeedSequence([seed, step, micro, rank]).generate_state(1, np.uint64)[0] >> 1)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
    torch.manual_seed(mixed)


def first_non_finite(tensors: dict[str, Tensor]) -> str | None:
    """Name of the first tensor that holds NaN or infinity, if any."""
    return next((n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())), None)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    # A copy: inside `swapped_into` the gathered tensors may share memory with parameters that are about to change.
    return {name: cast(Tensor, tensor).clone() for name, tensor in get_model_state_dict(model, options=_FULL).items()}


def _set_weights(model: nn.Module, path: Path) -> None:
    set_model_state_dict(model, cast(dict[str, Any], load_file(path)), options=_SPREAD)
