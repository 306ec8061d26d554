"""Cheap statistics of a picture stream: hard cuts, standing pictures, how far the camera turned.

All work on thumbnails of 24 x 32 grey levels, a fraction of a millisecond per frame.
"""

from collections import deque

import numpy as np
from PIL import Image

THUMBNAIL = (24, 32)  # height, width
STATIC_DIFFERENCE = 0.2  # mean grey levels; a pair below this is near-identical (a thumb folding gives 0.4 and more)

# A hard cut is a jump between two pictures that otherwise stand still or move evenly. Chosen on real first-person
# clips: fast head turns change the picture as much as a cut does, but they build up over several frames.
_CUT_DIFFERENCE = 8.0  # mean grey levels a cut changes at least
_CUT_RATIO = 3.0  # how much more it changes than any of the last frames did
_CUT_LIKENESS = 0.7  # correlation of the two pictures, after the best shift, that a cut stays below
_HISTORY = 6  # frames; more than one, because 15 fps footage stored as 30 fps repeats every picture
_SHIFT = 4  # thumbnail pixels, an eighth of the width


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Grey levels 0..255, float32 (24, 32), of an RGB picture uint8 (H, W, 3) of any size."""
    height, width = THUMBNAIL
    picture = Image.fromarray(image)
    # Twice the wanted size by whole-pixel blocks first: four times faster on large pictures.
    picture = picture.reduce(max(1, min(image.shape[0] // (2 * height), image.shape[1] // (2 * width))))
    return np.asarray(picture.convert("L").resize((width, height), Image.Resampling.BOX), dtype=np.float32)


def difference(thumb_a: np.ndarray, thumb_b: np.ndarray) -> float:
    """Mean absolute difference in grey levels, 0..255."""
    return float(np.abs(thumb_a - thumb_b).mean())


class CutDetector:
    """Finds hard cuts in a stream of consecutive frames. Needs four frames before it judges.

    Changes of exposure, flicker and fast camera turns are no cuts; dissolves are not found.
    """

    def __init__(self) -> None:
        self.previous: np.ndarray | None = None
        self.differences: deque[float] = deque(maxlen=_HISTORY)

    def is_cut(self, image: np.ndarray) -> bool:
        """Whether a hard cut lies between the last frame given and this one (uint8 (H, W, 3) RGB)."""
        return self.is_cut_thumbnail(thumbnail(image))

    def is_cut_thumbnail(self, thumb: np.ndarray) -> bool:
        """As `is_cut`, for who has the thumbnail already."""
        previous, self.previous = self.previous, thumb
        if previous is None:
            return False
        change = difference(previous, thumb)
        cut = (
            len(self.differences) >= 3
            and change > max(_CUT_DIFFERENCE, _CUT_RATIO * max(self.differences))
            and _likeness(previous, thumb) < _CUT_LIKENESS
        )
        if not cut:  # a second cut soon after must not be measured against the first
            self.differences.append(change)
        return cut


def camera_shift(thumb_a: np.ndarray, thumb_b: np.ndarray) -> tuple[float, float]:
    """How far the picture as a whole moved from a to b: (right, down) as shares of the width and the height.

    Phase correlation (Kuglin and Hines, 1975) with the peak refined to a part of a thumbnail pixel; on real pictures
    half of the errors are below 0.5 % of the width. (0.0, 0.0) for flat pictures.
    """
    height, width = thumb_a.shape
    window = np.sqrt(np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]))
    spectrum_a, spectrum_b = (np.fft.rfft2((thumb - thumb.mean()) * window) for thumb in (thumb_a, thumb_b))
    cross = spectrum_b * np.conj(spectrum_a)
    strength = np.abs(cross)
    if strength.max() < 1e-6:
        return 0.0, 0.0
    surface = np.fft.irfft2(cross / np.maximum(strength, 1e-3 * strength.max()), s=(height, width))
    row, column = np.unravel_index(int(surface.argmax()), surface.shape)
    down = _signed(row + _peak_offset(surface[:, column], int(row)), height)
    right = _signed(column + _peak_offset(surface[row], int(column)), width)
    return right / width, down / height


def _likeness(thumb_a: np.ndarray, thumb_b: np.ndarray) -> float:
    """Correlation (-1..1) of the middle of a with the most similar window of b; blind to brightness and contrast."""
    middle = thumb_a[_SHIFT:-_SHIFT, _SHIFT:-_SHIFT]
    windows = np.lib.stride_tricks.sliding_window_view(thumb_b, middle.shape).reshape(-1, middle.size)
    middle = middle.ravel() - middle.mean()
    windows = windows - windows.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(windows, axis=1) * np.linalg.norm(middle)
    return float(np.max(windows @ middle / np.maximum(scale, 1e-6)))


def _peak_offset(values: np.ndarray, peak: int) -> float:
    """Where between its neighbours a peak lies, -0.5..0.5, by the parabola through the three (they wrap around)."""
    before, at, after = values[peak - 1], values[peak], values[(peak + 1) % len(values)]
    curvature = before - 2 * at + after
    return float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)) if curvature < 0 else 0.0


def _signed(position: float, length: int) -> float:
    return float(position - length if position > length / 2 else position)
