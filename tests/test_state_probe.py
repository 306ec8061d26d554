"""The probe reads a robot's state from pictures that it did not see; controls can stand for it."""

from dataclasses import replace

import numpy as np
import torch

from align.control_group import ControlGroup
from align.state_probe import held_names, recoloured, train_state_probe, with_held_controls
from tests.square_robot import BODY, NAMES, recording
from video_model.hand_probe import HandProbe, column_r2


def test_it_reads_states_that_hold_in_episodes_it_did_not_see() -> None:
    recordings = [recording(seed) for seed in range(16)]
    probe = train_state_probe(recordings[:12], NAMES, seed=0, steps=120)
    assert probe.names == NAMES and probe.episodes == 12 and probe.still == ()
    known = np.stack([one.states for one in recordings[12:] if one.states is not None])
    films = torch.from_numpy(np.stack([one.frames for one in recordings[12:]])).movedim(-1, 2).float() / 127.5 - 1
    said = probe.find(films).numpy()
    assert said.shape == known.shape
    found = column_r2(said.reshape(-1, 3), probe.normalised(known).reshape(-1, 3))
    assert found[:2].min() > 0.8, found


def test_training_is_a_function_of_its_arguments() -> None:
    recordings = [recording(seed, frames=4) for seed in range(3)]
    film = torch.rand(1, 2, 3, 64, 64) * 2 - 1
    one, two, other = (train_state_probe(recordings, NAMES, seed=seed, steps=3).find(film) for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_states_are_normalised_by_what_it_learned_from_and_still_columns_are_named() -> None:
    recordings = [recording(seed, frames=6) for seed in range(2)]
    held = [
        replace(one, states=one.states * np.array((1, 0, 1), np.float32) + 5)
        for one in recordings
        if one.states is not None
    ]
    probe = train_state_probe(held, NAMES, seed=0, steps=1)
    assert probe.still == ("y",) and probe.scale[1] == 1
    states = probe.normalised(np.concatenate([one.states for one in held if one.states is not None]))
    np.testing.assert_allclose(states.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(states.std(0), [1, 0, 1], atol=1e-5)


def test_large_pictures_are_made_smaller_for_it() -> None:
    probe = train_state_probe([recording(0, frames=4, size=160)], NAMES, seed=0, steps=2)
    assert probe.find(torch.zeros(2, 3, 3, 160, 200)).shape == (2, 3, 3)


def test_controls_in_force_stand_for_the_state() -> None:
    """Those of frame t led to it; those of the first frame are not known, so the next stand for them."""
    one = replace(recording(0, frames=6), states=None)
    held = with_held_controls(one, BODY)
    assert held_names(BODY) == NAMES and held.states is not None
    assert np.array_equal(held.states[1:], one.controls) and np.array_equal(held.states[0], one.controls[0])
    groups = (ControlGroup("place", 0, 2, "delta"), ControlGroup("turn", 2, 3, "absolute", wraps=True, unit="rad"))
    assert held_names(replace(BODY, groups=groups)) == ()


def test_colours_change_and_places_do_not() -> None:
    picture = torch.full((4, 3, 16, 16), -1.0)
    picture[:, :, 4:8, 4:8] = 1
    altered = recoloured(picture, torch.Generator().manual_seed(0))
    assert altered.shape == picture.shape and (altered[0] - altered[1]).abs().mean() > 0.05
    for one in altered:
        inside, outside = one[:, 4:8, 4:8], one[:, 10:, 10:]
        assert inside.std((-2, -1)).max() < 0.2 and outside.std((-2, -1)).max() < 0.2
        assert (inside.mean((-2, -1)) - outside.mean((-2, -1))).abs().max() > 0.5


def test_any_number_of_values_and_maps() -> None:
    frames = torch.rand(3, 3, 32, 48)
    assert HandProbe()(frames).shape == (3, 2) and HandProbe(values=5, maps=3)(frames).shape == (3, 5)
    peaked = HandProbe(values=4, peaks=True)
    assert (peaked(frames) - peaked(frames / 2)).abs().max() > 0


def test_r2_of_columns() -> None:
    known = np.array([[0.0, 1.0, 5], [2.0, 3.0, 5]])
    found = column_r2(np.array([[0.0, 2.0, 4], [2.0, 2.0, 5]]), known)
    assert found.tolist() == [1, 0, -np.inf]
