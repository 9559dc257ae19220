"""How well requests to a teacher overlap, and how fast the symbolic teacher is: `python ci/bench/teacher.py`.

A server on the loopback answers after a fixed delay; rounds of 1, 4 and 16 in flight alternate in one run, so that a
busy machine slows all of them. Prints a table and JSON; ends with status 1 where 16 in flight are under 12 times one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from zvl.data.ledger import Ledger
from zvl.data.server_teacher import ServerTeacher
from zvl.data.teacher import Request, ask

LEVELS = (1, 4, 16)
NEEDED = 12.0  # times one, at 16 in flight
SERVER = Path(__file__).resolve().parents[1] / "tests/fault_server.py"


def seconds(teacher, requests, in_flight: int) -> float:
    """Wall time of asking all requests with an empty ledger. Raises RuntimeError where one has no dialogue."""
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder, "ledger.jsonl")) as ledger:
        start = time.perf_counter()
        answers = ask(teacher, requests, ledger, in_flight=in_flight, progress=False)
        taken = time.perf_counter() - start
    if lost := [answer.reason for answer in answers if answer.dialogue is None]:
        raise RuntimeError(f"{len(lost)} of {len(answers)} requests failed, the first with: {lost[0]}")
    return taken


def overlap(delay: float, count: int, rounds: int) -> dict:
    """Median seconds by requests in flight, against a server in a process of its own."""
    requests = [Request(str(n), ({"role": "user", "content": f"Picture {n}."},)) for n in range(count)]
    server = subprocess.Popen(
        [sys.executable, str(SERVER), "--delay", str(delay)], stdout=subprocess.PIPE, text=True
    )
    try:
        teacher = ServerTeacher("delayed", server.stdout.readline().strip())
        seconds(teacher, requests[: LEVELS[-1]], LEVELS[-1])  # opens the connections
        taken = {level: [] for level in LEVELS}
        for _ in range(rounds):
            for level in LEVELS:
                taken[level].append(seconds(teacher, requests, level))
    finally:
        server.terminate()
        server.wait()
    return {level: statistics.median(times) for level, times in taken.items()}


def symbolic(count: int) -> float | None:
    """Samples a second of the symbolic teacher through `ask`, None where it is missing."""
    if importlib.util.find_spec("zvl.data.symbolic_teacher") is None:
        return None
    import numpy as np

    from zvl.data.boxes import boxes_in
    from zvl.data.prompting import KINDS, messages
    from zvl.data.symbolic_teacher import SymbolicTeacher
    from zvl.data.symbols import UNITS, Symbols, Thing, symbols_text

    rng, requests = np.random.default_rng(0), []
    names = {"en": ("tiger", "banana", "bus", "clock"), "zh": ("老虎", "香蕉", "公共汽车", "时钟")}
    for n in range(count):
        language = ("en", "zh")[n % 2]
        corners = [(int(x), int(y)) for x, y in rng.integers(0, 700, size=(3, 2))]
        boxes = [boxes_in(f"({x},{y}),({x + 200},{y + 200})", UNITS, UNITS)[0] for x, y in corners]
        things = tuple(map(Thing, rng.permutation(names[language])[:3].tolist(), boxes))
        caption = (", " if language == "en" else "、").join(thing.name for thing in things)
        told = symbols_text(Symbols("", "", UNITS, UNITS, (caption,), things, language))
        requests.append(Request(str(n), messages(KINDS[n % 3], language, told, n)))
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder, "ledger.jsonl")) as ledger:
        start = time.perf_counter()
        ask(SymbolicTeacher(seed=0), requests, ledger, progress=False)
        return count / (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay", type=float, default=0.25, help="seconds that the server takes for a reply")
    parser.add_argument("--count", type=int, default=64, help="requests a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=1000, help="samples of the symbolic teacher")
    chosen = parser.parse_args()
    taken = overlap(chosen.delay, chosen.count, chosen.rounds)
    print(f"{chosen.count} requests, {chosen.delay:g} s each\nin flight   seconds   times one")
    for level, wall in taken.items():
        print(f"{level:9d} {wall:9.2f} {taken[1] / wall:11.2f}")
    rate = symbolic(chosen.samples)
    print("symbolic teacher: " + ("missing" if rate is None else f"{rate:.0f} samples a second"))
    ratio = taken[1] / taken[LEVELS[-1]]
    print(
        json.dumps({"seconds": taken, "ratio_16": ratio, "needed": NEEDED, "symbolic_samples_a_second": rate})
    )
    return 0 if ratio >= NEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
