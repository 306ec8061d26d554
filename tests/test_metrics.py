"""PSNR and effective rank against closed forms."""

import math

import pytest
import torch

from common.metrics import PSNR_CEILING, effective_rank, psnr


def test_psnr_of_a_constant_offset_is_minus_20_log10_of_it():
    reference = torch.full((2, 3, 4, 5), 0.5)
    offsets = torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    torch.testing.assert_close(psnr(reference + offsets, reference), torch.tensor([20.0, 40.0]))


def test_psnr_is_per_picture_and_averages_over_all_pixels_and_colours():
    reference = torch.zeros(2, 3, 2, 2)
    pictures = reference.clone()
    pictures[1, 2, 1, 1] = 0.6  # one of twelve values
    first, second = psnr(pictures, reference).tolist()
    assert first == PSNR_CEILING
    assert second == pytest.approx(10 * math.log10(12 / 0.36))


@pytest.mark.parametrize("used", [1, 2, 5])
def test_effective_rank_of_equal_orthogonal_directions_is_their_number(used: int):
    vectors = torch.zeros(2 * used, 8)
    for direction in range(used):
        vectors[2 * direction, direction], vectors[2 * direction + 1, direction] = 1.0, -1.0
    assert effective_rank(vectors + 3.0) == pytest.approx(used)  # the common offset does not count


def test_effective_rank_of_a_known_spectrum():
    vectors = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # singular values 3 : 1
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(vectors) == pytest.approx(math.exp(entropy))


def test_effective_rank_of_equal_vectors_is_zero():
    assert effective_rank(torch.full((7, 4), 0.3)) == 0.0
