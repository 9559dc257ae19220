"""The audit that the paper lacks: how many instruction pairs are right, by the eyes of two people (section 3.1).

Samples are drawn by seed and written as a CSV sheet and as one HTML form that needs nothing but a browser; both come
back as CSV, and two annotators are compared. Texts of strangers stay texts: in the form they are data that a script
shows as text, in the sheet no cell can begin a formula.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from zvl.data.pixels import read_image
from zvl.data.samples import LANGUAGES, Sample
from zvl.evaluation.bootstrap import Interval, interval

VERDICTS = {"correct": "正确", "incorrect": "错误", "unsure": "不确定"}
COLUMNS = ("id", "language", "images", "dialogue", "verdict", "comment")
LONGEST_SIDE = 512  # pixels of a picture in the form

_FORMULA = re.compile(r"['=+\-@＝＋－＠\t\r\n]")


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one person says of one sample. verdict: one of VERDICTS."""

    id: str
    language: str
    verdict: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two annotators on the same samples.

    first, second: share of the samples that each calls correct; an unsure one is not correct. alike: share with equal
    verdicts. agreed: share of those that are called correct, None where no verdicts are equal. kappa: Cohen's, NaN
    where both say one and the same of everything.
    """

    count: int
    first: Interval
    second: Interval
    alike: Interval
    agreed: Interval | None
    kappa: float


def draw(samples: Iterable[Sample], per_language: int = 100, seed: int = 0) -> list[Sample]:
    """So many samples of each language, by seed, whatever the order in which they come.

    Raises ValueError for an id that is given twice, and for too few samples of a language.
    """
    known: dict[str, Sample] = {}
    for sample in samples:
        if known.setdefault(sample.id, sample) is not sample:
            raise ValueError(f"draw: two samples have the id {sample.id!r}, and verdicts are kept by id")
    rng, drawn = np.random.default_rng(seed), []
    for language in LANGUAGES:
        pool = sorted((s for s in known.values() if s.language == language), key=lambda sample: sample.id)
        if len(pool) < per_language:
            raise ValueError(
                f"draw: {per_language} samples of {language} are asked for, there are {len(pool)}"
            )
        drawn += [pool[i] for i in rng.permutation(len(pool))[:per_language]]
    return drawn


def write_sheet(path: Path, samples: Sequence[Sample]) -> None:
    """The samples as a CSV sheet with empty verdicts, which spreadsheet programs open with its Chinese intact."""
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file, quoting=csv.QUOTE_ALL)
        table.writerow(COLUMNS)
        for sample in samples:
            said = "\n".join(f"Q: {turn.instruction}\nA: {turn.response}" for turn in sample.turns)
            images = "\n".join(Path(image).name for image in sample.images)
            table.writerow([neutral(cell) for cell in (sample.id, sample.language, images, said, "", "")])


def write_form(path: Path, samples: Sequence[Sample], title: str = "Audit 质检") -> None:
    """The samples as one self-contained HTML form: pictures within, keys for verdicts, its answers saved as CSV.

    Verdicts are remembered by the browser under a key made of the samples. Raises ValueError for an unreadable picture.
    """
    rows = [
        {
            "id": sample.id,
            "language": sample.language,
            "images": [_data_uri(image) for image in sample.images],
            "turns": [[turn.instruction, turn.response] for turn in sample.turns],
        }
        for sample in samples
    ]
    data = json.dumps(rows, ensure_ascii=False)
    for char in "<>&\u2028\u2029":  # so that no text can end the element that holds it
        data = data.replace(char, f"\\u{ord(char):04x}")
    page = Path(__file__).with_name("audit_form.html").read_text("utf8")
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    filled = {
        "title": escape(title),
        "key": hashlib.sha256(data.encode()).hexdigest()[:16],
        "policy": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "rows": data,
    }
    # in one pass: what is put in is not searched again
    Path(path).write_text(re.sub(r"\{\{(\w+)\}\}", lambda slot: filled[slot[1]], page), "utf8", newline="\n")


def neutral(cell: str) -> str:
    """The cell with an apostrophe before what a spreadsheet would take for a formula; `plain` takes it away."""
    return "'" + cell if _FORMULA.match(cell) else cell


def plain(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def read_annotations(paths: Sequence[Path]) -> list[dict[str, Annotation]]:
    """One table a file, by sample: filled sheets and what the form saves, each whole.

    Verdicts may be in English or Chinese. Raises ValueError that names file, row (as a spreadsheet counts), column and
    what is allowed.
    """
    return [_read(Path(path)) for path in paths]


def agreement(
    first: Mapping[str, Annotation], second: Mapping[str, Annotation], seed: int = 0
) -> dict[str, Agreement]:
    """Both annotators by language, and over all as "all". Raises ValueError where they did not see the same samples."""
    if not first or first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise ValueError(f"agreement: {len(odd)} samples are in one table only, such as {odd[:3]}")
    for name in first:
        if first[name].language != second[name].language:
            raise ValueError(f"agreement: sample {name!r} is in two languages")
    found = {}
    for language in (*LANGUAGES, "all"):
        names = sorted(name for name in first if language in (first[name].language, "all"))
        if names:
            pairs = [(first[name].verdict, second[name].verdict) for name in names]
            found[language] = _compared(pairs, seed)
    return found


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Agreement of two annotators beyond chance; NaN where chance alone gives it all. Source: Cohen (1960)."""
    count = len(pairs)
    by_first, by_second = (Counter(pair[i] for pair in pairs) for i in (0, 1))
    # in whole numbers, so that equality is exact
    chance = sum(by_first[verdict] * by_second[verdict] for verdict in by_first)
    alike = sum(a == b for a, b in pairs) * count
    return (alike - chance) / (count**2 - chance) if chance < count**2 else float("nan")


