"""A picture that somebody sent, as pixels of the model's size. Nothing of the file itself is kept."""

import struct
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

MOST_BYTES = 1024 * 1024
MOST_PIXELS = 4096 * 4096
FORMATS = ("JPEG", "PNG", "WEBP")
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for a file that it can't read."""


class PictureError(ValueError):
    """No picture that we take. The text is meant for the one who sent it."""


def decoded(data: bytes, height: int, width: int) -> np.ndarray:
    """A JPEG, PNG or WebP -> uint8 RGB (height, width, 3): its middle, as large as that shape allows.

    Size and format are looked at before any pixel is decoded. PictureError if it's none of the three, is animated,
    damaged, or has more than MOST_PIXELS pixels.
    """
    if len(data) > MOST_BYTES:
        raise PictureError(f"a picture may have {MOST_BYTES} bytes")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise PictureError(f"a picture may have {MOST_PIXELS} pixels, not {picture.width} x {picture.height}")
            if getattr(picture, "is_animated", False):
                raise PictureError("a picture must not be animated")
            picture.draft("RGB", (2 * width, 2 * height))  # a JPEG need not be decoded at its full size
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except PictureError:
        raise
    except BROKEN as error:
        raise PictureError("that is no JPEG, PNG or WebP that can be read") from error
    return np.asarray(ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS))
