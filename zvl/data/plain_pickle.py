"""Pickles of strangers, read without running anything: only plain containers, strings and numbers come out."""

from __future__ import annotations

import pickle
from pathlib import Path

from zvl.data.rows import DataError, readable


class _Plain(pickle._Unpickler):
    # The one in Python: that in C makes room for as many values as a number in the file says, 16 GB for five bytes.
    def find_class(self, module: str, name: str):
        raise DataError(
            f"it asks for {module}.{name}, and only plain containers, strings and numbers are allowed"
        )


def load_plain_pickle(path: Path, kind: type):
    """The value of a pickle, a list or a dict as `kind` says; strings of Python 2 are taken for UTF-8.

    Raises DataError, with the file's name, for a pickle that asks for any class or function (it is named), for a file
    that is no pickle, and for a value of another kind.
    """
    with readable(path), open(path, "rb") as file:
        try:
            value = _Plain(file, encoding="utf8", errors="surrogateescape").load()
        except DataError as err:
            raise DataError(f"{path}: refused: {err}") from err
        except Exception as err:  # the unpickler raises nearly anything on bytes made to hurt
            raise DataError(f"{path}: not a pickle of plain values ({err})") from err
    if not isinstance(value, kind):
        raise DataError(f"{path}: the value must be a {kind.__name__}, not a {type(value).__name__}")
    return value
