"""Captions against several references: CIDEr as pycocoevalcap counts it, in both languages (paper Tables 4 to 6)."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence

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
