"""English rows into Chinese rows of the same format, through a teacher: VQAv2 (T), GQA (T), LLaVA (T), M3IT (T).

What a row says is sent as a dialogue, `{"turns": [{"instruction", "response"}]}` (paper section 3.1), and put back in
its place; ids, pictures and all else stay as they are, so that the readers of the format read the result. What has no
English in it is kept, not translated. A row whose translation loses something (`translation_checks`) is put aside.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from zvl.data.conversations import llava_fault
from zvl.data.m3it import m3it_rows
from zvl.data.prompting import TRANSLATION, dialogue_text, messages
from zvl.data.rows import Quarantine, by_id, is_text, load_json
from zvl.data.samples import Turn
from zvl.data.teacher import Answer, Dialogue, Request
from zvl.data.translation_checks import CHECKS, unmarked, untranslated
from zvl.data.vqa import distinct_answers

Ask = Callable[[list[Request]], Sequence[Answer]]  # such as `lambda requests: ask(teacher, requests, ledger)`
Row = str | int

MOST_TURNS = 12  # of a `Dialogue`; longer ones are sent in parts
INPUTS = "<inputs>"  # between M3IT's instruction and its inputs; a marker, which a translation must keep

# Markers and blanks around a text do not travel: what is not sent cannot be lost.
_HEAD = re.compile(r"(?:\s|<image>)*")
_ENGLISH = re.compile(r"[A-Za-z]{2}")
# Who asks what is written wants it as it is written.
_READING = re.compile(r"\b(?:says|say(?= on|\?|$)|written|writes?|reads?|spells?|words?|brand)\b", re.I)


def translated(
    dialogues: Mapping[Row, Sequence[Turn]], ask: Ask, file: Path, quarantine: Quarantine
) -> dict[Row, tuple[Turn, ...]]:
    """The dialogues of the rows of a file in Chinese, by row; rows whose translation cannot be used are put aside.

    Equal dialogues make equal requests, so a ledger pays for them once.
    """
    parts = [
        (row, turns[start : start + MOST_TURNS])
        for row, turns in dialogues.items()
        for start in range(0, len(turns), MOST_TURNS)
    ]
    sent = {
        number: request(str(number), turns)
        for number, (_, turns) in enumerate(parts)
        if any(_has_english(text) for turn in turns for text in (turn.instruction, turn.response))
    }
    answers = dict(zip(sent, ask(list(sent.values())), strict=True))
    told: dict[Row, tuple[Turn, ...]] = {}
    faults: dict[Row, str] = {}
    for number, (row, turns) in enumerate(parts):
        answer = answers.get(number)
        said = turns if answer is None else _put_back(turns, answer.dialogue)
        if answer is not None and answer.dialogue is None:
            faults.setdefault(row, answer.reason)
        elif found := check_dialogue(turns, said):
            faults.setdefault(row, next(iter(found.values())))
        else:
            told[row] = (*told.get(row, ()), *said)
    for row, fault in faults.items():
        quarantine.add(file, row, "translation", fault)
    return {row: turns for row, turns in told.items() if row not in faults}


def request(id: str, turns: Sequence[Turn], seed: int = 0) -> Request:
    """One dialogue to be translated into Chinese, with examples drawn by seed."""
    sent = [Turn(_core(turn.instruction), _core(turn.response)) for turn in turns]
    return Request(id, messages(TRANSLATION, "zh", dialogue_text(sent), seed))


def check_dialogue(before: Sequence[Turn], after: Sequence[Turn]) -> dict[str, str]:
    """What is wrong with a translation, as name of the check -> "field: reason"; empty for one that can be used."""
    if len(before) != len(after):
        return {"turns": "turns: not as many as were sent"}
    found: dict[str, str] = {}
    for source, target in zip(before, after, strict=True):
        read = source.response == target.response and _READING.search(source.instruction)
        for field in ("instruction", "response"):
            texts = getattr(source, field), getattr(target, field)
            for check in CHECKS:
                if not (check is untranslated and field == "response" and read) and (reason := check(*texts)):
                    found.setdefault(check.__name__, f"{field}: {reason}")
    return found


def translate_vqav2(
    questions: Path,
    annotations: Path,
    targets: tuple[Path, Path],
    ask: Ask,
    quarantine: Quarantine | None = None,
) -> int:
    """VQAv2's questions and annotations; all answers of a question are sent with it. Returns how many rows are kept.

    targets: the files to write, questions and annotations. Raises DataError for files that are not of the format.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    asked, told = load_json(questions, dict), load_json(annotations, dict)
    fields = ("multiple_choice_answer", "answers")
    known = by_id(told, "annotations", annotations, "question_id", fields, quarantine)
    rows = by_id(asked, "questions", questions, "question_id", ("question",), quarantine)
    dialogues, answers = {}, {}
    for number, row in rows.items():
        note = known.get(number)
        if note is None:
            quarantine.add(questions, number, "question_id", "has no annotation")
        elif not is_text(row["question"]):
            quarantine.add(questions, number, "question", "empty or not text")
        elif not is_text(note["multiple_choice_answer"]) or distinct_answers(note["answers"]) is None:
            quarantine.add(annotations, number, "answers", "empty or not a list of answers")
        else:
            answers[number] = tuple(
                dict.fromkeys((note["multiple_choice_answer"], *distinct_answers(note["answers"])))
            )
            dialogues[number] = tuple(Turn(row["question"], answer) for answer in answers[number])
    done = translated(dialogues, ask, questions, quarantine)
    asked_zh, told_zh = [], []
    for number, turns in done.items():
        chinese = dict(zip(answers[number], (turn.response for turn in turns), strict=True))
        note = known[number]
        listed = [
            a | {"answer": chinese[a["answer"]]} if is_text(a.get("answer")) else a for a in note["answers"]
        ]
        asked_zh.append(rows[number] | {"question": turns[0].instruction})
        chosen = chinese[note["multiple_choice_answer"]]
        told_zh.append(note | {"multiple_choice_answer": chosen, "answers": listed})
    _write(targets[0], [json.dumps(asked | {"questions": asked_zh}, ensure_ascii=False)])
    _write(targets[1], [json.dumps(told | {"annotations": told_zh}, ensure_ascii=False)])
    return len(done)


