"""Clips whose every frame shows its own number, so that a test can see which frame it was given."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH, CELL, BITS = 96, 128, 8, 16
SIZE = (HEIGHT, WIDTH)
CLOCK = 90_000


def numbered_frame(number: int, *, scene: int = 0) -> np.ndarray:
    """uint8 (96, 128, 3): `number` in Gray code (one cell changes per frame) above a texture that drifts."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    wave = np.sin((columns + 1.5 * number) * (0.11 + 0.04 * (scene % 3))) * np.cos(rows * 0.07 * (1 + scene % 2))
    base = 60 if scene % 2 else 160
    image = np.repeat((base + 45 * wave)[:, :, None], 3, axis=2)
    gray_code = number ^ (number >> 1)
    for bit in range(BITS):
        image[:CELL, bit * CELL : (bit + 1) * CELL] = 235 if gray_code >> bit & 1 else 20
    return image.clip(0, 255).astype(np.uint8)


def number_of(image: np.ndarray) -> int:
    """The number that a frame of any size shows."""
    height, width = image.shape[0] / HEIGHT * CELL, image.shape[1] / WIDTH * CELL
    gray_code = sum(
        (int(image[round(height / 2), round((bit + 0.5) * width)].mean() > 128)) << bit for bit in range(BITS)
    )
    number = 0
    while gray_code:
        number ^= gray_code
        gray_code >>= 1
    return number


def write_clip(
    path: Path,
    seconds: Sequence[float],
    *,
    gop: int,
    images: Sequence[np.ndarray] | None = None,
    codec: str = "libx264",
) -> Path:
    """Write an mp4 with B-frames, a picture per entry of `seconds` (default: numbered frames)."""
    if images is None:
        images = [numbered_frame(number) for number in range(len(seconds))]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        options = {"crf": "20", "bf": "2", "sc_threshold": "0", "preset": "veryfast"}
        if codec == "libx265":
            options = {"preset": "ultrafast", "x265-params": "log-level=none:bframes=3:open-gop=1:scenecut=0"}
        stream = container.add_stream(codec, rate=30, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        stream.codec_context.time_base = Fraction(1, CLOCK)
        for time, image in zip(seconds, images, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time * CLOCK), Fraction(1, CLOCK)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def damage(path: Path, *, after: float) -> None:
    """Overwrite 2 % of the file from the share `after` of its length on."""
    data = bytearray(path.read_bytes())
    start = int(len(data) * after)
    length = len(data) // 50
    data[start : start + length] = np.random.default_rng(0).integers(0, 256, length, dtype=np.uint8).tobytes()
    path.write_bytes(data)
