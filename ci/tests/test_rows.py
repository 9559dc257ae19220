"""Rows: read one after another, put aside with a reason; pickles of strangers run nothing; boxes do not nest."""

import io
import itertools
import json
import os
import pickle
import random
import resource
import sys
from collections import OrderedDict
from decimal import Decimal

import numpy as np
import pytest

from zvl.data import rows
from zvl.data.boxes import boxes_in, corners_text
from zvl.data.grit import not_nested
from zvl.data.plain_pickle import load_plain_pickle
from zvl.data.rows import DataError, Fault, Quarantine, checked, is_text, json_lines, lines
from zvl.data.vqa import most_confident


def test_rows_that_cannot_be_used_are_put_aside_and_others_are_passed_over(tmp_path):
    def make(name, row):
        if row < 0:
            raise Fault("number", "below zero")
        return None if row == 0 else row

    quarantine = Quarantine()
    assert list(checked(enumerate([1, -1, 0, 2]), make, tmp_path / "x.txt", quarantine)) == [1, 2]
    assert quarantine.rows == [("x.txt", "1", "number", "below zero")]


def test_an_error_of_the_program_is_no_bad_row(tmp_path):
    with pytest.raises(ZeroDivisionError):
        list(checked([(0, 0)], lambda _, row: 1 // row, tmp_path, Quarantine()))


def test_a_quarantine_with_a_log_keeps_counts_and_no_rows(tmp_path):
    quarantine = Quarantine(log=tmp_path / "bad.jsonl")
    for number in range(3):
        quarantine.add(tmp_path / "x.csv", f"{number}\ud800", "caption", "empty")
    assert quarantine.counts() == {"caption: empty": 3} and quarantine.rows == []
    told = [json.loads(line) for line in quarantine.log.read_text("utf8").splitlines()]
    assert told[2] == {"file": "x.csv", "row": "2\ud800", "field": "caption", "reason": "empty"}


def test_a_line_too_long_is_put_aside_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "LONGEST", 10)
    (tmp_path / "x").write_bytes(b"short\n" + b"x" * 25 + b"\n123456789\nlast")
    quarantine = Quarantine()
    assert list(lines(tmp_path / "x", quarantine)) == [(1, "short"), (3, "123456789"), (4, "last")]
    assert quarantine.rows == [("x", "2", "row", "longer than 10 bytes")]


def test_marks_of_windows_are_no_part_of_the_text(tmp_path):
    (tmp_path / "x").write_bytes("\ufeff一\r\n二\r\n".encode())
    assert list(lines(tmp_path / "x", Quarantine())) == [(1, "一"), (2, "二")]


def test_half_a_character_is_no_text():
    assert is_text("😀") and not is_text("a\ud83d") and not is_text(" ") and not is_text(7)


def test_lines_of_json_are_numbered_with_the_empty_ones(tmp_path):
    (tmp_path / "x").write_bytes(b'{"a": 1}\n\n' + b"[" * 100_000 + b"\n7\n")
    quarantine = Quarantine()
    assert list(json_lines(tmp_path / "x", quarantine)) == [(1, {"a": 1}), (4, 7)]
    assert quarantine.rows == [("x", "3", "row", "not JSON")]


# --- pickles ---


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_come_out_whole(tmp_path, protocol):
    value = [
        {"ref_id": 1, "sentences": [{"raw": "左边的狗"}], "box": (0.5, -2, 10**30), "none": None, "yes": True}
    ]
    (tmp_path / "refs.p").write_bytes(pickle.dumps(value, protocol))
    assert load_plain_pickle(tmp_path / "refs.p", list) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_something_is_refused_by_name_and_runs_nothing(tmp_path, protocol):
    mark = tmp_path / "ran"
    (tmp_path / "refs.p").write_bytes(pickle.dumps([Evil(str(mark))], protocol))
    with pytest.raises(DataError, match=r"refs\.p: refused: it asks for posix\.mkdir"):
        load_plain_pickle(tmp_path / "refs.p", list)
    assert not mark.exists()
    with open(tmp_path / "refs.p", "rb") as file:
        pickle.load(file)
    assert mark.exists(), "this pickle does run where it is not refused"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (OrderedDict(a=1), "collections.OrderedDict"),
        (Decimal(1), "decimal.Decimal"),
        (np.float32(1), "numpy"),
        (print, "builtins.print"),
        (range(3), "builtins.range"),
    ],
)
def test_nothing_but_plain_values_is_allowed(tmp_path, value, name):
    (tmp_path / "refs.p").write_bytes(pickle.dumps([value]))
    with pytest.raises(DataError, match=f"refs.p: refused: it asks for .*{name}"):
        load_plain_pickle(tmp_path / "refs.p", list)


