"""M3IT's jsonl, whose pictures travel within the rows as base64."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from zvl.data.rows import Quarantine, json_lines
from zvl.data.samples import Sample, Turn

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
MOST_PIXELS = 1 << 26  # more is no photograph, but may fill the memory


def read_m3it(
    path: Path, images: Path, language: str, source: str = "m3it", quarantine: Quarantine | None = None
) -> Iterator[Sample]:
    """M3IT: a row a line, `{instruction, inputs, image_base64_str[], outputs}`; one turn each, `inputs` may be empty.

    images: the folder into which the pictures are written, named by the SHA-256 of their bytes; one that stands there
    is not written again. A row is named by the number of its line. Raises DataError for a file that cannot be read.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    Path(images).mkdir(parents=True, exist_ok=True)
    for number, row in m3it_rows(path, quarantine):
        try:
            files = tuple(_written(text, Path(images)) for text in row["image_base64_str"])
        except ValueError as err:
            quarantine.add(path, number, "image_base64_str", str(err))
            continue
        asked = "\n".join(text for text in (row["instruction"].strip(), row["inputs"].strip()) if text)
        if asked.count("<image>") not in (0, len(files)):
            quarantine.add(path, number, "instruction", "as many <image> marks as images are needed")
            continue
        yield Sample(
            f"{source}-{language}-{number}",
            files,
            (Turn(asked, row["outputs"].strip()),),
            task="conversation",
            language=language,
            source=source,
        )


def m3it_rows(path: Path, quarantine: Quarantine) -> Iterator[tuple[int, dict]]:
    """(number of the line, row) of the rows whose fields are of the right kind; empty lines are passed over.

    Raises DataError for a file that cannot be read.
    """
    for number, row in json_lines(path, quarantine):
        if fault := _fault(row):
            quarantine.add(path, number, *fault)
        else:
            yield number, row


def _fault(row) -> tuple[str, str] | None:
    if not isinstance(row, dict):
        return "row", "not an object"
    for name in ("instruction", "inputs", "outputs"):
        text = row.get(name)
        if not isinstance(text, str) or (name != "inputs" and not text.strip()):
            return name, "not text" if name == "inputs" else "empty or not text"
    pictures = row.get("image_base64_str")
    if not isinstance(pictures, list) or not all(isinstance(text, str) for text in pictures):
        return "image_base64_str", "not a list of texts"
    return None


def _written(text: str, folder: Path) -> str:
    """The path of the picture of one base64 text. Raises ValueError, with the reason, where it is no picture."""
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as err:
        raise ValueError("not base64") from err
    target = folder / (hashlib.sha256(data).hexdigest() + _suffix(data))
    if not target.exists():
        part = target.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(data)
        os.replace(part, target)  # a picture stands there whole or not at all
    return os.fspath(target)


def _suffix(data: bytes) -> str:
    """The ending for a picture of these bytes. Raises ValueError where they are none, or break off."""
    try:
        with Image.open(io.BytesIO(data), formats=list(FORMATS)) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError("too many pixels")
            picture.load()  # what breaks off shows only now
            return FORMATS[picture.format]
    except Exception as err:  # Pillow's decoders raise nearly anything on bytes made to hurt
        raise ValueError("not a picture, or too large a one") from err
