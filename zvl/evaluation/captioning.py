"""Captions against several references: CIDEr as pycocoevalcap counts it, in both languages (paper Tables 4 to 6)."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence, Set

import numpy as np

from zvl.data.samples import LANGUAGES


def words(text: str, language: str) -> str:
    """A caption as words between spaces, without punctuation.

    English is folded to lower case. Chinese is segmented by jieba as in the AI Challenger's evaluation, because CIDEr
    counts words: an unsegmented sentence is one word, and scores 0 against any other.
    Raises ValueError for a language other than en and zh.
    """
    if language not in LANGUAGES:
        raise ValueError(f"words: language {language!r} is not one of {', '.join(LANGUAGES)}")
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(" " if unicodedata.category(char).startswith("P") else char for char in text)
    if language == "zh":
        import jieba

        jieba.setLogLevel(logging.WARNING)
        text = " ".join(jieba.cut(re.sub(r"\s+", "", text), cut_all=False))
    return " ".join(text.split())


def cider(
    said: Sequence[str], references: Sequence[Sequence[str]], language: str
) -> tuple[float, np.ndarray]:
    """CIDEr of captions of one language, unscaled (perfect captions reach about 10; papers print it times 100).

    references: the captions that people gave, several for each. Returns the mean and the score of each.
    Raises ValueError for unequal numbers, fewer than two captions (document frequencies need more), or a row
    without references.
    """
    from pycocoevalcap.cider.cider import Cider

    if len(said) != len(references):
        raise ValueError(f"cider: {len(said)} captions, but references for {len(references)}")
    if len(said) < 2:
        raise ValueError("cider: at least two captions are needed, as words are weighed by how rare they are")
    if lacking := [number for number, texts in enumerate(references) if not texts]:
        raise ValueError(f"cider: rows {lacking[:5]} have no references")
    results = {number: [words(text, language)] for number, text in enumerate(said)}
    truths = {number: [words(text, language) for text in texts] for number, texts in enumerate(references)}
    mean, scores = Cider().compute_score(truths, results)
    return float(mean), np.asarray(scores)


def named_things(text: str, names: Mapping[int, str], language: str) -> Counter[int]:
    """The things that a text names, and how often. What a sign says, in quotation marks, is no thing.

    names: number of a thing -> its name in the text's language. Long names are looked for first: a teddy bear (泰迪熊)
    is no bear (熊).
    """
    text, found = re.sub('"[^"]*"|“[^”]*”', "", text.lower()), Counter()
    for thing in sorted(names, key=lambda thing: -len(names[thing])):
        name = re.escape(names[thing].lower())
        text, times = re.subn(rf"\b{name}\b" if language == "en" else name, "_", text)
        found += Counter({thing: times})
    return found


def naming_figures(named: Sequence[Mapping[int, int]], there: Sequence[Set[int]]) -> dict[str, float]:
    """How well descriptions name what is there: counts of `named_things` beside the things of each picture.

    Returns recall (the share of what is there that is named), precision (the share of the named that is there, each
    counted once), repeats (of all names said, those said again) and exact (descriptions that name all and nothing
    else). Raises ValueError for unequal numbers, and where nothing is there.
    """
    if len(named) != len(there):
        raise ValueError(
            f"naming_figures: {len(named)} descriptions of {len(there)} pictures; one each is needed"
        )
    if not any(there):
        raise ValueError("naming_figures: in no picture is anything to be named")
    hits = sum(len(things & found.keys()) for found, things in zip(named, there, strict=True))
    once, all_said = sum(map(len, named)), sum(sum(found.values()) for found in named)
    exact = [found.keys() == things for found, things in zip(named, there, strict=True)]
    return {
        "recall": hits / sum(map(len, there)),
        "precision": hits / max(1, once),
        "repeats": (all_said - once) / max(1, all_said),
        "exact": sum(exact) / len(exact),
    }
