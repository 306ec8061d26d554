"""The curve of error over labels falls where the code holds them and can be read off; a network draws its own."""

import math

import numpy as np
import pytest

from lam.label_curve import Spread, label_curve, labels_needed, supervised_curve
from tests.test_lam_probes import NAMES, normal, planted, score


def test_the_label_curve_falls_and_can_be_read_off() -> None:
    z, y = planted(noise=0.5)
    counts = (8, 16, 32, 64, 256, 4096)
    curve = label_curve(z, y, NAMES, counts=counts)
    medians = [spread.median for spread in curve.values()]
    assert list(curve) == [8, 16, 32, 64, 256]
    assert medians == sorted(medians, reverse=True) and medians[-1] < 0.2 < medians[0]
    assert all(spread.low <= spread.median <= spread.high for spread in curve.values())
    blind = label_curve(normal(len(z), 12, seed=7), y, NAMES, counts=counts)
    assert all(spread.median > 0.98 for spread in blind.values())
    assert blind[16].median < 1.5  # fitted without leaving one out, 12 values of noise on 16 labels cost far more
    needed = labels_needed(curve, (medians[2] + medians[3]) / 2)
    assert needed == pytest.approx(math.sqrt(32 * 64))
    assert labels_needed(blind, 0.5) is None
    assert labels_needed({8: Spread(0.4, 0.3, 0.5)}, 0.4) == 8


def test_the_label_curve_ends_near_the_full_probe() -> None:
    z, y = planted(noise=0.5)
    curve = label_curve(z, y, NAMES, counts=(640,))
    assert curve[640].median == pytest.approx(1 - score(z, y), abs=0.01)


def test_the_supervised_network_learns_a_moving_square_from_labels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lam.label_curve.SUPERVISED_STEPS", (80, 80))
    monkeypatch.setattr("lam.label_curve.SUPERVISED_FOLDS", 1)
    rng = np.random.default_rng(0)
    names = [f"clip{row // 30}" for row in range(300)]
    first, second = (rng.integers(90, 110, size=(300, 32, 32, 3)).astype(np.uint8) for _ in range(2))
    places, moves = rng.integers(8, 18, size=(300, 2)), rng.integers(-6, 7, size=(300, 2))
    for row, ((y, x), (down, right)) in enumerate(zip(places, moves, strict=True)):
        first[row, y : y + 6, x : x + 6] = 250
        second[row, y + down : y + down + 6, x + right : x + right + 6] = 250
    labels = np.concatenate((moves * (0.01, 5) + 3, np.ones((300, 1))), axis=1)
    curve = supervised_curve(first, second, labels, names, counts=(16, 240, 241))
    assert list(curve) == [16, 240]
    assert curve[240].median < 0.6 < curve[16].median
    slipped = supervised_curve(first, second, np.roll(moves, 1, axis=0).astype(float), names, counts=(240,))
    assert slipped[240].median > 0.95
    assert supervised_curve(first, second, labels, names, counts=(16,))[16] == curve[16]
