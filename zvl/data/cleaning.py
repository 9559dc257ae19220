"""A cleaning run: shards of pairs through batch functions, then duplicates over all, then kept, quarantine and report.

shards/00000-1f3c....parquet    every row with what was measured; named by the hash of what went in, so a run that
                                was killed goes on with what is whole, and other settings make other files
kept/, quarantine/              the same rows apart, as `datasets.load_dataset` opens them
report.json, report.md          like the paper's Table 1, by data set and rule
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from zvl.data.clean import Batch, started
from zvl.data.cleaning_report import markdown, report
from zvl.data.duplicates import Pictures, mark_duplicates
from zvl.data.samples import Pair

Step = Callable[[Batch], Batch]

_TEXTS, _NAMES = pa.string(), pa.list_(pa.string())
TYPES = {  # of the columns that cleaning adds; a batch may hold nothing but None, and pyarrow could not tell
    "original": _TEXTS, "changes": _NAMES, "width": pa.int32(), "height": pa.int32(), "sha256": _TEXTS,
    "phash": _TEXTS, "clip_score": pa.float32(), "embedding": pa.list_(pa.float32()), "faults": _NAMES,
    "reasons": _NAMES, "box": pa.list_(pa.float64()),
}  # fmt: skip
COMPARED = ("image_id", "image", "source", "language", "caption", "box", "width", "height", "sha256", "phash", "faults",
            "reasons", "embedding")  # fmt: skip


def run(
    folder: Path,
    pairs: Iterable[Pair | dict],
    steps: Sequence[Step],
    settings: object,
    evaluation: Pictures | None = None,
    shard_size: int = 10_000,
    processes: int = 1,
    progress: Callable = lambda items, label: items,
    **alike,
) -> Path:
    """Clean pairs into `folder`; what an earlier run left whole is not done again.

    pairs: `Pair`s or rows with its fields and more. steps: pure batch functions in order, such as `clean_text`; with
    more than one process they must pickle. settings: all that the result of the steps depends on, as JSON. evaluation:
    pictures that must not be trained on. alike: `distance` and `cosine` of `mark_duplicates`. progress: wraps the loop
    over shards, as tqdm does. Returns the folder.
    """
    folder = Path(folder)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    paths = list(
        progress(_shards(folder / "shards", pairs, steps, settings, shard_size, processes), "shards")
    )
    for stale in set((folder / "shards").iterdir()) - set(paths):
        stale.unlink()
    marked = mark_duplicates(_compared(paths), evaluation, **alike)
    for name in ("kept", "quarantine"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    table = report(_parted(folder, paths, marked))
    (folder / "report.json").write_text(json.dumps(table, ensure_ascii=False, indent=1), "utf8")
    (folder / "report.md").write_text(markdown(table), "utf8")
    return folder


def load(folder: Path) -> tuple[pa.Table, pa.Table]:
    """The kept rows and those in quarantine; `datasets.load_dataset("parquet", data_dir=...)` reads them too."""
    return tuple(
        pa.concat_tables(map(_read, sorted((Path(folder) / name).iterdir())))
        for name in ("kept", "quarantine")
    )


def write_own_pairs(rows: Iterable[Pair | Mapping], images: Path, path: Path) -> Path:
    """Rows as the csv that `readers.read_own_pairs` reads: image (below `images`), caption, language.

    Raises ValueError for a picture that does not lie below `images`.
    """
    with open(path, "w", encoding="utf8", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["image", "caption", "language"])
        for row in rows:
            row = asdict(row) if isinstance(row, Pair) else row
            name = Path(row["image"]).relative_to(images).as_posix()
            sheet.writerow([name, row["caption"], row["language"]])
    return path


def make_shard(rows: list[dict], steps: Sequence[Step], path: Path) -> Path:
    """Pass the rows of one shard through the steps, and write them whole or not at all. A pure function of its rows."""
    batch = {name: [row[name] for row in rows] for name in rows[0]}
    batch = {name: [list(v) if isinstance(v, tuple) else v for v in column] for name, column in batch.items()}
    for step in steps:
        batch = step(batch)
    # A surrogate by itself, as JSON can spell it, has no place in UTF-8; the rules have seen it by now.
    columns = {
        name: pa.array([_writable(value) for value in column], TYPES.get(name))
        for name, column in started(batch).items()
    }
    missing = {name: pa.nulls(len(rows), kind) for name, kind in TYPES.items() if name not in columns}
    _write(pa.table(columns | missing), path)
    return path


def _shards(folder: Path, pairs, steps, settings, size: int, processes: int) -> Iterator[Path]:
    """The shards in order, made where they are not there yet. At most two a process wait in memory."""
    rows = iter(pairs)
    pool = None
    waiting: deque[Future | Path] = deque()
    try:
        for number in itertools.count():
            some = [
                asdict(row) if isinstance(row, Pair) else dict(row) for row in itertools.islice(rows, size)
            ]
            if not some:
                break
            told = json.dumps([settings, some], sort_keys=True, default=str)
            path = folder / f"{number:05d}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.parquet"
            if path.is_file():
                waiting.append(path)
            elif processes == 1:
                waiting.append(make_shard(some, steps, path))
            else:
                # spawn: a forked process inherits the locks of libraries, but not the threads that would free them
                pool = pool or ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
                waiting.append(pool.submit(make_shard, some, steps, path))
            while len(waiting) >= 2 * processes:
                yield _done(waiting.popleft())
        while waiting:
            yield _done(waiting.popleft())
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _done(shard: Future | Path) -> Path:
    return shard if isinstance(shard, Path) else shard.result()


def _compared(paths: Sequence[Path]) -> Batch:
    """The columns that duplicates are found by, of all shards."""
    every: Batch = {name: [] for name in COMPARED}
    empty: list[str] = []  # one for all: of millions of rows most have no fault
    for path in paths:
        for name, column in pyarrow.parquet.read_table(path, columns=list(COMPARED)).to_pydict().items():
            if name in ("faults", "reasons"):
                column = [value or empty for value in column]
            elif name in ("source", "language"):
                column = [sys.intern(value) for value in column]
            every[name] += column
    if all(v is None for v in every["embedding"]):
        del every["embedding"]
    return every


def _parted(folder: Path, paths: Sequence[Path], marked: Batch) -> Iterator[dict]:
    """Write each shard's kept and dropped rows apart; yields what the report counts."""
    start = 0
    for number, path in enumerate(paths):
        table = _read(path)
        end = start + len(table)
        for name in ("faults", "reasons"):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pa.array(marked[name][start:end], _NAMES))
        good = [not faults for faults in marked["faults"][start:end]]
        for name, chosen in (("kept", good), ("quarantine", [not kept for kept in good])):
            _write(table.filter(pa.array(chosen, pa.bool_())), folder / name / f"{number:05d}.parquet")
        yield from table.select(["language", "source", "faults", "changes"]).to_pylist()
        start = end


def _writable(value):
    return (
        value.encode("utf8", "replace").decode() if isinstance(value, str) and not value.isascii() else value
    )


def _read(path: Path) -> pa.Table:
    return pyarrow.parquet.read_table(path)


def _write(table: pa.Table, path: Path) -> None:
    """Whole or not at all."""
    half = path.with_suffix(".half")
    pyarrow.parquet.write_table(table, half)
    os.replace(half, path)
