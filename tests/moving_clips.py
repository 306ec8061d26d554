"""Small clips in which a bright square moves over a still pattern: something to learn in seconds."""

from pathlib import Path

import numpy as np

from common.video import write_video


def moving_square(seed: int, *, frames: int = 40, size: int = 48, side: int = 12) -> np.ndarray:
    """uint8 (frames, size, size, 3): the square drifts and turns back at the border."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 120, (size // 8, size // 8, 3), dtype=np.uint8)
    background = coarse.repeat(8, 0).repeat(8, 1)
    place, speed = rng.uniform(0, size - side, 2), rng.uniform(1.0, 3.0, 2) * rng.choice((-1, 1), 2)
    clip = np.empty((frames, size, size, 3), dtype=np.uint8)
    for frame in clip:
        frame[:] = background
        y, x = place.round().astype(int)
        frame[y : y + side, x : x + side] = (250, 200, 90)
        place += speed
        outside = (place < 0) | (place > size - side)
        speed[outside] *= -1
        place = place.clip(0, size - side)
    return clip


def write_moving_clips(folder: Path, count: int, *, frames: int = 40, fps: float = 10) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_video(folder / f"clip_{number:02d}.mp4", moving_square(number, frames=frames), fps=fps, gop=10)
    return folder
