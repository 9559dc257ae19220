"""The data factory of the paper's Figure 1: symbols -> teacher -> rewriting and translation -> rule-based detector.

Every step is a pure function from batch to batch, over `datasets`. The unit of resume is a shard of pictures: it is
written whole or not at all, and what a teacher was paid for lies in its ledger, so that a killed run and a fresh one
end with the same rows. The result is BMMIC in small: parquet that `datasets.load_dataset` opens by its folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import datasets
import pyarrow.parquet

from zvl.data import filters, prompting, teacher, translation
from zvl.data.ledger import Ledger
from zvl.data.plan import FactoryConfig, draw
from zvl.data.samples import LANGUAGES, Sample, Turn
from zvl.data.symbols import parse_symbols

Batch = dict[str, list]
FEATURES = datasets.Features({
    "id": datasets.Value("string"),
    "image": datasets.Value("string"),  # file name below the folder of pictures
    "language": datasets.Value("string"),
    "kind": datasets.Value("string"),  # conversation, detail or reasoning
    "rewriting": datasets.Value("string"),  # one of prompting.REWRITINGS, or empty
    "translated": datasets.Value("bool"),
    "turns": [{"instruction": datasets.Value("string"), "response": datasets.Value("string")}],
    "symbols": datasets.Value("string"),  # what the teacher was shown
    "symbols_zh": datasets.Value("string"),  # the same picture in Chinese, for what is translated
    "teacher": datasets.Value("string"),
    "faults": [datasets.Value("string")],  # rules of the detector that the row breaks; none in a kept row
    "reasons": [datasets.Value("string")],  # one for each fault
})  # fmt: skip
FILE = "train-00000-of-00001.parquet"
EMPTY = {"rewriting": "", "translated": False, "turns": [], "teacher": "", "faults": [], "reasons": []}


def generate(batch: Batch, writer: teacher.Teacher, ledger: Ledger, seed: int, **limits) -> Batch:
    """The teacher writes the dialogue of each row from its symbols."""
    queries = list(zip(batch["kind"], batch["language"], batch["symbols"], strict=True))
    return _answered(batch, queries, writer, ledger, seed, limits)


def rewrite(batch: Batch, writer: teacher.Teacher, ledger: Ledger, seed: int, **limits) -> Batch:
    """Each dialogue rewritten in one of four ways, drawn by id: new rows, the old ones are not among them."""
    batch = dict(batch)
    ways = [
        prompting.REWRITINGS[draw(seed, f"way {name}") % len(prompting.REWRITINGS)] for name in batch["id"]
    ]
    batch["rewriting"] = ways
    batch["id"] = [f"{name}-{way}" for name, way in zip(batch["id"], ways, strict=True)]
    queries = [
        (way, language, f"{symbols}\n\n{prompting.dialogue_text(as_turns(turns))}")
        for way, language, symbols, turns in zip(
            ways, batch["language"], batch["symbols"], batch["turns"], strict=True
        )
    ]
    return _answered(batch, queries, writer, ledger, seed, limits)


def translate(batch: Batch, writer: teacher.Teacher, ledger: Ledger, seed: int, **limits) -> Batch:
    """English dialogues in Chinese: new rows, marked as translated, with the Chinese symbols of their picture.

    What a translation loses or leaves in English is a fault of its row.
    """
    source = batch["turns"]
    batch = dict(batch)
    batch["id"] = [f"{name}-translated" for name in batch["id"]]
    batch["language"], batch["symbols"] = ["zh"] * len(source), batch["symbols_zh"]
    batch["translated"] = [True] * len(source)
    queries = [("translation", "zh", prompting.dialogue_text(as_turns(turns))) for turns in source]
    batch = _answered(batch, queries, writer, ledger, seed, limits)
    for row, (before, after) in enumerate(zip(source, batch["turns"], strict=True)):
        if after:
            for rule, reason in translation.check_dialogue(as_turns(before), as_turns(after)).items():
                batch["faults"][row] = [*batch["faults"][row], f"translation: {rule}"]
                batch["reasons"][row] = [*batch["reasons"][row], reason]
    return batch


def detect(batch: Batch) -> Batch:
    """The rule-based detector over the rows that have turns; what it finds is added to their faults."""
    batch = dict(batch)
    faults, reasons = [], []
    for turns, told, language, known, why in zip(
        batch["turns"], batch["symbols"], batch["language"], batch["faults"], batch["reasons"], strict=True
    ):
        found = filters.detect(as_turns(turns), parse_symbols(told), language) if turns else {}
        faults.append([*known, *found])
        reasons.append([*why, *found.values()])
    batch["faults"], batch["reasons"] = faults, reasons
    return batch


def make_shard(
    rows: datasets.Dataset, writer: teacher.Teacher, ledger: Ledger, config: FactoryConfig, **limits
) -> datasets.Dataset:
    """All rows of one shard, clean or not: what was generated, then rewritten, then translated."""
    given = {"writer": writer, "ledger": ledger, "seed": config.seed, **limits}
    first = _mapped(_mapped(rows, generate, given), detect)
    clean = first.filter(_is_clean, input_columns="faults", load_from_cache_file=False)
    parts = [first]
    for step, share, languages in (
        (rewrite, config.rewritten, LANGUAGES),
        (translate, config.translated, ("en",)),
    ):
        chosen = [
            i for i, (name, language) in enumerate(zip(clean["id"], clean["language"], strict=True))
            if language in languages and draw(config.seed, f"{step.__name__} {name}") % 10_000 < share * 10_000
        ]  # fmt: skip
        if chosen:
            parts.append(_mapped(_mapped(clean.select(chosen), step, given), detect))
    return datasets.concatenate_datasets(parts)


def run(
    folder: Path,
    planned: Sequence[dict],
    writer: teacher.Teacher,
    config: FactoryConfig,
    progress: Callable = lambda items, label: items,
    **limits,
) -> Path:
    """Make all shards that are not there yet, then `data/` (kept), `rejected/` and a card, `README.md`, in `folder`.

    planned: from `plan`. progress: wraps the loop over shards, as tqdm does. limits: given to `teacher.ask` (in_flight,
    budget, ...). The ledger lies in `ledger.jsonl`. Raises ValueError where the folder holds shards of another
    configuration, teacher or world.
    """
    with _without_bars():
        return _run(Path(folder), planned, writer, config, progress, limits)


def _run(folder: Path, planned, writer, config, progress, limits) -> Path:
    rows = datasets.Dataset.from_list([EMPTY | row for row in planned], features=FEATURES)
    shards = folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    wanted = {"config": asdict(config), "teacher": writer.name, "plan": _digest(planned)}
    _same_or_new(folder / "factory.json", wanted)
    step = config.shard_size * len(LANGUAGES)
    with Ledger(folder / "ledger.jsonl") as ledger:
        for number in progress(range(-(-len(rows) // step)), "shards"):
            path = shards / f"{number:05d}.parquet"
            if not path.is_file():
                chosen = rows.select(range(number * step, min((number + 1) * step, len(rows))))
                _write(make_shard(chosen, writer, ledger, config, **limits), path)
    everything = datasets.concatenate_datasets([_read(path) for path in sorted(shards.glob("*.parquet"))])
    for name, keep in (("data", True), ("rejected", False)):
        part = everything.filter(
            lambda faults, keep=keep: _is_clean(faults) == keep,
            input_columns="faults",
            load_from_cache_file=False,
        )
        (folder / name).mkdir(exist_ok=True)
        _write(part.remove_columns("symbols_zh"), folder / name / FILE)
    (folder / "README.md").write_text(_card(*load(folder), writer.name), encoding="utf8")
    return folder


def load(folder: Path) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The kept and the rejected rows."""
    return tuple(_read(Path(folder) / name / FILE) for name in ("data", "rejected"))


