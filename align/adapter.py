"""From a robot's controls to the latent actions that they look like, learned from a few episodes.

What a control looks like depends on where the robot is, and on the control before it, as a robot lags behind its
targets. So a latent action is a sum of what the last steps change, times 1, the robot's place and its products: ridge
regression, which two episodes of film can decide, where a network of many weights learns the episodes by heart
(docs/log.md). How much is trusted is found for each value of a latent action by predicting whole episodes from the
others; a value that cannot be predicted is zero. So are all, whatever the weights, for controls that change nothing.

Axes: T steps, C numbers of a change, P of a place, M = 1 + P + P (P + 1) / 2 products, D values of a latent action.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from align.embodiment import RobotEmbodiment
from align.recordings import Recording

HISTORY = 2
"""Steps, the present one among them, that are looked at."""
PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4)
"""Of ridge regression, for inputs of size 1; tried in turn."""
FOLDS = 5
LEAST_GAIN = 0.03
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
    controls, before = controls.astype(np.float64), before.astype(np.float64)
    changes = embodiment.relative(controls, before, chunk=1)
    in_force = np.concatenate((before[None], controls[:-1]))
    first, held = 0, []
    for group in embodiment.groups:
        columns = range(group.start, group.stop)
        if group.kind == "gripper":  # openings are not differenced; here what changes is asked for
            changes[:, first : first + group.width] = controls[:, columns] - in_force[:, columns]
        held += columns if group.kind in ("absolute", "gripper") else []
        first += group.relative_width
    padded = np.concatenate((np.zeros((HISTORY - 1, changes.shape[1])), changes))
    windows = [padded[start : start + len(changes)] for start in range(HISTORY)]
    low, high = np.array(embodiment.seen, dtype=np.float64).reshape(-1, 2)[held].T
    places = (2 * in_force[:, held] - low - high) / np.maximum(high - low, 1e-6)
    return AdapterInputs(np.stack(windows, axis=1), places.clip(-1.5, 1.5))


@dataclass(frozen=True)
class Adapter:
    change_scale: np.ndarray
    """(C,): the usual size of each change."""
    code_scale: np.ndarray
    """(D,): the usual size of each value of a latent action."""
    weights: np.ndarray
    """(M * HISTORY * C, D): to latent actions in units of `code_scale`."""

    def codes(self, inputs: AdapterInputs) -> np.ndarray:
        """Latent actions float32 (T, D), as `understudy label` would write them."""
        return (_products(inputs, self.change_scale) @ self.weights * self.code_scale).astype(np.float32)


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
    usual = np.sqrt(np.mean(np.concatenate([part.changes[:, -1] for part in inputs]) ** 2, axis=0))
    scale, units = np.where(usual > 0, usual, 1.0), np.array(code_scale, dtype=np.float64)
    x = [_products(part, scale) for part in inputs]
    y = [part / units for part in codes]
    if len(x) == 1:  # halves of the one episode take the place of episodes
        x, y = ([half for part in parts for half in np.array_split(part, 2)] for parts in (x, y))
    return Adapter(scale, units, _ridge(x, y, width=_widths(inputs[0])))


def _widths(inputs: AdapterInputs) -> tuple[int, ...]:
    """How many of the products are of the place's order 0, of 0 and 1, and of all."""
    places = inputs.places.shape[1]
    return 1, 1 + places, 1 + places + places * (places + 1) // 2


def _products(inputs: AdapterInputs, change_scale: np.ndarray) -> np.ndarray:
    """(T, M * HISTORY * C), the products of order 0 first."""
    places = inputs.places
    rows, columns = np.triu_indices(places.shape[1])
    factors = np.concatenate((np.ones((len(places), 1)), places, places[:, rows] * places[:, columns]), axis=1)
    changes = (inputs.changes / change_scale).reshape(len(places), -1)
    return (factors[:, :, None] * changes[:, None, :]).reshape(len(places), -1)


def _ridge(x: Sequence[np.ndarray], y: Sequence[np.ndarray], *, width: tuple[int, ...]) -> np.ndarray:
    """Weights (M * HISTORY * C, D) for episodes x (T, M * HISTORY * C) and y (T, D).

    For each column of y the penalty, and the order of the products that are used, predict episodes best that were left
    out.
    """
    folds = [range(first, len(x), min(FOLDS, len(x))) for first in range(min(FOLDS, len(x)))]
    squares, moments = np.array([part.T @ part for part in x]), np.array([a.T @ b for a, b in zip(x, y, strict=True)])
    total = sum(np.square(part).sum(0) for part in y)
    least = (1 - LEAST_GAIN) * total
    best = np.zeros((x[0].shape[1], y[0].shape[1]))
    for factors in width:
        used = factors * x[0].shape[1] // width[-1]
        for penalty in PENALTIES:

            def solve(left_out: Sequence[int], used: int = used, penalty: float = penalty) -> np.ndarray:
                kept = [episode for episode in range(len(x)) if episode not in left_out]
                square = squares[kept].sum(0)[:used, :used] + penalty * np.eye(used)
                return np.linalg.solve(square, moments[kept].sum(0)[:used])

            error = np.zeros_like(least)
            for fold in folds:
                weights = solve(fold)
                error += sum(np.square(x[episode][:, :used] @ weights - y[episode]).sum(0) for episode in fold)
            better = error < least
            least = np.where(better, error, least)
            best[:, better] = 0
            best[:used, better] = solve(())[:, better]
    return best
