"""Question answering in both languages, always beside its baselines (paper section 4.1, Tables 4 and 5)."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from zvl.data.samples import LANGUAGES, Sample
from zvl.evaluation.bootstrap import Interval, interval, macro_average

NUMBERS = {
    "en": {
        word: str(i) for i, word in enumerate("zero one two three four five six seven eight nine ten".split())
    },
    "zh": {word: str(i) for i, word in enumerate("零一二三四五六七八九十")} | {"两": "2"},
}
ARTICLES = {"a", "an", "the"}


def normalise(text: str, language: str) -> str:
    """An answer in the form in which two answers are compared.

    Width and case are folded, punctuation goes (not inside numbers: 3.5), number words become digits.
    English loses its articles, as in VQAv2's evaluation, unless nothing else is left; Chinese loses its
    spaces, and its number words become digits only where they are the whole answer, because they also stand
    inside other words (一样, 三明治). Raises ValueError for a language other than en and zh.
    """
    if language not in LANGUAGES:
        raise ValueError(f"normalise: language {language!r} is not one of {', '.join(LANGUAGES)}")
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"(?<=\d),(?=\d{3})|['’]", "", text)
    text = "".join(" " if _is_loose_punctuation(text, i) else c for i, c in enumerate(text))
    words = text.split()
    if language == "zh":
        joined = "".join(words)
        return NUMBERS["zh"].get(joined, joined)
    words = [w for w in words if w not in ARTICLES] or words
    return " ".join(NUMBERS["en"].get(w, w) for w in words)


def accepted(sample: Sample) -> tuple[str, ...]:
    """The sample's accepted answers as written: its references, or else the response of its last turn."""
    answers = sample.references or tuple(turn.response for turn in sample.turns[-1:])
    if not any(normalise(answer, sample.language) for answer in answers):
        raise ValueError(f"sample {sample.id!r} has no accepted answer; fill references or the last response")
    return answers


def score(predictions: Sequence[str], samples: Sequence[Sample]) -> np.ndarray:
    """1.0 where a prediction equals an accepted answer after `normalise`, else 0.0; (n,) floats.

    An empty prediction is wrong. Raises ValueError where the two differ in number.
    """
    if len(predictions) != len(samples):
        raise ValueError(
            f"score: {len(predictions)} predictions for {len(samples)} samples; one each is needed"
        )
    right = np.zeros(len(samples))
    for i, (prediction, sample) in enumerate(zip(predictions, samples, strict=True)):
        said = normalise(prediction, sample.language)
        answers = {normalise(answer, sample.language) for answer in accepted(sample)}
        right[i] = said in answers - {""}
    return right


def accuracy_by_type(correct: Sequence[float], samples: Sequence[Sample]) -> dict[str, float]:
    """Mean of `correct` for each question type, in alphabetical order."""
    by_type = defaultdict(list)
    for value, sample in zip(correct, samples, strict=True):
        by_type[sample.question_type].append(value)
    return {kind: float(np.mean(by_type[kind])) for kind in sorted(by_type)}


def vqa_accuracy(
    correct: Sequence[float], samples: Sequence[Sample], types: Sequence[str] = (), minimum: int = 1
) -> float:
    """Macro-average over question types of the share of right answers, from 0 to 1.

    correct: the result of `score`. types: the fixed list that must be covered; empty takes the types
    present. Raises ValueError where a listed type has under `minimum` questions or a question's type is not
    in the list: an average over fewer types is another figure under the same name.
    """
    _check_types(samples, types, minimum)
    return macro_average(correct, [sample.question_type for sample in samples])


