"""The way back: from latent actions to what a robot's controls changed, learned from the adapter's episodes.

A ridge on the latent actions of five steps around each, so small that a few episodes suffice. It knows what the frames
show and no more: how well each control can be read from them is measured on episodes left out, and kept beside it.

    inverses/NAME.safetensors   in a checkpoint's folder, beside the robot's other files (`align.robot`)

Axes: T steps, A columns of controls, C numbers of a change, D of a latent action.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from align.embodiment import RobotEmbodiment
from align.recordings import Recording
from align.told_controls import changes_of
from common.checkpoints import find_checkpoint
from common.errors import BadData, UserError
from lam.probes import cross_validated, fit, r2

AROUND = 2
"""Steps before and after each that are looked at, too: a robot lags behind its controls."""


@dataclass(frozen=True)
class Inverse:
    """For one robot, at the rate of its embodiment."""

    weights: np.ndarray
    """float32 ((2 * AROUND + 1) * D, C)."""
    bias: np.ndarray
    """float32 (C,)."""
    code_scale: np.ndarray
    """float32 (D,): the usual size of each value of a latent action."""
    names: tuple[str, ...]
    """Of the C changes (`RobotEmbodiment.relative_names`)."""
    readable: tuple[float | None, ...]
    """(C,) how much of each change's variation it tells in episodes that it did not learn from (R2): 1 all, 0 nothing,
    below 0 worse than the mean. None for one that never changed, and with a single episode."""

    def changes(self, codes: np.ndarray) -> np.ndarray:
        """Latent actions (T, D) -> float64 (T, C): what each step changes (`align.told_controls.changes_of`)."""
        return _around(codes, self.code_scale) @ self.weights.astype(np.float64) + self.bias


def learn_inverse(
    embodiment: RobotEmbodiment,
    recordings: Sequence[Recording],
    codes: Sequence[np.ndarray],
    *,
    code_scale: Sequence[float],
    seed: int = 0,
) -> Inverse:
    """Learn from recordings and the latent actions (T-1, D) that their frames show; a function of its arguments.

    code_scale (D,): the usual size of each value of a latent action.
    """
    scale = np.asarray(code_scale, np.float32)
    told = np.concatenate([_around(part, scale) for part in codes])
    changed = np.concatenate([changes_of(embodiment, r.controls[None], r.before(0)[None])[0] for r in recordings])
    names = [recording.name for recording in recordings for _ in recording.controls]
    probe = fit(told, changed, names, seed=seed)
    bias = probe.predict(np.zeros((1, told.shape[1])))[0]
    weights = probe.predict(np.eye(told.shape[1])) - bias  # it is linear, so that these are all there is to it
    readable: tuple[float | None, ...] = (None,) * changed.shape[1]
    if len(set(names)) > 1:
        scores = r2(cross_validated(told, changed, names, seed=seed), changed)
        readable = tuple(None if np.isnan(score) else float(score) for score in scores)
    return Inverse(weights.astype(np.float32), bias.astype(np.float32), scale, embodiment.relative_names, readable)


def write_inverse(folder: Path, name: str, inverse: Inverse) -> Path:
    """Adds the inverse of the robot `name` to a checkpoint's folder."""
    path = folder / "inverses" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"weights": inverse.weights, "bias": inverse.bias, "code_scale": inverse.code_scale}
    notes = {"names": inverse.names, "readable": inverse.readable}
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, path, {"notes": json.dumps(notes)})
    return path


def read_inverse(checkpoint: Path, name: str) -> Inverse:
    """Of a robot that the checkpoint knows. UserError if it has none, BadData if it is damaged."""
    path = find_checkpoint(checkpoint) / "inverses" / f"{name}.safetensors"
    if not path.exists():
        raise UserError(
            f"{checkpoint} has no way back from latent actions to the controls of '{name}'",
            hint="`understudy align` writes one where the checkpoint has a latent action model; align again.",
        )
    try:
        with safe_open(path, framework="numpy") as file:
            weights, bias, scale = (file.get_tensor(key) for key in ("weights", "bias", "code_scale"))
            notes = json.loads(file.metadata()["notes"])
            inverse = Inverse(weights, bias, scale, tuple(notes["names"]), tuple(notes["readable"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadData(f"{path} cannot be read ({error})") from error
    count = len(inverse.names)
    expected = ((2 * AROUND + 1) * len(scale), count)
    if weights.shape != expected or bias.shape != (count,) or len(inverse.readable) != count:
        raise BadData(f"{path} does not fit itself: weights {weights.shape}, {count} names, {len(bias)} biases")
    return inverse


def _around(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Latent actions (T, D) -> float64 (T, (2 * AROUND + 1) * D): those around each step, outliers bent down (asinh).

    Before the first and after the last nothing is done.
    """
    bent = np.arcsinh(codes.astype(np.float64) / scale)
    padded = np.pad(bent, ((AROUND, AROUND), (0, 0)))
    return np.concatenate([padded[start : start + len(codes)] for start in range(2 * AROUND + 1)], axis=1)
