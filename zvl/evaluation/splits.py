"""Everything that is measured on one split of a world, and how far it is from what the nano model aims at.

Splits: `composition` shows pairs of things that never met in training, asked about in its words; `paraphrase` asks of
the same pictures in other words; `style` shows the same scenes by another artist; `concept` things never shown before.
Figures are named evaluation/<model>/<language>/<split>/<metric>.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from zvl.data.questions import QUESTION_TYPES
from zvl.data.samples import LANGUAGES, Sample, Turn
from zvl.data.wordings import DESCRIBE
from zvl.evaluation import abilities, dialogue, suite, vqa
from zvl.evaluation.abilities import Figures

SPLITS = ("composition", "paraphrase", "style", "concept")
# Metric, or model and metric -> (least, most) on the composition split, None where there is no bound.
AIMS = {
    "tr1_100": (0.9, None),
    "ir1_100": (0.9, None),
    "itm_balanced_accuracy": (0.9, None),
    "chat/vqa_accuracy": (0.9, None),
    "chat/vqa_above_baselines": (0.35, None),
    "base/vqa_above_baselines": (0.2, None),
    "grounding_p50": (0.7, None),
    "hallucination_balanced_accuracy": (0.9, None),
    "yes_rate": (0.4, 0.6),
    "wrong_language_share": (None, 0.01),
}


def figures_of(
    model,
    tokenizer,
    kind: str,
    split: str,
    data,
    features: Tensor,
    per_type: int,
    answers: Mapping[str, suite.Answers] | None = None,
    seed: int = 0,
) -> Figures:
    """Questions of every type, yes and no, language, boxes, descriptions and dialogues on one split.

    data: of `schedule.read`; features: of its pictures, as this model sees them. per_type: questions of each type in
    each language. answers: to questions that were asked already, by `suite.evaluate`; None to draw and ask them here.
    """
    if answers is None:
        asked = suite.draw_questions(data.questions, types_of(split), per_type, seed)
        answers = suite.evaluate(model, tokenizer, asked, features, data.row, seed)
    figures, intervals = suite.vqa_metrics(kind, answers, types_of(split), per_type, seed, split)
    figures |= above_baselines(figures)
    asked, said = answers["model"].samples, answers["model"].said
    boxes = [s for s in suite.draw_questions(data.questions, ("ground",), 2 * per_type, seed) if _is_small(s)]
    found = [
        suite.ask(model, tokenizer, part, features, data.row, max_new_tokens=14)
        for part in (boxes, vqa.with_wrong_images(boxes, seed))
    ]
    described = descriptions(data.images[: 2 * per_type], "test" if split == "paraphrase" else "train")
    texts = suite.ask(model, tokenizer, described, features, data.row, max_new_tokens=60)
    references = [data.captions[sample.images[0], sample.language] for sample in described]
    talks = short_dialogues(data.dialogues, per_type)
    replies = dialogue.converse(model, tokenizer, talks, features, data.row)
    for more, bounds in (
        abilities.hallucination_figures(kind, split, asked, said),
        abilities.language_figures(kind, split, asked, said),
        abilities.grounding_figures(kind, split, boxes, *found, seed),
        abilities.caption_figures(kind, split, texts, references, [sample.language for sample in described]),
        abilities.dialogue_figures(kind, split, talks, replies, seed),
    ):
        figures |= more
        intervals |= bounds
    return figures, intervals


def types_of(split: str) -> tuple[str, ...]:
    """The types of questions that a split has: no sign stands in its pictures of new concepts."""
    return tuple(kind for kind in QUESTION_TYPES if kind != "read" or split != "concept")


def above_baselines(figures: Mapping[str, float]) -> dict[str, float]:
    """How far accuracy lies above the best that was reached without the right picture."""
    result = {}
    for name, accuracy in figures.items():
        if name.endswith("/vqa_accuracy"):
            others = [value for other, value in figures.items() if other.startswith(f"{name}_")]
            result[name.replace("vqa_accuracy", "vqa_above_baselines")] = accuracy - max(others, default=0.0)
    return result


def descriptions(images: Sequence[str], wordings: str) -> list[Sample]:
    """An instruction to describe each picture in each language, in wordings of "train" or "test"."""
    return [
        Sample(
            f"{language}-{number}",
            (image,),
            (Turn(DESCRIBE[language, wordings][number % len(DESCRIBE[language, wordings])], ""),),
            language=language,
        )
        for language in LANGUAGES
        for number, image in enumerate(images)
    ]


def short_dialogues(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` dialogues in each language without boxes and descriptions, which figures of their own judge."""

    def short(answer: str) -> bool:
        return "(" not in answer and len(answer.split()) <= 5 and len(answer) <= 30

    told = [sample for sample in samples if all(short(turn.response) for turn in sample.turns)]
    return [s for language in LANGUAGES for s in [t for t in told if t.language == language][:count]]


def _is_small(sample: Sample) -> bool:
    """Targets of at most 15% of the picture of 96 pixels: larger ones are hit by luck."""
    ((_, _, width, height),) = sample.boxes
    return width * height <= 0.15 * 96 * 96


def against_aims(figures: Mapping[str, float]) -> list[list[str]]:
    """Rows of figure, value, aim and verdict, headers first; aims are those of the composition split."""
    rows = [["figure", "value", "aim", ""]]
    for name, value in figures.items():
        model, split, metric = name.split("/")[1], name.split("/")[-2], name.rsplit("/", 1)[1]
        least, most = AIMS.get(f"{model}/{metric}", AIMS.get(metric, (None, None)))
        if split not in ("composition", *LANGUAGES):
            least = most = None
        wanted = " to ".join(f"{bound:g}" for bound in (least, most) if bound is not None)
        missed = (least is not None and value < least) or (most is not None and value > most)
        rows.append([name, f"{value:.3f}", wanted, "" if not wanted else "missed" if missed else "reached"])
    return rows
