"""The hand's place in the demo world's pictures, against geometry and against what the pictures show."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import BadData
from common.folders import open_folder
from scripts.demo_data import demo_set_path
from scripts.demo_hands import human_demo, picture_places, with_hands
from scripts.demo_scene import FIELD_OF_VIEW
from tests.simulated_hand import floats
from video_model.following import cosine, motion_of, seen_from_first
from video_model.held_out import Window

FACTORS = demo_set_path() / "factors/human/test"
CLIPS = open_folder(demo_set_path() / "human/test").clips[:8]
EDGE = math.tan(math.radians(FIELD_OF_VIEW / 2))


def seen(hand: tuple[float, float, float], camera: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """The place in the picture of a point relative to a camera turned by (yaw, pitch, roll)."""
    sway = np.array([[0.5, -0.2, 0.3]])
    return picture_places({"hand": sway + hand, "sway": sway, "camera": np.array([camera])})[0]


def test_the_camera_looks_along_the_worlds_y_and_the_picture_runs_right_and_down() -> None:
    np.testing.assert_allclose(seen((0, 2, 0)), (0, 0), atol=1e-12)
    np.testing.assert_allclose(seen((2 * EDGE, 2, 0)), (1, 0), atol=1e-12)
    np.testing.assert_allclose(seen((0, 2, 2 * EDGE)), (0, -1), atol=1e-12)


def test_turns_of_the_camera() -> None:
    np.testing.assert_allclose(
        seen((0, 1, -1), (0, -math.pi / 4, 0)), (0, 0), atol=1e-12
    )  # pitch is negative downwards
    np.testing.assert_allclose(seen((-1, 1, 0), (math.pi / 4, 0, 0)), (0, 0), atol=1e-12)
    np.testing.assert_allclose(seen((EDGE, 1, 0), (0, 0, math.pi / 2)), (0, 1), atol=1e-12)  # roll turns right to down


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    """12 steps of each of some test clips, bare."""
    found = []
    for clip in CLIPS:
        frames = list(clip.decode(size=(64, 64)))[20:33]
        images, seconds = np.stack([f.image for f in frames]), np.array([f.seconds for f in frames])
        found.append(Window(clip.name, images, seconds, np.zeros((12, 1), np.float32)))
    return found


def test_the_foreground_of_real_frames_moves_as_the_hand_does(windows: list[Window]) -> None:
    known = with_hands(windows, CLIPS, FACTORS)
    hands = torch.from_numpy(np.stack([window.hand for window in known if window.hand is not None])).float()
    moved = motion_of(torch.stack([floats(window.frames) for window in known]))
    steps = seen_from_first(hands, moved.camera).diff(dim=1)
    assert cosine(moved.path, steps).mean() > 0.65
    late = torch.cat((steps[:, 3:], steps[:, :3]), dim=1)
    assert cosine(moved.path, late).mean() < 0.45


def test_a_frame_without_factors_is_bad(windows: list[Window]) -> None:
    with pytest.raises(BadData, match="factors"):
        with_hands([replace(windows[0], seconds=windows[0].seconds + 60)], CLIPS, FACTORS)


def test_which_folders_are_the_demos(tmp_path: Path) -> None:
    demo = demo_set_path().resolve()
    assert human_demo(demo / "human/test") == (demo, Path("human/test"))
    assert human_demo(demo / "human") == (demo, Path("human"))
    assert human_demo(demo / "robot") is None and human_demo(demo) is None
    assert human_demo(tmp_path) is None