def translate_gqa(source: Path, target: Path, ask: Ask, quarantine: Quarantine | None = None) -> int:
    """GQA's question, answer and, where there is one, fullAnswer. Returns how many rows are kept.

    Raises DataError for a file that is not of the format.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    rows, dialogues = load_json(source, dict), {}
    for number, row in rows.items():
        wrong = [
            name for name in ("question", "answer") if not isinstance(row, dict) or not is_text(row.get(name))
        ]
        if wrong:
            quarantine.add(source, number, wrong[0], "empty or not text")
        else:
            answers = dict.fromkeys(text for text in (row["answer"], row.get("fullAnswer")) if is_text(text))
            dialogues[number] = tuple(Turn(row["question"], text) for text in answers)
    done, result = translated(dialogues, ask, source, quarantine), {}
    for number, turns in done.items():
        result[number] = rows[number] | {"question": turns[0].instruction, "answer": turns[0].response}
        if is_text(rows[number].get("fullAnswer")):
            result[number]["fullAnswer"] = turns[-1].response
    _write(target, [json.dumps(result, ensure_ascii=False)])
    return len(done)


def translate_llava(source: Path, target: Path, ask: Ask, quarantine: Quarantine | None = None) -> int:
    """LLaVA's conversations, a dialogue each. Returns how many rows are kept.

    Raises DataError for a file that is not of the format.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    rows, dialogues = load_json(source, list), {}
    for place, row in enumerate(rows):
        if fault := llava_fault(row):
            quarantine.add(source, f"[{place}]", *fault)
        else:
            said = [turn["value"] for turn in row["conversations"]]
            dialogues[f"[{place}]"] = tuple(map(Turn, said[::2], said[1::2]))
    done, result = translated(dialogues, ask, source, quarantine), []
    for place, row in enumerate(rows):
        if turns := done.get(f"[{place}]"):
            said = [text for turn in turns for text in (turn.instruction, turn.response)]
            told = [turn | {"value": text} for turn, text in zip(row["conversations"], said, strict=True)]
            result.append(row | {"conversations": told})
    _write(target, [json.dumps(result, ensure_ascii=False)])
    return len(done)


def translate_m3it(source: Path, target: Path, ask: Ask, quarantine: Quarantine | None = None) -> int:
    """M3IT's instruction, inputs and outputs, a turn a row. Returns how many rows are kept.

    The file is read twice, so that its pictures are never in memory all at once. Raises DataError for a file that
    cannot be read.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    dialogues = {}
    for number, row in m3it_rows(source, quarantine):
        if INPUTS in row["instruction"] + row["inputs"]:
            quarantine.add(source, number, "instruction", f"has the mark {INPUTS}")
        else:
            asked = (
                f"{row['instruction']}\n{INPUTS}\n{row['inputs']}"
                if row["inputs"].strip()
                else row["instruction"]
            )
            dialogues[number] = (Turn(asked, row["outputs"]),)
    done = translated(dialogues, ask, source, quarantine)

    def lines() -> Iterable[str]:
        for number, row in m3it_rows(source, Quarantine()):
            if number in done:
                (turn,) = done[number]
                instruction, mark, inputs = turn.instruction.partition(INPUTS)
                told = {"instruction": instruction.strip() if mark else instruction, "outputs": turn.response}
                told |= {"inputs": inputs.strip()} if mark else {}
                yield json.dumps(row | told, ensure_ascii=False) + "\n"

    _write(target, lines())
    return len(done)


def _put_back(turns: Sequence[Turn], dialogue: Dialogue | None) -> list[Turn]:
    """The teacher's texts between what was around them; where no English was, the text itself."""

    def one(source: str, target: str) -> str:
        head, _, tail = _parted(source)
        return head + target + tail if _has_english(source) else source

    said = dialogue.turns if dialogue else []
    if len(said) != len(turns):
        return []
    return [
        Turn(one(before.instruction, after.instruction), one(before.response, after.response))
        for before, after in zip(turns, said, strict=True)
    ]


def _core(text: str) -> str:
    return _parted(text)[1] or text.strip()


def _parted(text: str) -> tuple[str, str, str]:
    """Markers and blanks before, what is sent, markers and blanks after."""
    head = _HEAD.match(text)[0]
    rest = text[len(head) :]
    core = rest.rstrip()
    while core.endswith("<image>"):
        core = core.removesuffix("<image>").rstrip()
    return head, core, rest[len(core) :]


def _has_english(text: str) -> bool:
    return bool(_ENGLISH.search(unmarked(text)))


def _write(path: Path, lines: Iterable[str]) -> None:
    """Write a file so that it stands there whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "w", encoding="utf8", newline="\n") as file:
        file.writelines(lines)
    os.replace(part, path)
