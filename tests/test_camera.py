"""The camera's motion on pictures drawn from it: sign, direction, size, and what must not move it."""

import pytest
import torch
from torch import Tensor

from common.camera import CAMERA_DIM, UNIT, camera_of, estimate, homography, move
from tests.drawn_scene import Scene, centres

SIZES = [(64, 64), (96, 128), (128, 96)]
SHIFTS = {  # 0.3 half heights are 15 % of the height
    "right": [0.3, 0, 0, 0],
    "up": [0, -0.3, 0, 0],
    "both": [-0.2, 0.21, 0, 0],
    "sub-pixel": [0.011, -0.007, 0, 0],
    "turn": [0, 0, 0.1, 0],
    "zoom": [0, 0, 0, 0.06],
    "all": [0.12, -0.08, 0.05, 0.04],
}


def motion(*values: float) -> Tensor:
    """(1, 8) from the first few parameters, in half heights and radians."""
    return torch.tensor([[*values] + [0.0] * (CAMERA_DIM - len(values))]) / UNIT


def pair(seed: int, camera: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    scene = Scene(seed)
    return scene.frame(size), scene.frame(size, homography(camera)[0])


def distance(found: Tensor, truth: Tensor, size: tuple[int, int] = (96, 128)) -> float:
    """How far two motions take the points of a picture from each other, on average, in pixels of 64 rows."""
    points = centres(size).float().flatten(0, 1)
    points = torch.cat((points, torch.ones_like(points[:, :1])), dim=-1)
    moved = [points @ homography(camera)[0].T for camera in (found, truth)]
    places = [place[:, :2] / place[:, 2:] for place in moved]
    return (places[0] - places[1]).norm(dim=-1).mean().item() * 32


def paste(background: Tensor, patch: Tensor, *, row: int, column: int) -> Tensor:
    frame = background.clone()
    frame[..., row : row + patch.shape[-2], column : column + patch.shape[-1]] = patch
    return frame


# The parameters --------------------------------------------------------------------------------------------------


def test_the_basis_is_shift_turn_zoom_and_so_on_in_half_heights():
    point = torch.tensor([0.4, 0.2, 1.0])
    one = 0.01 / UNIT  # a hundredth of half a height, or of a radian
    where = [homography(one * torch.eye(CAMERA_DIM)[k : k + 1])[0] @ point for k in range(CAMERA_DIM)]
    moved = torch.stack([place[:2] / place[2] for place in where]) - point[:2]
    x, y = 0.004, 0.002
    expected = [(0.01, 0), (0, 0.01), (-y, x), (x, y), (x, -y), (y, x), (-0.4 * x, -0.4 * y), (-0.2 * x, -0.2 * y)]
    torch.testing.assert_close(moved, torch.tensor(expected), atol=1e-4, rtol=0)


def test_no_motion_is_the_identity_and_the_negative_is_the_way_back():
    torch.testing.assert_close(homography(torch.zeros(2, 8)), torch.eye(3).repeat(2, 1, 1))
    camera = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    back_and_forth = homography(camera) @ homography(-camera)
    torch.testing.assert_close(back_and_forth, torch.eye(3).repeat(16, 1, 1), atol=1e-5, rtol=0)
    half = homography(camera / 2)
    torch.testing.assert_close(half @ half, homography(camera), atol=1e-5, rtol=0)


def test_camera_of_is_the_inverse_of_homography_at_any_scale_of_the_matrix():
    camera = 1.5 * torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(camera_of(homography(camera)), camera, atol=2e-3, rtol=0)
    torch.testing.assert_close(camera_of(3.0 * homography(camera)), camera, atol=2e-3, rtol=0)


# Moving a frame --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-5, 4), (0, 0)])
def test_a_shift_by_whole_pixels_takes_pixels_over_and_knows_what_it_has_not_seen(right: int, down: int):
    """The second frame's (row, column) shows the first's (row + down, column + right)."""
    frame = torch.rand(2, 3, 30, 44, generator=torch.Generator().manual_seed(0))
    moved, seen = move(frame, motion(2 * right / 30, 2 * down / 30).repeat(2, 1))
    for row in range(30):
        for column in range(44):
            known = 0 <= row + down < 30 and 0 <= column + right < 44
            assert seen[:, 0, row, column].tolist() == [known, known]
            place = frame[..., min(max(row + down, 0), 29), min(max(column + right, 0), 43)]  # the border repeats
            assert (moved[..., row, column] - place).abs().max() < 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_moving_agrees_with_drawing_the_moved_picture(size: tuple[int, int]):
    camera = torch.tensor([[3.0, -2.0, 1.0, 1.0, 0.3, 0.2, 0.3, -0.3]])
    scene = Scene(3, shortest=0.4)
    second = scene.frame(size, homography(camera)[0])
    moved, seen = move(scene.frame(size), camera)
    assert 0.7 < seen.float().mean() < 1
    error = ((moved - second) * seen).square().mean()
    assert error < 1e-4
    assert error < 0.01 * (scene.frame(size) - second).square().mean()


# Finding the motion ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*SIZES, (24, 40), (240, 320)])
def test_equal_frames_have_no_motion(size: tuple[int, int]):
    frames = torch.cat([Scene(seed).frame(size) for seed in range(3)])
    found = estimate(frames, frames)
    assert found.shape == (3, CAMERA_DIM)
    assert found.abs().max() < 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_known_motions_are_found(size: tuple[int, int]):
    truths = [motion(*values) for values in SHIFTS.values()]
    for seed in range(2):
        pairs = [pair(seed, truth, size) for truth in truths]
        found = estimate(torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs]))
        wrong = {name: distance(found[i : i + 1], truths[i], size) for i, name in enumerate(SHIFTS)}
        assert {name: value for name, value in wrong.items() if value > 0.15} == {}


