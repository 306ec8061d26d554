"""Augmentation changes both frames of a pair alike, and only as far as it says."""

import torch

from lam.augment import augment, crop, random_windows
from lam.loss import PairBatch
from lam.presets import LamAugmentConfig


def pictures(count: int = 6, size: int = 16) -> torch.Tensor:
    """(count, 2, 3, size, size): red rises with x, green with y, blue is 0.5 in the first frame, -0.5 in the second."""
    ramp = (torch.arange(size) + 0.5) / size * 2 - 1
    frames = torch.zeros(count, 2, 3, size, size)
    frames[:, :, 0] = ramp
    frames[:, :, 1] = ramp[:, None]
    frames[:, 0, 2], frames[:, 1, 2] = 0.5, -0.5
    return frames


def test_off_is_identity() -> None:
    frames = torch.rand(4, 2, 3, 8, 8) * 2 - 1
    off = LamAugmentConfig(mirror=False, zoom=1.0, brightness=0.0)
    assert torch.equal(augment(PairBatch(frames, ("a",) * 4), off).frames, frames)


def test_the_whole_window_is_the_picture_and_minus_one_mirrors_it() -> None:
    frames = torch.rand(2, 2, 3, 8, 12) * 2 - 1
    whole = crop(frames, torch.ones(2), torch.zeros(2, 2), torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(whole[0], frames[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(whole[1], frames[1].flip(-1), atol=1e-5, rtol=0)


def test_a_window_shows_its_part() -> None:
    """On a ramp, the window of half the side around (0.3, -0.4) shows x in 0.3 ± 0.5 and y in -0.4 ± 0.5."""
    shown = crop(pictures(1, 64), torch.tensor([0.5]), torch.tensor([[0.3, -0.4]]), torch.ones(1))
    red, green = shown[0, 0, 0, 32], shown[0, 0, 1, :, 32]
    torch.testing.assert_close(red, 0.3 + 0.5 * pictures(1, 64)[0, 0, 0, 0], atol=0.02, rtol=0)
    torch.testing.assert_close(green, -0.4 + 0.5 * pictures(1, 64)[0, 0, 1, :, 0], atol=0.02, rtol=0)


def test_both_frames_of_a_pair_change_alike_and_pairs_differ() -> None:
    torch.manual_seed(0)
    config = LamAugmentConfig(mirror=True, zoom=2.0, brightness=0.1)
    frames = augment(PairBatch(pictures(32), ("a",) * 32), config).frames
    difference = frames[:, 0] - frames[:, 1]
    assert difference[:, :2].abs().max() < 1e-5, "the same window and offset in both frames"
    torch.testing.assert_close(difference[:, 2].mean(), torch.tensor(1.0), atol=1e-4, rtol=0)
    assert frames[:, 0, 0].mean(dim=(1, 2)).std() > 0.1, "windows differ between pairs"
    rising = (frames[:, 0, 0, 0, -1] > frames[:, 0, 0, 0, 0]).float().mean()
    assert 0.2 < rising < 0.8, "about half are mirrored"


def test_windows_stay_inside_and_are_as_large_as_said() -> None:
    side, centre = random_windows(1000, zoom=1.5, device=torch.device("cpu"))
    assert side.min() >= 1 / 1.5 and side.max() <= 1
    assert (centre.abs() + side[:, None]).max() <= 1 + 1e-6


def test_brightness_is_one_offset_per_pair() -> None:
    torch.manual_seed(0)
    frames = torch.zeros(500, 2, 3, 2, 2)
    config = LamAugmentConfig(mirror=False, zoom=1, brightness=0.1)
    bright = augment(PairBatch(frames, ("a",) * 500), config).frames
    assert bright.flatten(1).std(dim=1).max() == 0
    assert 0.19 < bright.abs().max() <= 0.2, "a tenth of the range from -1 to 1"
