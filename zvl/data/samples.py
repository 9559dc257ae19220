"""The two records that cross the rooms: a Pair for pre-training, a Sample for tuning and evaluation."""

from __future__ import annotations

from dataclasses import dataclass

LANGUAGES = ("en", "zh")


@dataclass(frozen=True, slots=True)
class Pair:
    """One image with one caption (paper Table 1). `image` is a path.

    box: (x, y, width, height) in pixels where the caption is about this part only, None for the whole picture.
    """

    image_id: str
    image: str
    caption: str
    language: str
    source: str
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One instruction and its response; a dialogue has several."""

    instruction: str
    response: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One instruction-tuning or evaluation row (paper Tables 2 and 3).

    images: paths, none for text-only rows. Where a later image enters a dialogue, `<image>` stands in its
    turn. references: accepted answers in evaluation. boxes: (x, y, width, height) in pixels, where the source
    has them.
    """

    id: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    task: str = "vqa"
    question_type: str = ""
    language: str = "en"
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    source: str = ""
