"""The detector on 100 answers of a real small language model (SmolLM2-135M), labelled by hand before it saw them.

`smollm_outputs.jsonl` holds what the model was shown and said, and `faults`, by a reader who did not know the rules;
"wrong_fact" is what no rule looks for. At first sight the detector got: absent objects 9 of 20 (5 false alarms), leaks
2 of 35 (1), truncation 31 of 37 (4), repetition 4 of 22 (0); it rejected 43 of 78 faulty answers and 1 of 22 clean
ones. Two rules, on points and on loops, came from reading its misses; what it gets since is asserted below. The model
speaks of "the box" for 27 leaks, and a box is a thing, too.
"""

import json
from collections import Counter
from pathlib import Path

from zvl.data.filters import detect
from zvl.data.samples import Turn
from zvl.data.symbols import parse_symbols

ROWS = [
    json.loads(line)
    for line in Path(__file__).with_name("smollm_outputs.jsonl").read_text("utf8").splitlines()
]


def verdict(row):
    turns = (Turn(row["instruction"], row["response"]),)
    return detect(turns, parse_symbols(row["symbols"]), row["language"])


def test_there_are_a_hundred_in_both_languages_and_most_are_faulty():
    assert len(ROWS) == len({row["id"] for row in ROWS}) == 100
    assert Counter(row["language"] for row in ROWS) == {"en": 75, "zh": 25}
    assert sum("wrong_fact" in row["faults"] for row in ROWS) == 45


def test_what_it_rejects_is_faulty_and_it_misses_four_in_ten():
    faulty = [bool(set(row["faults"]) - {"wrong_fact"}) for row in ROWS]
    rejected = [bool(verdict(row)) for row in ROWS]
    right = sum(f and r for f, r in zip(faulty, rejected, strict=True))
    assert sum(faulty) == 78
    assert right / sum(rejected) > 0.95, "clean answers are lost"
    assert right / sum(faulty) > 0.55


def test_each_rule_gets_what_it_got():
    hit, truth = Counter(), Counter()
    for row in ROWS:
        found = verdict(row)
        for rule in ("absent_objects", "leaked_symbols", "truncated", "duplicate"):
            there = rule in row["faults"]
            truth[rule] += there
            hit[rule] += there and rule in found
    assert truth == {"absent_objects": 20, "leaked_symbols": 35, "truncated": 37, "duplicate": 22}
    least = {"absent_objects": 9, "leaked_symbols": 10, "truncated": 31, "duplicate": 5}
    assert {rule: hit[rule] for rule in least if hit[rule] < least[rule]} == {}
