"""Rows of raw files: read one after another, checked, and put aside with a reason where they cannot be used.

Lines are streamed in constant memory, as are csv and parquet (`tabular.py`); a JSON file is one value and loaded whole.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

LONGEST = 1 << 26  # bytes of a line; more is no row, but may fill the memory

Made = TypeVar("Made")


class DataError(ValueError):
    """A file that cannot be read as its format says."""


class Fault(ValueError):
    """Why one row cannot be used: the field that is wrong, and how."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


@dataclass
class Quarantine:
    """Rows put aside: (file, row, field, reason).

    log: a file of JSON lines that takes them instead of `rows`, so that memory does not grow with their number.
    """

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    log: Path | None = None
    _counts: Counter = field(default_factory=Counter, init=False, repr=False, compare=False)

    def add(self, file: Path, row: object, name: str, reason: str) -> None:
        entry = (Path(file).name, str(row), name, reason)
        self._counts[f"{name}: {reason}"] += 1
        if self.log is None:
            self.rows.append(entry)
        else:
            with open(self.log, "a", encoding="utf8") as log:
                log.write(
                    json.dumps(dict(zip(("file", "row", "field", "reason"), entry, strict=True))) + "\n"
                )

    def counts(self) -> dict[str, int]:
        """How many rows were put aside, by "field: reason"."""
        return dict(self._counts)


def checked(
    rows: Iterable[tuple[object, object]],
    make: Callable[[object, object], Made | None],
    path: Path,
    quarantine: Quarantine,
) -> Iterator[Made]:
    """What `make` makes of each (name, row); a row for which it raises Fault is put aside.

    None says that the row was not asked for (it is of another split, for example).
    """
    for name, row in rows:
        try:
            made = make(name, row)
        except Fault as fault:
            quarantine.add(path, name, fault.name, fault.reason)
        else:
            if made is not None:
                yield made


# --- files ---


def load_json(path: Path, kind: type):
    """The value of a JSON file, a list or a dict as `kind` says. Raises DataError, with the file's name."""
    with readable(path):
        try:
            value = json.loads(Path(path).read_text(encoding="utf8"))
        except (ValueError, RecursionError) as err:
            raise DataError(f"{path}: not JSON ({err})") from err
    if not isinstance(value, kind):
        raise DataError(f"{path}: the top level must be a {'list' if kind is list else 'JSON object'}")
    return value


def lines(path: Path, quarantine: Quarantine) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line that is UTF-8 and not too long, without its end."""
    with readable(path), open(path, "rb") as file:
        number = 0
        while raw := file.readline(LONGEST):
            number += 1
            if len(raw) == LONGEST and not raw.endswith(b"\n"):
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(LONGEST)
                quarantine.add(path, number, "row", f"longer than {LONGEST} bytes")
                continue
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf8")
            except UnicodeDecodeError:
                quarantine.add(path, number, "row", "not UTF-8")
            else:
                yield number, text.rstrip("\r\n")


def json_lines(path: Path, quarantine: Quarantine) -> Iterator[tuple[int, object]]:
    """(number of the line, its value) for each line of JSON; empty lines are passed over."""
    for number, line in lines(path, quarantine):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            quarantine.add(path, number, "row", "not JSON")
        else:
            yield number, value


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Files that cannot be opened or read raise DataError, with their name."""
    try:
        yield
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file") from err
    except OSError as err:
        raise DataError(f"{path}: cannot be read ({err.strerror or err})") from err


# --- rows of a list ---


def named(data: dict, name: str, path: Path) -> Iterator[tuple[str, object]]:
    """(place, row) for each row of one list, "data[7]" for example. Raises DataError where there is no such list."""
    if not isinstance(data.get(name), list):
        raise DataError(f"{path}: field {name!r} must be a list")
    for number, row in enumerate(data[name]):
        yield f"{name}[{number}]", row


def rows(
    data: dict, name: str, path: Path, fields: tuple[str, ...], quarantine: Quarantine
) -> Iterator[dict]:
    """The rows of one list that have all fields, and ids that are numbers or texts."""
    for where, row in named(data, name, path):
        if not isinstance(row, dict):
            quarantine.add(path, where, "row", "not an object")
        elif missing := [f for f in fields if f not in row]:
            quarantine.add(path, where, missing[0], "missing")
        elif wrong := [f for f in fields if f.endswith("id") and not _is_id(row[f])]:
            quarantine.add(path, where, wrong[0], "not a number or text")
        else:
            yield row


def by_id(
    data: dict, name: str, path: Path, key: str, fields: tuple[str, ...], quarantine: Quarantine
) -> dict[int | str, dict]:
    """The rows of one list by their id; of two rows with one id the first stays."""
    found: dict[int | str, dict] = {}
    for row in rows(data, name, path, (key, *fields), quarantine):
        if row[key] in found:
            quarantine.add(path, row[key], key, "given twice")
        else:
            found[row[key]] = row
    return found


# --- fields; what is wrong raises Fault ---


def value_of(row: object, name: str):
    """A field that must be there."""
    if not isinstance(row, dict):
        raise Fault("row", "not an object")
    if name not in row:
        raise Fault(name, "missing")
    return row[name]


def text_of(row: object, name: str) -> str:
    """A field of text, without blanks around it."""
    value = value_of(row, name)
    if not is_text(value):
        odd = isinstance(value, str) and value.strip()
        raise Fault(name, "not UTF-8" if odd else "empty or not text")
    return value.strip()


def list_of(row: object, name: str) -> list:
    """A field that is a list with something in it."""
    value = value_of(row, name)
    if not isinstance(value, list) or not value:
        raise Fault(name, "not a list, or an empty one")
    return value


def id_of(row: object, name: str) -> int | str:
    """A field that names something: a whole number or text."""
    value = value_of(row, name)
    if not _is_id(value) or (isinstance(value, str) and not is_text(value)):
        raise Fault(name, "not a whole number or text")
    return value


def label_of(row: dict, name: str) -> str:
    """A field that may be there and is worth keeping where it is text, "" elsewhere."""
    return row[name] if is_text(row.get(name)) else ""


def one_of(row: object, name: str, allowed: tuple):
    """A field with one of a few values."""
    if (value := value_of(row, name)) not in allowed:
        raise Fault(name, f"not one of {', '.join(map(str, allowed))}")
    return value


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)  # True would be picture 1


def image_of(folder: Path, name: object, field: str) -> str:
    """The path of a picture below its folder."""
    if (path := inside(folder, name)) is None:
        raise Fault(field, "leaves the image folder")
    return path


def is_text(value: object) -> bool:
    """Whether a value is text with something in it that can be written as UTF-8."""
    return isinstance(value, str) and bool(value.strip()) and is_unicode(value)


def is_unicode(text: str) -> bool:
    """Whether there is no half of a character in a text (a lone surrogate), which no tokenizer takes."""
    if text.isascii():
        return True
    try:
        text.encode("utf8")
    except UnicodeEncodeError:
        return False
    return True


def inside(folder: Path, name: object) -> str | None:
    """The path of a file below `folder`, None where the name leaves it: data must not choose paths."""
    return _below(os.fspath(folder), name) if is_text(name) else None


@functools.lru_cache(maxsize=1 << 16)  # many rows share a picture
def _below(folder: str, name: str) -> str | None:
    if "\0" in name or os.path.isabs(name) or ".." in name.split("/"):
        return None
    return os.path.join(folder, os.path.normpath(name))
