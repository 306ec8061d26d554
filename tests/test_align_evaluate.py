"""The measures of a robot on film makers with known answers: each number moves the right way."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from align.align_card import AlignCard
from align.evaluate import Measured, measure
from align.one_at_a_time import own_state
from align.state_probe import StateProbe
from align.subject import Drive, RobotSubject
from align.told_controls import cut_windows
from common.errors import BadData
from common.intervals import Interval
from tests.square_robot import NAMES, SIZE, Player, fitted, perfect_probe, recording

SEEDS, STEPS = range(4), 8
RECORDINGS = [recording(seed) for seed in SEEDS]
WINDOWS = cut_windows(RECORDINGS, steps=STEPS, each=1)
BODY = fitted(RECORDINGS)
PROBE = perfect_probe(RECORDINGS)
perfect = Player(SEEDS)


def ignoring(first: Tensor, controls: np.ndarray, before: np.ndarray, seed: int) -> Tensor:
    """Plays the same whatever it is told: the square goes right."""
    rows = np.repeat(before[:, None], controls.shape[1], axis=1)
    rows[..., 0] += 2 * np.arange(1, controls.shape[1] + 1)
    return perfect(first, rows, before, seed)


def late(first: Tensor, controls: np.ndarray, before: np.ndarray, seed: int) -> Tensor:
    films = perfect(first, controls, before, seed)
    return torch.cat((films[:, :1], films[:, :-1]), dim=1)


def mirrored(first: Tensor, controls: np.ndarray, before: np.ndarray, seed: int) -> Tensor:
    return perfect(first, (2 * before[:, None] - controls).clip(0, SIZE), before, seed)


def measured(drive: Drive, *, probe: StateProbe | None = PROBE) -> Measured:
    subject = RobotSubject("toy", BODY, drive, lambda films: films)
    return measure(subject, WINDOWS, data="squares", probe=probe, batch_size=3, starts=1)


def card_of(drive: Drive, *, probe: StateProbe | None = PROBE) -> AlignCard:
    return measured(drive, probe=probe).card


@pytest.fixture(scope="module")
def right() -> Measured:
    return measured(perfect)


def value(found: Interval | None) -> float:
    assert found is not None
    return found.value


def errors(card: AlignCard) -> dict[str, float]:
    assert card.state
    return {name: value(error.overall) for name, error in card.state.errors.items()}


def gate(card: AlignCard, name: str) -> bool | None:
    return next(gate.passed for gate in card.gates if name in gate.name)


def test_a_perfect_model_scores_as_it_should(right: Measured) -> None:
    card, films, strips = right.card, right.films, right.strips
    assert (card.episodes, card.windows, card.steps) == (4, 4, STEPS)
    assert all(gate.passed for gate in card.gates)
    off = errors(card)
    assert off["true"] == pytest.approx(0, abs=0.01) and off["truth"] == off["tokenizer"] == off["true"]
    assert off["copy"] == off["zero"] == 1
    assert off["shuffled"] > 0.8 and off["opposite"] > 1.3
    assert card.fidelity["true"].psnr.mean.value > card.fidelity["copy"].psnr.mean.value + 10
    assert len(card.fidelity["true"].psnr.frames) == STEPS and card.fidelity["true"].ssim.mean.value > 0.99
    rows = card.foreground.rows
    assert value(rows["true"].cosine) > 0.95 and value(rows["opposite"].cosine) < -0.7
    assert value(rows["zero"].size) == 0 == value(card.zero_motion)
    assert card.state and min(one for one in card.state.r2.values() if one is not None) > 0.99 and not card.state.unread
    assert not card.missing
    assert len(films) == 4 and np.array_equal(films[0].frames["true"], films[0].frames["truth"])
    assert json.loads(card.to_json())["state"]["errors"]["true"]["overall"]["value"] == off["true"]
    assert len(strips) == 3


def test_one_step_late_is_measurably_worse(right: Measured) -> None:
    behind = card_of(late)
    assert errors(behind)["true"] > errors(right.card)["true"] + 0.1
    assert behind.state and all(value(one) > 0.1 for one in behind.state.errors["true"].columns.values())
    assert behind.fidelity["true"].psnr.mean.value < right.card.fidelity["true"].psnr.mean.value - 3


def test_a_model_that_ignores_its_controls_is_found_out() -> None:
    card = card_of(ignoring)
    assert gate(card, "PSNR, true controls, over another") is False
    assert gate(card, "state error") is False
    assert gate(card, "motion with neutral") is False and value(card.zero_motion) == 1
    assert not any(effect.left or effect.right for effect in card.trials.controls)
    for effect in card.trials.controls:
        assert effect.states == pytest.approx(dict.fromkeys(NAMES, 0), abs=1e-6) and effect.largest is None


def test_a_model_that_goes_the_other_way_is_found_out() -> None:
    card = card_of(mirrored)
    assert errors(card)["true"] > 1.2 and errors(card)["opposite"] < 0.7
    assert gate(card, "opposite") is False and gate(card, "over copying") is False
    effects = {effect.name: effect for effect in card.trials.controls}
    assert effects["x"].states["x"] < -0.5 and effects["x"].shift[0] < -0.1


def test_columns_that_cannot_be_read_are_left_out() -> None:
    def find(films: Tensor) -> Tensor:
        return PROBE.find(films) * torch.tensor([1.0, 0, 1])

    blind = replace(PROBE, find=find, names=("x", "y", "opening"))
    card = card_of(perfect, probe=blind)
    assert card.state and list(card.state.unread) == ["y"] and card.state.unread["y"].startswith("R² ")
    assert errors(card)["true"] == pytest.approx(0, abs=0.01), "of the others"
    assert set(card.state.errors["true"].columns) == {"x", "opening"}
    y = next(effect for effect in card.trials.controls if effect.name == "y")
    assert y.own is None and y.asked is None and set(y.states) == {"x", "opening"}
    still = card_of(perfect, probe=replace(PROBE, still=("opening",)))
    assert still.state and "learned from" in still.state.unread["opening"]


def test_without_a_probe_and_with_one_that_reads_nothing() -> None:
    card = card_of(perfect, probe=None)
    assert card.state is None and "no states" in card.missing["state error"] and gate(card, "state error") is None
    assert card.trials.controls[0].states == {}
    none = card_of(perfect, probe=replace(PROBE, find=lambda films: torch.zeros(*films.shape[:2], 3)))
    assert none.state and len(none.state.unread) == 3 and none.state.errors["true"].overall is None
    assert "cannot read" in none.missing["state error"] and gate(none, "state error") is None
    none.to_json()


def test_each_control_by_itself(right: Measured) -> None:
    card, strips = right.card, right.strips
    effects = {effect.name: effect for effect in card.trials.controls}
    assert list(effects) == list(NAMES) and card.trials.left_out == ()
    unit = 2 / SIZE * effects["x"].unit  # in half heights
    assert effects["x"].shift == pytest.approx((unit, 0), abs=0.25 * unit)
    assert effects["y"].shift == pytest.approx((0, unit), abs=0.25 * unit)
    for name, effect in effects.items():
        assert effect.own == effect.largest == name
        others = [change for other, change in effect.states.items() if other != name]
        assert others == pytest.approx([0, 0], abs=0.05)
    assert effects["x"].states["x"] == pytest.approx(effects["x"].asked, rel=0.1)
    assert [strip.control for strip in strips] == list(NAMES)
    shown = strips[0].pictures
    assert np.abs(shown["difference"].astype(int) - 128).max() > 20
    assert abs(int(shown["difference"][0, 0, 0]) - 128) <= 1, "nothing changes where the square is not"


def test_the_half_of_the_picture_that_changes() -> None:
    recordings = [recording(seed, left=True) for seed in SEEDS]
    windows = cut_windows(recordings, steps=STEPS, each=1)
    subject = RobotSubject("toy", fitted(recordings), perfect, lambda films: films)
    card = measure(subject, windows, data="left", probe=None, starts=2).card
    for effect in card.trials.controls:
        assert effect.left > 20 * effect.right


def test_a_control_that_never_moved_is_left_out() -> None:
    held = [replace(one, controls=one.controls * np.array((1, 0, 1), np.float32)) for one in RECORDINGS]
    subject = RobotSubject("toy", fitted(held), perfect, lambda films: films)
    trials = measure(subject, WINDOWS, data="squares", probe=PROBE, starts=1).card.trials
    assert trials.left_out == ("y",) and [effect.name for effect in trials.controls] == ["x", "opening"]


@pytest.mark.parametrize(
    ("states", "own"),
    [(("x", "opening"), ["x", None, "opening"]), (("a", "b", "c"), ["a", "b", "c"]), (("a", "b"), [None] * 3)],
)
def test_which_state_is_a_controls_own(states: Sequence[str], own: list[str | None]) -> None:
    assert [own_state(BODY, number, states) for number in range(3)] == own


def test_the_batch_size_does_not_matter(right: Measured) -> None:
    subject = RobotSubject("toy", BODY, perfect, lambda films: films)
    other = measure(subject, WINDOWS, data="squares", probe=PROBE, batch_size=8, starts=1).card
    assert errors(other) == pytest.approx(errors(right.card), abs=1e-5)


def test_films_that_cannot_be_are_refused() -> None:
    with pytest.raises(BadData, match="NaN"):
        card_of(lambda first, controls, before, seed: perfect(first, controls, before, seed) * float("nan"))
    with pytest.raises(ValueError, match="shape"):
        card_of(lambda first, controls, before, seed: perfect(first, controls, before, seed)[:, 1:])


def test_one_episode_is_too_few() -> None:
    subject = RobotSubject("toy", BODY, perfect, lambda films: films)
    with pytest.raises(BadData, match="1 clip only"):
        measure(subject, WINDOWS[:1], data="squares", probe=None)
