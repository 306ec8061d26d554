"""Brings a robot's changes (`align.control_group`) to numbers of about 1 for a network, and back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError

CLIP = 3.0
"""Normalised values end here. The fastest hundredth of all changes lies above 1; a jump in a recording, or a control
that someone moves for the first time, must not reach the network as 50."""
STILL = 1e-6
"""A column that moves by no more than this, in its own unit, never moves."""
LEAST_SHARE = 0.1
"""A column is scaled as if it moved at least by this share of what the liveliest of its kind and unit does: of an arm
that rested in all episodes, a tremor must not become a network's 1, and a live command to it 500."""


@dataclass(frozen=True)
class Normalisation:
    """(value - centre) / scale, ended at +-3; fitted on changes from the start of chunks of one length."""

    chunk: int
    """Rows in a chunk. Changes over four rows are larger than over one, so they have scales of their own."""
    centre: tuple[float, ...]
    """0 for all but grippers: no change is 0 to the network."""
    scale: tuple[float, ...]
    dead: tuple[str, ...]
    """Names of the columns that never moved. Their scale is 1, and what they do cannot be learned."""

    def __post_init__(self) -> None:
        if len(self.centre) != len(self.scale):
            raise UserError(f"a normalisation has {len(self.centre)} centres and {len(self.scale)} scales")
        if self.chunk < 1 or not all(scale > 0 for scale in self.scale):
            raise UserError(f"a normalisation has the chunk {self.chunk}, and scales from {min(self.scale)} on")

    def normalised(self, relative: np.ndarray) -> np.ndarray:
        """Changes (..., C) as the network takes them, within [-3, 3]; of the type given."""
        values = (np.asarray(relative, np.float64) - self.centre) / self.scale
        return np.clip(values, -CLIP, CLIP).astype(relative.dtype)

    def denormalised(self, normalised: np.ndarray) -> np.ndarray:
        """Changes (..., C) from what the network takes or gives; those that were ended come back smaller."""
        values = np.asarray(normalised, np.float64) * self.scale + self.centre
        return values.astype(normalised.dtype)


def floored(scale: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """Scales (C,), none below `LEAST_SHARE` of the largest among those that have the same number in `alike` (C,)."""
    largest = np.zeros(alike.max() + 1)
    np.maximum.at(largest, alike, scale)
    return np.maximum(scale, LEAST_SHARE * largest[alike])


def fit_normalisation(
    relative_NC: np.ndarray, names: Sequence[str], *, openings: np.ndarray, alike: np.ndarray, chunk: int
) -> Normalisation:
    """From changes (N, C) of training episodes; `openings` (C,) marks grippers, `alike` (C,) what `floored` compares.

    Of the 1 % and 99 % quantiles, the one further from zero becomes 1; for openings they become -1 and 1. A column
    that moves in less than 1 % of the rows is scaled by its extremes.
    """
    assert relative_NC.shape[1] == len(names) == len(openings)
    low, high = np.quantile(relative_NC, (0.01, 0.99), axis=0)
    lowest, highest = relative_NC.min(axis=0), relative_NC.max(axis=0)
    rare = np.where(openings, high - low, np.maximum(-low, high)) <= STILL
    low, high = np.where(rare, lowest, low), np.where(rare, highest, high)
    scale = np.where(openings, (high - low) / 2, np.maximum(np.abs(low), np.abs(high)))
    dead = scale <= STILL
    scale = floored(scale, alike)
    return Normalisation(
        chunk=chunk,
        centre=tuple(np.where(openings, (high + low) / 2, 0.0).tolist()),
        scale=tuple(np.where(dead, 1.0, scale).tolist()),
        dead=tuple(name for name, still in zip(names, dead, strict=True) if still),
    )
