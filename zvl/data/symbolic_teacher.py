"""A teacher without a language model: it writes from symbols by rules, and errs on purpose at a known rate.

It stands in GPT-4's place (paper section 3.1) behind the same interface as a server, so that the whole factory runs
offline. Its answers are a pure function of the seed and of the query. It is named "symbolic" wherever its rows are
shown: what it writes is varied by rule, not by understanding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zvl.data import phrasebook
from zvl.data.mistakes import FAULTS
from zvl.data.prompting import kind_of
from zvl.data.scene_talk import WRITERS, Turn, View, view
from zvl.data.symbols import parse_symbols
from zvl.data.teacher import Completion


@dataclass(frozen=True)
class SymbolicTeacher:
    """mistakes: the share of its dialogues with one of `mistakes.FAULTS`, all equally often; translations have none."""

    seed: int = 0
    mistakes: float = 0.15

    @property
    def name(self) -> str:
        return f"symbolic-seed{self.seed}-mistakes{self.mistakes}"

    def complete(self, messages: Sequence[dict[str, str]]) -> Completion:
        """The answer to the last message that asks for something. Raises ValueError where none does."""
        kind, _ = kind_of(messages)
        query, view, turns = _understood(messages)
        if kind == "translation":
            turns = [(phrasebook.translate(asked), phrasebook.translate(said)) for asked, said in turns]
        else:
            rng, fault = self._drawn(query)
            turns = WRITERS[kind](view, turns, rng)
            if fault is not None:
                turns = FAULTS[fault](view, turns, rng)
        told = [{"instruction": asked, "response": said} for asked, said in turns]
        text = json.dumps({"turns": told}, ensure_ascii=False)
        return Completion(text, sum(len(message["content"]) for message in messages) // 4, len(text) // 4)

    def planted(self, messages: Sequence[dict[str, str]]) -> str | None:
        """Which of `mistakes.FAULTS` the answer to these messages has: the truth behind the detector's measure."""
        kind, _ = kind_of(messages)
        return None if kind == "translation" else self._drawn(_understood(messages)[0])[1]

    def _drawn(self, query: str) -> tuple[np.random.Generator, str | None]:
        digest = hashlib.sha256(f"{self.seed}:{query}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        fault = list(FAULTS)[int(rng.integers(len(FAULTS)))] if rng.random() < self.mistakes else None
        return rng, fault


def _understood(messages: Sequence[dict[str, str]]) -> tuple[str, View | None, list[Turn]]:
    """The query, its symbols and its dialogue. A request to repair an answer is no query: the one before it is."""
    for message in reversed(messages):
        if message["role"] != "user":
            continue
        head, _, tail = message["content"].partition("\n\n")
        try:
            if head.startswith("{"):
                return message["content"], None, _dialogue(message["content"])
            return message["content"], view(parse_symbols(head)), _dialogue(tail) if tail.strip() else []
        except ValueError:
            continue
    raise ValueError("no message holds symbols or a dialogue")


def _dialogue(text: str) -> list[Turn]:
    return [(turn["instruction"], turn["response"]) for turn in json.loads(text)["turns"]]
