"""The card: gates passed and missed, a ranking that stops when controls are out of order, JSON without NaN."""

import dataclasses
import json
import math

import numpy as np
import pytest

from common.errors import BadData
from lam.baselines import ConstantCode, DifferencePca, LeakyCode, PooledFlow, Zeros
from lam.card import Card, Entrant, SetCard, baselines, labels, make_card, set_hash
from lam.gates import action_block, gates, rank, target_of, verdict
from lam.sequences import EvaluationSet, Sequence
from lam.subjects import Subject
from tests.moving_hand import SIZE, Tracker, hand_set, plain_set


class Named(LeakyCode):
    name = "leak"


def card_of(*subjects: Subject, data: EvaluationSet, fast: bool = True) -> Card:
    entrants = [Entrant(subject, "baseline" if number else "model", (data,)) for number, subject in enumerate(subjects)]
    return make_card(entrants, gap_seconds=0.1, seed=0, fast=fast, label_free_pairs=48)


@pytest.fixture(scope="module")
def known() -> Card:
    size = (SIZE, SIZE)
    flow = PooledFlow(size=size, stabilised=True)
    return card_of(Tracker(), Named(size=size), ConstantCode(size=size), Zeros(size=size), flow, data=hand_set())


@pytest.fixture(scope="module")
def plain() -> Card:
    size = (SIZE, SIZE)
    return card_of(Tracker(), Named(size=size), ConstantCode(size=size), data=plain_set())


def gate(data: SetCard, subject: str, name: str) -> bool | None:
    card = next(card for card in data.subjects if card.name == subject)
    return next(found.passed for found in card.gates if found.name == name)


def test_a_subject_that_is_right_passes_and_a_cheat_does_not(known: Card) -> None:
    data = known.sets[0]
    assert data.disorder == ()
    assert [gate(data, "tracker", name) for name in ("zero response", "beyond flow", "effective rank")] == [True] * 3
    assert [gate(data, "leak", name) for name in ("zero response", "scene cut", "clip leak")] == [False] * 3
    assert gate(data, "constant code", "effective rank") is False
    assert gate(data, "zeros", "zero response") is None, "undefined is neither passed nor missed"


def test_the_hand_is_read_from_the_tracker_alone(known: Card) -> None:
    r2 = {card.name: card.read("hand") for card in known.sets[0].subjects}
    assert r2["tracker"] and r2["tracker"].ridge.r2.value > 0.95
    assert r2["constant code"] and abs(r2["constant code"].ridge.r2.value) < 0.1
    assert r2["zeros"] and r2["zeros"].increment.value < 0.1


def test_who_misses_a_gate_is_not_ranked(known: Card) -> None:
    ranking = known.sets[0].ranking
    assert "leak" not in ranking and "constant code" not in ranking


def test_without_labels_the_probe_gates_are_not_measured(plain: Card) -> None:
    data = plain.sets[0]
    assert data.target is None and data.probe_control is None
    assert gate(data, "tracker", "beyond flow") is None
    assert "nobody knows" in plain.verdict


def test_controls_in_the_wrong_order_rank_nothing() -> None:
    """Clips with one and the same picture behind the hand: another clip's frame is no cut, no clip can be told."""
    first = hand_set(1).sequences[0]
    alike = EvaluationSet(
        "alike",
        "video",
        tuple(Sequence(f"copy{number}", first.frames, first.seconds, {}) for number in range(4)),
        {},
    )
    card = card_of(Tracker(), data=alike)
    assert "clip_leak" in " ".join(card.sets[0].disorder)
    assert card.sets[0].ranking == ()
    assert "wrong order" in card.verdict and "nothing is ranked" in card.verdict


def test_ranking_goes_by_what_is_told_beyond_the_frame(known: Card) -> None:
    cards = [dataclasses.replace(card, gates=()) for card in known.sets[0].subjects]
    assert rank(cards, target="hand")[0] == "tracker"
    missed = dataclasses.replace(cards[0], gates=known.sets[0].subjects[1].gates)
    assert "tracker" not in rank([missed, *cards[1:]], target="hand")


def test_the_flow_is_not_compared_with_itself(known: Card) -> None:
    assert gate(known.sets[0], "stabilised flow", "beyond flow") is None


def test_a_model_that_tells_less_than_the_flow_misses_that_gate(known: Card) -> None:
    cards = list(known.sets[0].subjects)
    renamed = [dataclasses.replace(cards[0], name="stabilised flow"), *cards[1:4]]
    judged = gates(cards[1], renamed, target="hand")
    assert next(found.passed for found in judged if found.name == "beyond flow") is False


