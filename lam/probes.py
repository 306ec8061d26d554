"""Probes: how much of something known can be read from a code, honestly counted.

P pairs, D code values, d label values, C clips. A clip is never on both sides: neither where a probe is tested, nor
where its strength is chosen, nor when intervals are drawn. Everything is a function of its arguments and `seed`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import BadData
from common.intervals import Interval, interval_of, resamples

FOLDS = 5
STRENGTHS = np.logspace(-4, 3, 15)  # of the ridge, per labelled pair, for inputs of variance 1

Predictor = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Predictions:
    """What a probe says of labels that it did not see, and what it would say without looking: both (P, d)."""

    prediction: np.ndarray
    baseline: np.ndarray
    """The mean of the labels that the probe learned from."""


@dataclass(frozen=True)
class Probe:
    """A fitted probe: from codes (P, D) to labels (P, d)."""

    predict: Predictor
    mean: np.ndarray
    """(d,) mean of the labels that it learned from."""

    def predictions(self, z: np.ndarray) -> Predictions:
        return Predictions(self.predict(np.asarray(z, np.float64)), np.tile(self.mean, (len(z), 1)))

    def r2(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(d,), as `r2`."""
        return r2(self.predictions(z), y)


def folds(clips: Sequence[str], k: int = FOLDS, *, seed: int = 0) -> np.ndarray:
    """(P,) the fold of each pair: whole clips, folds of about as many pairs; as many folds as clips if those are fewer.

    BadData with fewer than 2 clips.
    """
    names, clip_of, sizes = np.unique(np.asarray(clips), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise BadData(
            f"a probe is tested on clips that it did not see: that takes at least 2 clips, not {len(names)}",
            hint="Add clips, or cut a long one into several files.",
        )
    shuffled = np.random.default_rng(seed).permutation(len(names))
    fold_of, filled = np.zeros(len(names), int), np.zeros(min(k, len(names)))
    for clip in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of[clip] = filled.argmin()
        filled[fold_of[clip]] += sizes[clip]
    return fold_of[clip_of]


def varied(y: np.ndarray) -> np.ndarray:
    """(d,) which label values vary at all, beyond the rounding of float32."""
    return y.std(0) > 1e-6 * np.abs(y).max(0, initial=0)


def moving(y: np.ndarray) -> np.ndarray:
    """As `varied`. BadData when nothing varies."""
    known = varied(y)
    if not known.any():
        raise BadData("nothing moves: no label value ever changes, so there is nothing to predict")
    return known


def fit(z: np.ndarray, y: np.ndarray, clips: Sequence[str], *, probe: str = "ridge", seed: int = 0) -> Probe:
    """Fit on all pairs given; z (P, D), y (P, d). `probe` is "ridge" or "mlp".

    Ridge: its strength is chosen for each label value by cross-validation by clip. MLP: two layers, 128 units, stopped
    where a fifth of the clips fits best. With a single clip its five stretches of time stand for clips there.
    """
    x, y = check(z, y, clips)
    if len(set(clips)) < 2:
        clips = [str(FOLDS * row // len(x)) for row in range(len(x))]
    if probe not in ("ridge", "mlp"):
        raise ValueError(f'probe must be "ridge" or "mlp", not {probe!r}')
    learn = _learn_ridge if probe == "ridge" else _learn_mlp
    return Probe(learn(x, y, folds(clips, seed=seed), seed), y.mean(0))


def cross_validated(
    z: np.ndarray, y: np.ndarray, clips: Sequence[str], *, probe: str = "ridge", seed: int = 0
) -> Predictions:
    """Every pair predicted by a probe that saw none of its clip; z (P, D), y (P, d). BadData with fewer than 2 clips.

    With a ridge the label values do not influence each other: several groups can go through in one call.
    """
    x, y = check(z, y, clips)
    names, fold_of = np.asarray(clips), folds(clips, seed=seed)
    prediction, baseline = np.empty_like(y), np.empty_like(y)
    for fold in range(fold_of.max() + 1):
        test = fold_of == fold
        fitted = fit(x[~test], y[~test], names[~test].tolist(), probe=probe, seed=seed)
        prediction[test], baseline[test] = fitted.predict(x[test]), fitted.mean
    return Predictions(prediction, baseline)


def check(z: np.ndarray, y: np.ndarray, clips: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(z, y) as float64. BadData when rows do not match, a number is not finite, or there are no pairs."""
    x, y = np.asarray(z, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or not len(x) == len(y) == len(clips) or not x.size or not y.size:
        raise BadData(f"codes {x.shape}, labels {y.shape} and {len(clips)} clip names do not go together row by row")
    for what, values in (("code", x), ("label", y)):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = bad[0].tolist()
            raise BadData(f"{what} value {column} of pair {row} ({clips[row]}) is {values[row, column]}")
    return x, y


def r2(predictions: Predictions, y: np.ndarray) -> np.ndarray:
    """(d,) share of the labels' variation that is predicted: 1 - sum (y - prediction)^2 / sum (y - baseline)^2.

    1 is perfect, 0 as good as the training mean, below 0 worse than it. NaN where a label value never varies.
    """
    error, total = _squares(predictions, y)
    known = varied(y)
    return np.where(known, 1 - error.sum(0) / np.where(known, total.sum(0), 1), np.nan)


def r2_interval(predictions: Predictions, y: np.ndarray, clips: Sequence[str], *, seed: int = 0) -> Interval:
    """Mean of `r2` over the label values that vary. BadData when none does."""
    return interval_of(_resampled_r2(predictions, y, clips, seed))


def increment(
    z: np.ndarray, frame_features: np.ndarray, y: np.ndarray, clips: Sequence[str], *, seed: int = 0
) -> Interval:
    """What a code tells beyond frame t alone: R2 of [z, features] minus R2 of the features, by ridge, paired by clip.

    frame_features: (P, F), of each pair's first frame. A policy's habits can be read from one frame; the action cannot.
    """
    alone = cross_validated(frame_features, y, clips, seed=seed)
    both = cross_validated(np.concatenate((z, frame_features), axis=1), y, clips, seed=seed)
    return r2_difference(both, alone, y, clips, seed=seed)


def r2_difference(
    better: Predictions, worse: Predictions, y: np.ndarray, clips: Sequence[str], *, seed: int = 0
) -> Interval:
    """`r2_interval` of one minus that of the other, on the same resamples of the clips."""
    return interval_of(_resampled_r2(better, y, clips, seed) - _resampled_r2(worse, y, clips, seed))


def pca(z: np.ndarray, dims: int) -> np.ndarray:
    """(P, dims) the directions of largest variance, or all of z if it has no more. Fitted on z, no labels seen."""
    x = np.asarray(z, np.float64)
    if x.shape[1] <= dims:
        return x
    u, s, _ = _thin_svd(x - x.mean(0))
    scores = (u * s)[:, ::-1][:, :dims]
    return np.pad(scores, ((0, 0), (0, dims - scores.shape[1])))


def learn_few(x: np.ndarray, y: np.ndarray) -> Predictor:
    """A ridge on so few pairs that its strength is chosen by leaving out one at a time, in closed form."""
    scaling, mean = _Scaling.of(x), y.mean(0)
    u, s, v = _thin_svd(scaling(x))
    kept = s**2 / (s**2 + STRENGTHS[:, None] * len(x))  # (S, r)
    leverage = 1 / len(x) + kept @ (u**2).T  # (S, n)
    residual = y - mean - u @ (kept[:, :, None] * (u.T @ (y - mean)))
    error = ((residual / np.maximum(1 - leverage, 1e-9)[:, :, None]) ** 2).sum(1)
    return _linear(v @ ((kept / s)[:, :, None] * (u.T @ (y - mean))), error, scaling, mean)


def descend(
    network: nn.Module,
    inputs: Tensor,
    y: np.ndarray,
    held: tuple[Tensor, np.ndarray] | None,
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    order: np.random.Generator | None = None,
) -> Callable[[Tensor], np.ndarray]:
    """Learn labels y (n, d) by squared error, AdamW and a cosine; all rows at once, or 32 at a time drawn by `order`.

    With `held` rows each label value is predicted by the network as it was when it fitted those best, and shrunk
    towards the mean as far as they ask for it.
    """
    scaling = _Scaling.of(y)
    targets = torch.from_numpy(scaling(y)).float().to(inputs.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    states, errors, shrinks = [], [], []

    @torch.no_grad()
    def run(rows: Tensor) -> np.ndarray:
        network.eval()
        said = network(rows).double().cpu().numpy()
        network.train()
        return said

    every = max(steps // 20, 1)
    for step in range(steps + 1):
        if step == steps or (held and step % every == 0):
            states.append({name: value.clone() for name, value in network.state_dict().items()})
            said, told = (run(held[0]), scaling(held[1])) if held else (np.ones((1, y.shape[1])),) * 2
            shrinks.append(np.clip((said * told).sum(0) / np.maximum((said**2).sum(0), 1e-12), 0, 1))
            errors.append(((shrinks[-1] * said - told) ** 2).sum(0))
        rows = slice(None) if order is None else torch.from_numpy(order.integers(len(inputs), size=32))
        optimizer.zero_grad()
        F.mse_loss(network(inputs[rows]), targets[rows]).backward()
        optimizer.step()
        schedule.step()
    best = np.argmin(errors, axis=0)  # (d,)
    scale = np.where(np.isinf(scaling.scale), 0, scaling.scale) * np.stack(shrinks)[best, np.arange(len(best))]

    def predict(rows: Tensor) -> np.ndarray:
        said = np.empty((len(rows), y.shape[1]))
        for state in np.unique(best):
            network.load_state_dict(states[state])
            said[:, best == state] = run(rows)[:, best == state]
        return said * scale + scaling.mean

    return predict


def _squares(predictions: Predictions, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (y - predictions.prediction) ** 2, (y - predictions.baseline) ** 2


def _resampled_r2(predictions: Predictions, y: np.ndarray, clips: Sequence[str], seed: int) -> np.ndarray:
    """(1 + RESAMPLES,) mean R2 over the label values that vary; a resample in which one stands still leaves it out."""
    known = moving(y)
    names, clip_of = np.unique(np.asarray(clips), return_inverse=True)
    member = np.eye(len(names))[clip_of]  # (P, C)
    error, total = (member.T @ values[:, known] for values in _squares(predictions, y))  # (C, d)
    weights = resamples(len(names), seed=seed)
    error, total = weights @ error, weights @ total
    moves = total > 1e-9 * total[0]
    ratio = np.where(moves, error / np.where(moves, total, 1), 0)
    return (1 - ratio.sum(1) / np.maximum(moves.sum(1), 1))[moves.any(1)]


@dataclass(frozen=True)
class _Scaling:
    """Columns to mean 0 and variance 1; a column that never varies to 0, whatever it holds later."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "_Scaling":
        return cls(values.mean(0), np.where(varied(values), values.std(0), np.inf))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return (values - self.mean) / self.scale


def _thin_svd(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U (n, r), s (r,) rising, V (D, r) with x = U diag(s) V^T, by the smaller of the two Gram matrices."""
    wide = x.shape[1] > x.shape[0]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    keep = values > 1e-10 * max(values[-1], 1e-300)
    s, vectors = np.sqrt(values[keep]), vectors[:, keep]
    return (vectors, s, x.T @ vectors / s) if wide else (x @ vectors / s, s, vectors)


def _ridge_weights(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(S, D, d): argmin |y - x w|^2 + strength n |w|^2 for each of `STRENGTHS`, for centred x and y."""
    u, s, v = _thin_svd(x)
    shrink = s / (s**2 + STRENGTHS[:, None] * len(x))  # (S, r)
    return v @ (shrink[:, :, None] * (u.T @ y))


def _learn_ridge(x: np.ndarray, y: np.ndarray, fold_of: np.ndarray, seed: int) -> Predictor:
    scaling, mean = _Scaling.of(x), y.mean(0)
    x = scaling(x)
    error = np.zeros((len(STRENGTHS), y.shape[1]))
    for fold in range(fold_of.max() + 1):
        test = fold_of == fold
        x_mean, y_mean = x[~test].mean(0), y[~test].mean(0)
        weights = _ridge_weights(x[~test] - x_mean, y[~test] - y_mean)
        error += ((y[test] - y_mean - (x[test] - x_mean) @ weights) ** 2).sum(1)
    return _linear(_ridge_weights(x, y - mean), error, scaling, mean)


def _linear(weights: np.ndarray, error: np.ndarray, scaling: _Scaling, mean: np.ndarray) -> Predictor:
    """The predictor whose strength made the least error (S, d), for each label value by itself."""
    best = np.stack([weights[strength, :, column] for column, strength in enumerate(error.argmin(0))], axis=1)
    return lambda codes: scaling(codes) @ best + mean


def _learn_mlp(x: np.ndarray, y: np.ndarray, fold_of: np.ndarray, seed: int) -> Predictor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden, last = nn.Linear(x.shape[1], 128), nn.Linear(128, y.shape[1])
    nn.init.zeros_(last.weight)  # it starts as the mean, and stays that where nothing can be learned
    nn.init.zeros_(last.bias)
    scaling, held = _Scaling.of(x), fold_of == 0
    inputs = torch.from_numpy(scaling(x)).float()
    network = nn.Sequential(hidden, nn.GELU(), last)
    predict = descend(
        network, inputs[~held], y[~held], (inputs[held], y[held]), steps=200, learning_rate=3e-3, weight_decay=0.05
    )
    return lambda codes: predict(torch.from_numpy(scaling(codes)).float())
