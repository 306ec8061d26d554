"""The most likely slip between a dataset's frames and its actions: the silent mistake of recordings.

Latent actions say what happens between two frames, whatever the dataset says. If the actions of row t are predicted
best not by what frames t and t+1 show but by what the frames s rows before show, they come s rows late; if by frames
after, they come early. Robots lag behind their targets and cameras behind robots, so early actions may be no mistake:
then they are as early as what was measured (the state) is, and by the robot's lag.

Of both, the mean over half a second to each side is taken off before. What is left changes quickly, and tells one row
from the next; slow changes are predicted nearly as well with any shift.

Axes: E episodes, T rows, D numbers of a latent action, C numbers of a change.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter1d
from tqdm import tqdm

from align.embodiment import RobotEmbodiment
from align.robot_dataset import AnyEpisode, RobotDataset, episode_name
from align.told_controls import changes_of
from common.checkpoints import find_checkpoint
from common.errors import BadData
from common.intervals import Interval, interval_of, resamples
from lam.checkpoint import LoadedLam, load_lam
from lam.label import encode_frames
from lam.probes import cross_validated, varied

MOST_ROWS, MOST_SECONDS = 5, 0.3
"""Shifts up to whichever is more are tried."""
SLOW_SECONDS = 0.5
SHOWN_SHARE = 0.5
SURE, LEAST_SCORE = 0.975, 0.05
"""What a slip must reach. Of noise in 10 episodes none in 60 did, of noise in 4 episodes 4 in 60."""
MOST_FRAMES = 6000
"""Frames that are looked at, of episodes spread evenly over the dataset."""


@dataclass(frozen=True)
class Shift:
    """How well controls, or measurements, can be read from the frames, for each shift between them."""

    shifts: tuple[int, ...]
    """In rows, from the most negative. Positive: the rows come later than what the frames show."""
    scores: tuple[float, ...]
    """Share of the variation of `columns` that a ridge predicts in episodes that it did not see (R2, their mean): of
    the changes in row t from the latent action of row t - shift."""
    columns: tuple[str, ...]
    """Those that the frames show: with their best shift at least half as well predicted as the best of all."""
    best: int
    """The shift of the best score."""
    gain: Interval
    """How much better its score is than that of shift 0, resampled by episode."""
    sure: float
    """Share of the resamples whose best shift is in the same direction."""

    @property
    def score(self) -> float:
        """Of the best shift."""
        return max(self.scores)

    @property
    def slipped(self) -> bool:
        """Whether the best is not 0 by more than chance."""
        return self.best != 0 and self.sure >= SURE and self.score >= LEAST_SCORE


@dataclass(frozen=True)
class Shifts:
    """Of a dataset."""

    controls: Shift
    state: Shift | None
    """None where nothing was measured, or it never changes."""
    rows_per_pair: int
    """Rows from one frame of a pair to the other, as the latent action model was trained."""
    episodes: int


def open_lam(checkpoint: Path) -> LoadedLam:
    """A latent action model, or the one inside a video model's checkpoint. BadData if it is none and has none."""
    inside = find_checkpoint(checkpoint) / "lam"
    return load_lam(inside if inside.is_dir() else checkpoint)


def find_shifts(
    lam: LoadedLam,
    dataset: RobotDataset[Any],
    episodes: Sequence[AnyEpisode],
    embodiment: RobotEmbodiment,
    *,
    camera: str | None = None,
    seed: int = 0,
) -> Shifts:
    """The shifts of a dataset, from these episodes of it. embodiment: of its controls, need not be fitted.

    BadData with fewer than two episodes that are long enough, or if no control ever changes.
    """
    size = (lam.config.model.height, lam.config.model.width)
    apart = max(1, round(lam.config.data.gap_seconds[0] * dataset.fps))
    codes, controls, states, names = [], [], [], []
    for episode in tqdm(_spread(episodes), desc="reading frames", unit="episode", disable=None, leave=False):
        frames = dataset.frames(episode, size, camera=camera)
        if len(frames) <= apart:
            continue
        codes.append(pair_codes(lam, frames, apart=apart))
        actions = dataset.actions(episode)[: len(frames) - 1]
        controls.append(_together(changes_of(embodiment, actions[None], actions[:1])[0], apart))
        if dataset.state_keys:
            states.append(_together(np.diff(dataset.states(episode).astype(np.float64), axis=0), apart))
        names.append(episode_name(dataset.root, episode))
    found = compare_shifts(codes, controls, names, columns=embodiment.relative_names, fps=dataset.fps, seed=seed)
    state = None
    if states and varied(np.concatenate(states)).any():
        state = compare_shifts(codes, states, names, columns=dataset.state_names, fps=dataset.fps, seed=seed)
    return Shifts(found, state, apart, len(names))


