"""The shift between frames and actions: its sign, what it is judged by, and when nothing can be said."""

from pathlib import Path

import numpy as np
import pytest

from align.datasets import open_dataset
from align.guess import guess_embodiment
from align.shift import compare_shifts, find_shifts, open_lam, pair_codes
from common.errors import BadData
from lam.label import encode_frames
from tests.tiny_robot import NAMES, robot_episodes, write_lam, write_robot_dataset


def made(rows: int, *, late: int, episodes: int = 4, noise: float = 0.1) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Codes (rows, 3) and changes (rows, 2) that are read from those `late` rows before."""
    random = np.random.default_rng(1)
    codes, changes = [], []
    for _ in range(episodes):
        shown = random.normal(size=(rows + 20, 3))
        told = shown @ np.array([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0]]) + noise * random.normal(size=(rows + 20, 2))
        codes.append(shown[10 : 10 + rows])
        changes.append(told[10 - late : 10 - late + rows])
    return codes, changes


@pytest.mark.parametrize("late", [-1, 0, 1])
def test_a_dataset_that_is_shifted_by_a_row_says_so(tmp_path: Path, late: int) -> None:
    lam = open_lam(write_lam(tmp_path / "lam"))
    dataset = open_dataset(write_robot_dataset(tmp_path / "set", late=late))
    found = find_shifts(lam, dataset, dataset.episodes, guess_embodiment(dataset, name="square"))
    assert found.controls.best == late and found.controls.slipped == (late != 0)
    assert found.state and found.state.best == 0, "what was measured stays with its frames"
    assert found.controls.columns == NAMES and found.rows_per_pair == 1 and found.episodes == 4
    assert max(found.controls.scores) > 0.8


@pytest.mark.parametrize("late", [-4, -1, 0, 2, 5])
def test_positive_means_that_the_rows_come_later_than_what_is_shown(late: int) -> None:
    found = compare_shifts(*made(60, late=late), list("abcd"), columns=("x", "y"), fps=10)
    assert found.shifts == tuple(range(-5, 6)) and found.best == late
    assert found.gain.value == pytest.approx(max(found.scores) - found.scores[5])


def test_fast_rows_are_tried_farther() -> None:
    found = compare_shifts(*made(200, late=-7), list("abcd"), columns=("x", "y"), fps=30)
    assert found.shifts == tuple(range(-9, 10)) and found.best == -7


def test_columns_that_the_frames_do_not_show_do_not_count() -> None:
    codes, changes = made(60, late=1)
    random = np.random.default_rng(2)
    noisy = [np.concatenate((rows, random.normal(size=rows.shape), 0 * rows), axis=1) for rows in changes]
    found = compare_shifts(codes, noisy, list("abcd"), columns=tuple("xyabcd"), fps=10)
    assert found.columns == ("x", "y") and found.best == 1


def test_chance_is_no_slip() -> None:
    codes, _ = made(60, late=0)
    random = np.random.default_rng(3)
    noise = [random.normal(size=(60, 2)) for _ in codes]
    assert not compare_shifts(codes, noise, list("abcd"), columns=("x", "y"), fps=10).slipped


def test_slow_drift_does_not_hide_it() -> None:
    """As a robot's recordings are: most of what changes, changes slowly, and tells no row from the next."""
    codes, changes = made(200, late=-2)
    waves = [5 * np.sin(np.arange(200) / 40 + phase)[:, None] for phase in range(4)]
    found = compare_shifts(
        [rows + wave for rows, wave in zip(codes, waves, strict=True)],
        [rows + wave for rows, wave in zip(changes, waves, strict=True)],
        list("abcd"),
        columns=("x", "y"),
        fps=10,
    )
    assert found.best == -2 and found.slipped


def test_short_episodes_narrow_the_range_and_too_few_are_refused() -> None:
    found = compare_shifts(*made(9, late=1, episodes=12), list("abcdefghijkl"), columns=("x", "y"), fps=10)
    assert found.shifts == (-2, -1, 0, 1, 2) and found.best == 1
    codes, changes = made(60, late=0, episodes=1)
    with pytest.raises(BadData, match="1 episodes"):
        compare_shifts(codes, changes, ["a"], columns=("x", "y"), fps=10)
    codes, changes = made(60, late=0)
    with pytest.raises(BadData, match="nothing ever changes"):
        compare_shifts(codes, [0 * rows for rows in changes], list("abcd"), columns=("x", "y"), fps=10)


@pytest.mark.parametrize("apart", [1, 2, 3])
def test_pairs_some_rows_apart_begin_at_every_row(tmp_path: Path, apart: int) -> None:
    lam = open_lam(write_lam(tmp_path / "lam"))
    frames = robot_episodes(1, length=11)[0].frames[:, ::2, ::2]
    codes = pair_codes(lam, frames, apart=apart)
    assert len(codes) == 11 - apart
    for row in (0, 4, 10 - apart):
        alone = encode_frames(lam.model, frames[[row, row + apart]])
        np.testing.assert_allclose(codes[row], alone[0], atol=1e-5)
