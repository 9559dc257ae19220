"""LLaVA-bench: 90 questions about pictures, reference answers, what the judge is told of a picture, and its rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zvl.data.rows import (
    DataError,
    Fault,
    Quarantine,
    checked,
    id_of,
    image_of,
    json_lines,
    list_of,
    load_json,
    text_of,
    value_of,
)
from zvl.data.samples import Sample, Turn
from zvl.data.symbols import UNITS, Symbols, Thing


def read_llava_bench(
    questions: Path,
    answers: Path,
    images: Path,
    language: str = "en",
    source: str = "llava_bench",
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """Questions `{question_id, image, text, category}` and answers `{question_id, text}`, a row a line, joined by id.

    The response, and the one reference, is the answer to compare with (GPT-4's in the original); the question type is
    the category. Raises DataError for a file that cannot be read.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    told: dict[int | str, str] = {}

    def answer(_, row) -> tuple:
        if (number := id_of(row, "question_id")) in told:
            raise Fault("question_id", "given twice")
        return number, text_of(row, "text")

    def sample(_, row) -> Sample:
        number = id_of(row, "question_id")
        if number not in told:
            raise Fault("question_id", "has no answer")
        image = image_of(images, text_of(row, "image"), "image")
        asked.add(number)
        return Sample(
            f"{source}-{language}-{number}",
            (image,),
            (Turn(text_of(row, "text"), told[number]),),
            references=(told[number],),
            task="conversation",
            question_type=text_of(row, "category"),
            language=language,
            source=source,
        )

    for number, text in checked(json_lines(answers, quarantine), answer, answers, quarantine):
        told[number] = text
    asked: set[int | str] = set()
    yield from checked(json_lines(questions, quarantine), sample, questions, quarantine)
    for number in told.keys() - asked:
        quarantine.add(answers, number, "question_id", "has no question that can be used")


def read_llava_bench_context(
    path: Path, language: str = "en", quarantine: Quarantine | None = None
) -> dict[str, Symbols]:
    """What the judge is told of a picture, by its file: lines `{id, image, captions[], instances[{category, bbox}]}`.

    bbox is (x1, y1, x2, y2) in 0 to 1; the symbols are those of a picture of 1000 by 1000.
    """
    quarantine = Quarantine() if quarantine is None else quarantine

    def symbols(_, row) -> Symbols:
        captions = tuple(text_of({"captions": text}, "captions") for text in list_of(row, "captions"))
        instances = value_of(row, "instances")
        if not isinstance(instances, list):
            raise Fault("instances", "not a list")
        things = tuple(
            Thing(text_of(thing, "category"), _box(value_of(thing, "bbox"))) for thing in instances
        )
        return Symbols(str(id_of(row, "id")), text_of(row, "image"), UNITS, UNITS, captions, things, language)

    return {made.image: made for made in checked(json_lines(path, quarantine), symbols, path, quarantine)}


def read_llava_bench_rules(path: Path) -> dict[str, tuple[str, str]]:
    """(role, prompt) of the judge by category. Raises DataError for a file that is not `{category: {role, prompt}}`."""
    rules = load_json(path, dict)
    try:
        return {category: (text_of(row, "role"), text_of(row, "prompt")) for category, row in rules.items()}
    except Fault as fault:
        raise DataError(f"{path}: {fault}") from fault


def _box(corners: object) -> tuple[float, float, float, float]:
    try:
        left, top, right, bottom = (float(value) for value in corners)
    except (TypeError, ValueError) as err:
        raise Fault("bbox", "not four numbers") from err
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise Fault("bbox", "not a box within the picture")
    return left * UNITS, top * UNITS, (right - left) * UNITS, (bottom - top) * UNITS
