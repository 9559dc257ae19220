"""Rules over pictures: those of Qwen-VL's appendix A.1, size and aspect ratio, and ours: unreadable, huge, blank."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from zvl.data.duplicates import LOOK, perceptual_hash
from zvl.data.limits import Limits

# Not EPS or PDF, for which Pillow starts a program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class Picture(NamedTuple):
    """What is measured of a picture's file. phash and spread are None where it was not worth decoding."""

    width: int = 0
    height: int = 0
    sha256: str = ""
    phash: str | None = None
    spread: float | None = None
    error: str = ""


def open_picture(data: bytes) -> Image.Image:
    """The header of a picture; nothing is decoded yet. Raises what Pillow raises for a file that is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `limits.pixels` decides
        return Image.open(io.BytesIO(data), formats=FORMATS)


def measure(path: str, limits: Limits) -> Picture:
    """Size, SHA-256 of the file, perceptual hash and spread of one picture; never raises for what is in the file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as err:
        return Picture(error=f"cannot be read: {type(err).__name__}")
    digest = hashlib.sha256(data).hexdigest()
    try:
        with open_picture(data) as image:
            found = Picture(*image.size, digest)
            if too_small(found, limits) or too_long(found, limits) or too_many_pixels(found, limits):
                return found
            image.draft("L", (2 * LOOK, 2 * LOOK))  # a JPEG need not be decoded larger than it is looked at
            grey = image.convert("L").resize((LOOK, LOOK), Image.Resampling.LANCZOS)
            return found._replace(
                phash=perceptual_hash(grey), spread=float(np.asarray(grey, np.float32).std())
            )
    except (
        Exception
    ) as err:  # decoders of strangers' files raise nearly anything: struct.error, SyntaxError, ...
        return Picture(sha256=digest, error=f"no picture that Pillow can decode: {type(err).__name__}")


def unreadable(picture: Picture, limits: Limits) -> str:
    return picture.error


def too_small(picture: Picture, limits: Limits) -> str:
    side = min(picture.width, picture.height)
    return f"{side} pixels, not {limits.side}" if side < limits.side and not picture.error else ""


def too_long(picture: Picture, limits: Limits) -> str:
    """Too large an aspect ratio, either way."""
    short, long = sorted((picture.width, picture.height))
    return f"1 to {long / short:.1f}, not {limits.aspect:g}" if long > limits.aspect * short > 0 else ""


def too_many_pixels(picture: Picture, limits: Limits) -> str:
    """A small file may unpack to gigabytes; known from its header alone."""
    pixels = picture.width * picture.height
    return f"{pixels} pixels, over {limits.pixels}" if pixels > limits.pixels else ""


def blank(picture: Picture, limits: Limits) -> str:
    """One colour: a placeholder, or 16 bits that Pillow turned to white. All such pictures have one perceptual hash."""
    return "" if picture.spread is None or picture.spread >= limits.spread else f"spread {picture.spread:.1f}"


IMAGE_RULES: dict[str, Callable[[Picture, Limits], str]] = {
    "unreadable": unreadable, "small": too_small, "aspect": too_long, "pixels": too_many_pixels, "blank": blank,
}  # fmt: skip
