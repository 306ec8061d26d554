"""Optical flow on pairs whose motion is known: its sign, the order of its axes, its unit."""

import pytest
import torch
from torch import Tensor

from common.flow import UNIT, local_flow, warp
from tests.drawn_scene import Scene, centres

SIZES = [((64, 64), (32, 32)), ((128, 96), (64, 48)), ((240, 320), (60, 80))]
"""Frames, and the grids of flow asked for."""
MIDDLE, HALF = torch.tensor([0.1, -0.15]), torch.tensor([0.45, 0.4])


def inside(size: tuple[int, int], *, middle: Tensor = MIDDLE, half: Tensor = HALF) -> Tensor:
    """(height, width) bool: places within the rectangle, in half heights."""
    return ((centres(size) - middle).abs() < half).all(-1)


def moving_patch(size: tuple[int, int], flow: tuple[float, float], *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A textured patch at `MIDDLE` of the second frame that was `flow` pixels of 64 away in the first."""
    background, patch = Scene(seed).frame(size), Scene(seed + 50)
    shift = torch.tensor(flow) / 32
    here, there = patch.at(centres(size)), patch.at(centres(size) + shift)
    first = torch.where(inside(size, middle=MIDDLE + shift), here.permute(2, 0, 1)[None].float(), background)
    second = torch.where(inside(size), there.permute(2, 0, 1)[None].float(), background)
    return first, second


@pytest.mark.parametrize(("size", "grid"), SIZES)
def test_equal_frames_do_not_flow(size: tuple[int, int], grid: tuple[int, int]):
    frame = Scene(0).frame(size)
    flow = local_flow(frame, frame, grid)
    assert flow.shape == (1, 2, *grid)
    assert flow.abs().max() < 1e-4


@pytest.mark.parametrize(("size", "grid"), SIZES)
@pytest.mark.parametrize("truth", [(2.6, -1.3), (-0.4, 0.7)])
def test_a_patch_on_a_still_background(size: tuple[int, int], grid: tuple[int, int], truth: tuple[float, float]):
    for seed in (0, 1):
        flow = local_flow(*moving_patch(size, truth, seed=seed), grid)[0]
        found = flow[:, inside(grid, half=HALF - 0.2)].mean(1)
        torch.testing.assert_close(found, torch.tensor(truth), atol=0.35, rtol=0)
        assert flow[:, ~inside(grid, half=HALF + 0.25)].abs().mean() < 0.12  # the background stands still


@pytest.mark.parametrize(("size", "grid"), SIZES)
def test_the_first_frame_warped_looks_like_the_second_and_not_the_other_way_round(
    size: tuple[int, int], grid: tuple[int, int]
):
    first, second = moving_patch(size, (2.6, -1.3))
    flow = local_flow(first, second, grid)
    still = (first - second).square().mean()
    assert (warp(first, flow) - second).square().mean() < 0.45 * still
    assert (warp(first, -flow) - second).square().mean() > still
    assert (warp(first, flow.flip(1)) - second).square().mean() > still  # y before x


def test_the_unit_is_a_pixel_of_64_rows_whatever_the_width():
    frame = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    assert UNIT == 1 / 32
    flow = torch.zeros(2, 2, 32, 48)
    flow[:, 0], flow[:, 1] = 2 * 3, 2 * -1  # look 3 pixels of 32 rows to the right and one up
    torch.testing.assert_close(warp(frame, flow)[..., 1:, :-3], frame[..., :-1, 3:], atol=1e-4, rtol=0)
    for coarse in ((32, 48), (8, 12), (1, 1)):  # a coarse grid is grown, its values stay
        torch.testing.assert_close(warp(frame, flow[..., : coarse[0], : coarse[1]]), warp(frame, flow))
    assert warp(frame, torch.zeros(2, 2, 8, 12)).sub(frame).abs().max() < 1e-4


def test_light_does_not_flow():
    first, second = moving_patch((96, 128), (2.6, -1.3))
    dark = (second + 1) * 0.7 + 0.1 - 1
    flow, lit = local_flow(first, second, (48, 64)), local_flow(first, dark, (48, 64))
    assert (lit - flow).abs().mean() < 0.2
    found = lit[0][:, inside((48, 64), half=HALF - 0.2)].mean(1)
    torch.testing.assert_close(found, torch.tensor([2.6, -1.3]), atol=0.25, rtol=0)
    assert local_flow(first, (first + 1) * 0.7 + 0.1 - 1, (48, 64)).abs().mean() < 0.2


def test_plain_pictures_stand_still():
    plain = torch.full((1, 3, 64, 64), 0.3)
    assert local_flow(plain, plain * 0.5, (32, 32)).abs().max() < 1e-2
    assert local_flow(plain, Scene(0).frame((64, 64)), (32, 32)).isfinite().all()


def test_a_pair_alone_flows_as_it_does_among_others():
    pairs = [moving_patch((64, 64), (1.0 + seed, -0.5), seed=seed) for seed in range(3)]
    together = local_flow(torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs]), (32, 32))
    for row, (first, second) in enumerate(pairs):
        torch.testing.assert_close(together[row : row + 1], local_flow(first, second, (32, 32)), atol=1e-3, rtol=0)


def test_half_precision_around_it_changes_nothing_and_no_gradient_flows_into_it():
    first, second = moving_patch((96, 128), (2.6, -1.3))
    flow = local_flow(first, second, (48, 64))
    warped = warp(first, flow)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(local_flow(first, second, (48, 64)), flow)
        torch.testing.assert_close(warp(first, flow), warped, atol=1e-4, rtol=0)
        assert (warp(first, 0 * flow) - first).abs().max() < 1e-4
    assert not local_flow(first.requires_grad_(), second, (48, 64)).requires_grad


def test_warp_has_the_gradients_of_flow_and_frame():
    frame = Scene(0).frame((64, 64)).requires_grad_()
    second = frame.detach().roll(-1, dims=-1)  # shows what was a pixel to the right
    flow = torch.zeros(1, 2, 32, 32, requires_grad=True)
    (warp(frame, flow) - second)[..., 2:-2].square().mean().backward()
    assert flow.grad is not None
    assert frame.grad is not None
    across, down = (-flow.grad[0]).sum((1, 2)).tolist()
    assert across > 2 * abs(down)
    assert frame.grad.abs().max() > 0
