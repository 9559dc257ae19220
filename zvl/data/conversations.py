"""Conversations about pictures, read into `Sample`: LLaVA, SVIT and Qwen-VL. The files are JSON and loaded whole.

Boxes within a text become those of this house, `(x1,y1),(x2,y2)` in thousandths (`zvl.data.boxes`), after the words
they belong to; `<image>` says where a picture enters, and no other mark of a format stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from zvl.data.boxes import corners_text
from zvl.data.rows import (
    Fault,
    Quarantine,
    checked,
    id_of,
    image_of,
    inside,
    is_text,
    list_of,
    load_json,
    value_of,
)
from zvl.data.samples import Sample, Turn

_NUMBERS = r"\[\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*\]"
_SVIT_NAMED = re.compile(rf"<st>(.*?)<ed>((?:[\s,]*{_NUMBERS})*)", re.S)
_SVIT_BOX = re.compile(_NUMBERS)
_QWEN_IMAGE = re.compile(r"(?:Picture\s+\d+\s*:\s*)?<img>(.*?)</img>", re.S)
_QWEN_BOX = re.compile(r"\s*<box>\s*\((\d+)\s*,\s*(\d+)\)\s*,\s*\((\d+)\s*,\s*(\d+)\)\s*</box>")
_QWEN_REF = re.compile(r"<ref>(.*?)</ref>", re.S)
_LEFT_OVER = re.compile(r"</?(?:img|ref|box|quad)>|<(?:st|ed)>")


def read_llava(
    path: Path, images: Path, language: str, source: str = "llava", quarantine: Quarantine | None = None
) -> Iterator[Sample]:
    """LLaVA conversations: `[{id, image, conversations[{from, value}]}]`; `image` may be a list or absent.

    `<image>` in a human turn says where a picture enters, and stays in the instruction; without any, all
    pictures enter in the first turn. Raises DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    for number, row in enumerate(load_json(path, list)):
        name = row.get("id", number) if isinstance(row, dict) else number
        reason = llava_fault(row)
        if reason:
            quarantine.add(path, name, *reason)
            continue
        files = row.get("image") or []
        files = [files] if isinstance(files, str) else files
        paths = [inside(images, file) for file in files]
        said = row["conversations"]
        if None in paths:
            quarantine.add(path, name, "image", "leaves the image folder")
        elif sum(turn["value"].count("<image>") for turn in said[::2]) not in (0, len(files)):
            quarantine.add(path, name, "conversations", "as many <image> marks as images are needed")
        else:
            pairs = zip(said[::2], said[1::2], strict=True)
            turns = tuple(Turn(human["value"], gpt["value"].strip()) for human, gpt in pairs)
            yield Sample(
                str(name), tuple(paths), turns, task="conversation", language=language, source=source
            )


