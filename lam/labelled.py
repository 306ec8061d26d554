"""A few labelled pairs mixed into training: what is known about some transitions, beside video that nobody labelled."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.errors import BadData, UserError
from common.training import DataPosition
from lam.data import pair_batch
from lam.loss import PairBatch
from lam.sequences import EvaluationSet, changes, pairs

HAND_GROUPS = ("hand", "turn", "opening")
"""The factor groups that say what was done, where a set has them; else a robot's `state`."""


@dataclass(frozen=True)
class LabelledPairs:
    """P labelled pairs, in memory."""

    frames: Tensor
    """uint8 (P, 2, H, W, 3), earlier frame first."""
    labels: Tensor
    """float32 (P, d): what changed from one frame to the other, in standard deviations from its mean."""
    share: float
    """Of each training batch."""

    @property
    def dims(self) -> int:
        return self.labels.shape[1]

    @classmethod
    def of(cls, data: EvaluationSet, *, share: float) -> "LabelledPairs":
        """All pairs of a set whose hand, or robot state, is known. BadData where nothing is known or nothing moves."""
        if not 0 < share <= 1:
            raise UserError(f"the labels' share of a batch must lie above 0 and at most at 1, not {share}")
        groups = [group for group in HAND_GROUPS if group in data.fields]
        groups = groups or [group for group in ("state",) if group in data.fields]
        if not groups:
            raise BadData(f"{data.name} has no labels", hint="--labels takes a LeRobot dataset with states.")
        known = [np.concatenate([changes(clip, group) for group in groups], axis=1) for clip in data.sequences]
        values = np.concatenate(known).astype(np.float32)
        values = values[:, values.std(axis=0) > 1e-6]
        if not values.size:
            raise BadData(f"no label of {data.name} ever changes: there is nothing to learn from them")
        found = pairs(data.sequences)
        return cls(
            frames=torch.from_numpy(np.stack((found.first, found.second), axis=1)),
            labels=torch.from_numpy((values - values.mean(axis=0)) / values.std(axis=0)),
            share=share,
        )

    def mixed_into(self, batches: Iterator[PairBatch], position: DataPosition, *, seed: int) -> Iterator[PairBatch]:
        """The batches with the last of their pairs replaced by labelled ones; the others' labels are NaN.

        Which ones is a function of the seed, the rank and the batch's number.
        """
        number = position.first_batch
        for batch in batches:
            count = max(1, round(self.share * len(batch.frames)))
            random = np.random.default_rng([seed, number, position.rank])
            rows = torch.from_numpy(random.integers(len(self.frames), size=count))
            kept = len(batch.frames) - count
            given = pair_batch(self.frames[rows], ["labelled"] * count)
            labels = torch.full((len(batch.frames), self.dims), float("nan"))
            labels[kept:] = self.labels[rows]
            frames = torch.cat((batch.frames[:kept], given.frames))
            yield PairBatch(frames, batch.names[:kept] + given.names, labels)
            number += 1
