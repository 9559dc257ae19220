"""The same schedule for several seeds: how much of a figure is the luck of one run."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from zvl import results
from zvl.results import UsageError

FILE = "spread.json"


def spread(figures: Iterable[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """For each name the mean, standard deviation (of one run), lowest and highest value, and over how many runs.

    figures: for each seed what `results.load_all` gave. A name that some runs lack counts those that have it. The
    deviation is that of a sample, and NaN-free: it is 0 for a single run. Raises UsageError for no run at all.
    """
    values: dict[str, list[float]] = {}
    runs = list(figures)
    if not runs:
        raise UsageError("no run to compare")
    for run in runs:
        for name, value in run.items():
            values.setdefault(name, []).append(value)
    return {
        name: {
            "mean": math.fsum(found) / len(found),
            "sd": statistics.stdev(found) if len(found) > 1 else 0.0,
            "low": min(found),
            "high": max(found),
            "runs": len(found),
        }
        for name, found in values.items()
    }


def table(found: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """`spread` as rows, headers first; costs in seconds and megabytes, all else as fractions."""
    rows = [["figure", "mean", "sd", "lowest", "highest", "runs"]]
    for name, row in found.items():
        digits = 0 if name.startswith("cost/") else 3
        rows.append(
            [
                name,
                *(f"{row[key]:.{digits}f}" for key in ("mean", "sd", "low", "high")),
                str(row["runs"]),
            ]
        )
    return rows


def run_seeds(
    seeds: Iterable[int],
    run: Callable[[int, Path], object],
    run_dir: str | Path = "runs/seeds",
    keep_stages: bool = False,
) -> dict[str, dict[str, float]]:
    """Run the schedule once a seed into <run_dir>/<seed> and write the spread; returns it.

    run(seed, folder) runs the notebooks. A seed that fails is a result, too: its reason is printed and written, the
    figures that it reached count, and the others go on. keep_stages: keep trained weights (half a gigabyte a seed).
    Raises UsageError where no seed is given, or one twice.
    """
    seeds = list(seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds {seeds}: give each seed once, and one at least")
    folder, figures, failed = results.run_folder(run_dir), [], {}
    for number, seed in enumerate(seeds, 1):
        print(f"seed {seed} ({number} of {len(seeds)})", flush=True)
        place = folder / str(seed)
        try:
            run(seed, place)
        except RuntimeError as error:  # a notebook's own check, most of all
            failed[str(seed)] = str(error)
            print(f"seed {seed} failed: {error}", flush=True)
        if place.is_dir():
            figures.append(results.load_all(place))
            if not keep_stages:
                shutil.rmtree(place / "stages", ignore_errors=True)
    found = spread(figures)
    results.write_json(folder / FILE, {"seeds": seeds, "failed": failed, "spread": found})
    lines = [f"# Spread over the seeds {', '.join(map(str, seeds))}", results.markdown_table(table(found))]
    lines += [f"Seed {seed} failed: {reason}" for seed, reason in failed.items()]
    (folder / "spread.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return found


def read_spread(run_dir: str | Path = "runs/seeds") -> dict:
    """What `run_seeds` wrote: seeds, failed, spread. Raises UsageError where there is none."""
    path = results.run_folder(run_dir) / FILE
    if not path.is_file():
        raise UsageError(f"no {path}; `zvl seeds` makes it")
    return json.loads(path.read_text(encoding="utf-8"))
