"""Anybody's picture as the models take theirs: upright, the square in its middle, few pixels."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from data.imageset import DataError

MOST = 2 * (Image.MAX_IMAGE_PIXELS or 0)        # pixels above which Pillow refuses a picture
SHARPER = 8     # times the side that is wanted: a JPEG need not be decoded any finer


class Picture(NamedTuple):
    """A picture's pixels, (3, side, side) uint8, and what was done to it that may surprise."""

    pixels: np.ndarray
    notes: list[str]


def read_picture(path: Path, side: int) -> Picture:
    """Any picture that Pillow reads, turned upright by its EXIF, its middle square resized."""
    try:
        with warnings.catch_warnings(), _opened(path) as image:
            frames = getattr(image, "n_frames", 1)
            image.draft("RGB", (SHARPER * side, SHARPER * side))
            square, notes = in_colours(middle(ImageOps.exif_transpose(image)))
            small = square.resize((side, side), Image.Resampling.BILINEAR)
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there: give the path of a picture") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} has more than {MOST // 10 ** 6} million pixels: make it smaller"
                        ) from error
    except Exception as error:  # a broken picture may raise nearly anything
        raise DataError(f"{path} does not open as a picture ({error}): take one that other "
                        "programs open") from error
    if frames > 1:
        notes.append(f"the first of its {frames} frames is taken")
    return Picture(np.asarray(small).transpose(2, 0, 1).copy(), notes)


def _opened(path: Path) -> Image.Image:
    """The picture, not yet decoded; the size at which Pillow begins to warn is no concern here."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    return Image.open(path)


def middle(image: Image.Image) -> Image.Image:
    """The largest square in the middle of a picture."""
    width, height = image.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    return image.crop((left, top, left + edge, top + edge))


def in_colours(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """A picture as RGB, and notes: 16-bit grey is brought to 8 bits, and white shows through."""
    if image.mode.startswith("I"):                      # which Pillow itself would cut at 255
        grey = (np.asarray(image).astype(float) / 257).round().clip(0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB"), ["its 16 bits become 8"]
    if not image.has_transparency_data:
        return image.convert("RGB"), []
    above = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(above)
    seen_through = above.getextrema()[3][0] < 255
    return white.convert("RGB"), ["what is transparent is put on white"] if seen_through else []
