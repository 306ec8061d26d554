"""Configuration: frozen dataclasses, strict JSON in and out, and the nearest name for a typing mistake.

No torch here: the command line reads these to print its help.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union

from common.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; the same part in every stage's config."""

    steps: int = 1000
    """Optimizer steps in all; running the same command again goes on where it stopped."""
    batch_size: int = 32
    """Samples per optimizer step, over all processes and accumulation."""
    accumulation: int = 1
    """Forward and backward passes that make up one optimizer step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonal steps for matrices (`common.muon`), AdamW for the rest."""
    learning_rate: float = 3e-4
    """Peak learning rate of the optimizer."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from zero."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up, down to a tenth of the peak (constant: no decay)."""
    weight_decay: float = 0.01
    """Decoupled weight decay; matrices only."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.999
    """Decay of the averaged weights that are published; 0 publishes the last weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the network in autocast; weights stay fp32."""
    compile: bool = False
    """Compile the network with torch.compile."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass (gradient checkpointing): less memory, about a third more time."""
    seed: int = 0
    """Decides initial weights, data order and noise."""
    workers: int = 2
    """Data processes per training process; 0 decodes in the training process."""
    log_every: int = 20
    """Steps between lines in metrics.jsonl."""
    save_every: int = 500
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 2
    """Checkpoints kept; older ones are removed once the new one is on disk."""
    evaluate_every: int = 500
    """Steps between validations; the last step is always validated. 0: never."""
    tracker: Literal["none", "tensorboard", "wandb"] = "none"
    """Also log to this tracker; metrics.jsonl is always written."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise UserError(f"training.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("workers", "warmup_steps", "evaluate_every", "weight_decay"):
            if getattr(self, name) < 0:
                raise UserError(f"training.{name} must not be negative, but is {getattr(self, name)}")
        for name in ("learning_rate", "gradient_clip"):
            if getattr(self, name) <= 0:
                raise UserError(f"training.{name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"training.ema_decay must lie in [0, 1), not {self.ema_decay}")


def nearest(name: str, options: Iterable[str]) -> str:
    """'; did you mean X?' when one of `options` is close to `name`, else the list of options."""
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(options)}"


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values (tuples become lists)."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], data: dict[str, Any], *, where: str = "config") -> T:
    """The dataclass `cls` from JSON values; a missing, unknown or ill-typed field is a UserError naming it."""
    assert dataclasses.is_dataclass(cls)
    types_of = typing.get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}
    for key in data:
        if key not in names:
            raise UserError(f"{where} has the unknown field '{key}'; {nearest(key, names)}")
    required = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    for name in required:
        if name not in data:
            raise UserError(f"{where} lacks the field '{name}'")
    return cls(**{key: _value(types_of[key], value, f"{where}.{key}") for key, value in data.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return from_dict(typing.cast(type, kind), value, where=where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where} is {value!r}; it must be one of {', '.join(map(str, arguments))}")
        return value
    if origin in (tuple, list) and isinstance(value, list | tuple):
        if origin is tuple and arguments[-1:] != (Ellipsis,):
            if len(value) != len(arguments):
                raise UserError(f"{where} has {len(value)} values; it needs {len(arguments)}")
            return tuple(_value(a, v, where) for a, v in zip(arguments, value, strict=True))
        return origin(_value(arguments[0], v, where) for v in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise UserError(f"{where} is {value!r}; it must be {kind.__name__}")
    return value


def differences(old: Any, new: Any, *, where: str = "") -> dict[str, tuple[Any, Any]]:
    """Fields whose values differ between two JSON-like trees, as path -> (old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted(set(old) | set(new)):
            found |= differences(old.get(key), new.get(key), where=f"{where}.{key}" if where else key)
        return found
    return {} if old == new else {where: (old, new)}
