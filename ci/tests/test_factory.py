"""The data factory: nothing is lost or doubled, nothing is paid twice, and every kept row passed the detector."""

import json
from collections import Counter

import numpy as np
import pytest

from zvl.data import factory, filters, prompting
from zvl.data.ledger import Ledger
from zvl.data.plan import FactoryConfig, plan
from zvl.data.symbolic_teacher import SymbolicTeacher
from zvl.data.symbols import parse_symbols, read_symbols
from zvl.data.world import WorldConfig, write_world

SEED = int(np.random.default_rng().integers(10_000))
CONFIG = FactoryConfig(pictures=30, shard_size=8, seed=SEED, mistakes=0.3)
TEACHER = SymbolicTeacher(SEED, CONFIG.mistakes)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


class Mortal:
    """A teacher that counts its calls and dies after some of them."""

    name = TEACHER.name

    def __init__(self, calls=10**9):
        self.left, self.made = calls, Counter()

    def complete(self, messages):
        if self.left == 0:
            raise Killed
        self.left -= 1
        self.made[json.dumps(messages)] += 1
        return TEACHER.complete(messages)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    world = write_world(tmp_path_factory.mktemp("moji"), WorldConfig(30, 4, seed=SEED))
    symbols = [
        told
        for language in ("en", "zh")
        for told in read_symbols(
            world / f"captions_{language}_train.json",
            world / "instances_train.json",
            world / "images/train",
            language,
        )
    ]
    return plan(symbols, CONFIG)


@pytest.fixture(scope="module")
def made(planned, tmp_path_factory):
    return factory.run(tmp_path_factory.mktemp("bmmic"), planned, TEACHER, CONFIG)


def rows_of(folder):
    return [row for part in factory.load(folder) for row in part]


def test_each_picture_is_planned_once_in_each_language(planned):
    assert len({row["id"] for row in planned}) == len(planned) == 60
    assert Counter(row["language"] for row in planned) == {"en": 30, "zh": 30}
    assert {row["kind"] for row in planned} == set(prompting.KINDS)


def test_every_row_is_kept_or_put_aside_with_a_reason(made, planned):
    kept, rejected = factory.load(made)
    names = [*kept["id"], *rejected["id"]]
    assert len(set(names)) == len(names) and {row["id"] for row in planned} <= set(names)
    assert all(row["faults"] == [] and row["turns"] for row in kept)
    assert all(row["faults"] and len(row["faults"]) == len(row["reasons"]) for row in rejected)
    assert len(rejected) > 5 and factory.rejections(rejected).total() >= len(rejected)
    for row in kept:
        turns = factory.as_turns(row["turns"])
        assert filters.detect(turns, parse_symbols(row["symbols"]), row["language"]) == {}


def test_clean_rows_are_rewritten_and_translated_in_part(made):
    rows = {row["id"]: row for row in rows_of(made)}
    rewritten = [row for row in rows.values() if row["rewriting"]]
    translated = [row for row in rows.values() if row["translated"]]
    assert {row["rewriting"] for row in rewritten} == set(prompting.REWRITINGS) and translated
    for row in rewritten:
        assert not rows[row["id"].removesuffix("-" + row["rewriting"])]["faults"], (
            "a faulty row was rewritten"
        )
    for row in translated:
        source = rows[row["id"].removesuffix("-translated")]
        assert (row["language"], source["language"], source["faults"]) == ("zh", "en", [])
        assert len(row["turns"]) == len(source["turns"]) or row["faults"]


@pytest.mark.parametrize("calls", [1, 37, 70])
def test_a_killed_run_ends_with_the_same_rows_and_pays_nothing_twice(calls, planned, made, tmp_path):
    first, second = Mortal(calls), Mortal()
    with pytest.raises(Killed):
        factory.run(tmp_path, planned, first, CONFIG, in_flight=3)
    factory.run(tmp_path, planned, second, CONFIG, in_flight=5)
    assert rows_of(tmp_path) == rows_of(made)
    assert max((first.made + second.made).values()) == 1
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        assert ledger.account().calls == (first.made + second.made).total()


def test_a_folder_of_another_configuration_is_refused(made, planned):
    other = FactoryConfig(pictures=30, shard_size=9, seed=SEED, mistakes=0.3)
    with pytest.raises(ValueError, match="another configuration"):
        factory.run(made, planned, TEACHER, other)


def test_an_answer_that_never_parses_is_put_aside(planned, tmp_path):
    class Silent:
        name = "silent"

        def complete(self, messages):
            return TEACHER.complete(messages).__class__("I would rather not.", 1, 1)

    folder = factory.run(tmp_path, planned[:6], Silent(), CONFIG)
    kept, rejected = factory.load(folder)
    assert len(kept) == 0 and rejected["faults"] == [["no answer"]] * 6


def test_kept_rows_become_samples_that_point_to_their_pictures(made, tmp_path):
    kept, _ = factory.load(made)
    samples = factory.samples(kept, tmp_path / "images")
    assert [sample.id for sample in samples] == list(kept["id"])
    for sample, row in zip(samples, kept, strict=True):
        assert sample.images == (str(tmp_path / "images" / row["image"]),)
        assert [t.response for t in sample.turns] == [t["response"] for t in row["turns"]]


def test_a_row_chooses_no_path():
    row = {"id": "x", "image": "../../etc/passwd", "turns": [{"instruction": "a", "response": "b"}], "rewriting": "",
           "kind": "detail", "language": "en"}  # fmt: skip
    assert factory.samples([row], "/pictures")[0].images == ("/pictures/passwd",)


def test_the_folder_opens_by_its_name_alone(made, tmp_path):
    import datasets

    opened = datasets.load_dataset(str(made), cache_dir=str(tmp_path))
    kept, _ = factory.load(made)
    assert opened["train"]["id"] == list(kept["id"])