def test_a_decoder_that_predicts_worse_than_copying_misses_a_gate(known: Card) -> None:
    card = known.sets[0].subjects[0]
    decoder = card.label_free.decoder
    assert decoder
    for decibel, passed in ((-0.1, False), (0.1, True)):
        own = dataclasses.replace(decoder.psnr["copy"], value=decoder.psnr["copy"].value + decibel)
        worse = dataclasses.replace(decoder, psnr={**decoder.psnr, "own": own})
        changed = dataclasses.replace(card, label_free=dataclasses.replace(card.label_free, decoder=worse))
        judged = gates(changed, known.sets[0].subjects, target="hand")
        assert next(found.passed for found in judged if found.name == "PSNR, own action") is passed
    assert gate(known.sets[0], "zeros", "PSNR, own action") is None, "no decoder"


def test_the_verdict_names_what_is_missed(known: Card) -> None:
    leak = known.sets[0].subjects[1]
    said = verdict(leak, known.sets[0].subjects, name="hands", target="hand", disorder=())
    assert "zero response" in said and "R²" in said


def test_it_is_json_without_nan(known: Card, plain: Card) -> None:
    for card in (known, plain):
        text = card.to_json()
        assert "NaN" not in text and "Infinity" not in text
        assert json.loads(text)["protocol"] == card.protocol
    broken = dataclasses.replace(known, gap_seconds=math.nan)
    with pytest.raises(ValueError, match="nan"):
        broken.to_json()


def test_the_hash_knows_names_and_pixels() -> None:
    data = hand_set(2)
    renamed = dataclasses.replace(data, sequences=(dataclasses.replace(data.sequences[0], clip="x"), data.sequences[1]))
    frames = data.sequences[0].frames.copy()
    frames[3, 0, 0, 0] ^= 1
    painted = dataclasses.replace(
        data, sequences=(dataclasses.replace(data.sequences[0], frames=frames), data.sequences[1])
    )
    assert len({set_hash(data), set_hash(renamed), set_hash(painted)}) == 3
    assert set_hash(hand_set(2)) == set_hash(data)


def test_labels_that_slip_by_a_frame_are_not_read() -> None:
    data = hand_set()
    slipped = dataclasses.replace(
        data,
        sequences=tuple(
            dataclasses.replace(clip, factors={"hand": np.roll(clip.factors["hand"], 1, axis=0)})
            for clip in data.sequences
        ),
    )
    found = card_of(Tracker(), data=slipped).sets[0].subjects[0].read("hand")
    assert found and found.ridge.r2.value < 0.3


def test_label_curves_and_probes_onto_another_set() -> None:
    data, other = hand_set(5, frames=9), hand_set(3)
    entrant = Entrant(Tracker(), "model", (data,), onto=other, sweep={1.0: other})
    card = make_card([entrant], gap_seconds=0.1, seed=0, fast=False, label_free_pairs=24)
    model = card.sets[0].subjects[0]
    assert model.label_curve and model.label_curve[16].median < 0.1
    assert model.labels_needed["0.5"] == 8
    assert card.sets[0].supervised is not None
    assert card.probe_onto and card.probe_onto.scores["tracker"]["hand"].r2.value > 0.95
    assert card.sweep[0].r2["tracker"]["hand"].value > 0.95


def test_baselines_take_frames_of_any_size() -> None:
    found = baselines(Tracker(), [hand_set(2)], seed=0)
    assert [subject.name for subject in found][-1] == "stabilised flow"
    frames = hand_set(1).sequences[0].frames
    assert all(len(subject.encode(frames[:3], frames[1:4])) == 3 for subject in found)
    assert isinstance(found[2], DifferencePca)


def test_nothing_that_moves_is_bad_data() -> None:
    still = [dataclasses.replace(clip, frames=clip.frames[:1].repeat(14, 0)) for clip in plain_set().sequences]
    with pytest.raises(BadData, match="nothing moves"):
        card_of(Tracker(), data=EvaluationSet("still", "video", tuple(still), {}))


def test_names_must_differ() -> None:
    with pytest.raises(ValueError, match="names of their own"):
        card_of(Tracker(), Tracker(), data=hand_set(2))


def test_the_action_block_and_the_target() -> None:
    assert action_block({"act": 32, "cam": 8}) == "act" and action_block({"z": 32}) == "z"
    assert target_of(hand_set(1)) == "hand" and target_of(plain_set(1)) is None
    assert labels(hand_set(2))["hand"].shape == (26, 2)
