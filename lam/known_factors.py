"""What can be read from latent actions where it is known what changed: hands, camera, light, joints.

P pairs, D code values. `changes` holds, per factor group, what changed over each pair (P, d), row by row as the codes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from common.errors import BadData
from common.intervals import Interval
from lam.probes import (
    Predictions,
    cross_validated,
    fit,
    pca,
    r2,
    r2_difference,
    r2_interval,
    varied,
)

HANDS = ("hand", "turn", "opening")  # what an action is
NUISANCES = ("camera", "sway", "light", "distractor")  # what it is not
REDUCED = (8, 16)
SHUFFLES = 5


@dataclass(frozen=True)
class Score:
    """How well a factor group is predicted on clips not learned from."""

    r2: Interval
    """Mean over the fields that vary."""
    fields: dict[str, float]
    """R2 of each field that varies."""


@dataclass(frozen=True)
class GroupScores:
    """One factor group, read from one block of the code."""

    ridge: Score
    mlp: Score | None
    """None where it was not asked for."""
    increment: Interval
    """R2 of code and frame t together, minus R2 of frame t alone (both ridge)."""
    reduced: dict[str, Interval]
    """Ridge R2 from the first 8 and 16 principal components; not for blocks that have no more values than that."""
    floor: float
    """Highest ridge R2 of `SHUFFLES` runs with the labels of other clips: what chance gives."""


@dataclass(frozen=True)
class LinearLam:
    """The linear-LAM objective (arXiv 2506.15691): exogenous + frame - hand, from -1 (worst) to 2 (best).

    Each part is the squared error of a ridge from the code over the variance, cut to 0..1: 0 is read perfectly.
    """

    objective: float
    hand: float
    """Mean over the groups `HANDS`: should be 0."""
    exogenous: float
    """Mean over the groups `NUISANCES`: should be 1."""
    frame: float
    """Frame t's thumbnail: should be 1."""


@dataclass(frozen=True)
class BlockScores:
    """Everything read from one block of the code."""

    groups: dict[str, GroupScores]
    linear_lam: LinearLam | None
    """None unless something of the hand and something of the nuisances moves."""
    selectivity: float | None
    """R2 of the hand minus R2 of the camera where that is above 0; None unless both move."""


@dataclass(frozen=True)
class KnownFactors:
    """The card's part for data with known factors."""

    blocks: dict[str, BlockScores]
    frame: dict[str, Score]
    """Per group, what frame t alone tells (ridge)."""
    still: list[str]
    """Fields left out, because they never change: "group.field"."""


@dataclass(frozen=True)
class _Labels:
    y: np.ndarray
    """(P, d) the fields that vary, side by side."""
    columns: dict[str, list[int]]
    fields: list[str]
    """ "group.field" of each column."""

    def members(self, group: str, names: Sequence[str]) -> list[int]:
        """Which of the names are fields of the group."""
        own = {self.fields[column] for column in self.columns.get(group, [])}
        return [place for place, name in enumerate(names) if name in own]

    def score(self, predictions: Predictions, group: str, clips: Sequence[str], seed: int) -> Score:
        columns = self.columns[group]
        part, y = _part(predictions, columns), self.y[:, columns]
        names = [self.fields[column].removeprefix(f"{group}.") for column in columns]
        values = dict(zip(names, r2(part, y).tolist(), strict=True))
        return Score(r2_interval(part, y, clips, seed=seed), values)


