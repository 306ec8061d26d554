"""How sure a mean over clips is: percentile bootstrap intervals, whole clips drawn with replacement (Efron 1979)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEAST = 1e-12
"""What is divided by, where a clip in which nothing changes is drawn alone."""


@dataclass(frozen=True)
class Interval:
    """A value and the 95 % of its resamples over clips."""

    value: float
    low: float
    high: float


def resamples(clips: int, *, seed: int = 0) -> np.ndarray:
    """(1 + RESAMPLES, C) how often each clip counts: row 0 once each, then drawn with replacement."""
    drawn = np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), size=RESAMPLES)
    return np.concatenate((np.ones((1, clips)), drawn))


def interval_of(values: np.ndarray) -> Interval:
    """values (1 + R,): the value itself, then that of each resample."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return Interval(float(values[0]), float(low), float(high))


def clip_mean(values: np.ndarray, clips: Sequence[str], *, seed: int = 0) -> Interval | None:
    """Mean over the clips of each clip's mean; values (W,), the clip of each row in `clips`.

    Rows that are NaN count nowhere: they stand for what could not be measured. None where nothing is left.
    """
    known = ~np.isnan(values)
    if not known.any():
        return None
    return interval_of(resampled_means(values[known], np.asarray(clips)[known].tolist(), seed=seed))


def resampled_means(values: np.ndarray, clips: Sequence[str], *, seed: int = 0) -> np.ndarray:
    """Mean over the clips of each clip's mean, and that of each resample: values (W, ...), no NaN -> (1 + R, ...)."""
    _, clip_of = np.unique(np.asarray(clips), return_inverse=True)
    of_clip = np.stack([values[clip_of == clip].mean(0) for clip in range(clip_of.max() + 1)])
    return np.tensordot(resamples(len(of_clip), seed=seed), of_clip, axes=1) / len(of_clip)


def ratio(values: np.ndarray, over: np.ndarray, clips: Sequence[str], *, seed: int = 0) -> Interval | None:
    """Mean (W,) over mean (W,), whole clips resampled; None where there is nothing to divide by."""
    above, below = (resampled_means(one, clips, seed=seed) for one in (values, over))
    return interval_of(above / np.maximum(below, LEAST)) if below[0] else None


def root_ratio(squares: np.ndarray, over: np.ndarray, clips: Sequence[str], *, seed: int = 0) -> Interval | None:
    """The root of `ratio`, of squares."""
    found = ratio(squares, over, clips, seed=seed)
    return found and Interval(*(value**0.5 for value in (found.value, found.low, found.high)))