def test_known_motions_are_found_in_large_pictures():
    size = (240, 320)
    for name in ("both", "sub-pixel"):
        truth = motion(*SHIFTS[name])
        assert distance(estimate(*pair(0, truth, size)), truth, size) < 0.1


def test_motions_beyond_the_first_four_parameters_are_found():
    """Stretch, shear and tilts: a few steps leave a part of the tilts, so most of the way is asked for."""
    for seed in range(2):
        for parameter in range(4, 8):
            for value in (-0.6, 0.6):
                truth = torch.zeros(1, 8)
                truth[0, parameter] = value
                found = estimate(*pair(seed, truth, (96, 128)))
                assert 0.6 * abs(value) < found[0, parameter] * (value / abs(value)) < 1.1 * abs(value)
                assert (found - truth).abs().max() < 0.4 * abs(value)


@pytest.mark.parametrize("size", SIZES)
def test_the_first_frame_moved_looks_like_the_second_and_not_the_other_way_round(size: tuple[int, int]):
    first, second = pair(1, torch.tensor([[2.0, -1.5, 0.6, 0.5, 0.2, 0.1, 0.1, 0.1]]), size)
    found = estimate(first, second)

    def misfit(camera: Tensor) -> float:
        moved, seen = move(first, camera)
        return (((moved - second) * seen).square().sum() / seen.sum()).item()

    still = misfit(torch.zeros(1, 8))
    assert misfit(found) < 0.03 * still
    assert misfit(-found) > still


@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_the_way_back_is_the_negative(size: tuple[int, int]):
    for seed in range(3):
        random = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed))
        first, second = pair(seed, random * torch.tensor([2, 2, 1, 1, 0.2, 0.2, 0.2, 0.2]), size)
        forth, back = estimate(first, second), estimate(second, first)
        assert forth.abs().max() > 0.5
        assert distance(forth, -back, size) < 0.2


