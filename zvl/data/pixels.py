"""Pictures as numbers: the one way from a picture to `pixel_values`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

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
        with Image.open(path) as image:
            image.load()  # first: a search for EXIF behind a PNG's pixels would swallow their damage
            return (ImageOps.exif_transpose(image) if _is_turned(image) else image).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as err:
        raise ValueError(f"{path}: not a readable picture ({err})") from err


def _is_turned(image: Image.Image) -> bool:
    """Whether a camera noted that it was held on its side. Damaged notes say nothing, and cost no picture."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # struct.error, SyntaxError, ...
        return False
