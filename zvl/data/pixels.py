"""Pictures as numbers: the one way from a picture to `pixel_values`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from zvl.data.limits import DEFAULT
from zvl.data.picture_rules import open_picture
from zvl.data.rows import Fault

# CLIP's statistics, which BLIP-2's processors use too.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def to_pixels(images: Sequence[Image.Image], size: int = 96) -> Tensor:
    """RGB pictures -> (batch, 3, size, size) float32, resized (bicubic) where needed and normalised."""
    shape = (size, size)
    fitted = (
        image if image.size == shape else image.resize(shape, Image.Resampling.BICUBIC) for image in images
    )
    pixels = (
        torch.from_numpy(np.stack([np.asarray(image) for image in fitted]))
        .permute(0, 3, 1, 2)
        .float()
        .div_(255)
    )
    return pixels.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))


def read_image(path: str) -> Image.Image:
    """Open a picture as RGB, upright. Raises ValueError that names the file when it cannot be decoded."""
    try:
        with open(path, "rb") as file:
            return decode_image(file.read())
    except (OSError, ValueError) as err:
        raise ValueError(f"{path}: not a readable picture ({getattr(err, 'reason', err)})") from err


def decode_image(data: bytes, pixels: int = DEFAULT.pixels) -> Image.Image:
    """The bytes of a stranger's picture as RGB, upright; of an animation the first frame.

    Transparent parts show white, not the colour that was hidden below them; 16 bits a channel keep their upper 8
    (Pillow alone would turn them white). Raises Fault for what Pillow cannot decode and for pictures of more than
    `pixels` pixels: a kilobyte may unpack to gigabytes, so the header decides.
    """
    try:
        with open_picture(data) as image:
            if image.width * image.height > pixels:
                raise Fault("image", f"over {pixels} pixels")
            image.load()  # first: a search for EXIF behind a PNG's pixels would swallow their damage
            return _as_rgb(ImageOps.exif_transpose(image) if _is_turned(image) else image)
    except Fault:
        raise
    except Exception as err:  # decoders of strangers' files raise nearly anything: struct.error, SyntaxError
        raise Fault("image", f"no picture that Pillow can decode: {type(err).__name__}") from err


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.convert("RGB")  # decodes; a copy where the file is still open
    if image.mode == "F":
        raise Fault("image", "floating-point values, whose range is unknown")
    if image.mode.startswith("I"):  # "I;16" and its byte orders; "I" is how Pillow opens some of them
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise Fault("image", "values of more than 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8), "L")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _is_turned(image: Image.Image) -> bool:
    """Whether a camera noted that it was held on its side. Damaged notes say nothing, and cost no picture."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # struct.error, SyntaxError, ...
        return False
