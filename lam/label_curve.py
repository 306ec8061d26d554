"""How many labels a code saves: the error of a probe over the number of labelled pairs, beside a network that sees the
frames and is trained on the labels alone.

P pairs, D code values, d label values. Folds hold whole clips, as in `lam.probes`; `seed` decides every draw.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lam.probes import FOLDS, check, descend, folds, learn_few, moving

COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024)
SUPERVISED_FOLDS = 2
SUPERVISED_STEPS = (100, 1000)  # at least and at most; between them two for each label


@dataclass(frozen=True)
class Spread:
    """The median over draws of labelled pairs, and the lowest and the highest draw."""

    median: float
    low: float
    high: float


def label_curve(
    z: np.ndarray,
    y: np.ndarray,
    clips: Sequence[str],
    *,
    counts: Sequence[int] = COUNTS,
    draws: int = 10,
    seed: int = 0,
) -> dict[int, Spread]:
    """Labels given -> error of a ridge on codes z (P, D), as a share of the variation: 1 - R2, mean over y's (P, d).

    Each draw takes `count` random pairs of the training folds, nested over the counts, and is tested on all pairs of
    the held-out folds. 1 is as good as the mean of all labels; above 1 is worse. Counts beyond the data are left out.
    """
    x, y = check(z, y, clips)
    return _curve(lambda rows, test, _: learn_few(x[rows], y[rows])(x[test]), y, clips, counts, draws, FOLDS, seed)


def labels_needed(curve: dict[int, Spread], error: float) -> float | None:
    """The number of labels at which the median falls to `error`, interpolated on a log axis; None if it never does.

    The smallest count means that many or fewer.
    """
    before: tuple[float, float] | None = None
    for count, spread in sorted(curve.items()):
        if spread.median <= error:
            if before is None:
                return float(count)
            share = (before[1] - error) / (before[1] - spread.median)
            return float(np.exp(np.log(before[0]) + share * np.log(count / before[0])))
        before = (count, spread.median)
    return None


def supervised_curve(
    first: np.ndarray,
    second: np.ndarray,
    y: np.ndarray,
    clips: Sequence[str],
    *,
    counts: Sequence[int] = COUNTS,
    draws: int = 1,
    seed: int = 0,
    device: str = "cpu",
) -> dict[int, Spread]:
    """`label_curve` of a network that sees the frames, uint8 (P, H, W, 3) twice, and is trained on the labels alone.

    A small convolution network on both frames and their difference at 64x64, from nothing, on the very pairs that
    `label_curve` draws with the same seed. For cost only `SUPERVISED_FOLDS` of the folds are held out in turn, and one
    draw is made for each. From 32 labels on, the labels of a fifth of the clips decide for each label value when to
    stop and how far to shrink towards the mean. Its size, rate and dropout were tuned on the demo's training split.
    """
    y = check(np.zeros((len(first), 1)), y, clips)[1]
    pictures, clips_of = _both_frames(first, second).to(device), np.asarray(clips)

    def learn(rows: np.ndarray, test: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        few = len(rows) < 32 or len(set(clips_of[rows])) < 2
        held = np.zeros(len(rows), bool) if few else folds(clips_of[rows].tolist(), seed=seed) == 0
        inputs, told, steps = pictures[rows], y[rows], int(np.clip(2 * len(rows), *SUPERVISED_STEPS))
        judge = None if few else (inputs[held], told[held])
        with torch.random.fork_rng(devices=[]):  # for the first weights and the dropout
            torch.manual_seed(int(rng.integers(2**31)))
            network = _inverse_model(y.shape[1]).to(device)
            fitted = descend(
                network, inputs[~held], told[~held], judge, steps=steps, learning_rate=1e-3, weight_decay=0.3, order=rng
            )
        return fitted(pictures[test])

    return _curve(learn, y, clips, counts, draws, SUPERVISED_FOLDS, seed)


def _curve(
    learn: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray],
    y: np.ndarray,
    clips: Sequence[str],
    counts: Sequence[int],
    draws: int,
    tested: int,
    seed: int,
) -> dict[int, Spread]:
    """`learn` predicts the test rows from labelled rows. `tested` of the folds are held out in turn."""
    known = moving(y)
    y = y[:, known]
    fold_of = folds(clips, seed=seed)
    held_out = range(min(tested, fold_of.max() + 1))
    counts = [count for count in sorted(counts) if all(count <= (fold_of != fold).sum() for fold in held_out)]
    error, total = np.zeros((len(counts), draws, y.shape[1])), np.zeros(y.shape[1])
    for fold in held_out:
        test, training = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        total += ((y[test] - y[training].mean(0)) ** 2).sum(0)
        for draw in range(draws):
            order = np.random.default_rng([seed, fold, draw]).permutation(training)
            for number, count in enumerate(counts):
                prediction = learn(order[:count], test, np.random.default_rng([seed, fold, draw, count]))[:, known]
                error[number, draw] += ((y[test] - prediction) ** 2).sum(0)
    share = (error / total).mean(2)  # (counts, draws)
    return {
        count: Spread(float(np.median(row)), float(row.min()), float(row.max()))
        for count, row in zip(counts, share, strict=True)
    }


def _both_frames(first: np.ndarray, second: np.ndarray) -> Tensor:
    """float (P, 9, 64, 64): both frames in [-1, 1] and three times their difference."""
    parts = ([torch.from_numpy(part) for part in np.array_split(f, -(-len(f) // 64))] for f in (first, second))
    small = (
        [F.interpolate(p.movedim(-1, 1).float(), (64, 64), mode="bilinear", antialias=True) for p in f] for f in parts
    )
    a, b = (torch.cat(f) / 127.5 - 1 for f in small)
    return torch.cat((a, b, 3 * (b - a)), dim=1)


def _inverse_model(outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(9, 16, 8, stride=4, padding=2),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Dropout(0.7),
        nn.Linear(32 * 16, outputs),
    )
