"""What the card measures: anything that turns a pair of frames into a latent action, and maybe back into a frame.

Frames are uint8 RGB (P, H, W, 3), latent actions float32 (P, D). Every subject cuts P into batches by itself.
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from common.errors import BadData, MissingDependency, UserError
from lam.checkpoint import Lam
from lam.data import EVALUATION_BATCH, pair_batch
from lam.loss import kl_nats
from lam.presets import LamModelConfig


class Subject(Protocol):
    """A model, a baseline or a control, with everything that the card asks of it."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames that it takes."""
        ...

    @property
    def blocks(self) -> dict[str, slice]:
        """The named parts of its latent action; together they cover all D columns."""
        ...

    @property
    def decodes(self) -> bool:
        """Whether `decode` may be called."""
        ...

    def encode(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Frames twice -> float32 (P, D). BadData if the answer cannot be used."""
        ...

    def decode(self, first: np.ndarray, z: np.ndarray) -> np.ndarray:
        """First frames and latent actions (P, D) -> second frames. BadData if the answer cannot be used."""
        ...

    def nats(self, first: np.ndarray, second: np.ndarray) -> float | None:
        """Mean KL per pair from the standard normal; None where there is no posterior."""
        ...


def blocks_of(config: LamModelConfig) -> dict[str, slice]:
    """The parts of a model's code: `act` and `cam`, or `z` where there is one part."""
    actions = slice(0, config.latent_dim)
    if not config.camera_dim:
        return {"z": actions}
    return {"act": actions, "cam": slice(config.latent_dim, config.latent_dim + config.camera_dim)}


def columns(blocks: dict[str, slice]) -> int:
    """Length D of a latent action with these blocks."""
    return max(block.stop for block in blocks.values())


class LamSubject:
    """A latent action model. The latent action is the posterior's mean."""

    def __init__(self, model: Lam, *, name: str = "model", decodes: bool = True) -> None:
        self.model = model.eval()
        self.name = name
        self.decodes = decodes
        self.size = (model.config.height, model.config.width)
        self.blocks = blocks_of(model.config)

    @torch.no_grad()
    def encode(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        means = [self.model.encode(self._pairs(first[part], second[part])).code.cpu() for part in _parts(len(first))]
        return checked_codes(torch.cat(means), name=self.name, pairs=len(first), dims=columns(self.blocks))

    @torch.no_grad()
    def decode(self, first: np.ndarray, z: np.ndarray) -> np.ndarray:
        frames = []
        for part in _parts(len(first)):
            pair = self._pairs(first[part], first[part])
            guess = self.model.decode(pair[:, 0], torch.from_numpy(z[part]).to(pair.device))
            if not guess.isfinite().all():
                raise BadData(f"{self.name}: the decoder painted pixels that are no numbers", hint=_NAN_HINT)
            frames.append(((guess.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu())
        return torch.cat(frames).numpy()

    @torch.no_grad()
    def nats(self, first: np.ndarray, second: np.ndarray) -> float:
        parts = _parts(len(first))
        kl = torch.cat([kl_nats(self.model.encode(self._pairs(first[part], second[part]))).cpu() for part in parts])
        return kl.double().mean().item()

    def _pairs(self, first: np.ndarray, second: np.ndarray) -> Tensor:
        """uint8 (B, H, W, 3) twice -> the model's (B, 2, 3, H, W) in [-1, 1], on its device."""
        frames = torch.from_numpy(np.stack((first, second), axis=1))
        return pair_batch(frames.to(next(self.model.parameters()).device), [""] * len(first)).frames


class CallableSubject:
    """A Python function `encode(frames_a, frames_b) -> z`, and `encode.decode(frames_a, z)` where it has one.

    It gets uint8 arrays (B, H, W, 3) and returns an array or tensor (B, D), the same D always; `decode` returns uint8
    frames of the same size. It is tried on two pairs of noise at once, to learn D. BadData if it fails or answers
    anything else.
    """

    def __init__(self, function: Callable[..., Any], *, name: str, size: tuple[int, int]) -> None:
        self.function = function
        self.name = name
        self.size = size
        self.decodes = callable(getattr(function, "decode", None))
        noise = np.random.default_rng(0).integers(0, 256, (2, 2, *size, 3), dtype=np.uint8)
        answer = self._call(function, "encode", noise[0], noise[1])
        self.blocks = {"z": slice(0, checked_codes(answer, name=name, pairs=2).shape[1])}

    def encode(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        dims = columns(self.blocks)
        codes = []
        for part in _parts(len(first)):
            answer = self._call(self.function, "encode", first[part], second[part])
            codes.append(checked_codes(answer, name=self.name, pairs=len(first[part]), dims=dims))
        return np.concatenate(codes)

    def decode(self, first: np.ndarray, z: np.ndarray) -> np.ndarray:
        frames = []
        for part in _parts(len(first)):
            answer = self._call(self.function.decode, "decode", first[part], z[part])  # type: ignore[attr-defined]
            guess = _array(answer)
            if guess.dtype != np.uint8 or guess.shape != first[part].shape:
                raise BadData(
                    f"{self.name}: decode must return uint8 frames of shape {first[part].shape}, "
                    f"not {guess.dtype} of shape {guess.shape}"
                )
            frames.append(guess)
        return np.concatenate(frames)

    def nats(self, first: np.ndarray, second: np.ndarray) -> None:
        return None

    @torch.no_grad()
    def _call(self, function: Callable[..., Any], what: str, *arrays: np.ndarray) -> Any:
        try:
            return function(*(array.copy() for array in arrays))  # a function that writes into its input harms nobody
        except Exception as error:
            raise BadData(
                f"{self.name}: {what} failed with {type(error).__name__}: {error}",
                hint="--debug shows where. It is called with uint8 frames (B, H, W, 3).",
            ) from error


def open_callable(reference: str, *, size: tuple[int, int]) -> CallableSubject:
    """The function named by "module:function", found on the Python path or in the current folder.

    UserError if there is none, MissingDependency if it imports something that is not installed, BadData as
    `CallableSubject` says.
    """
    module_name, separator, attribute = reference.partition(":")
    if not (separator and module_name and attribute):
        raise UserError(f"{reference!r} does not name a function", hint="Write it as module:function.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise UserError(
                f"there is no Python module {error.name!r}",
                hint="It is looked for in the current folder and in PYTHONPATH.",
            ) from error
        raise MissingDependency(
            f"{module_name} imports {error.name!r}, which is not installed", hint=f"pip install what gives {error.name}"
        ) from error
    except Exception as error:
        raise BadData(f"importing {module_name} failed with {type(error).__name__}: {error}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        what = "has no" if function is None else "has something else than a function as"
        functions = sorted(name for name, value in vars(module).items() if callable(value) and name[0] != "_")
        raise UserError(f"{module_name} {what} {attribute!r}", hint=f"It has: {', '.join(functions) or 'none'}.")
    return CallableSubject(function, name=reference, size=size)


def checked_codes(answer: Any, *, name: str, pairs: int, dims: int | None = None) -> np.ndarray:
    """An encoder's answer as float32 (pairs, D). BadData unless it is a finite table of `pairs` rows, `dims` wide."""
    codes = _array(answer)
    if codes.ndim != 2 or len(codes) != pairs or not codes.shape[1]:
        raise BadData(f"{name}: {pairs} frame pairs need latent actions of shape ({pairs}, D), not {codes.shape}")
    if dims is not None and codes.shape[1] != dims:
        raise BadData(
            f"{name}: latent actions have {dims} values and then {codes.shape[1]}; the number must not change"
        )
    if not (np.issubdtype(codes.dtype, np.floating) or np.issubdtype(codes.dtype, np.integer)):
        raise BadData(f"{name}: latent actions must be real numbers, not {codes.dtype}")
    with np.errstate(over="ignore"):  # what overflows is infinite, and named below
        codes = codes.astype(np.float32)
    bad = ~np.isfinite(codes).all(axis=1)
    if bad.any():
        raise BadData(
            f"{name}: {int(bad.sum())} of {pairs} latent actions hold NaN or infinite values, the first in row "
            f"{int(bad.argmax())}",
            hint=_NAN_HINT,
        )
    return codes


_NAN_HINT = "Look for a diverged training run, or for a division by zero where nothing moves."


def _array(answer: Any) -> np.ndarray:
    if isinstance(answer, Tensor):
        answer = answer.detach().cpu()
        answer = answer.float() if answer.dtype == torch.bfloat16 else answer
        return answer.numpy()
    try:
        return np.asarray(answer)
    except (ValueError, TypeError, RuntimeError):  # rows of different lengths, a list of tensors
        return np.asarray(None)


def _parts(rows: int) -> list[slice]:
    return [slice(start, start + EVALUATION_BATCH) for start in range(0, rows, EVALUATION_BATCH)]
