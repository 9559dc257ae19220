"""GRIT, web captions whose phrases have boxes, read into `Sample`; streamed from jsonl or parquet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from zvl.data.boxes import Box, corners_text
from zvl.data.rows import Fault, Quarantine, checked, id_of, image_of, json_lines, text_of, value_of
from zvl.data.samples import Sample, Turn
from zvl.data.tabular import parquet_rows
from zvl.data.webpairs import ImageName, sha1_name

INSTRUCTION = {
    "en": "Describe the picture in a sentence, with the box of each thing that you name.",
    "zh": "用一句话描述这张图片，并写出提到的每样东西的位置框。",
}
FIELDS = (
    "noun_chunks",
    "ref_exps",
)  # lists of (start, end, x1, y1, x2, y2, score): span of the caption, box in 0 to 1

Span = tuple[int, int]


def not_nested(spans: Iterable[Span]) -> list[Span]:
    """As many spans (start, end) as can be had of which no two overlap, in order.

    Greedy: of those that begin after the last one chosen, the one that ends first; where several do, the shortest.
    """
    chosen, end = [], 0
    for span in sorted(set(spans), key=lambda span: (span[1], -span[0])):
        if span[0] >= end:
            chosen.append(span)
            end = span[1]
    return chosen


def read_grit(
    path: Path,
    images: Path,
    image_name: ImageName = sha1_name,
    language: str = "en",
    source: str = "grit",
    present: bool = False,
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """GRIT: `{id, url, caption, width, height, noun_chunks, ref_exps}` a row; one grounded caption each.

    The response is the caption, in which a phrase is followed by its boxes as text (`zvl.data.boxes`); of nested
    phrases a greedy choice keeps most (Qwen-VL, appendix A.3). `boxes` are the same in pixels, in order. images,
    image_name and present: as in `zvl.data.webpairs`. Raises DataError for a file that cannot be read.
    """
    quarantine = Quarantine() if quarantine is None else quarantine

    def sample(_, numbered: tuple[int, dict]) -> Sample:
        number, row = numbered
        caption, size = value_of(row, "caption"), (value_of(row, "width"), value_of(row, "height"))
        text_of(row, "caption")
        if not all(isinstance(side, int | float) and 0 < side < 1e9 for side in size):
            raise Fault("width", "width and height are not positive numbers")
        phrases: dict[Span, dict[str, Box]] = {}
        for field in FIELDS:
            for span, (left, top, right, bottom) in _phrases(row, field, len(caption)):
                box = (left * size[0], top * size[1], (right - left) * size[0], (bottom - top) * size[1])
                phrases.setdefault(span, {})[corners_text((left, top, right, bottom))] = box
        if not phrases:
            raise Fault("noun_chunks", "no phrase with a box")
        image = image_of(images, image_name(text_of(row, "url"), number), "image")
        if present and not os.path.exists(image):
            raise Fault("image", "no such file")
        told, boxes, end = "", [], 0
        for start, stop in not_nested(phrases):
            told += f"{caption[end:stop]} {', '.join(phrases[start, stop])}"
            boxes += phrases[start, stop].values()
            end = stop
        return Sample(
            f"{source}-{language}-{id_of(row, 'id')}",
            (image,),
            (Turn(INSTRUCTION[language], (told + caption[end:]).strip()),),
            task="grounding",
            question_type="grounded_caption",
            language=language,
            boxes=tuple(boxes),
            source=source,
        )

    if Path(path).suffix == ".parquet":
        rows = parquet_rows(path, ("id", "url", "caption", "width", "height", *FIELDS))
        found = ((number, (number, row)) for number, row in rows)
    else:
        found = ((line, (line - 1, row)) for line, row in json_lines(path, quarantine))
    yield from checked(found, sample, path, quarantine)


def _phrases(row: dict, field: str, length: int) -> Iterator[tuple[Span, tuple[float, ...]]]:
    """(span, corners in 0 to 1) of each phrase; one that is none raises Fault."""
    given = value_of(row, field) or []
    if not isinstance(given, list):
        raise Fault(field, "not a list")
    for phrase in given:
        try:
            start, end, *corners = (float(value) for value in phrase[:6])
            corners_text(tuple(corners))
            if not 0 <= start < end <= length or start % 1 or end % 1:
                raise ValueError("not a span of the caption")
        except (TypeError, ValueError, OverflowError) as err:
            raise Fault(field, "not a span of the caption with a box within the picture") from err
        yield (int(start), int(end)), tuple(corners)
