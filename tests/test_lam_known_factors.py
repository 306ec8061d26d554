"""The factor table on planted codes: for each score one code that must do well and one that must do badly."""

import dataclasses
import json

import numpy as np
import pytest

from common.errors import BadData
from lam.known_factors import KnownFactors, frame_features, known_factors, transfer

CLIPS, STEPS = 20, 40
PAIRS = CLIPS * STEPS
NAMES = [f"clip{row // STEPS}" for row in range(PAIRS)]
FIELDS = {
    "hand": ("x", "y", "z"),
    "opening": ("opening",),
    "camera": ("yaw", "pitch"),
    "light": ("key", "fill"),
}
rng = np.random.default_rng(0)
CHANGES = {group: rng.normal(size=(PAIRS, len(names))) * 0.01 for group, names in FIELDS.items()}
FEATURES = rng.normal(size=(PAIRS, 8)) @ rng.normal(size=(8, 8))
HAND, CAMERA = (
    np.concatenate([CHANGES[group] for group in groups], axis=1)
    for groups in (("hand", "opening"), ("camera", "light"))
)


def card(z: np.ndarray, changes: dict[str, np.ndarray] = CHANGES, **options: object) -> KnownFactors:
    blocks = {"act": slice(0, 4), "cam": slice(4, 8)}
    settings = {"blocks": blocks, "fields": FIELDS, "features": FEATURES, "mlp": False} | options
    return known_factors(z, changes, NAMES, **settings)  # type: ignore[arg-type]


def test_a_code_that_separates_gets_the_best_scores_and_says_where() -> None:
    result = card(np.concatenate((HAND, CAMERA), axis=1))
    act, cam, whole = (result.blocks[name] for name in ("act", "cam", "z"))
    assert act.groups["hand"].ridge.r2.low > 0.99 and cam.groups["camera"].ridge.r2.low > 0.99
    assert act.groups["camera"].ridge.r2.value < 0.01 and cam.groups["hand"].ridge.r2.value < 0.01
    assert set(act.groups["hand"].ridge.fields) == {"x", "y", "z"}
    assert act.linear_lam is not None and act.linear_lam.objective == pytest.approx(2, abs=0.05)
    assert cam.linear_lam is not None and cam.linear_lam.objective == pytest.approx(0, abs=0.05)
    assert whole.linear_lam is not None and whole.linear_lam.objective == pytest.approx(1, abs=0.05)
    assert act.selectivity == pytest.approx(1, abs=0.02) and cam.selectivity == pytest.approx(-1, abs=0.02)
    assert act.groups["hand"].floor < 0.02 and cam.groups["light"].floor < 0.02
    assert result.still == []


def test_a_code_of_nuisance_and_appearance_gets_the_worst() -> None:
    z = np.concatenate((CAMERA, FEATURES), axis=1)
    whole = card(z, blocks={"act": slice(0, 4)}).blocks["z"]
    assert whole.linear_lam is not None and whole.linear_lam.objective == pytest.approx(-1, abs=0.05)
    assert whole.linear_lam.hand > 0.95 and whole.linear_lam.exogenous < 0.05 and whole.linear_lam.frame < 0.05
    assert whole.selectivity == pytest.approx(-1, abs=0.02)


def test_noise_stays_at_its_floor_and_a_slip_is_as_bad() -> None:
    noise = np.random.default_rng(5).normal(size=(PAIRS, 8))
    slipped = np.roll(np.concatenate((HAND, CAMERA), axis=1), 1, axis=0)
    for z in (noise, slipped):
        hand = card(z).blocks["z"].groups["hand"]
        assert hand.ridge.r2.value < 0.02
        assert abs(hand.floor) < 0.02
        assert hand.increment.value < 0.02


def test_the_floor_shows_labels_that_repeat_in_every_clip() -> None:
    """When all clips do the same at the same time, a code that tells the time looks like one that tells the action."""
    phase = np.arange(PAIRS) % 4
    same = {"hand": np.stack([np.sin(phase * np.pi / 2 + turn) for turn in (0.1, 1, 2)], axis=1)}
    result = card(np.eye(4)[phase], same, blocks={})
    assert result.blocks["z"].groups["hand"].ridge.r2.value > 0.99
    assert result.blocks["z"].groups["hand"].floor > 0.99
    assert result.blocks["z"].linear_lam is None and result.blocks["z"].selectivity is None