def frame_features(first: np.ndarray) -> np.ndarray:
    """(P, up to 32) what a frame looks like: the principal components of 8x8 colour thumbnails; uint8 (P, H, W, 3)."""
    parts = np.array_split(first, -(-len(first) // 256))
    thumbnails = [
        torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(part).movedim(-1, 1).float() / 255, 8).flatten(1)
        for part in parts
    ]
    return pca(torch.cat(thumbnails).numpy(), 32)


def known_factors(
    z: np.ndarray,
    changes: Mapping[str, np.ndarray],
    clips: Sequence[str],
    *,
    blocks: Mapping[str, slice],
    fields: Mapping[str, Sequence[str]],
    features: np.ndarray,
    mlp: bool = True,
    seed: int = 0,
) -> KnownFactors:
    """Probe each block of z (P, D), and all of it as "z", for each factor group; whole clips are held out.

    features: (P, F), `frame_features` of the first frames. BadData names the field and row of a label that is not
    finite, and says when lengths differ, when nothing moves or when there are fewer than 2 clips.
    """
    labels, still = _labels(changes, fields, clips)
    if not labels.columns:
        raise BadData("nothing moves: none of the known factors ever changes", hint="Evaluate on clips with motion.")
    alone = cross_validated(features, labels.y, clips, seed=seed)
    scores = {
        name: _block(z[:, block], labels, clips, features, alone, mlp=mlp, seed=seed)
        for name, block in {**blocks, "z": slice(None)}.items()
    }
    return KnownFactors(
        blocks=scores,
        frame={group: labels.score(alone, group, clips, seed) for group in labels.columns},
        still=still,
    )


def transfer(
    z: np.ndarray,
    changes: Mapping[str, np.ndarray],
    clips: Sequence[str],
    *,
    onto_z: np.ndarray,
    onto_changes: Mapping[str, np.ndarray],
    onto_clips: Sequence[str],
    fields: Mapping[str, Sequence[str]],
    seed: int = 0,
) -> dict[str, Score]:
    """A ridge learned on one data set, tested on another as it is: per group that moves in both.

    z and onto_z have the same columns. BadData when nothing moves in both.
    """
    groups = [group for group in changes if group in onto_changes]
    here, there = (
        _labels({group: given[group] for group in groups}, fields, names)[0]
        for given, names in ((changes, clips), (onto_changes, onto_clips))
    )
    shared = [field for field in here.fields if field in there.fields]
    if not shared:
        raise BadData("no factor changes in both data sets, so a probe of one cannot be tested on the other")
    columns = [here.fields.index(field) for field in shared]
    probe = fit(z, here.y[:, columns], clips, seed=seed)
    kept = _Labels(
        there.y[:, [there.fields.index(field) for field in shared]],
        {group: members for group in groups if (members := there.members(group, shared))},
        shared,
    )
    predictions = probe.predictions(onto_z)
    return {group: kept.score(predictions, group, onto_clips, seed) for group in kept.columns}


def _labels(
    changes: Mapping[str, np.ndarray], fields: Mapping[str, Sequence[str]], clips: Sequence[str]
) -> tuple[_Labels, list[str]]:
    """(labels that vary, names of those that do not)."""
    parts, columns, names, still = [], {}, [], []
    for group, values in changes.items():
        y = np.asarray(values, np.float64)
        if y.shape != (len(clips), len(fields[group])):
            raise BadData(f"'{group}' has labels of shape {y.shape}, for {len(clips)} pairs and fields {fields[group]}")
        bad = np.argwhere(~np.isfinite(y))
        if len(bad):
            row, column = bad[0].tolist()
            raise BadData(f"'{group}.{fields[group][column]}' of pair {row} ({clips[row]}) is {y[row, column]}")
        for column, varies in enumerate(varied(y).tolist()):
            name = f"{group}.{fields[group][column]}"
            if not varies:
                still.append(name)
                continue
            columns.setdefault(group, []).append(len(names))
            names.append(name)
            parts.append(y[:, column])
    return _Labels(np.stack(parts, axis=1) if parts else np.empty((len(clips), 0)), columns, names), still


def _part(predictions: Predictions, columns: Sequence[int] | slice) -> Predictions:
    return Predictions(predictions.prediction[:, columns], predictions.baseline[:, columns])


def _block(
    z: np.ndarray,
    labels: _Labels,
    clips: Sequence[str],
    features: np.ndarray,
    alone: Predictions,
    *,
    mlp: bool,
    seed: int,
) -> BlockScores:
    # A ridge treats each label by itself, so the groups, the thumbnail and the shuffled labels share one pass.
    width = labels.y.shape[1]
    shuffled = [labels.y[order] for order in _other_clips(clips, seed=seed)]
    everything = cross_validated(z, np.concatenate((labels.y, features, *shuffled), axis=1), clips, seed=seed)
    own = _part(everything, slice(0, width))
    after = width + features.shape[1]
    chance = [_part(everything, slice(start, start + width)) for start in range(after, after + SHUFFLES * width, width)]
    both = cross_validated(np.concatenate((z, features), axis=1), labels.y, clips, seed=seed)
    reduced = {
        str(dims): cross_validated(pca(z, dims), labels.y, clips, seed=seed) for dims in REDUCED if dims < z.shape[1]
    }
    curved = cross_validated(z, labels.y, clips, probe="mlp", seed=seed) if mlp else None
    groups = {}
    for group, columns in labels.columns.items():
        y = labels.y[:, columns]
        groups[group] = GroupScores(
            ridge=labels.score(own, group, clips, seed),
            mlp=labels.score(curved, group, clips, seed) if curved else None,
            increment=r2_difference(_part(both, columns), _part(alone, columns), y, clips, seed=seed),
            reduced={dims: r2_interval(_part(found, columns), y, clips, seed=seed) for dims, found in reduced.items()},
            floor=max(
                float(r2(_part(found, columns), other[:, columns]).mean())
                for found, other in zip(chance, shuffled, strict=True)
            ),
        )
    found = {group: scores.ridge.r2.value for group, scores in groups.items()}
    return BlockScores(
        groups=groups,
        linear_lam=_linear_lam(found, _part(everything, slice(width, after)), features),
        selectivity=found["hand"] - max(found["camera"], 0) if {"hand", "camera"} <= found.keys() else None,
    )


def _linear_lam(found: Mapping[str, float], frame: Predictions, features: np.ndarray) -> LinearLam | None:
    """found: R2 of each group that moves."""
    hand, exogenous = (
        [float(np.clip(1 - found[group], 0, 1)) for group in names if group in found] for names in (HANDS, NUISANCES)
    )
    total = ((features - frame.baseline) ** 2).sum()
    if not hand or not exogenous or not total:
        return None
    q, e = float(np.mean(hand)), float(np.mean(exogenous))
    o = float(np.clip(((features - frame.prediction) ** 2).sum() / total, 0, 1))
    return LinearLam(objective=e + o - q, hand=q, exogenous=e, frame=o)


def _other_clips(clips: Sequence[str], *, seed: int) -> list[np.ndarray]:
    """`SHUFFLES` orders of the rows that give each pair the label of one of another clip, in order of time as before.

    Only where one clip holds more than half of the pairs do some stay within it.
    """
    order = np.argsort(np.asarray(clips), kind="stable")
    largest = int(np.unique(np.asarray(clips), return_counts=True)[1].max())
    shifts = np.random.default_rng(seed).integers(
        min(largest, len(order) // 2), max(len(order) - largest, len(order) // 2) + 1, size=SHUFFLES
    )
    orders = []
    for shift in shifts:
        donors = np.empty_like(order)
        donors[order] = np.roll(order, -shift)
        orders.append(donors)
    return orders
