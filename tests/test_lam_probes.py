"""Probes on planted codes: what is in the code is found, what is not is not, and nothing leaks from clip to clip."""

import numpy as np
import pytest

from common.errors import BadData
from lam.probes import (
    _learn_ridge,
    cross_validated,
    fit,
    folds,
    increment,
    pca,
    r2,
    r2_difference,
    r2_interval,
)

CLIPS, STEPS = 20, 40
NAMES = [f"clip{row // STEPS}" for row in range(CLIPS * STEPS)]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def planted(*, noise: float = 0.0, dims: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes whose mixture holds three labels of different units, offset and noise."""
    y = normal(len(NAMES), 3, seed=seed) * (0.01, 1.0, 50.0) + (0.0, 5.0, -100.0)
    factors = np.concatenate((y / (0.01, 1.0, 50.0), normal(len(NAMES), dims - 3, seed=seed + 1)), axis=1)
    return factors @ normal(dims, dims, seed=seed + 2) + noise * normal(len(NAMES), dims, seed=seed + 3), y


def score(z: np.ndarray, y: np.ndarray, clips: list[str] = NAMES, *, probe: str = "ridge") -> float:
    return r2_interval(cross_validated(z, y, clips, probe=probe), y, clips).value


def test_folds_hold_whole_clips_and_about_as_many_pairs() -> None:
    clips = [f"c{clip}" for clip in range(23) for _ in range(10 + 5 * (clip % 7))]
    fold_of = folds(clips, 5, seed=3)
    assert all(len({fold for fold, name in zip(fold_of, clips, strict=True) if name == c}) == 1 for c in set(clips))
    sizes = np.bincount(fold_of)
    assert len(sizes) == 5 and sizes.max() - sizes.min() <= 40
    assert set(folds(["a", "b", "b"], 5)) == {0, 1}
    with pytest.raises(BadData, match="at least 2 clips, not 1"):
        folds(["a"] * 9)


def test_a_planted_mixture_is_read_and_other_labels_are_not() -> None:
    z, y = planted()
    assert r2(cross_validated(z, y, NAMES), y).min() > 0.99
    assert score(z, normal(len(z), 3, seed=9)) < 0.01
    assert score(z * 1e-4 + 3, y) > 0.99


def test_r2_counts_against_the_mean_of_the_training_clips() -> None:
    z, y = planted(noise=1.0)
    predictions = cross_validated(z, y, NAMES)
    fold_of = folds(NAMES)
    for fold in range(5):
        np.testing.assert_allclose(predictions.baseline[fold_of == fold], np.tile(y[fold_of != fold].mean(0), (160, 1)))
    by_hand = 1 - ((y - predictions.prediction) ** 2).sum(0) / ((y - predictions.baseline) ** 2).sum(0)
    np.testing.assert_allclose(r2(predictions, y), by_hand)
    assert r2_interval(predictions, y, NAMES).value == pytest.approx(by_hand.mean())


def test_the_mlp_reads_what_a_line_cannot() -> None:
    names = NAMES[::2]
    z = normal(len(names), 4)
    y = np.stack((np.abs(z[:, 0]), z[:, 1] * z[:, 2], normal(len(z), seed=5)), axis=1)
    ridge, mlp = (r2(cross_validated(z, y, names, probe=probe), y) for probe in ("ridge", "mlp"))
    assert ridge.max() < 0.1
    assert mlp[:2].min() > 0.7
    assert -0.1 < mlp[2] < 0.03
    again = cross_validated(z, y, names, probe="mlp")
    np.testing.assert_array_equal(r2(again, y), mlp)


@pytest.mark.parametrize("probe", ["ridge", "mlp"])
def test_knowing_the_clip_is_worth_nothing(probe: str) -> None:
    """A code that tells the clip predicts a label that is constant per clip, unless its own clip is held out."""
    clip = np.repeat(np.arange(CLIPS), 15)
    y = normal(CLIPS, 1)[clip]
    z = np.concatenate((np.eye(CLIPS)[clip], normal(CLIPS, 3, seed=1)[clip]), axis=1)
    names = [f"clip{number}" for number in clip]
    assert score(z, y, names, probe=probe) < 0.05
    shuffled = np.random.default_rng(0).permutation(names).tolist()
    assert score(z, y, shuffled, probe=probe) > 0.9  # clip names that do not tell: it leaks


def test_the_strength_is_chosen_by_clip_too() -> None:
    """Values that tell clips apart explain the training clips' habits; only other clips show that this is worthless."""
    clip = np.repeat(np.arange(CLIPS), STEPS)
    habits, signal = normal(CLIPS, 1)[clip], normal(len(clip), 1, seed=1)
    y = habits + 0.3 * signal
    z = np.concatenate((normal(CLIPS, 14, seed=2)[clip], signal), axis=1)
    assert score(z, y) > -0.1
    rows = np.arange(len(z)) % 5  # what choosing it by pair would give
    fold_of = folds(NAMES)
    predictions = [
        _learn_ridge(z[fold_of != f], y[fold_of != f], rows[fold_of != f], 0)(z[fold_of == f]) for f in range(5)
    ]
    error = sum(((y[fold_of == fold] - part) ** 2).sum() for fold, part in enumerate(predictions))
    assert 1 - error / ((y - y.mean()) ** 2).sum() < -0.3


def test_a_slip_of_one_row_is_ruinous() -> None:
    z, y = planted()
    assert score(z[1:], y[:-1], NAMES[1:]) < 0.01


def test_many_noise_values_fake_nothing_and_hide_little() -> None:
    z, y = planted(dims=6)
    some = slice(0, 6 * STEPS)
    wide = normal(6 * STEPS, 3 * 6 * STEPS, seed=4)
    assert score(wide, y[some], NAMES[some]) < 0.03
    assert score(np.concatenate((z[some], wide[:, :20]), axis=1), y[some], NAMES[some]) > 0.99


def test_wide_and_narrow_solutions_agree() -> None:
    """500 columns of which 6 differ have the solution of 6: the route by the other Gram matrix."""
    z, y = planted(dims=6, noise=1.0)
    few = slice(0, 400)
    wide = np.concatenate((z[few], np.ones((400, 494))), axis=1)
    narrow = fit(z[few], y[few], NAMES[:400]).predict(z)
    same = fit(wide, y[few], NAMES[:400]).predict(np.concatenate((z, np.ones((len(z), 494))), axis=1))
    np.testing.assert_allclose(same, narrow, rtol=1e-8)


def test_columns_that_stand_still_change_nothing() -> None:
    z, y = planted(noise=0.5)
    still = np.concatenate((z, np.full((len(z), 1), 7.0), np.full((len(z), 1), 0.1, np.float32)), axis=1)
    assert score(still, y) == pytest.approx(score(z, y), abs=1e-9)
    assert score(np.ones((len(z), 4)), y) == pytest.approx(0, abs=1e-9)


def test_a_label_that_stands_still_is_left_out_and_shows() -> None:
    z, y = planted()
    with_still = np.concatenate((y, np.full((len(y), 1), 2.5)), axis=1)
    predictions = cross_validated(z, with_still, NAMES)
    assert np.isnan(r2(predictions, with_still)).tolist() == [False, False, False, True]
    assert r2_interval(predictions, with_still, NAMES).value > 0.99
    nothing = np.ones((len(y), 2))
    with pytest.raises(BadData, match="nothing moves"):
        r2_interval(cross_validated(z, nothing, NAMES), nothing, NAMES)


def test_bad_input_is_named() -> None:
    z, y = planted()
    with pytest.raises(BadData, match="do not go together"):
        cross_validated(z, y[:-1], NAMES)
    broken = y.copy()
    broken[85, 1] = np.nan
    with pytest.raises(BadData, match=r"label value 1 of pair 85 \(clip2\) is nan"):
        cross_validated(z, broken, NAMES)
    with pytest.raises(BadData, match="code value 0 of pair 3"):
        cross_validated(np.where(np.arange(len(z))[:, None] == 3, np.inf, z), y, NAMES)
    with pytest.raises(ValueError, match="'forest'"):
        cross_validated(z, y, NAMES, probe="forest")


def test_intervals_cover_the_truth_and_count_clips() -> None:
    """95 % intervals of the R2 of known predictions, whose error differs from clip to clip."""
    covered = 0
    clip = np.repeat(np.arange(CLIPS), STEPS)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        y = rng.normal(size=(len(clip), 1))
        strength = np.sqrt(rng.uniform(0.1, 0.7, size=CLIPS))[clip, None]  # mean error 0.4: the R2 is 0.6
        predictions = cross_validated(np.zeros_like(y), y, NAMES)
        predictions = type(predictions)(y + strength * rng.normal(size=y.shape), predictions.baseline)
        interval = r2_interval(predictions, y, NAMES)
        assert interval.low < interval.value < interval.high
        covered += interval.low <= 0.6 <= interval.high
    assert 50 <= covered <= 60


def test_the_increment_is_what_frame_t_does_not_tell() -> None:
    habit, free = normal(len(NAMES), 4), normal(len(NAMES), 1, seed=1)
    y = habit[:, :1] + free
    nothing = increment(habit @ normal(4, 4, seed=2), habit, y, NAMES)
    assert abs(nothing.value) < 0.01 and nothing.low <= 0.005
    noise = increment(normal(len(y), 8, seed=3), habit, y, NAMES)
    assert -0.03 < noise.value < 0.01
    all_of_it = increment(free, habit, y, NAMES)
    assert all_of_it.low < 0.5 < all_of_it.high and all_of_it.low > 0.4


def test_paired_resamples_are_narrower_than_the_scores_themselves() -> None:
    z, y = planted(noise=3.0)
    a, b = cross_validated(z, y, NAMES), cross_validated(z[:, :-1], y, NAMES)
    alone, difference = r2_interval(a, y, NAMES), r2_difference(a, b, y, NAMES)
    assert difference.high - difference.low < alone.high - alone.low
    assert r2_difference(a, a, y, NAMES).high == 0


def test_pca_keeps_the_large_directions() -> None:
    z = normal(200, 3) @ normal(3, 30, seed=1) * 10 + 0.1 * normal(200, 30, seed=2) + 5
    kept = pca(z, 3)
    centred = z - z.mean(0)
    assert (kept**2).sum() / (centred**2).sum() > 0.99
    np.testing.assert_allclose((kept**2).sum(0), np.linalg.svd(centred)[1][:3] ** 2)
    assert pca(z[:, :2], 8).shape == (200, 2)
    assert pca(np.ones((5, 30)), 3).tolist() == [[0, 0, 0]] * 5


def test_a_fitted_probe_carries_over_to_data_with_the_same_code_only() -> None:
    z, y = planted(noise=0.1)
    half = len(z) // 2
    probe = fit(z[:half], y[:half], NAMES[:half])
    assert probe.r2(z[half:], y[half:]).min() > 0.95
    assert probe.r2(-z[half:], y[half:]).max() < 0
    one_clip = fit(z[:STEPS], y[:STEPS], NAMES[:STEPS])
    assert one_clip.r2(z[half:], y[half:]).min() > 0.8