def pair_codes(lam: LoadedLam, frames: np.ndarray, *, apart: int) -> np.ndarray:
    """Latent actions (T - apart, D) of frames uint8 (T, H, W, 3): row t from frame t to frame t + apart."""
    parts = [encode_frames(lam.model, frames[phase::apart]) for phase in range(apart) if len(frames) > phase + apart]
    codes = np.empty((len(frames) - apart, parts[0].shape[1]), np.float32)
    for phase, part in enumerate(parts):
        codes[phase::apart] = part
    return codes


def compare_shifts(
    codes: Sequence[np.ndarray],
    changes: Sequence[np.ndarray],
    episodes: Sequence[str],
    *,
    columns: Sequence[str],
    fps: float,
    seed: int = 0,
) -> Shift:
    """From E latent actions (T, D) and what changes in the same rows (T, C); `episodes` names them, `columns` the C.

    All shifts are judged by the same rows: those that have one at every shift. Where episodes are short, fewer shifts
    are tried. BadData as `find_shifts`.
    """
    wanted = max(MOST_ROWS, math.ceil(MOST_SECONDS * fps))
    most = min([wanted, *[(len(rows) - 1) // 4 for rows in changes]])
    if most < 1 or len(changes) < 2:
        raise BadData(
            f"{len(changes)} episodes, the shortest of {min(map(len, changes), default=0)} rows, are too few to tell "
            "a shift between frames and actions",
            hint="It takes two episodes, and five rows of each.",
        )
    quick = [_quick(rows, fps=fps)[most : len(rows) - most] for rows in changes]
    told = np.concatenate(quick)
    clips = [name for name, rows in zip(episodes, quick, strict=True) for _ in rows]
    moving = varied(told)
    if not moving.any():
        raise BadData("nothing ever changes, so there is nothing to hold against the frames")
    told, names = told[:, moving], np.asarray(columns)[moving]
    shown = [_quick(rows, fps=fps) for rows in codes]
    first_rows = np.cumsum([0, *map(len, quick)])[:-1]
    shifts = tuple(range(-most, most + 1))
    errors, totals = [], np.empty(0)
    for shift in shifts:
        moved = np.concatenate([rows[most - shift : len(rows) - most - shift] for rows in shown])
        predicted = cross_validated(moved, told, clips, seed=seed)
        errors.append(np.add.reduceat((told - predicted.prediction) ** 2, first_rows))
        totals = np.add.reduceat((told - predicted.baseline) ** 2, first_rows)  # the same for all shifts
    scores, kept = _scores(np.stack(errors), totals, seed=seed)
    at_best = int(scores[0].argmax())
    best = shifts[at_best]
    gain = interval_of(scores[:, at_best] - scores[:, most])
    sure = float((np.sign(scores[1:].argmax(axis=1) - most) == np.sign(best)).mean())
    return Shift(shifts, tuple(scores[0].tolist()), tuple(names[kept].tolist()), best, gain, sure)


def _scores(errors: np.ndarray, totals: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors (S shifts, E, C) and those of the mean (E, C) -> scores (1 + R, S), and the columns kept (C,).

    Row 0 counts every episode once, the others are resamples. In each those columns count that are predicted at least
    half as well as the best one, both with their best shift.
    """
    weights = resamples(totals.shape[0], seed=seed)
    least = 1e-9 * totals.sum(axis=0)  # where a resample has no episode in which a column moves
    each = 1 - np.einsum("re,sec->rsc", weights, errors) / np.maximum(weights @ totals, least)[:, None]
    top = each.max(axis=1)
    best = top.max(axis=1, keepdims=True)
    kept = top >= np.minimum(SHOWN_SHARE * best, best)
    return (each * kept[:, None]).sum(axis=2) / kept.sum(axis=1)[:, None], kept[0]


def _quick(rows: np.ndarray, *, fps: float) -> np.ndarray:
    """Rows (T, C) without their mean over the rows around each, as far as there are some."""
    width = 2 * max(1, round(SLOW_SECONDS * fps)) + 1
    sums = uniform_filter1d(rows.astype(np.float64), width, axis=0, mode="constant")
    counts = uniform_filter1d(np.ones(len(rows)), width, mode="constant")
    return rows - sums / counts[:, None]


def _spread(episodes: Sequence[AnyEpisode]) -> list[AnyEpisode]:
    """Of many episodes so many, spread evenly, that they have about MOST_FRAMES frames."""
    frames = sum(episode.length for episode in episodes)
    count = max(2, round(len(episodes) * min(1.0, MOST_FRAMES / max(frames, 1))))
    places = np.linspace(0, len(episodes) - 1, min(count, len(episodes))).round().astype(int)
    return [episodes[place] for place in places]


def _together(changes: np.ndarray, rows: int) -> np.ndarray:
    """Changes (T, C) -> (T + 1 - rows, C), of so many rows in a row together."""
    summed = np.concatenate((np.zeros((1, changes.shape[1])), changes.cumsum(axis=0)))
    return summed[rows:] - summed[:-rows]
