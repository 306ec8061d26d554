"""From a robot's controls to the latent actions that they look like, learned from a few episodes.

What a control looks like depends on where the robot is, and on the controls before it, as a robot lags behind its
targets, and a camera behind the robot. So a latent action is a sum of what the last steps change, times 1, the robot's
place and its products: ridge regression, which two episodes can decide, where a network of many weights learns the
episodes by heart (docs/log.md). How much is trusted is found for each value of a latent action by predicting whole
episodes from the others; a value that cannot be predicted is zero. So are all, whatever the weights, for controls that
change nothing. The products are a kernel's (Scholkopf and Smola, "Learning with Kernels", section 2.1), as 26 joints
have thousands.

Axes: T steps, N that were learned from, C numbers of a change, P of a place, D values of a latent action.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from align.embodiment import RobotEmbodiment
from align.normalisation import floored
from align.recordings import Recording
from align.told_controls import changes_of

HISTORY = 4
"""Steps, the present one among them, that are looked at, at most."""
KERNELS = tuple((history, order) for history in (2, HISTORY) for order in range(3))
"""That are tried: steps that are looked at, and powers of the place."""
PENALTIES = np.array([0.03, 0.3, 3.0, 30.0, 300.0])
"""Of ridge regression, in means of the kernel's diagonal; tried in turn."""
MOST_ROWS = 1500
"""Steps that are learned from; of more, so many spread evenly."""
FOLDS = 5
LEAST_GAIN = 0.1
"""Share of its squares that must be predicted of a value, or it counts as unpredictable."""


@dataclass(frozen=True)
class AdapterInputs:
    """What the adapter is told about T steps in a row."""

    changes: np.ndarray
    """float64 (T, HISTORY, C): what the last steps change, the present one last."""
    places: np.ndarray
    """float64 (T, P): the controls in force before each step, from -1 to 1 over what was seen in training."""


def adapter_inputs(embodiment: RobotEmbodiment, controls: np.ndarray, before: np.ndarray) -> AdapterInputs:
    """Of controls (T, A) and those in force before them (A,); nothing moved before that."""
    (changes,) = changes_of(embodiment, controls[None], before[None])
    in_force = np.concatenate((before[None], controls[:-1])).astype(np.float64)
    places = [group for group in embodiment.groups if group.kind in ("absolute", "gripper")]
    held = [column for group in places for column in range(group.start, group.stop)]
    padded = np.concatenate((np.zeros((HISTORY - 1, changes.shape[1])), changes))
    windows = [padded[start : start + len(changes)] for start in range(HISTORY)]
    low, high = np.array(embodiment.seen, dtype=np.float64).reshape(-1, 2)[held].T
    scaled = (2 * in_force[:, held] - low - high) / np.maximum(high - low, 1e-6)
    return AdapterInputs(np.stack(windows, axis=1), scaled.clip(-1.5, 1.5))


@dataclass(frozen=True)
class Adapter:
    """Kernel ridge regression on the rows that it learned from."""

    change_scale: np.ndarray
    """(C,): the usual size of each change."""
    code_scale: np.ndarray
    """(D,): the usual size of each value of a latent action."""
    changes: np.ndarray
    """(N, HISTORY, C), as in `AdapterInputs`."""
    places: np.ndarray
    """(N, P)."""
    weights: np.ndarray
    """(len(KERNELS), N, D): to latent actions in units of `code_scale`."""

    def codes(self, inputs: AdapterInputs) -> np.ndarray:
        """Latent actions float32 (T, D), as `understudy label` would write them."""
        kernels = _kernels(inputs, AdapterInputs(self.changes, self.places), self.change_scale)
        return (np.einsum("ktn,knd->td", kernels, self.weights) * self.code_scale).astype(np.float32)


def learn_adapter(
    embodiment: RobotEmbodiment,
    recordings: Sequence[Recording],
    codes: Sequence[np.ndarray],
    *,
    code_scale: Sequence[float],
) -> Adapter:
    """Learn from recordings and the latent actions (T-1, D) that their frames show; a function of its arguments.

    code_scale (D,): in which errors are counted.
    """
    inputs = [adapter_inputs(embodiment, recording.controls, recording.before(0)) for recording in recordings]
    changes, places = (np.concatenate([getattr(part, name) for part in inputs]) for name in ("changes", "places"))
    target, episode = np.concatenate(codes) / np.array(code_scale), _episodes([len(part) for part in codes])
    kept = np.linspace(0, len(target) - 1, min(MOST_ROWS, len(target))).round().astype(int)
    known, target, episode = AdapterInputs(changes[kept], places[kept]), target[kept], episode[kept]
    usual = floored(np.sqrt(np.mean(changes[:, -1] ** 2, axis=0)), embodiment.alike)
    scale = np.where(usual > 0, usual, 1.0)
    weights = _ridge(_kernels(known, known, scale), target, episode % FOLDS)
    return Adapter(scale, np.array(code_scale, dtype=np.float64), known.changes, known.places, weights)


def _episodes(lengths: Sequence[int]) -> np.ndarray:
    """The episode of each row. Halves of a single one take the place of two."""
    if len(lengths) == 1:
        lengths = [lengths[0] // 2, lengths[0] - lengths[0] // 2]
    return np.repeat(np.arange(len(lengths)), lengths)


def _kernels(one: AdapterInputs, other: AdapterInputs, change_scale: np.ndarray) -> np.ndarray:
    """(len(KERNELS), T, N): inner products of the last changes, times a power of 1 + that of the places."""
    a, b = (part.changes / change_scale for part in (one, other))
    places = 1 + one.places @ other.places.T
    return np.stack(
        [np.einsum("thc,nhc->tn", a[:, -history:], b[:, -history:]) * places**order for history, order in KERNELS]
    )


def _ridge(kernels: np.ndarray, target: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Weights (len(KERNELS), N, D) for kernels (len(KERNELS), N, N), targets (N, D) and the fold (N,) of each row.

    For each column of the target the kernel and the penalty that predict best the folds that were left out.
    """
    least = (1 - LEAST_GAIN) * np.square(target).sum(0)
    best = np.zeros((len(kernels), *target.shape))
    for place, kernel in enumerate(kernels):
        for penalty in PENALTIES * np.trace(kernel) / len(kernel):
            error = np.zeros_like(least)
            for number in np.unique(fold):
                out, others = fold == number, fold != number
                weights = _solved(kernel[np.ix_(others, others)], target[others], penalty)
                error += np.square(kernel[np.ix_(out, others)] @ weights - target[out]).sum(0)
            better = error < least
            least = np.where(better, error, least)
            if better.any():
                best[:, :, better] = 0
                best[place][:, better] = _solved(kernel, target[:, better], penalty)
    return best


def _solved(kernel: np.ndarray, target: np.ndarray, penalty: float) -> np.ndarray:
    return np.linalg.solve(kernel + penalty * np.eye(len(kernel)), target)