def test_a_part_of_30_percent_that_moves_otherwise_is_left_out():
    wrong = []
    for seed in range(4):
        truth = motion(0.05 * (seed - 1), -0.04 * (seed - 1), 0.01 * seed)
        first, second = pair(seed, truth, (96, 128))
        patch = Scene(100 + seed).frame((60, 62))
        pasted = estimate(paste(first, patch, row=20, column=30), paste(second, patch, row=27, column=22))
        patch_alone = motion(2 * 8 / 96, -2 * 7 / 96)
        assert distance(pasted, patch_alone) > 2
        wrong.append(distance(pasted, truth))
    assert max(wrong) < 0.5
    assert sum(wrong) / len(wrong) < 0.2


@pytest.mark.parametrize("light", ["darker", "gamma", "slow"])
def test_light_is_not_motion(light: str):
    slow = torch.linspace(0.6, 1.1, 128) * torch.linspace(1.0, 0.8, 96)[:, None]
    lit = {
        "darker": lambda values: values * 0.7 + 0.05,
        "gamma": lambda values: values**0.7,
        "slow": lambda values: (values * slow + 0.05).clamp(0, 1) ** 0.8,
    }[light]
    for seed, truth in enumerate((motion(), motion(0.1, -0.07, 0.03, 0.02))):
        first, second = pair(seed, truth, (96, 128))
        changed = lit((second + 1) / 2) * 2 - 1
        assert (changed - second).abs().mean() > 0.1
        assert distance(estimate(first, changed), truth) < 0.15


@pytest.mark.parametrize(("first", "second"), [(0.3, 0.3), (0.3, 0.15), (-1.0, 1.0), (0.15, 0.7)])
def test_plain_pictures_have_no_motion(first: float, second: float):
    for size in ((64, 64), (96, 128)):
        found = estimate(torch.full((1, 3, *size), first), torch.full((1, 3, *size), second))
        assert found.abs().max() < 1e-4


def test_what_cannot_be_aligned_gives_numbers_all_the_same():
    size = (96, 128)
    scene = Scene(0)
    beyond = scene.frame(size, homography(motion(1.2, 0.3))[0])
    noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = torch.zeros(1, 3, *size)
    for second in (beyond, Scene(1).frame(size), noise, plain, -scene.frame(size)):
        for camera in (estimate(scene.frame(size), second), estimate(second, scene.frame(size))):
            assert camera.isfinite().all()
            assert camera.abs().max() < 30
            assert move(second, camera)[0].isfinite().all()


def test_a_pair_alone_moves_as_it_does_among_others():
    cameras = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0] * 2 + [0.3] * 6)
    pairs = [pair(seed, cameras[seed : seed + 1], (64, 64)) for seed in range(5)]
    together = estimate(torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs]))
    for row, (first, second) in enumerate(pairs):
        torch.testing.assert_close(together[row : row + 1], estimate(first, second), atol=1e-3, rtol=0)


def test_half_precision_around_it_changes_nothing():
    truth = torch.tensor([[2.0, -1.5, 0.6, 0.5, 0.2, 0.1, 0.1, 0.1]])
    first, second = pair(0, truth, (96, 128))
    found, matrix, moved = estimate(first, second), homography(truth), move(first, truth)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(estimate(first, second), found, atol=1e-6, rtol=0)
        torch.testing.assert_close(homography(truth), matrix, atol=1e-6, rtol=0)
        torch.testing.assert_close(move(first, truth)[0], moved[0], atol=1e-6, rtol=0)
        assert torch.equal(move(first, truth)[1], moved[1])


def test_no_gradient_flows_into_the_estimate_and_one_flows_through_the_move():
    first, second = pair(0, motion(0.1), (64, 64))
    assert not estimate(first.requires_grad_(), second.requires_grad_()).requires_grad
    move(first, motion(0.1))[0].sum().backward()
    assert first.grad is not None
    assert first.grad.abs().max() > 0
