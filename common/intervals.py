"""How sure a mean over clips is: percentile bootstrap intervals, whole clips drawn with replacement (Efron 1979)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000


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
    _, clip_of = np.unique(np.asarray(clips)[known], return_inverse=True)
    of_clip = np.bincount(clip_of, weights=values[known]) / np.bincount(clip_of)
    return interval_of(resamples(len(of_clip), seed=seed) @ of_clip / len(of_clip))
