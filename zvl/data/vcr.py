"""VCR, Visual Commonsense Reasoning, read into `Sample`: questions with four answers about the things of a picture."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from zvl.data.boxes import Box, corners_text
from zvl.data.rows import (
    DataError,
    Fault,
    Quarantine,
    checked,
    id_of,
    image_of,
    is_text,
    json_lines,
    list_of,
    load_json,
    text_of,
    value_of,
)
from zvl.data.samples import Sample, Turn

_TIGHT = re.compile(r" (?=[?.,!;:%)]|n't\b|'(?:s|re|ve|ll|d|m)\b)")  # blanks that the tokenizer added


def read_vcr(
    path: Path,
    images: Path,
    language: str = "en",
    source: str = "vcr",
    grounded: bool = False,
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """VCR: a row a line, `{img_fn, metadata_fn, objects, question, answer_choices, answer_label, annot_id}`.

    Where a token is a list of numbers, names are written: "person 2", or "tie" where the picture has one tie; with
    `grounded` the box follows as text (`zvl.data.boxes`). images: the folder of pictures and of their metadata
    `{boxes[x1, y1, x2, y2, score], width, height}`. `boxes` are those of all things that the row names, in the order in
    which they come up. Raises DataError for a file that cannot be read.
    """
    quarantine = Quarantine() if quarantine is None else quarantine

    def sample(_, row) -> Sample:
        number, image = id_of(row, "annot_id"), image_of(images, text_of(row, "img_fn"), "img_fn")
        names = _names(list_of(row, "objects"))
        label, choices = value_of(row, "answer_label"), list_of(row, "answer_choices")
        if not isinstance(label, int) or not 0 <= label < len(choices):
            raise Fault("answer_label", "not the number of a choice")
        boxes, told = _boxes(image_of(images, text_of(row, "metadata_fn"), "metadata_fn"))
        if len(boxes) != len(names):
            raise Fault("objects", "not as many as boxes in the metadata")
        if grounded:
            names = [f"{name} {box}" for name, box in zip(names, told, strict=True)]
        seen: dict[int, None] = {}
        question = _written(list_of(row, "question"), names, seen, "question")
        choices = tuple(_written(choice, names, seen, "answer_choices") for choice in choices)
        return Sample(
            f"{source}-{language}-{number}",
            (image,),
            (Turn(question, choices[label]),),
            choices=choices,
            task="vqa",
            language=language,
            boxes=tuple(boxes[thing] for thing in seen),
            source=source,
        )

    yield from checked(json_lines(path, quarantine), sample, path, quarantine)


def _names(objects: list) -> list[str]:
    """What each thing is called: its name, with a number where several have it."""
    if not all(map(is_text, objects)):
        raise Fault("objects", "not texts")
    several, count, names = Counter(objects), Counter(), []
    for name in objects:
        count[name] += 1
        names.append(f"{name} {count[name]}" if several[name] > 1 else name)
    return names


def _written(tokens: object, names: list[str], seen: dict[int, None], field: str) -> str:
    """Tokens as a sentence; `seen` takes the things it names."""
    if not isinstance(tokens, list) or not tokens:
        raise Fault(field, "not a list of tokens")
    words = []
    for token in tokens:
        if is_text(token):
            words.append(token.strip())
        elif isinstance(token, list) and token and all(type(n) is int and 0 <= n < len(names) for n in token):
            seen.update(dict.fromkeys(token))
            *most, last = (names[thing] for thing in token)
            words.append(f"{', '.join(most)} and {last}" if most else last)
        else:
            raise Fault(field, "a token that is neither text nor numbers of things")
    return _TIGHT.sub("", " ".join(words))


@functools.lru_cache(maxsize=1024)  # the questions about one picture follow each other
def _boxes(path: str) -> tuple[list[Box], list[str]]:
    """The boxes of a picture in pixels, and as text."""
    try:
        data = load_json(Path(path), dict)
        width, height = data["width"], data["height"]
        boxes = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2, *_ in data["boxes"]]
        corners = [(x1 / width, y1 / height, x2 / width, y2 / height) for x1, y1, x2, y2, *_ in data["boxes"]]
        return boxes, [corners_text(four) for four in corners]
    except (DataError, KeyError, TypeError, ValueError, ArithmeticError) as err:
        raise Fault("metadata_fn", "no such file, or not boxes within a picture") from err
