"""Means over clips: every clip counts once, and what is unknown counts nowhere."""

import numpy as np
import pytest

from common.intervals import Interval, clip_mean, interval_of, resamples


def test_a_clip_with_many_windows_counts_as_one_with_few() -> None:
    found = clip_mean(np.array([0.0, 0.0, 0.0, 1.0]), ["a", "a", "a", "b"])
    assert found == Interval(0.5, 0.0, 1.0)


def test_what_is_nan_is_left_out() -> None:
    assert clip_mean(np.array([1.0, np.nan, np.nan]), ["a", "a", "b"]) == Interval(1.0, 1.0, 1.0)
    assert clip_mean(np.array([np.nan]), ["a"]) is None


def test_the_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=100)
    found = clip_mean(values, [str(row) for row in range(100)])
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.1)


def test_the_first_value_is_the_value() -> None:
    found = interval_of(np.array([5.0, *range(1000)]))
    assert (found.value, found.low, found.high) == pytest.approx((5.0, 24.975, 974.025))


def test_resamples_draw_as_many_clips_as_there_are() -> None:
    weights = resamples(7, seed=1)
    assert (weights.sum(1) == 7).all() and (weights[0] == 1).all()
    assert weights[1:].std() == pytest.approx(0.93, abs=0.05)
    np.testing.assert_array_equal(weights, resamples(7, seed=1))