def vqa_interval(
    correct: Sequence[float],
    samples: Sequence[Sample],
    seed: int = 0,
    n: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    """`vqa_accuracy` with its bootstrap interval; scenes are drawn whole: their questions fail together."""
    groups = [sample.question_type for sample in samples]
    return interval(correct, groups, [sample.images or sample.id for sample in samples], seed, n, confidence)


def majority_answers(training: Sequence[Sample]) -> dict[tuple[str, str], str]:
    """The most frequent training answer of each (question type, language), normalised; ties by alphabet."""
    counts: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for sample in training:
        counts[sample.question_type, sample.language][normalise(accepted(sample)[0], sample.language)] += 1
    return {
        key: min(counter, key=lambda answer: (-counter[answer], answer)) for key, counter in counts.items()
    }


def majority_predictions(answers: Mapping[tuple[str, str], str], samples: Sequence[Sample]) -> list[str]:
    """The baseline that never looks: each sample gets the `majority_answers` of its type and language."""
    missing = sorted({(s.question_type, s.language) for s in samples} - set(answers))
    if missing:
        raise ValueError(f"no training answer for {missing}; there are {sorted(answers)}")
    return [answers[sample.question_type, sample.language] for sample in samples]


def with_wrong_images(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """The same questions, each with another scene's pictures in place of its own.

    All questions of a scene get the same wrong scene; scenes trade places with scenes of as many pictures,
    in one cycle drawn by seed, so none keeps its own. The wrong scene may happen to have the same answer:
    that luck is what the baseline measures. Samples without pictures stay. Boxes are dropped, as they
    belong to the right picture. Raises ValueError where a scene has no other to trade with.
    """
    scenes: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    for images in sorted({sample.images for sample in samples if sample.images}):
        scenes[len(images)].append(images)
    wrong: dict[tuple[str, ...], tuple[str, ...]] = {(): ()}
    rng = np.random.default_rng(seed)
    for number, group in sorted(scenes.items()):
        if len(group) < 2:
            raise ValueError(f"only one scene of {number} picture(s), {group[0]}; two are needed")
        order = rng.permutation(len(group))
        wrong |= {group[a]: group[b] for a, b in zip(order, np.roll(order, 1), strict=True)}
    return [replace(sample, images=wrong[sample.images], boxes=()) for sample in samples]


def table_rows(
    correct: Mapping[str, Sequence[float]],
    samples: Sequence[Sample],
    types: Sequence[str] = (),
    seed: int = 0,
) -> list[dict[str, str | int | float]]:
    """One row for each model and language: accuracy, interval, number of questions, then accuracy by type.

    correct: name of a model or baseline -> its `score` on all samples. `pandas.DataFrame(table_rows(...))`
    shows it.
    """
    rows = []
    for name, values in correct.items():
        if len(values) != len(samples):
            raise ValueError(f"{name}: {len(values)} scores for {len(samples)} samples; one each is needed")
        for language in sorted({sample.language for sample in samples}):
            chosen = [i for i, sample in enumerate(samples) if sample.language == language]
            part, marks = [samples[i] for i in chosen], [values[i] for i in chosen]
            _check_types(part, types, 1)
            found = vqa_interval(marks, part, seed)
            row = {"model": name, "language": language, "questions": len(part)}
            row |= {"accuracy": found.mean, "low": found.low, "high": found.high}
            rows.append(row | accuracy_by_type(marks, part))
    return rows


def _check_types(samples: Sequence[Sample], types: Sequence[str], minimum: int) -> None:
    counts = Counter(sample.question_type for sample in samples)
    strangers = sorted(set(counts) - set(types)) if types else []
    if strangers:
        raise ValueError(f"question types {strangers} are not in the fixed list {list(types)}")
    short = {kind: counts[kind] for kind in types or counts if counts[kind] < minimum}
    if short:
        raise ValueError(f"too few questions of {short}; at least {minimum} of each type are needed")


def _is_loose_punctuation(text: str, i: int) -> bool:
    """Punctuation, except between two digits, where it is part of a number, a time or a date."""
    if not unicodedata.category(text[i]).startswith("P"):
        return False
    return not (0 < i < len(text) - 1 and text[i - 1].isdigit() and text[i + 1].isdigit())
