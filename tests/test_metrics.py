"""PSNR, SSIM, effective rank and Fréchet distance against closed forms."""

import math

import numpy as np
import pytest
import torch

from common.metrics import PSNR_CEILING, effective_rank, frechet_distance, psnr, ssim


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


def test_ssim_against_its_definition_window_by_window():
    random = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 1, 2, 13, 14, generator=random, dtype=torch.float64)
    bell = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = np.outer(bell, bell) / np.outer(bell, bell).sum()
    found = []
    for channel in range(2):
        for top in range(3):
            for left in range(4):
                a, b = (p[0, channel, top : top + 11, left : left + 11].numpy() for p in (x, y))
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
                shared = (weights * (a - mean_a) * (b - mean_b)).sum()
                light = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
                found.append(light * (2 * shared + 9e-4) / (var_a + var_b + 9e-4))
    assert ssim(x, y).item() == pytest.approx(np.mean(found), rel=1e-5)


def test_ssim_is_per_picture_and_one_for_equal_ones():
    reference = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pictures = reference.clone()
    pictures[1] = 1 - reference[1]
    same, inverted = ssim(pictures, reference).tolist()
    assert same == pytest.approx(1) and inverted < -0.5
    with pytest.raises(ValueError, match="11"):
        ssim(reference[..., :10], reference[..., :10])


def test_frechet_distance_of_gaussians_with_known_moments():
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = torch.cat((vectors, -vectors))
    assert frechet_distance(whole + torch.tensor([3.0, 0.0, 4.0]), whole) == pytest.approx(25)
    trace = torch.cov(whole.T).trace().item()
    assert frechet_distance(3 * whole, whole) == pytest.approx((3 - 1) ** 2 * trace)  # tr(9S + S - 2 * 3S)


def test_frechet_distance_against_the_matrix_root():
    random = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(30, 4, generator=random),
        torch.randn(20, 4, generator=random) @ torch.randn(4, 4, generator=random),
    )
    s, r = (torch.cov(rows.double().T) for rows in (x, y))
    root = torch.linalg.eigvals(s @ r).real.clamp(min=0).sqrt().sum()
    expected = (x.double().mean(0) - y.double().mean(0)).square().sum() + s.trace() + r.trace() - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected.item())
    assert frechet_distance(torch.randn(3, 50), torch.zeros(4, 50)) > 0, "fewer films than features"
