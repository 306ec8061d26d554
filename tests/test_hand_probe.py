"""The probe finds a hand that it can see, wherever the camera looks, and its R2 says when it can't."""

import numpy as np
import pytest
import torch

from tests.simulated_hand import floats, make_windows
from video_model.hand_probe import r2, train_hand_probe

WINDOWS = make_windows(14, 20)
FRAMES = np.stack([window.frames for window in WINDOWS])[:, :, ::2, ::2]
PLACES = np.stack([window.hand for window in WINDOWS if window.hand is not None])


def flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *values.shape[2:])


def test_it_learns_places_that_hold_in_clips_it_did_not_see() -> None:
    probe = train_hand_probe(flat(FRAMES[:10]), flat(PLACES[:10]), seed=0, steps=120)
    said = probe.places(floats(FRAMES[10:])).numpy()
    assert said.shape == PLACES[10:].shape
    assert min(r2(flat(said), flat(PLACES[10:]))) > 0.8


def test_training_is_a_function_of_its_arguments() -> None:
    one, two, other = (
        train_hand_probe(flat(FRAMES), flat(PLACES), seed=seed, steps=3).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["place.weight"], other["place.weight"])


def test_r2_against_its_definition() -> None:
    known = np.array([[0.0, 1.0], [2.0, 3.0]])
    assert r2(known, known) == (1, 1)
    assert r2(np.array([[1.0, 2.0], [1.0, 2.0]]), known) == (0, 0)
    assert r2(np.array([[0.0, 3.0], [2.0, 1.0]]), known) == pytest.approx((1, -3))