def samples(rows: Iterable[dict], images: Path) -> list[Sample]:
    """Kept rows as the record of tuning. images: the folder of their pictures."""
    return [
        Sample(
            row["id"], (os.path.join(images, os.path.basename(row["image"])),), as_turns(row["turns"]),
            task="conversation", question_type=row["rewriting"] or row["kind"], language=row["language"],
            source="bmmic",
        )
        for row in rows
    ]  # fmt: skip


def steps(rows: Iterable[dict]) -> Counter:
    """Rows by the step that made them: generated, rewritten, translated."""
    return Counter(
        "translated" if row["translated"] else "rewritten" if row["rewriting"] else "generated"
        for row in rows
    )


def rejections(rows: Iterable[dict]) -> Counter:
    """How often each rule of the detector was broken."""
    return Counter(fault for row in rows for fault in row["faults"])


def _answered(batch: Batch, queries, writer, ledger, seed, limits) -> Batch:
    requests = [
        teacher.Request(name, prompting.messages(kind, language, query, draw(seed, name)))
        for name, (kind, language, query) in zip(batch["id"], queries, strict=True)
    ]
    answers = teacher.ask(writer, requests, ledger, **limits)
    batch = dict(batch)
    batch["teacher"] = [writer.name] * len(answers)
    batch["turns"] = [
        [exchange.model_dump() for exchange in answer.dialogue.turns] if answer.dialogue else []
        for answer in answers
    ]
    batch["faults"] = [[] if answer.dialogue else ["no answer"] for answer in answers]
    batch["reasons"] = [[] if answer.dialogue else [answer.reason] for answer in answers]
    return batch


