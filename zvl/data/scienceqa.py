"""ScienceQA, school questions with choices and, for half of them, a picture, read into `Sample`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zvl.data.rows import (
    Fault,
    Quarantine,
    checked,
    image_of,
    is_text,
    label_of,
    list_of,
    load_json,
    one_of,
    text_of,
    value_of,
)
from zvl.data.samples import Sample, Turn

SPLITS = ("train", "val", "test")


def read_scienceqa(
    path: Path,
    images: Path,
    language: str = "en",
    source: str = "scienceqa",
    splits: tuple[str, ...] = SPLITS,
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """ScienceQA: `{pid: {question, choices, answer, hint, image, split}}`; `answer` counts choices from 0.

    The hint stands before the question. A row with `image: null` has no picture; others have
    `{split}/{pid}/{image}` below images. Raises DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine

    def sample(number: str, row) -> Sample | None:
        split, picture = one_of(row, "split", SPLITS), value_of(row, "image")
        if split not in splits:
            return None
        choices, answer, hint = list_of(row, "choices"), value_of(row, "answer"), label_of(row, "hint")
        if not all(map(is_text, choices)):
            raise Fault("choices", "not texts")
        if not isinstance(answer, int) or not 0 <= answer < len(choices):
            raise Fault("answer", "not the number of a choice")
        question = "\n".join(part for part in (hint.strip(), text_of(row, "question")) if part)
        found = ()
        if picture is not None:
            found = (image_of(images, f"{split}/{number}/{text_of(row, 'image')}", "image"),)
        choices = tuple(choice.strip() for choice in choices)
        return Sample(
            f"{source}-{language}-{number}",
            found,
            (Turn(question, choices[answer]),),
            choices=choices,
            task="vqa",
            question_type=label_of(row, "subject"),
            language=language,
            source=source,
        )

    yield from checked(load_json(path, dict).items(), sample, path, quarantine)
