"""Pairs from the web, read into `Pair`: files that hold addresses and captions, row after row in constant memory.

The pictures were fetched by another program (img2dataset, for example) into a folder; an `ImageName` says how the one
of a row is called there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path

from zvl.data.caption_rules import spoken
from zvl.data.rows import Fault, Quarantine, checked, image_of, lines, readable, text_of
from zvl.data.samples import LANGUAGES, Pair
from zvl.data.tabular import csv_rows, parquet_rows

# From the address and the row's number in its file, counted from 0, to the name of the picture below its folder.
ImageName = Callable[[str, int], str]


def sha1_name(url: str, row: int) -> str:
    """The SHA-1 of the address: the same for the same picture, wherever it is named."""
    return hashlib.sha1(url.encode()).hexdigest() + ".jpg"


def row_name(url: str, row: int) -> str:
    """The row's number as img2dataset's `--output_format files` has it, in folders of 10,000: 00012/000123456.jpg."""
    return f"{row // 10_000:05d}/{row:09d}.jpg"


def read_cc3m(
    path: Path,
    images: Path,
    image_name: ImageName = sha1_name,
    language: str = "en",
    source: str = "cc3m",
    present: bool = False,
    quarantine: Quarantine | None = None,
) -> Iterator[Pair]:
    """CC3M: lines `caption<TAB>url`.

    images: the folder of the pictures; present: put aside rows whose picture is not there. Raises DataError for a file
    that cannot be read. The same holds for the other readers of this file.
    """
    return _lines(path, ("caption", "url"), images, image_name, language, source, present, quarantine)


def read_cc12m(
    path: Path,
    images: Path,
    image_name: ImageName = sha1_name,
    language: str = "en",
    source: str = "cc12m",
    present: bool = False,
    quarantine: Quarantine | None = None,
) -> Iterator[Pair]:
    """CC12M: lines `url<TAB>caption`."""
    return _lines(path, ("url", "caption"), images, image_name, language, source, present, quarantine)


def read_sbu(
    urls: Path,
    captions: Path,
    images: Path,
    image_name: ImageName = sha1_name,
    language: str = "en",
    source: str = "sbu",
    present: bool = False,
    quarantine: Quarantine | None = None,
) -> Iterator[Pair]:
    """SBU: two files of as many lines, `SBU_captioned_photo_dataset_{urls,captions}.txt`.

    A line that is missing or unreadable in one of them costs its row and moves no other.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    make = _maker(("url", "caption"), images, image_name, language, source, present)
    with readable(urls), open(urls, "rb") as first, readable(captions), open(captions, "rb") as second:
        rows = (
            [line.decode("utf8", "surrogateescape") for line in pair]
            for pair in zip_longest(first, second, fillvalue=b"")
        )
        found = ((n + 1, (n, {"url": url, "caption": caption})) for n, (url, caption) in enumerate(rows))
        yield from checked(found, make, captions, quarantine)


def read_wukong(
    path: Path,
    images: Path,
    image_name: ImageName = sha1_name,
    language: str = "zh",
    source: str = "wukong",
    present: bool = False,
    quarantine: Quarantine | None = None,
) -> Iterator[Pair]:
    """Wukong: one of its 256 csv files with the header `url,caption`; a row's number counts without the header.

    Raises DataError where the header lacks one of the two.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    make = _maker(("url", "caption"), images, image_name, language, source, present)
    rows = csv_rows(path, ("url", "caption"), quarantine)
    yield from checked(((line, (n, row)) for line, n, row in rows), make, path, quarantine)


def read_laion(
    path: Path,
    images: Path,
    image_name: ImageName = sha1_name,
    language: str = "zh",
    source: str = "laion",
    present: bool = False,
    quarantine: Quarantine | None = None,
) -> Iterator[Pair]:
    """LAION's parquet: `URL`, `TEXT`, and `LANGUAGE`, whose rows of other languages are passed over where it is there.

    Raises DataError for a file that is no parquet or has no URL or TEXT.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    make = _maker(("URL", "TEXT"), images, image_name, language, source, present)
    rows = parquet_rows(path, ("URL", "TEXT"), optional=("LANGUAGE",))
    found = ((n, (n, row)) for n, row in rows if row.get("LANGUAGE", language) == language)
    yield from checked(found, make, path, quarantine)


def read_own_pairs(
    path: Path,
    images: Path,
    language: str | None,
    source: str = "own",
    quarantine: Quarantine | None = None,
    faulty: Callable[[str], str] = lambda image: "",
) -> Iterator[Pair]:
    """One's own data: a csv file, UTF-8, whose header names `image` (a file below `images`) and `caption`; or a .tsv.

    Where there is a column `language`, it says of each row "en" or "zh"; an empty cell means the `language` given, and
    where that is None, the one in whose script the caption is. faulty: of a picture's path, why it cannot be used, ""
    where it can. Raises DataError where the header lacks one of the two.
    """
    quarantine = Quarantine() if quarantine is None else quarantine

    def pair(_, row: dict[str, str]) -> Pair:
        name, caption = text_of(row, "image"), text_of(row, "caption")
        said_in = row.get("language", "").strip() or language or spoken(caption)
        if said_in not in LANGUAGES:
            raise Fault("language", f"not one of {', '.join(LANGUAGES)}")
        image = image_of(images, name, "image")
        if reason := faulty(image):
            raise Fault("image", reason)
        return Pair(name, image, caption, said_in, source)

    delimiter = "\t" if Path(path).suffix.lower() == ".tsv" else ","
    rows = csv_rows(path, ("image", "caption"), quarantine, delimiter)
    yield from checked(((line, row) for line, _, row in rows), pair, path, quarantine)


def _maker(
    names: tuple[str, str], images: Path, image_name: ImageName, language: str, source: str, present: bool
):
    """From a row and its number to a Pair. names: the fields of the address and of the caption."""

    def pair(_, numbered: tuple[int, dict]) -> Pair:
        number, row = numbered
        caption, url = text_of(row, names[1]), text_of(row, names[0])
        name = image_name(url, number)
        image = image_of(images, name, "image")
        if present and not os.path.exists(image):
            raise Fault("image", "no such file")
        return Pair(name, image, caption, language, source)

    return pair


def _lines(path, columns, images, image_name, language, source, present, quarantine) -> Iterator[Pair]:
    quarantine = Quarantine() if quarantine is None else quarantine
    make = _maker(("url", "caption"), images, image_name, language, source, present)

    def pair(where: int, line: str) -> Pair:
        cells = line.split("\t")
        if len(cells) != 2:
            raise Fault("row", f"not two columns, {columns[0]} and {columns[1]}")
        return make(where, (where - 1, dict(zip(columns, cells, strict=True))))

    yield from checked(lines(path, quarantine), pair, path, quarantine)
