"""Rows of csv and parquet files, one after another in constant memory."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from zvl.data.rows import DataError, Quarantine, is_unicode, readable

BATCH = 4096  # rows in memory at once


def csv_rows(
    path: Path, columns: tuple[str, ...], quarantine: Quarantine, delimiter: str = ","
) -> Iterator[tuple[int, int, dict[str, str]]]:
    """(last line, number, cells by column) of each row of a csv file with a header; empty lines are passed over.

    The number counts rows from 0, bad ones too. A quote that is never closed takes the lines after it along; they are
    put aside under their numbers, "7-90". Raises DataError where one of `columns` is not in the header.
    """
    with readable(path), open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as err:
            raise DataError(f"{path}: line 1: not CSV ({err})") from err
        if missing := [name for name in columns if name not in header]:
            raise DataError(f"{path}: line 1: no column {missing[0]!r} among {header[:8]}")
        number = -1
        while True:
            first = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as err:
                number, last = number + 1, reader.line_num
                where = last if first == last else f"{first}-{last}"
                quarantine.add(path, where, "row", f"not CSV ({err})")
                continue
            number += bool(cells)
            if len(cells) == len(header) and all(map(is_unicode, cells)):
                yield reader.line_num, number, dict(zip(header, cells, strict=True))
            elif cells:
                few = len(cells) != len(header)
                reason = "not as many cells as the header" if few else "not UTF-8"
                quarantine.add(path, reader.line_num, "row", reason)


def parquet_rows(
    path: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[tuple[int, dict]]:
    """(number from 0, {column: value}) for each row; of `optional` columns those that the file has.

    Text that is not UTF-8 keeps lone surrogates, which `rows.is_text` refuses, so that it costs one row and not a
    batch. Raises DataError for a file that is no parquet, is damaged, or lacks one of `columns`.
    """
    import pyarrow as pa  # takes long to load, and most readers do without
    import pyarrow.parquet as pq

    with readable(path):
        try:
            with pq.ParquetFile(path) as file:
                there = file.schema_arrow.names
                if missing := [name for name in columns if name not in there]:
                    raise DataError(f"{path}: no column {missing[0]!r} among {there[:12]}")
                wanted = [*columns, *(name for name in optional if name in there)]
                number = 0
                for batch in file.iter_batches(BATCH, columns=wanted):
                    cells = {name: _values(batch.column(name), pa) for name in wanted}
                    for values in zip(*cells.values(), strict=True):
                        yield number, dict(zip(cells, values, strict=True))
                        number += 1
        except pa.ArrowException as err:
            raise DataError(f"{path}: not parquet, or damaged ({err})") from err


def _values(column, pa) -> list:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column.to_pylist()
    raw = column.cast(pa.large_binary()).to_pylist()
    return [None if value is None else value.decode("utf8", "surrogateescape") for value in raw]
