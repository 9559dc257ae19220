"""How fast the streaming readers are and how much memory they take: `python ci/bench/readers.py --rows 1000000`.

Each format is written once to a temporary folder and read in a process of its own, once with all rows good and once
with every tenth row bad; "cleaned" is the csv of one's own pairs through a whole cleaning run of captions, with shards,
kept rows, quarantine and report. Prints a table and JSON; ends with status 1 where a reader's peak is 1 GB or more.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 1e9  # bytes of peak memory, of the whole process
FORMATS = ("wukong", "cc3m", "cc12m", "laion", "own_pairs", "grit", "cleaned")


def write(name: str, path: Path, rows: int, bad: int) -> None:
    """A file of so many rows in one format; where bad is not 0, each bad-th row has no caption."""

    def cells():
        for n in range(rows):
            caption = (
                "" if bad and n % bad == 0 else f"第{n}张图片：公园里的长椅上坐着两位老人，旁边有一只狗。"
            )
            yield f"https://pictures.example/{n % 997}/{n:09d}.jpg", caption

    if name == "laion":
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([("URL", pa.string()), ("TEXT", pa.string())])
        with pq.ParquetWriter(path, schema) as file:
            batch = []
            for url, caption in cells():
                batch.append({"URL": url, "TEXT": caption})
                if len(batch) == 10_000:
                    file.write_table(pa.Table.from_pylist(batch, schema))
                    batch = []
            file.write_table(pa.Table.from_pylist(batch, schema))
        return
    with open(path, "w", encoding="utf8") as file:
        if name in ("wukong", "own_pairs", "cleaned"):
            file.write("url,caption\n" if name == "wukong" else "image,caption\n")
        for n, (url, caption) in enumerate(cells()):
            if name == "grit":
                box = [0, 2, 0.1, 0.1, 0.6, 0.6, 0.9]
                row = {"id": n, "url": url, "caption": caption, "width": 640, "height": 480}
                line = json.dumps(row | {"noun_chunks": [box], "ref_exps": [box]})
            elif name == "cc3m":
                line = f"{caption}\t{url}"
            elif name == "cc12m":
                line = f"{url}\t{caption}"
            else:
                line = f"{url if name == 'wukong' else f'{n}.jpg'},{caption}"
            file.write(line + "\n")


def measure(name: str, path: Path, log: Path) -> dict:
    """Rows kept and put aside, seconds, and the peak memory of this process in bytes."""
    from zvl.data import cleaning, readers
    from zvl.data.clean import clean_text

    options = {"quarantine": readers.Quarantine(log=log)}
    if name in ("own_pairs", "cleaned"):
        options["language"] = "zh"
    start = time.perf_counter()
    if name == "cleaned":
        pairs = readers.read_own_pairs(path, "pictures", **options)
        folder = cleaning.run(log.with_suffix(".cleaned"), pairs, (clean_text,), "bench")
        report = json.loads((folder / "report.json").read_text("utf8"))
        kept = report["zh"]["own"]["original"]
    else:
        kept = sum(1 for _ in getattr(readers, f"read_{name}")(path, "pictures", **options))
    taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"kept": kept, "bad": sum(options["quarantine"].counts().values()), "seconds": taken, "peak": peak}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=list(FORMATS))
    parser.add_argument(
        "--part", nargs=4, metavar=("DO", "FORMAT", "FILE", "BAD"), help="used by this script"
    )
    chosen = parser.parse_args()
    if chosen.part:
        do, name, path, bad = chosen.part
        if do == "write":
            write(name, Path(path), chosen.rows, int(bad))
        else:
            print(json.dumps(measure(name, Path(path), Path(path + ".log"))))
        return 0
    found = {}
    print(f"{chosen.rows} rows\nformat      bad    rows/s   peak MB")
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.formats:
            for bad in (0, 10):
                path = Path(folder, f"{name}.parquet" if name == "laion" else f"{name}.txt")
                for do in (
                    "write",
                    "read",
                ):  # apart: a process starts with the peak of the one that started it
                    command = [sys.executable, __file__, "--rows", str(chosen.rows)]
                    command += ["--part", do, name, str(path), str(bad)]
                    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                result = found[f"{name}, {'a tenth bad' if bad else 'all good'}"] = json.loads(told)
                if result["kept"] + result["bad"] != chosen.rows:
                    raise RuntimeError(f"{name}: {result} does not sum to {chosen.rows} rows")
                rate = chosen.rows / result["seconds"]
                print(f"{name:10s} {result['bad']:5d} {rate:9.0f} {result['peak'] / 1e6:9.0f}", flush=True)
    print(json.dumps({"rows": chosen.rows, "limit": LIMIT, "formats": found}))
    return 0 if all(result["peak"] < LIMIT for result in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
