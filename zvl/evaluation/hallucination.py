"""Hallucination: asked whether a thing is there, does the model say yes to what is not (POPE, Li et al. 2023)?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zvl.data.samples import LANGUAGES, Sample
from zvl.evaluation.vqa import accepted, normalise

YES = {"en": ("yes", "yeah", "true"), "zh": ("有", "是", "是的", "有的", "对", "能")}
NO = {"en": ("no", "not", "false"), "zh": ("没有", "不是", "没", "无", "不", "否", "不能")}


def said_yes(answer: str, language: str) -> bool | None:
    """Whether an answer means yes; None where it means neither. It may go on after its first word."""
    if language not in LANGUAGES:
        raise ValueError(f"said_yes: language {language!r} is not one of {', '.join(LANGUAGES)}")
    text = normalise(answer, language)
    if language == "en":
        first = text.split()[:1]
        return True if first and first[0] in YES["en"] else False if first and first[0] in NO["en"] else None
    # 没有 begins with 没 and 有 does not: no words first.
    if text.startswith(NO["zh"]):
        return False
    return True if text.startswith(YES["zh"]) else None


def hallucination_metrics(said: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
    """Of yes/no questions in one or more languages, as fractions:

    hallucination_balanced_accuracy: the mean of the shares of right answers to questions whose answer is yes, and to
    those whose answer is no (0.5 for any constant answer); yes_rate: the share of answers that mean yes;
    neither_rate: those that mean neither, which count as wrong.
    Raises ValueError where a reference is neither yes nor no, or where one of the two kinds is missing.
    """
    if len(said) != len(samples):
        raise ValueError(f"hallucination: {len(said)} answers for {len(samples)} samples; one each is needed")
    right: dict[bool, list[float]] = {True: [], False: []}
    given = [said_yes(answer, sample.language) for answer, sample in zip(said, samples, strict=True)]
    for answer, sample in zip(given, samples, strict=True):
        wanted = said_yes(accepted(sample)[0], sample.language)
        if wanted is None:
            raise ValueError(
                f"sample {sample.id!r}: its answer {accepted(sample)[0]!r} is neither yes nor no"
            )
        right[wanted].append(float(answer is wanted))
    if not all(right.values()):
        raise ValueError("balanced accuracy needs questions of both kinds, answered by yes and by no")
    return {
        "hallucination_balanced_accuracy": float(np.mean([np.mean(right[True]), np.mean(right[False])])),
        "yes_rate": float(np.mean([answer is True for answer in given])),
        "neither_rate": float(np.mean([answer is None for answer in given])),
    }
