"""Symbolic representations: what a teacher that sees no picture is shown of one (paper section 3.1).

Captions say what the scene is from several sides, boxes say what is where. They come from annotations here, or from
pictures by `detector.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zvl.data.boxes import Box, box_text, boxes_in
from zvl.data.captions import read_coco_captions
from zvl.data.rows import DataError, Quarantine

HEADINGS = {"en": ("Captions:", "Boxes:"), "zh": ("描述：", "物体框：")}
UNITS = 1000.0  # boxes are told in thousandths of the picture's sides

_LINE = re.compile(r"- (?P<name>.+) (?P<box>\(\d+,\d+\),\(\d+,\d+\))")


@dataclass(frozen=True, slots=True)
class Thing:
    """One named thing. box: (x, y, width, height) in pixels of its picture."""

    name: str
    box: Box


@dataclass(frozen=True, slots=True)
class Symbols:
    """One picture in words. Captions and names are in one language; width and height are in pixels."""

    image_id: str
    image: str
    width: float
    height: float
    captions: tuple[str, ...]
    things: tuple[Thing, ...]
    language: str


def can_be_told(box: Box, width: float, height: float) -> bool:
    """Whether a box lies within its picture and has an area there in thousandths; sides are in pixels."""
    try:
        return bool(boxes_in(box_text(box, width, height), UNITS, UNITS))
    except (TypeError, ValueError, ArithmeticError):
        return False


def symbols_text(symbols: Symbols) -> str:
    """The symbols as the teacher reads them: captions, then a name and a box in thousandths a line.

    A line break in a caption or a name becomes a blank, so that no text of a data set can add lines of its own.
    Raises ValueError for a box that cannot be told.
    """
    captions, boxes = HEADINGS[symbols.language]
    told = [captions, *(f"- {_line(text)}" for text in symbols.captions), boxes]
    for thing in symbols.things:
        if not can_be_told(thing.box, symbols.width, symbols.height):
            raise ValueError(
                f"the box {thing.box} of {thing.name!r} cannot be told in thousandths of its picture"
            )
        told.append(f"- {_line(thing.name)} {box_text(thing.box, symbols.width, symbols.height)}")
    return "\n".join(told)


def parse_symbols(text: str) -> Symbols:
    """What `symbols_text` wrote, as a picture of 1000 by 1000 without id or file; an empty line ends it.

    Raises ValueError where no line is a heading, or a line is none of those that `symbols_text` writes.
    """
    lines = text.split("\n\n", 1)[0].splitlines()
    language = next((lang for lang, heads in HEADINGS.items() if lines and lines[0] == heads[0]), None)
    if language is None or HEADINGS[language][1] not in lines:
        raise ValueError("these are no symbols: no headings for captions and boxes")
    cut = lines.index(HEADINGS[language][1])
    captions, things = [], []
    for line in lines[1:cut]:
        if not line.startswith("- "):
            raise ValueError(f"not the line of a caption: {line!r}")
        captions.append(line[2:])
    for line in lines[cut + 1 :]:
        found = _LINE.fullmatch(line)
        box = boxes_in(found["box"], UNITS, UNITS) if found else []
        if not box:
            raise ValueError(f"not the line of a box: {line!r}")
        things.append(Thing(found["name"], box[0]))
    return Symbols("", "", UNITS, UNITS, tuple(captions), tuple(things), language)


def read_symbols(
    captions: Path, instances: Path, images: Path, language: str, quarantine: Quarantine | None = None
) -> Iterator[Symbols]:
    """COCO's captions and boxes of the same pictures, one `Symbols` for each picture that has both.

    A category is named by its field `name_zh` for Chinese, where it has one, else by `name`. Raises DataError for a
    file that is not such a JSON file; a row that cannot be used is put aside.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    told: dict[str, list] = {}
    for pair in read_coco_captions(captions, images, language, quarantine=quarantine):
        told.setdefault(pair.image_id, []).append(pair)
    data = _instances(instances)
    names = {str(row.get("id")): (row.get("name_zh") if language == "zh" else None) or row.get("name")
             for row in data["categories"] if isinstance(row, dict)}  # fmt: skip
    sizes = {str(row.get("id")): row for row in data["images"] if isinstance(row, dict)}
    found: dict[str, list[Thing]] = {}
    for number, row in enumerate(data["annotations"]):
        image_id = str(row.get("image_id")) if isinstance(row, dict) else None
        name = names.get(str(row.get("category_id"))) if image_id is not None else None
        if image_id not in sizes:
            quarantine.add(instances, number, "image_id", "no such image")
        elif not isinstance(name, str) or not name.strip():
            quarantine.add(instances, row.get("id", number), "category_id", "no such category")
        else:
            box, size = row.get("bbox"), sizes[image_id]
            if isinstance(box, list) and can_be_told(box, size.get("width"), size.get("height")):
                found.setdefault(image_id, []).append(Thing(name.strip(), tuple(box)))
            else:
                quarantine.add(instances, row.get("id", number), "bbox", "not a box within its image")
    for image_id, pairs in told.items():
        if image_id not in found:
            quarantine.add(instances, image_id, "annotations", "no box of this image")
            continue
        size = sizes[image_id]
        yield Symbols(
            image_id,
            os.fspath(pairs[0].image),
            size["width"],
            size["height"],
            tuple(pair.caption for pair in pairs),
            tuple(found[image_id]),
            language,
        )


def _line(text: str) -> str:
    return " ".join(text.split())


def _instances(path: Path) -> dict:
    try:
        data = json.loads(Path(path).read_text("utf8"))
    except (OSError, ValueError, RecursionError) as err:
        raise DataError(f"{path}: cannot be read as JSON ({err})") from err
    for name in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(name), list):
            raise DataError(f"{path}: field {name!r} must be a list")
    return data