def _compared(pairs: list[tuple[str, str]], seed: int) -> Agreement:
    def share(flags: list[bool]) -> Interval:
        return interval([float(flag) for flag in flags], seed=seed)

    same = [a for a, b in pairs if a == b]
    return Agreement(
        len(pairs),
        share([a == "correct" for a, _ in pairs]),
        share([b == "correct" for _, b in pairs]),
        share([a == b for a, b in pairs]),
        share([verdict == "correct" for verdict in same]) if same else None,
        cohen_kappa(pairs),
    )


def _read(path: Path) -> dict[str, Annotation]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise ValueError(f"{path}: not UTF-8; save the sheet as CSV in UTF-8") from err
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)  # some spreadsheet programs save with others than they read
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as err:
        raise ValueError(f"{path}: not a CSV file ({err})") from err
    columns = [name.strip() for name in rows[0]] if rows else []
    for name in ("id", "language", "verdict"):
        if name not in columns:
            raise ValueError(f"{path}: row 1 has no column {name!r}; the columns are {', '.join(COLUMNS)}")
    spoken = {word: verdict for verdict, chinese in VERDICTS.items() for word in (verdict, chinese)}
    found: dict[str, Annotation] = {}
    for number, cells in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        row = dict(zip(columns, map(plain, cells), strict=False))
        verdict = row.get("verdict", "").strip().lower()
        for column, value, allowed in (
            ("language", row.get("language"), LANGUAGES),
            ("verdict", verdict, spoken),
        ):
            if value not in allowed:
                told = f"column {column!r}: {value!r} is not one of {', '.join(allowed)}"
                raise ValueError(f"{path}: row {number}, {told}")
        if row["id"] in found:
            raise ValueError(f"{path}: row {number}, column 'id': {row['id']!r} is given twice")
        comment = row.get("comment", "").strip()
        found[row["id"]] = Annotation(row["id"], row["language"], spoken[verdict], comment)
    if not found:
        raise ValueError(f"{path}: no row below the header")
    return found


def _data_uri(image: str) -> str:
    """A picture as a data URI, drawn anew: nothing of the file but its pixels enters the page."""
    picture, buffer = read_image(image), io.BytesIO()
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    picture.save(buffer, "WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
