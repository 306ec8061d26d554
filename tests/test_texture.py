"""Textures against loops, and against the light that they leave out."""

import pytest
import torch
from torch import Tensor

from common.texture import box_mean, grey, slopes, texture, texture_at
from tests.drawn_scene import Scene


def grey_picture(seed: int = 0, *, size: tuple[int, int] = (60, 84)) -> Tensor:
    return grey(Scene(seed).frame(size))


@pytest.mark.parametrize("window", [3, 5, 9])
def test_box_mean_is_the_mean_of_what_lies_inside_the_picture(window: int):
    frames = torch.rand(2, 3, 11, 13, generator=torch.Generator().manual_seed(0))
    half, result = window // 2, torch.empty_like(frames)
    for row in range(11):
        for column in range(13):
            square = frames[..., max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1]
            result[..., row, column] = square.mean((-1, -2))
    torch.testing.assert_close(box_mean(frames, window), result)


def test_slopes_are_half_the_difference_of_the_neighbours_right_minus_left_and_below_minus_above():
    frames = torch.rand(2, 1, 6, 9, generator=torch.Generator().manual_seed(0))
    right, down = torch.empty_like(frames), torch.empty_like(frames)
    for row in range(6):
        for column in range(9):
            left, after = frames[..., row, max(0, column - 1)], frames[..., row, min(8, column + 1)]
            above, below = frames[..., max(0, row - 1), column], frames[..., min(5, row + 1), column]
            right[..., row, column], down[..., row, column] = (after - left) / 2, (below - above) / 2
    torch.testing.assert_close(slopes(frames), (right, down))


def test_grey_runs_from_black_0_to_white_1_and_green_counts_most():
    colours = torch.tensor([[-1.0, -1, -1], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    values = grey(colours[:, :, None, None])
    torch.testing.assert_close(values.flatten(), torch.tensor([0, 1, 0.299, 0.587, 0.114]))


def test_texture_is_the_distance_from_the_mean_of_the_surroundings_in_standard_deviations():
    picture = grey_picture()
    around = picture[0, 0, 26:35, 36:45]  # 9 x 9 around (30, 40)
    expected = (picture[0, 0, 30, 40] - around.mean()) / (around.std(correction=0) + 0.03)
    torch.testing.assert_close(texture(picture)[0, 0, 30, 40], expected, atol=1e-4, rtol=1e-4)


def test_an_offset_changes_nothing_and_a_gain_next_to_nothing():
    plain = texture(grey_picture())
    torch.testing.assert_close(texture(grey_picture() + 0.2), plain, atol=2e-4, rtol=0)
    # The noise floor of 0.03 is all that a gain meets.
    assert (texture(grey_picture() * 0.6) - plain).abs().mean() < 0.2 * plain.abs().mean()
    turned = texture(1 - grey_picture())  # a negative is no change of light
    assert (turned - plain).abs().mean() > 1.5 * plain.abs().mean()


def test_light_that_changes_slowly_over_the_picture_changes_little():
    picture = grey_picture()
    height, width = picture.shape[-2:]
    light = torch.linspace(0.7, 1.2, width) * torch.linspace(1.0, 0.8, height)[:, None]
    plain, lit = texture(picture), texture(picture * light)
    assert (lit - plain).abs().mean() < 0.12 * plain.abs().mean()
    assert (picture * light - picture).abs().mean() > 0.3 * picture.std()  # while the picture itself changed a lot


@pytest.mark.parametrize("level", [0.0, 0.3, 0.999])
def test_a_plain_surface_is_zero(level: float):
    for size in ((40, 40), (32, 43), (80, 90)):
        assert texture_at(torch.full((1, 1, 40, 50), level), size).abs().max() < 1e-3


def test_texture_at_has_the_size_asked_for_and_keeps_the_places():
    """The bright spot stays at its share of the picture's height and width, for shrinking and growing."""
    picture = torch.zeros(1, 1, 48, 64)
    picture[..., 12:18, 40:48] = 1.0  # its middle: 5/16 of the height, 11/16 of the width
    for height, width in ((48, 64), (24, 32), (32, 43), (96, 128)):
        result = texture_at(picture, (height, width))
        assert result.shape == (1, 1, height, width)
        bright = (result[0, 0] > 0.9 * result.max()).nonzero().float().mean(0) + 0.5
        assert abs(bright[0].item() / height - 5 / 16) < 0.03
        assert abs(bright[1].item() / width - 11 / 16) < 0.03
