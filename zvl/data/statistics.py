"""What a data set of dialogues consists of, counted: kinds, languages, turns, lengths, verbs and nouns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import jieba.posseg

from zvl.data.lexicon import default_lexicon

# The verbs that instructions and descriptions of pictures are made of; a tagger for English would be another download.
VERBS = frozenset(
    "add answer appear ask begin belong choose come compare consist contain count describe draw end explain face fill "
    "find finish follow give go guess hold identify imagine include infer know lead lie list locate look make match "
    "mention name notice order paint place point read reason refer remain remove say see show sit stand start suggest "
    "surround take tell think touch use walk want write".split()
)
_IRREGULAR = {
    "drawn": "draw", "drew": "draw", "saw": "see", "seen": "see", "stood": "stand", "lay": "lie", "lying": "lie",
    "took": "take", "taken": "take", "went": "go", "gone": "go", "goes": "go", "said": "say", "told": "tell",
    "thought": "think", "found": "find", "gave": "give", "given": "give", "came": "come", "sitting": "sit",
}  # fmt: skip


def statistics(rows: Iterable[dict]) -> dict[str, Counter]:
    """Counters over rows of the factory.

    kind, language, turns (of a dialogue), verbs/<language>, nouns/<language>, and words/<language>: lengths of
    responses in English words or Chinese characters. A rewritten row counts as its rewriting, a translated one as
    "translation".
    """
    found: dict[str, Counter] = {}

    def count(name: str, values: Iterable) -> None:
        found.setdefault(name, Counter()).update(values)

    for row in rows:
        language = row["language"]
        kind = "translation" if row["translated"] else row["rewriting"] or row["kind"]
        count("kind", [(kind, language)])
        count("language", [language])
        count("turns", [len(row["turns"])])
        for turn in row["turns"]:
            count(f"words/{language}", [length(turn["response"], language)])
            for text in turn.values():
                verbs, nouns = verbs_and_nouns(text, language)
                count(f"verbs/{language}", verbs)
                count(f"nouns/{language}", nouns)
    return found


def length(text: str, language: str) -> int:
    """English words, or Chinese characters without marks."""
    return len(re.findall(r"\w+" if language == "en" else r"[一-鿿]", text))


def verbs_and_nouns(text: str, language: str) -> tuple[list[str], list[str]]:
    """Verbs in their base form, and nouns: in English the names of things that the detector knows, too."""
    if language == "zh":
        tagged = [(word, flag) for word, flag in jieba.posseg.cut(text) if len(word) > 1 or flag == "n"]
        verbs = [word for word, flag in tagged if flag in ("v", "vn")]
        return verbs, [word for word, flag in tagged if flag.startswith("n")]
    words = re.findall(r"[a-z]+", text.lower())
    verbs = [verb for word in words if (verb := _base(word)) is not None]
    return verbs, [mention.name for mention in default_lexicon().mentions(text, "en")]


def _base(word: str) -> str | None:
    candidates = [_IRREGULAR.get(word, word)]
    for ending in ("s", "es", "ed", "d", "ing"):
        if word.endswith(ending):
            stem = word[: -len(ending)]
            candidates += [stem, stem + "e"]
    return next((verb for verb in candidates if verb in VERBS), None)