def test_the_increment_leaves_out_what_frame_t_tells() -> None:
    habit = {"hand": FEATURES[:, :3] * 0.01 + CHANGES["hand"] * 1e-3}
    copier = card(FEATURES, habit, blocks={})
    assert copier.blocks["z"].groups["hand"].ridge.r2.value > 0.9
    assert abs(copier.blocks["z"].groups["hand"].increment.value) < 0.01
    assert copier.frame["hand"].r2.value > 0.9
    free = card(HAND, blocks={})
    assert free.frame["hand"].r2.value < 0.01
    assert free.blocks["z"].groups["hand"].increment.low > 0.95


def test_few_components_hold_a_large_factor_and_lose_a_small_one() -> None:
    noise = np.random.default_rng(2).normal(size=(PAIRS, 40))
    large, small = noise.copy(), noise.copy()
    large[:, :3] = CHANGES["hand"] * 1e4
    small[:, :3] = CHANGES["hand"] * 10
    found = {name: card(z, blocks={}).blocks["z"].groups["hand"] for name, z in (("large", large), ("small", small))}
    assert set(found["large"].reduced) == {"8", "16"}
    assert found["large"].reduced["8"].value > 0.99 and found["small"].reduced["8"].value < 0.2
    assert found["small"].ridge.r2.value > 0.99
    assert card(HAND, blocks={}).blocks["z"].groups["hand"].reduced == {}


def test_the_mlp_column_finds_what_is_folded() -> None:
    z = np.abs(np.concatenate((HAND, CAMERA), axis=1))
    folded = {"hand": np.abs(CHANGES["hand"]) ** 2}
    group = card(z, folded, blocks={}, mlp=True).blocks["z"].groups["hand"]
    assert group.mlp is not None and group.mlp.r2.value > group.ridge.r2.value + 0.05
    assert group.mlp.r2.value > 0.9


def test_fields_that_stand_still_are_named_and_the_rest_counts() -> None:
    changes = {**CHANGES, "light": np.zeros((PAIRS, 2))}
    changes["camera"] = CHANGES["camera"] * (1, 0)
    result = card(np.concatenate((HAND, CAMERA), axis=1), changes)
    assert result.still == ["camera.pitch", "light.key", "light.fill"]
    assert "light" not in result.blocks["z"].groups
    assert set(result.blocks["z"].groups["camera"].ridge.fields) == {"yaw"}
    json.dumps(dataclasses.asdict(result), allow_nan=False)


def test_a_probe_carries_over_where_codes_mean_the_same() -> None:
    half = PAIRS // 2
    z = np.concatenate((HAND, CAMERA), axis=1)
    here = {"hand": CHANGES["hand"][:half], "light": CHANGES["light"][:half]}
    there = {"hand": CHANGES["hand"][half:] * (1, 1, 0), "state": CHANGES["light"][half:]}

    def onto(other: np.ndarray) -> float:
        found = transfer(
            z[:half],
            here,
            NAMES[:half],
            onto_z=other,
            onto_changes=there,
            onto_clips=NAMES[half:],
            fields={**FIELDS, "state": ("a", "b")},
        )
        assert set(found) == {"hand"} and set(found["hand"].fields) == {"x", "y"}
        return found["hand"].r2.value

    assert onto(z[half:]) > 0.99
    assert onto(z[half:, ::-1]) < 0.1
    assert onto(-z[half:]) < 0


def test_bad_labels_are_named() -> None:
    z = HAND
    broken = CHANGES["camera"].copy()
    broken[43, 1] = np.nan
    with pytest.raises(BadData, match=r"'camera.pitch' of pair 43 \(clip1\) is nan"):
        card(z, {**CHANGES, "camera": broken}, blocks={})
    with pytest.raises(BadData, match="'hand' has labels of shape"):
        card(z, {**CHANGES, "hand": CHANGES["hand"][1:]}, blocks={})
    with pytest.raises(BadData, match="nothing moves"):
        card(z, {"hand": np.ones((PAIRS, 3))}, blocks={})
    with pytest.raises(BadData, match="at least 2 clips, not 1"):
        known_factors(z, CHANGES, ["a"] * PAIRS, blocks={}, fields=FIELDS, features=FEATURES)
    with pytest.raises(BadData, match="no factor changes in both"):
        transfer(z, {"hand": HAND[:, :3]}, NAMES, onto_z=z, onto_changes={}, onto_clips=NAMES, fields=FIELDS)


def test_frame_features_tell_pictures_apart() -> None:
    pictures = np.repeat(np.random.default_rng(0).integers(0, 255, (10, 24, 32, 3), np.uint8), 5, axis=0)
    features = frame_features(pictures)
    assert features.shape == (50, 32)
    distances = np.linalg.norm(features[:, None] - features[None], axis=-1)
    same = np.kron(np.eye(10), np.ones((5, 5))) > 0
    assert distances[same].max() < 1e-5 < 0.1 < distances[~same].min()