def read_svit(
    path: Path,
    images: Path,
    language: str = "en",
    source: str = "svit",
    image_name: str = "{}.jpg",
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """SVIT: `[{image_id, conversations[{content[{from: user|gpt, value}]}]}]`; each content is a dialogue and a row.

    `<st>object<ed> [x1, y1, x2, y2]`, of which several may follow, becomes the object and its boxes as text. images:
    the folder of the pictures; image_name: how they are called there by image id (Visual Genome's). Raises DataError
    for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine

    def picture(_, row) -> tuple:
        image_id = id_of(row, "image_id")
        return (
            image_id,
            image_of(images, image_name.format(image_id), "image_id"),
            list_of(row, "conversations"),
        )

    for image_id, image, dialogues in checked(enumerate(load_json(path, list)), picture, path, quarantine):

        def sample(number: str, row, image: str = image) -> Sample:
            said = _said(value_of(row, "content"), "content", ("user", "gpt"))
            if sum(text.count("<image>") for text in said[::2]) > 1:
                raise Fault("content", "more <image> marks than the one picture")
            said = [_svit_text(text) for text in said]
            return _dialogue(f"{source}-{language}-{number}", (image,), said, language, source)

        found = ((f"{image_id}-{k}", dialogue) for k, dialogue in enumerate(dialogues))
        yield from checked(found, sample, path, quarantine)


def read_qwen_vl(
    path: Path, images: Path, language: str, source: str = "qwen_vl", quarantine: Quarantine | None = None
) -> Iterator[Sample]:
    """Qwen-VL: `[{id, conversations[{from: user|assistant, value}]}]`, with pictures and boxes within the text.

    `Picture 1: <img>file</img>` becomes `<image>`, with the file below images, and
    `<ref>words</ref><box>(x1,y1),(x2,y2)</box>`, in thousandths, becomes the words and the box as text. Raises
    DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine

    def sample(_, row) -> Sample:
        said = _said(value_of(row, "conversations"), "conversations", ("user", "assistant"))
        if any("<image>" in text for text in said):
            raise Fault("conversations", "a mark <image>, which is none of this format")
        files = [file.strip() for text in said[::2] for file in _QWEN_IMAGE.findall(text)]
        if any("://" in file for file in files):
            raise Fault("conversations", "an address in place of a picture's file")
        paths = tuple(image_of(images, file, "conversations") for file in files)
        asked = [_qwen_text(_QWEN_IMAGE.sub("<image>", text)) for text in said[::2]]
        told = [_qwen_text(text) for text in said[1::2]]
        said = [text for both in zip(asked, told, strict=True) for text in both]
        return _dialogue(str(id_of(row, "id")), paths, said, language, source)

    yield from checked(enumerate(load_json(path, list)), sample, path, quarantine)


def llava_fault(row) -> tuple[str, str] | None:
    """(field, reason) where a row is not of LLaVA's format, else None."""
    if not isinstance(row, dict):
        return "row", "not an object"
    files = row.get("image") or []
    if not isinstance(files, str) and not (isinstance(files, list) and all(map(is_text, files))):
        return "image", "not a file name or a list of them"
    try:
        _said(row.get("conversations"), "conversations", ("human", "gpt"))
    except Fault as fault:
        return fault.name, fault.reason
    return None


def _said(turns, field: str, speakers: tuple[str, str]) -> list[str]:
    """What is said in turn by two speakers, the first of whom asks; anything else raises Fault."""
    asker, other = speakers
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise Fault(field, f"needs pairs of {asker} and {other} turns")
    for index, turn in enumerate(turns):
        if not isinstance(turn, dict) or not is_text(turn.get("value")):
            raise Fault(f"{field}[{index}].value", "empty or not text")
        if turn.get("from") != speakers[index % 2]:
            raise Fault(f"{field}[{index}].from", f"turns must go {asker}, {other}, {asker}, {other}")
    return [turn["value"] for turn in turns]


def _svit_text(text: str) -> str:
    def written(match: re.Match) -> str:
        boxes = ", ".join(_box(four, 1) for four in _SVIT_BOX.findall(match[2]))
        return f"{match[1].strip()} {boxes}".rstrip()

    return _clean(_SVIT_NAMED.sub(written, text))


def _qwen_text(text: str) -> str:
    return _clean(_QWEN_BOX.sub(lambda match: " " + _box(match.groups(), 1000), _QWEN_REF.sub(r"\1", text)))


def _box(corners: Sequence[str], side: int) -> str:
    """Four numbers of a text as a box, in parts of the picture's side."""
    try:
        return corners_text(tuple(float(value) / side for value in corners))
    except ValueError as err:
        raise Fault("value", "a box without area or beyond the picture") from err


def _clean(text: str) -> str:
    if found := _LEFT_OVER.search(text):
        raise Fault("value", f"a mark {found[0]} that does not close")
    return text.strip()


def _dialogue(number: str, images: tuple[str, ...], said: list[str], language: str, source: str) -> Sample:
    if not all(said):
        raise Fault("value", "nothing but marks")
    turns = tuple(map(Turn, said[::2], said[1::2]))
    return Sample(number, images, turns, task="conversation", language=language, source=source)
