"""Dialogues of several turns and pictures: each answer stands on the model's own earlier ones (paper section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from zvl.data.samples import Sample, Turn
from zvl.evaluation import vqa
from zvl.model import chat


@torch.no_grad()
def converse(
    model, tokenizer, samples: Sequence[Sample], features: Tensor, row: Mapping[str, int], **options
) -> list[list[str]]:
    """The model's answers to all turns of each dialogue, its own answers standing before each next question.

    features: (images, patches, width); row: picture file -> its row there. A picture enters in the turn that says
    `<image>`. options: of `zvl.model.chat.answer`. Returns for each sample as many answers as it has turns.
    """
    asked = [
        [turn.instruction.replace(chat.IMAGE, "").strip() for turn in sample.turns] for sample in samples
    ]
    enters = [_image_turns(sample) for sample in samples]
    used = sorted({row[image] for sample in samples for image in sample.images})
    place = {number: i for i, number in enumerate(used)}
    said: list[list[str]] = [[] for _ in samples]
    for depth in range(max((len(turns) for turns in asked), default=0)):
        going = [number for number, turns in enumerate(asked) if len(turns) > depth]
        shown = [sum(turn <= depth for turn in enters[number]) for number in going]
        answers = chat.answer(
            model,
            tokenizer,
            features[used].float() if used else None,
            [asked[number][depth] for number in going],
            [[place[row[i]] for i in samples[n].images[:k]] for n, k in zip(going, shown, strict=True)],
            qformer_tokenizer=tokenizer,
            histories=[list(zip(asked[number], said[number], strict=False)) for number in going],
            image_turns=[enters[n][:k] for n, k in zip(going, shown, strict=True)],
            **({"batch_size": 64, "max_new_tokens": 12} | options),
        )
        for number, answer in zip(going, answers, strict=True):
            said[number].append(answer)
    return said


def _image_turns(sample: Sample) -> list[int]:
    """The turn in which each picture enters; unmarked ones in the first."""
    marked = [
        turn for turn, said in enumerate(sample.turns) for _ in range(said.instruction.count(chat.IMAGE))
    ]
    return [0] * (len(sample.images) - len(marked)) + marked


def right_by_depth(said: Sequence[Sequence[str]], samples: Sequence[Sample]) -> dict[int, list[float]]:
    """Depth (1 for the first turn) -> 1.0 or 0.0 for each turn at that depth, as `zvl.evaluation.vqa.score` judges.

    Raises ValueError where a dialogue has not as many answers as turns.
    """
    found: dict[int, list[float]] = {}
    for answers, sample in zip(said, samples, strict=True):
        if len(answers) != len(sample.turns):
            raise ValueError(
                f"sample {sample.id!r} has {len(sample.turns)} turns, but {len(answers)} answers"
            )
        for depth, (answer, turn) in enumerate(zip(answers, sample.turns, strict=True), 1):
            single = replace(sample, turns=(Turn(turn.instruction, turn.response),), references=())
            found.setdefault(depth, []).append(float(vqa.score([answer], [single])[0]))
    return found


def accuracy_by_depth(said: Sequence[Sequence[str]], samples: Sequence[Sample]) -> dict[int, float]:
    """The share of right answers at each depth."""
    return {depth: float(np.mean(right)) for depth, right in right_by_depth(said, samples).items()}
