"""Paths against a world in which hand and camera move by known pixels, and each formula against its definition."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.simulated_hand import SIZE, floats, make_actions, make_windows, make_world
from video_model.following import (
    FLOOR,
    PATCH,
    cosine,
    foreground_motion,
    frame_change,
    motion_of,
    root_mean_square,
    seen_from_first,
    sharpness,
    size_ratio,
    slope,
)

PIXEL = 2 / SIZE  # in half heights


def film_of(actions: list[list[float]]) -> Tensor:
    return floats(make_world(0).film(np.array(actions, float))[0])[None]


def test_the_path_is_how_the_hand_moved_and_the_shift_how_the_picture_did() -> None:
    moved = motion_of(film_of([[3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 2, 0], [0, 0, 0, 2], [-3, 0, 0, 1]]))
    steps = moved.path[0] / PIXEL
    for step, (x, y) in zip(steps, ((3, 0), (0, 3), (0, 0), (0, 0), (-3, 0)), strict=True):
        assert step.tolist() == pytest.approx([x, y], abs=1.2)
    # The picture moves against the camera; the shift says where a place of the second frame was in the first.
    shifts = ((0, 0), (0, 0), (2, 0), (0, 2), (0, 1))
    assert (moved.shift[0] / PIXEL).tolist() == [pytest.approx(shift, abs=0.2) for shift in shifts]


def test_a_still_film_has_no_motion_and_noise_has_little() -> None:
    still = film_of([[0, 0, 0, 0]] * 4)
    moved = motion_of(still)
    assert not moved.path.any() and not moved.camera.any()
    noisy = still + 0.05 * torch.randn(still.shape, generator=torch.Generator().manual_seed(0))
    assert root_mean_square(motion_of(noisy).path).item() < 0.3 * PIXEL


def test_the_foreground_is_what_moves_more_than_the_floor() -> None:
    field = torch.zeros(3, 2, 32, 32)
    field[0, 0, :8, :8] = 10 * FLOOR
    field[1, 0, :8, :8] = 0.9 * FLOOR
    field[2] = 2 * FLOOR  # the whole picture trembles, and a part of it moves
    field[2, 0, :8, :8], field[2, 1, :8, :8] = 20 * FLOOR, 0
    one, below, trembling = foreground_motion(field)
    weight, fading = 64 * 9, PATCH * 32 * 32
    torch.testing.assert_close(one, torch.tensor([10 * FLOOR * weight / (weight + fading), 0]))
    assert not below.any()
    assert trembling[0].item() == pytest.approx(20 * FLOOR, rel=0.02) and trembling[1].abs() < 0.01 * FLOOR


def test_places_are_carried_back_to_the_first_frame() -> None:
    """A place of the scene, seen by a panning camera, stays where it is; the hand's way is its own."""
    window = make_windows(1, 6)[0]
    moved = motion_of(floats(window.frames)[None])
    pan = np.concatenate((np.zeros((1, 2)), np.cumsum(window.actions[:, 2:], axis=0))) * PIXEL
    assert np.abs(pan).max() > 2 * PIXEL
    still = seen_from_first(torch.from_numpy(0.3 - pan)[None].float(), moved.camera)
    assert (still - 0.3).abs().max() < 0.5 * PIXEL
    assert window.hand is not None
    way = seen_from_first(torch.from_numpy(window.hand)[None].float(), moved.camera)[0]
    own = np.cumsum(window.actions[:, :2], axis=0) * PIXEL
    np.testing.assert_allclose((way[1:] - way[:1]).numpy(), own, atol=0.5 * PIXEL)


def test_the_order_of_turns_matters() -> None:
    """Frame 1 shifted the picture, frame 2 turned it: the turn is undone first."""
    camera = torch.zeros(1, 2, 8)
    camera[0, 0, 0], camera[0, 1, 2] = 2.0, 10 * torch.pi  # right by 0.1; a quarter turn of unit 0.05
    placed = seen_from_first(torch.tensor([[[0.0, 0.0], [0.0, 0.0], [0.5, 0.0]]]), camera)[0]
    torch.testing.assert_close(placed, torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.1, 0.5]]), atol=1e-5, rtol=0)


def test_cosine_and_size_of_paths() -> None:
    true = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    assert cosine(-3 * true, true).item() == pytest.approx(-1) and size_ratio(-3 * true, true).item() == pytest.approx(
        3
    )
    assert cosine(true.flip(1), true).item() == 0, "the same steps at other times are not the same path"
    assert cosine(0 * true, true).item() == 0
    assert root_mean_square(true).item() == pytest.approx(2.5**0.5)


def test_slope_is_per_second_at_uneven_times() -> None:
    seconds = torch.tensor([[0.1, 0.2, 0.5, 0.9]])
    assert slope(7 - 3 * seconds, seconds).item() == pytest.approx(-3)


def test_sharpness_falls_by_6_db_when_contrast_halves_and_ignores_brightness() -> None:
    frames = torch.rand(2, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    fall = sharpness(frames / 2 + 0.3) - sharpness(frames)
    assert fall.shape == (2, 5)
    torch.testing.assert_close(fall, torch.full((2, 5), -6.0206), atol=1e-3, rtol=0)


def test_frame_change_is_of_neighbours() -> None:
    film = torch.tensor([0.0, 0.1, 0.1, 0.5])[None, :, None, None, None].expand(1, 4, 3, 2, 2)
    assert frame_change(film).item() == pytest.approx(0.5 / 3)


def test_films_are_measured_one_by_one() -> None:
    films = torch.cat([floats(make_world(seed).film(make_actions(seed, 2))[0])[None] for seed in range(2)])
    both, alone = motion_of(films), motion_of(films[1:])
    torch.testing.assert_close(both.path[1:], alone.path, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both.camera[1:], alone.camera, atol=1e-4, rtol=1e-3)