def test_strings_of_python_2_are_utf8(tmp_path):
    raw = b"(lp0\nS'\\xe7\\x8b\\x97'\na."  # as Python 2 pickled the bytes of a `str`
    (tmp_path / "refs.p").write_bytes(raw)
    assert load_plain_pickle(tmp_path / "refs.p", list) == ["狗"]


def test_no_bytes_stop_the_reading_of_pickles(tmp_path):
    chance, good = random.Random(), pickle.dumps([{"ref_id": 1, "sentences": [{"raw": "dog"}]}], 2)
    for _ in range(400):
        raw = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        (tmp_path / "refs.p").write_bytes(raw[: chance.randint(0, len(raw))])
        try:
            assert isinstance(load_plain_pickle(tmp_path / "refs.p", list), list)
        except DataError as err:
            assert "refs.p" in str(err)
    buffer = io.BytesIO()
    pickle.dump({}, buffer)
    (tmp_path / "refs.p").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="the value must be a list, not a dict"):
        load_plain_pickle(tmp_path / "refs.p", list)


def test_a_number_in_a_pickle_takes_no_memory(tmp_path):
    (tmp_path / "refs.p").write_bytes(
        b"\x80\x02]r\xff\xff\xff\x0f."
    )  # a list, remembered as number 268 million
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert load_plain_pickle(tmp_path / "refs.p", list) == []
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000 * (1 if sys.platform == "linux" else 1024), "two gigabytes for a number"


# --- answers and spans ---


def test_the_most_confident_answer():
    yes, maybe, no = ({"answer": a, "answer_confidence": a} for a in ("yes", "maybe", "no"))
    assert most_confident([no, no, no, maybe, yes]) == "yes"
    assert most_confident([maybe, maybe, maybe, yes]) == "maybe", "three halves are more than one"
    assert most_confident([no, {"answer": " "}]) == "no"
    assert most_confident(["b", "a", "a", "b"]) == "b", "of equal ones the first"
    with pytest.raises(Fault, match="no answer among them"):
        most_confident([{"answer": ""}, 7, None])


def test_no_choice_of_spans_without_overlap_is_larger_than_the_greedy_one():
    chance = random.Random()
    for _ in range(60):
        spans = {tuple(sorted(chance.sample(range(16), 2))) for _ in range(chance.randint(1, 8))}
        chosen = not_nested(spans)
        assert set(chosen) <= spans and all(a[1] <= b[0] for a, b in itertools.pairwise(chosen))
        apart = lambda some: all(a[1] <= b[0] for a, b in itertools.pairwise(sorted(some)))  # noqa: E731
        most = max(
            n for n in range(len(spans) + 1) for some in itertools.combinations(spans, n) if apart(some)
        )
        assert len(chosen) == most, spans


def test_of_nested_phrases_the_inner_ones_are_kept():
    assert not_nested([(0, 32), (0, 13), (20, 32)]) == [(0, 13), (20, 32)]


def test_corners_are_told_as_boxes_are():
    chance = random.Random()
    for _ in range(200):
        (left, right), (top, bottom) = (sorted(chance.sample(range(0, 1001), 2)) for _ in range(2))
        text = corners_text((left / 1000, top / 1000, right / 1000, bottom / 1000))
        for box in boxes_in(text, 1000, 1000):
            told = box[0], box[1], box[0] + box[2], box[1] + box[3]
            assert all(abs(a - b) <= 1 for a, b in zip(told, (left, top, right, bottom), strict=True))
    for bad in ((0.5, 0, 0.5, 1), (0, 0, 1.1, 1), (-0.1, 0, 1, 1), (float("nan"), 0, 1, 1)):
        with pytest.raises(ValueError, match="does not lie within"):
            corners_text(bad)