CARD = """---
license: cc-by-sa-4.0
language: [en, zh]
configs:
  - config_name: default
    data_files: [{{split: train, path: "data/*.parquet"}}]
  - config_name: rejected
    data_files: [{{split: train, path: "rejected/*.parquet"}}]
---

# BMMIC in small

Dialogues about scenes of the Moji world, written by the teacher `{teacher}` from captions and boxes, rewritten,
translated, and passed by a rule-based detector. How it is made, what it is good for and what not is told in
`data_cards/bmmic.md`.

| | rows | English | Chinese |
|---|---|---|---|
{table}

Put aside, by the rule that was broken (a row can break several):

{faults}
"""


def _card(kept: datasets.Dataset, rejected: datasets.Dataset, teacher_name: str) -> str:
    lines = []
    for name, rows in (("kept", kept), ("rejected", rejected)):
        found = Counter(rows["language"])
        lines.append(f"| {name} | {len(rows):,} | {found['en']:,} | {found['zh']:,} |")
    faults = [f"- {fault}: {count:,}" for fault, count in rejections(rejected).most_common()]
    return CARD.format(teacher=teacher_name, table="\n".join(lines), faults="\n".join(faults) or "- none")


def as_turns(turns: Sequence[dict]) -> tuple[Turn, ...]:
    """The turns of a row as the record that the rest of the project uses."""
    return tuple(Turn(turn["instruction"], turn["response"]) for turn in turns)


def _is_clean(faults: Sequence[str]) -> bool:
    return not faults


def _mapped(rows: datasets.Dataset, step: Callable, given: dict | None = None) -> datasets.Dataset:
    # A teacher and a ledger cannot be hashed, and the ledger is the cache.
    return rows.map(
        step, batched=True, batch_size=len(rows), fn_kwargs=given, features=FEATURES, load_from_cache_file=False,
        new_fingerprint=hashlib.sha256(f"{rows._fingerprint}{step.__name__}".encode()).hexdigest()[:16],
    )  # fmt: skip


def _digest(planned: Sequence[dict]) -> str:
    return hashlib.sha256(json.dumps(planned).encode()).hexdigest()


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """One bar over shards says more than one for each step of each shard."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _same_or_new(path: Path, wanted: dict) -> None:
    wanted = json.loads(json.dumps(wanted))
    if path.is_file() and json.loads(path.read_text("utf8")) != wanted:
        raise ValueError(
            f"{path.parent} holds data of another configuration, teacher or world: take another folder"
        )
    path.write_text(json.dumps(wanted, indent=2), "utf8")


def _read(path: Path) -> datasets.Dataset:
    return datasets.Dataset(
        pyarrow.parquet.read_table(path)
    )  # unlike load_dataset, it takes no rows for an answer


def _write(rows: datasets.Dataset, path: Path) -> None:
    """Whole or not at all."""
    half = path.with_suffix(".half")
    rows.to_parquet(str(half))
    os.replace(half, path)
