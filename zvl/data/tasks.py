"""Records of data sets as instructions, by templates: the paper converts captions and boxes so (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from zvl.data.samples import Sample, Turn
from zvl.data.wordings import DESCRIBE, QUESTIONS


def describe_turn(captions: Sequence[str], language: str, split: str, rng: np.random.Generator) -> Turn:
    """An instruction to describe, answered by one of the captions. split: of the wordings, "train" or "test"."""
    wordings = DESCRIBE[language, split]
    return Turn(wordings[int(rng.integers(len(wordings)))], captions[int(rng.integers(len(captions)))])


def ground_turn(sample: Sample, split: str, rng: np.random.Generator) -> Turn:
    """An instruction to find what the sample's bare expression refers to, answered by its box."""
    wordings = QUESTIONS["ground", sample.language, split]
    turn = sample.turns[0]
    wording = wordings[int(rng.integers(len(wordings)))]
    return Turn(wording.replace("{ref}", turn.instruction), turn.response)


def grounding_questions(samples: Sequence[Sample], split: str, seed: int = 0) -> list[Sample]:
    """References as questions, wordings drawn by seed."""
    rng = np.random.default_rng(seed)
    return [replace(sample, turns=(ground_turn(sample, split, rng),)) for sample in samples]
