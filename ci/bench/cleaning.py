"""How fast cleaning is: `python ci/bench/cleaning.py`.

Text rules in pairs a second on one core (needed: 50,000), in both languages, on clean and on noisy captions; the rules
over pictures beside bare decoding of the same files; a run in one and in two processes. Rounds alternate in one run, so
that a busy machine slows all of them. Prints a table and JSON; ends with status 1 where the text rules are too slow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from zvl.data import cleaning, noise
from zvl.data.clean import clean_images, clean_text
from zvl.data.limits import DEFAULT, MOJI
from zvl.data.samples import LANGUAGES
from zvl.data.world import WorldConfig, write_world

NEEDED = 50_000  # pairs a second a core
STEPS = (partial(clean_text, limits=MOJI), partial(clean_images, limits=MOJI))


def rate(work: Callable[[], object], count: int) -> float:
    """Items a second of processor time, so that other programs do not count."""
    start = time.process_time()
    work()
    return count / (time.process_time() - start)


def text_rates(rows: list[dict], count: int) -> dict[str, Callable[[], float]]:
    found = {}
    for language in LANGUAGES:
        for name, noisy in (("clean", False), ("noisy", True)):
            some = [row for row in rows if row["language"] == language and (noisy or not row["planted"])]
            some = (some * (count // len(some) + 1))[:count]
            batch = {field: [row[field] for row in some] for field in ("caption", "language", "source")}
            found[f"text, {language}, {name}"] = partial(rate, partial(clean_text, batch, MOJI), count)
    return found


def picture_rates(folder: Path, count: int) -> dict[str, Callable[[], float]]:
    """Decoding alone beside reading, hashing, decoding and judging, of photo-sized JPEG files and of PNG scenes."""
    rng = np.random.default_rng(0)
    files: dict[str, list[str]] = {"jpeg 640 x 480": [], "png 320 x 240": []}
    for number in range(count):
        rough = Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8))
        for (kind, paths), size in zip(files.items(), ((640, 480), (320, 240)), strict=True):
            path = folder / f"{number}.{kind[:4].strip()}"
            rough.resize(size, Image.Resampling.BICUBIC).save(path)
            paths.append(str(path))

    def decode(paths: list[str]) -> None:
        for path in paths:
            with Image.open(path) as image:
                image.convert("RGB")

    found = {}
    for kind, paths in files.items():
        batch = {"image": paths, "source": [""] * count}
        found[f"bare decoding, {kind}"] = partial(rate, partial(decode, paths), count)
        found[f"picture rules, {kind}"] = partial(rate, partial(clean_images, batch, DEFAULT), count)
    return found


def run_seconds(rows: list[dict], processes: int) -> float:
    """Wall time of a run, starting of the processes included."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cleaning.run(Path(folder), rows, STEPS, {}, shard_size=max(1, len(rows) // 8), processes=processes)
        return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000, help="captions a round, in each language")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--scenes", type=int, default=400, help="scenes of the run; ten pairs each")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = WorldConfig(chosen.scenes, 2, dialogue_share=0.0)
        rows = noise.plant(
            write_world(folder / "world", config), folder / "noise", 0, dict.fromkeys(noise.RULES, 0.02)
        )
        work = text_rates(rows, chosen.pairs) | picture_rates(folder, chosen.pictures)
        rates = {name: [] for name in work}
        seconds = {1: [], 2: []}
        for _ in range(chosen.rounds):
            for name, measure in work.items():
                rates[name].append(measure())
            for processes, taken in seconds.items():
                taken.append(run_seconds(rows, processes))
    rates = {name: statistics.median(values) for name, values in rates.items()}
    seconds = {processes: statistics.median(taken) for processes, taken in seconds.items()}
    for name, value in rates.items():
        print(f"{name:34} {value:10,.0f} a second")
    for processes, taken in seconds.items():
        print(
            f"run of {len(rows):,} pairs, {processes} process{'es' * (processes > 1):13} {taken:8.2f} seconds"
        )
    print(json.dumps({"rates": rates, "seconds": seconds, "needed": NEEDED}))
    slowest = min(
        value for name, value in rates.items() if name.startswith("text") and name.endswith("clean")
    )
    return 0 if slowest >= NEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
