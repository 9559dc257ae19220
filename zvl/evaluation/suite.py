"""One model's evaluation: questions drawn by seed, and its answers beside every baseline.

Source: paper section 4.1, Tables 4 to 6. What counts as right is `vqa`'s, how sure a figure is `bootstrap`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from zvl.data.pixels import read_image, to_pixels
from zvl.data.samples import LANGUAGES, Sample
from zvl.evaluation import vqa
from zvl.evaluation.bootstrap import Interval
from zvl.model import chat

BASELINES = ("majority", "wrong_image", "text_only")


@dataclass(frozen=True)
class Answers:
    """What a model or a baseline said to each of `samples`, and 1.0 where that is right, else 0.0."""

    samples: tuple[Sample, ...]
    said: tuple[str, ...]
    right: np.ndarray

    @classmethod
    def scored(cls, samples: Sequence[Sample], said: Sequence[str]) -> Answers:
        return cls(tuple(samples), tuple(said), vqa.score(said, samples))

    def of(self, language: str) -> Answers:
        """The part in one language."""
        rows = [row for row, sample in enumerate(self.samples) if sample.language == language]
        return Answers(
            tuple(self.samples[row] for row in rows), tuple(self.said[row] for row in rows), self.right[rows]
        )

    def interval(self, seed: int = 0) -> Interval:
        """`vqa_accuracy` with its 95% interval; whole scenes are drawn."""
        return vqa.vqa_interval(self.right, self.samples, seed)

    def by_type(self) -> dict[str, float]:
        return vqa.accuracy_by_type(self.right, self.samples)


def draw_questions(
    samples: Sequence[Sample], types: Sequence[str], per_type: int = 200, seed: int = 0
) -> list[Sample]:
    """`per_type` questions of each type in each language, drawn by seed and kept in the order of `samples`.

    Raises ValueError where a type has fewer: a figure over fewer questions would hide it.
    """
    chosen: list[int] = []
    for number, (language, kind) in enumerate((lang, kind) for lang in LANGUAGES for kind in types):
        rows = [i for i, s in enumerate(samples) if (s.language, s.question_type) == (language, kind)]
        if len(rows) < per_type:
            raise ValueError(f"{len(rows)} questions of type {kind!r} in {language!r}; {per_type} are wanted")
        chosen += np.random.default_rng([seed, number]).permutation(rows)[:per_type].tolist()
    return [samples[i] for i in sorted(chosen)]


@torch.no_grad()
def image_features(model, images: Sequence[str], frozen: Tensor, batch_size: int = 128) -> Tensor:
    """The features of picture files as this model's own vision model gives them: (images, patches, width).

    frozen: those of the frozen vision model. They are the model's own as long as its vision model carries no
    LoRA; Chat's does after its second stage, and its pictures are encoded again.
    """
    if not any(".lora_" in name for name, _ in model.vision_model.named_parameters()):
        return frozen
    size = model.config.vision_config.image_size
    features = []
    for start in range(0, len(images), batch_size):
        pixels = to_pixels([read_image(path) for path in images[start : start + batch_size]], size)
        with torch.autocast(model.device.type, torch.bfloat16):  # as in training
            features.append(model.vision_features(pixels.to(model.device)).to(frozen))
    return torch.cat(features)


def ask(
    model, tokenizer, samples: Sequence[Sample], features: Tensor, row: Mapping[str, int], **options
) -> list[str]:
    """The model's answer to the last turn of each sample, each a dialogue of its own; greedy.

    features: (images, patches, width) of `image_features`; row: picture file -> its row there. options: of
    `zvl.model.chat.answer`, such as batch_size and max_new_tokens.
    """
    used = sorted({row[image] for sample in samples for image in sample.images})
    place = {number: i for i, number in enumerate(used)}
    return chat.answer(
        model,
        tokenizer,
        features[used].float() if used else None,
        [sample.turns[-1].instruction for sample in samples],
        [[place[row[image]] for image in sample.images] for sample in samples],
        qformer_tokenizer=tokenizer,
        **({"batch_size": 128, "max_new_tokens": 8} | options),
    )


def evaluate(
    model,
    tokenizer,
    samples: Sequence[Sample],
    features: Tensor,
    row: Mapping[str, int],
    seed: int = 0,
    **options,
) -> dict[str, Answers]:
    """One model's answers with the right pictures ("model") and with another scene's ("wrong_image").

    seed: which scene takes whose place. Arguments otherwise as in `ask`.
    """
    swapped = vqa.with_wrong_images(samples, seed)
    return {
        "model": Answers.scored(samples, ask(model, tokenizer, samples, features, row, **options)),
        "wrong_image": Answers.scored(samples, ask(model, tokenizer, swapped, features, row, **options)),
    }


def blind_baselines(
    text_only, tokenizer, samples: Sequence[Sample], training: Sequence[Sample], **options
) -> dict[str, Answers]:
    """The two baselines that see no picture and are the same for every model: "majority" and "text_only".

    training: the questions whose most frequent answers count. text_only: a model tuned on the same questions
    without pictures; it gets none here either.
    """
    unseen = [replace(sample, images=()) for sample in samples]
    frequent = vqa.majority_predictions(vqa.majority_answers(training), samples)
    told = ask(text_only, tokenizer, unseen, torch.empty(0), {}, **options)
    return {"majority": Answers.scored(samples, frequent), "text_only": Answers.scored(samples, told)}


def vqa_metrics(
    kind: str,
    answers: Mapping[str, Answers],
    types: Sequence[str],
    minimum: int = 200,
    seed: int = 0,
    split: str = "",
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Figures and 95% intervals by name, ready for `zvl.results.record`.

    answers: "model" and any of BASELINES. The names are evaluation/<kind>/<language>/vqa_accuracy, the same
    with _majority, _wrong_image and _text_only behind it, and evaluation/<kind>/<language>/by_type/<type>; with a split
    it stands behind the language, as in `zvl.evaluation.abilities`.
    Raises ValueError unless each of `types` has `minimum` questions in each language.
    """
    figures, intervals = {}, {}
    for language in LANGUAGES:
        place = f"evaluation/{kind}/{language}" + (f"/{split}" if split else "")
        for source in ("model", *(name for name in BASELINES if name in answers)):
            part = answers[source].of(language)
            vqa.vqa_accuracy(part.right, part.samples, types, minimum)  # refuses what is too small
            found = part.interval(seed)
            name = f"{place}/vqa_accuracy" + ("" if source == "model" else f"_{source}")
            figures[name], intervals[name] = found.mean, (found.low, found.high)
        figures |= {f"{place}/by_type/{k}": v for k, v in answers["model"].of(language).by_type().items()}
    return figures, intervals
