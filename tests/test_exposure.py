"""Changes of light: maps of brightness, their inverses, and what is found of them beside a moving hand."""

import pytest
import torch

from common.exposure import UNIT, estimate_exposure, expose


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.rand(4, 3, 24, 32, generator=torch.Generator().manual_seed(0)) - 0.1


def everywhere(frames: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(frames[:, :1])


def test_a_gain_and_an_offset_by_hand(frames: torch.Tensor) -> None:
    gain = torch.tensor([[torch.log(torch.tensor(1.2)), 0.0]]).expand(4, 2) / UNIT
    assert torch.allclose(expose(frames, gain), 1.2 * frames, atol=1e-6)
    offset = torch.tensor([[0.0, 0.1]]).expand(4, 2) / UNIT
    assert torch.allclose(expose(frames, offset), frames + 0.1, atol=1e-6)


def test_the_negative_is_the_way_back_and_two_halves_are_the_whole(frames: torch.Tensor) -> None:
    change = torch.tensor([[2.0, 1.0], [-3.0, 1.5], [1e-4, 2.0], [0.0, 0.0]])
    there = expose(frames, change)
    assert torch.allclose(expose(there, -change), frames, atol=1e-5)
    assert torch.allclose(expose(expose(frames, change / 2), change / 2), there, atol=1e-5)
    assert torch.equal(expose(frames, 0 * change), frames)


def test_it_finds_what_was_done_beside_a_moving_hand(frames: torch.Tensor) -> None:
    change = torch.tensor([[2.0, 1.0], [-3.0, 1.5], [0.5, -2.0], [0.0, 1.0]])
    second = expose(frames, change)
    assert torch.allclose(estimate_exposure(frames, second, everywhere(frames)), change, atol=0.15)
    second[:, :, 4:12, 6:14] = 0.9  # a twelfth of the picture
    assert torch.allclose(estimate_exposure(frames, second, everywhere(frames)), change, atol=0.3)


def test_places_that_were_not_seen_do_not_count(frames: torch.Tensor) -> None:
    seen, second = everywhere(frames), frames.clone()
    seen[..., 16:], second[..., 16:] = 0, 1.0
    assert torch.allclose(estimate_exposure(frames, second, seen), torch.zeros(4, 2), atol=1e-6)


def test_equal_frames_plain_frames_and_unseen_ones_are_steady_light(frames: torch.Tensor) -> None:
    zeros = torch.zeros(4, 2)
    assert torch.equal(estimate_exposure(frames, frames, everywhere(frames)), zeros)
    assert torch.equal(estimate_exposure(frames, -frames, 0 * everywhere(frames)), zeros)
    plain = torch.zeros_like(frames)
    found = estimate_exposure(plain, plain + 0.1, everywhere(frames))
    assert torch.allclose(found, torch.tensor([[0.0, 0.1]]).expand(4, 2) / UNIT, atol=1e-4)  # an offset and no gain


def test_it_is_computed_in_full_precision(frames: torch.Tensor) -> None:
    second = expose(frames, torch.full((4, 2), 0.7))
    exact = estimate_exposure(frames, second, everywhere(frames))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(estimate_exposure(frames, second, everywhere(frames)), exact)
