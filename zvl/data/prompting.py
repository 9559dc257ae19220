"""What a teacher is asked: a system message, a few worked examples, the query (paper section 3.1, Figure 1).

The system messages stand in `prompts/{en,zh}/*.txt`, the fifty examples in `prompts/examples.yaml`, all written by us.
They are for real language models; the symbolic teacher reads of them only which kind is asked for.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from zvl.data.samples import LANGUAGES, Turn

KINDS = ("conversation", "detail", "reasoning")
REWRITINGS = ("deepening", "concretizing", "increasing_reasoning", "adding_constraints")
TRANSLATION = "translation"
ALL_KINDS = (*KINDS, TRANSLATION, *REWRITINGS)
SHOWN = 3  # examples in one request, at most: the paper does not say how many of its fifty

PROMPTS = Path(__file__).with_name("prompts")


@dataclass(frozen=True, slots=True)
class Example:
    """A query of some kind in its exact text form, and the turns that answer it.

    scene: (seed, index) of the training scene that it speaks of, of all concepts, without frames and signs.
    language: of the system message it goes with.
    """

    id: str
    kind: str
    language: str
    scene: tuple[int, int]
    query: str
    turns: tuple[Turn, ...]


def dialogue_text(turns: Sequence[Turn]) -> str:
    """Turns as the JSON that teachers read and write."""
    told = [{"instruction": turn.instruction, "response": turn.response} for turn in turns]
    return json.dumps({"turns": told}, ensure_ascii=False)


def system_message(kind: str, language: str) -> str:
    """Who the teacher is to be, for one of ALL_KINDS. Translation is from English to Chinese in either language.

    Raises ValueError for another kind or language.
    """
    _check(kind, language)
    return _system_messages()[kind, language]


def kind_of(messages: Sequence[dict[str, str]]) -> tuple[str, str]:
    """(kind, language) of a request, by its system message. Raises ValueError where that is none of ours."""
    first = messages[0] if messages else {}
    for key, text in _system_messages().items():
        if first.get("role") == "system" and first.get("content") == text:
            return key
    raise ValueError(f"the first message is not the system message of any of {', '.join(ALL_KINDS)}")


def examples(kind: str, language: str) -> tuple[Example, ...]:
    """The examples of one kind. Those of translation, English to Chinese, go with system messages of both languages.

    Raises ValueError for another kind or language.
    """
    _check(kind, language)
    return tuple(one for one in _examples() if one.kind == kind and one.language == language)


def messages(kind: str, language: str, query: str, seed: int) -> tuple[dict[str, str], ...]:
    """The in-context function of section 3.1: the system message, up to three examples drawn by seed, the query.

    query: `symbols_text` for KINDS; for REWRITINGS an empty line and the dialogue's JSON after it; for translation the
    dialogue's JSON alone. An example that asks the very same is left out, since it would give the answer away.
    Raises ValueError for another kind or language.
    """
    pool = [one for one in examples(kind, language) if _bare(one.query) != _bare(query)]
    drawn = np.random.default_rng(seed).permutation(len(pool))[:SHOWN]
    told = [{"role": "system", "content": system_message(kind, language)}]
    for number in drawn:
        told.append({"role": "user", "content": pool[number].query})
        told.append({"role": "assistant", "content": dialogue_text(pool[number].turns)})
    return (*told, {"role": "user", "content": query})


def _check(kind: str, language: str) -> None:
    if kind not in ALL_KINDS:
        raise ValueError(f"kind {kind!r} is not one of {', '.join(ALL_KINDS)}")
    if language not in LANGUAGES:
        raise ValueError(f"language {language!r} is not one of {', '.join(LANGUAGES)}")


def _bare(text: str) -> str:
    """A text without blanks: JSON may be written with and without them."""
    return "".join(text.split())


@functools.cache
def _system_messages() -> dict[tuple[str, str], str]:
    """(kind, language) -> text."""
    return {
        (kind, language): (PROMPTS / language / f"{kind}.txt").read_text("utf8").strip()
        for language in LANGUAGES
        for kind in ALL_KINDS
    }


@functools.cache
def _examples() -> tuple[Example, ...]:
    """All examples, language by language."""
    rows = yaml.safe_load((PROMPTS / "examples.yaml").read_text("utf8"))
    found = []
    for language in LANGUAGES:
        for row in rows:
            told = row["zh" if row["kind"] == TRANSLATION else language]
            turns = tuple(Turn(**turn) for turn in told["turns"])
            found.append(Example(row["id"], row["kind"], language, tuple(row["scene"]), told["query"], turns))
    return tuple(found)
