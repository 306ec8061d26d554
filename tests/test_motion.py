"""Cuts, standing pictures and camera shift, on pictures made here and on real clips."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.motion import STATIC_DIFFERENCE, CutDetector, camera_shift, difference, thumbnail
from common.video import decode

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
EGO = ("blocks", "bristol", "catania", "cmu", "cmuafrica", "fair", "hand_gestures", "iiith", "kaust", "tokyo")
# The first five episodes of a robot dataset lie in one file, so its cuts are known: where an episode ends.
EPISODE_ENDS = [290, 587, 884, 1194]


def scene(seed: int, *, height: int = 600, width: int = 800) -> np.ndarray:
    """A smooth random picture: 30 x 40 random colours, enlarged."""
    colours = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC))


def window(image: np.ndarray, *, right: int = 0, down: int = 0) -> np.ndarray:
    """240 x 320 pixels of a scene, as seen when the picture has moved by so many pixels."""
    return image[180 - down : 420 - down, 240 - right : 560 - right]


def cuts(thumbnails: Iterable[np.ndarray]) -> list[int]:
    detector = CutDetector()
    return [index for index, thumb in enumerate(thumbnails) if detector.is_cut_thumbnail(thumb)]


@cache
def real_thumbnails(path: str) -> list[np.ndarray]:
    if not (DATA / path).exists():
        pytest.skip(f"needs the real clip {path} beside the repository")
    return [thumbnail(frame.image) for frame in decode(DATA / path, size=(240, 320))]


def test_thumbnail_is_the_mean_of_blocks() -> None:
    rows, columns = np.mgrid[0:240, 0:320]
    grey = (rows // 10 * 5 + columns // 10).astype(np.uint8)
    thumb = thumbnail(np.repeat(grey[:, :, None], 3, axis=2))
    assert thumb.shape == (24, 32) and thumb.dtype == np.float32
    np.testing.assert_allclose(thumb, grey[::10, ::10], atol=1)


@pytest.mark.parametrize("shape", [(1, 1, 3), (23, 31, 3), (47, 63, 3), (1080, 1920, 3)])
def test_thumbnail_takes_any_size(shape: tuple[int, int, int]) -> None:
    np.testing.assert_allclose(thumbnail(np.full(shape, 77, np.uint8)), np.full((24, 32), 77.0), atol=1)


def test_difference_counts_grey_levels() -> None:
    black, grey = np.zeros((24, 32), np.float32), np.full((24, 32), 5, np.float32)
    assert difference(black, grey) == difference(grey, black) == 5
    assert difference(black, black) == 0 < STATIC_DIFFERENCE


@pytest.mark.parametrize(("right", "down"), [(0, 0), (5, 0), (0, -5), (12, 8), (-40, 20), (60, -30)])
def test_camera_shift_has_the_right_sign_and_size(right: int, down: int) -> None:
    image = scene(1)
    x, y = camera_shift(thumbnail(window(image)), thumbnail(window(image, right=right, down=down)))
    assert x * 320 == pytest.approx(right, abs=4) and y * 240 == pytest.approx(down, abs=4)


def test_camera_shift_of_a_flat_picture_is_zero() -> None:
    flat = np.full((24, 32), 9, np.float32)
    assert camera_shift(flat, flat) == (0.0, 0.0)


def test_cut_lies_before_the_first_frame_of_the_new_scene() -> None:
    first, second = scene(1), scene(2)
    frames = [window(first, right=index) for index in range(10)] + [window(second, right=index) for index in range(10)]
    detector = CutDetector()
    assert [index for index, image in enumerate(frames) if detector.is_cut(image)] == [10]


def test_two_cuts_in_a_row_are_both_found() -> None:
    frames = [
        thumbnail(window(scene(seed), right=index)) for seed in (1, 2, 3) for index in range(3 if seed == 2 else 8)
    ]
    assert cuts(frames) == [8, 11]


def test_light_and_flicker_are_no_cuts() -> None:
    image = window(scene(1)).astype(np.float32)
    gains = [1, 1, 1, 1, 1, 1, 0.4, 0.4, 0.4, 1, 0.7, 1, 0.7, 1, 0.5, 1, 1, 1]
    assert cuts([thumbnail((image * gain).astype(np.uint8)) for gain in gains]) == []


def test_a_fast_turn_is_no_cut_even_when_every_frame_is_stored_twice() -> None:
    image = scene(1)
    places = [0, 0, 0, 0, 10, 40, 90, 150, 220, 239, 239, 239]
    frames = [thumbnail(window(image, right=place)) for place in places]
    assert cuts(frames) == []
    assert cuts([frame for frame in frames for _ in range(2)]) == []


def test_joined_episodes_of_a_robot_are_cut_where_they_end() -> None:
    path = "robot/g1_inspire_v30/videos/observation.images.cam_high/chunk-000/file-000.mp4"
    assert cuts(real_thumbnails(path)) == EPISODE_ENDS


@pytest.mark.parametrize("name", EGO)
def test_real_clips_of_one_take_have_no_cut(name: str) -> None:
    """Checked by eye. `fair` and `bristol` hold head turns that change the picture more than the robot's cuts do."""
    assert cuts(real_thumbnails(f"ego/{name}.mp4")) == []


def test_joined_real_clips_are_cut_where_they_are_joined() -> None:
    """Most places where one real clip follows another; a join in the middle of a fast turn may pass unseen."""
    clips = [real_thumbnails(f"ego/{name}.mp4") for name in ("blocks", "catania", "cmu", "kaust", "iiith", "tokyo")]
    places = range(20, 220, 20)
    joins = [(a, b, place) for a in clips for b in clips if a is not b for place in places]
    found = [cuts(a[place - 10 : place] + b[place : place + 3]) for a, b, place in joins]
    assert sum(cut == [10] for cut in found) >= 0.85 * len(joins)
    assert sum(cut not in ([10], []) for cut in found) == 0
