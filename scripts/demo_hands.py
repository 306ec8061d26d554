"""Where the hand is in the demo world's pictures: from the factors for measuring, by a probe for generated frames."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.folders import Clip
from scripts.demo_behaviour import FRAME_SECONDS
from scripts.demo_scene import FIELD_OF_VIEW
from scripts.evaluation_data import demo_factors, open_evaluation_set
from video_model.evaluate import FindHand
from video_model.hand_probe import train_hand_probe
from video_model.held_out import Window

PROBE_ROWS = 64  # of the pictures that the probe sees
PROBE_FRAMES = 4000  # that it learns from, at most


def human_demo(path: Path) -> tuple[Path, Path] | None:
    """Of a folder of the demo world's human video: the demo set, and the way down to the folder. None for others."""
    path = path.resolve()
    for root in path.parents:
        if (root / "demo.json").is_file() and path.relative_to(root).parts[0] == "human":
            return root, path.relative_to(root)
    return None


def with_hands(windows: Sequence[Window], clips: Sequence[Clip], factors: Path) -> list[Window]:
    """The windows of these clips of the demo world, with the hand's places. BadData if a frame has no factors."""
    by_name = {clip.name: clip for clip in clips}
    return [
        replace(window, hand=picture_places(demo_factors(factors, by_name[window.clip], window.seconds)))
        for window in windows
    ]


def learn_to_find_hands(folder: Path, *, size: tuple[int, int], seed: int, device: torch.device | str) -> FindHand:
    """A probe of real frames of a training folder of the demo world, for films of this (height, width)."""
    small = (PROBE_ROWS, round(PROBE_ROWS * size[1] / size[0]))
    found = open_evaluation_set(folder, size=small, gap_seconds=FRAME_SECONDS, limit=PROBE_FRAMES)
    frames = np.concatenate([sequence.frames for sequence in found.sequences])
    places = np.concatenate([picture_places(sequence.factors) for sequence in found.sequences])
    probe = train_hand_probe(frames, places, seed=seed, device=device)

    def find(films: Tensor) -> Tensor:
        pictures = F.interpolate(films.flatten(0, 1), size=small, mode="bilinear", antialias=True)
        return probe.places(pictures.unflatten(0, films.shape[:2]))

    return find


def picture_places(factors: dict[str, np.ndarray]) -> np.ndarray:
    """Where the point between the finger tips is in the picture, (T, 2) in half heights, right and down.

    From the groups hand (x, y, z), sway (the camera's x, y, z) and camera (yaw, pitch, roll) of `evaluation_data`; the
    camera looks along its own -z, its y is up.
    """
    yaw, pitch, roll = factors["camera"].T
    turn = _about_z(yaw) @ _about_x(math.pi / 2 + pitch) @ _about_z(roll)  # (T, 3, 3), from the camera to the world
    x, y, z = np.einsum("tji,tj->it", turn, factors["hand"] - factors["sway"])
    return np.stack((x, -y), axis=1) / (-z * math.tan(math.radians(FIELD_OF_VIEW / 2)))[:, None]


def _about_x(angle: np.ndarray) -> np.ndarray:
    one, zero = np.ones_like(angle), np.zeros_like(angle)
    rows = ((one, zero, zero), (zero, np.cos(angle), -np.sin(angle)), (zero, np.sin(angle), np.cos(angle)))
    return np.moveaxis(np.array(rows), -1, 0)


def _about_z(angle: np.ndarray) -> np.ndarray:
    one, zero = np.ones_like(angle), np.zeros_like(angle)
    rows = ((np.cos(angle), -np.sin(angle), zero), (np.sin(angle), np.cos(angle), zero), (zero, zero, one))
    return np.moveaxis(np.array(rows), -1, 0)
