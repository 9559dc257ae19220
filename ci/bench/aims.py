"""The schedule in the full world, and how far each aim is reached: one command, one table.

    python ci/bench/aims.py --run-dir runs/aims                 # trains what is not there yet, then asks and prints
    python ci/bench/aims.py --run-dir runs/aims --scale 2       # every number of steps doubled: what more minutes give

Everything is asked of test pictures whose things never met in training; `paraphrase` is asked in wordings of its own,
`style` shows the third artist, `concept` things that training never showed. Figures by name go to aims.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from zvl import config
from zvl.data import questions
from zvl.data.samples import LANGUAGES, Sample, Turn
from zvl.data.wordings import DESCRIBE
from zvl.evaluation import abilities, dialogue, retrieval, suite, vqa
from zvl.model import parts
from zvl.model.tokenizers import caption_ids
from zvl.training import schedule

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


def pretraining_figures(preset, run: Path, seed: int = 0) -> dict[str, float]:
    """Retrieval among a hundred and one thing swapped, as in notebook 03, on the composition split."""
    tokenizer, test = parts.text_tokenizer(preset.parts), schedule.read(preset, run, "composition")
    model, _ = schedule.pretrain(preset, run)
    swapped = {(pair.language, pair.image): pair.caption for pair in test.swapped}
    figures = {}
    for language in LANGUAGES:
        told = [test.captions[image, language][0] for image in test.images]
        pools = retrieval.disjoint_pools(told, 100, len(told) // 110, seed)
        used = sorted(row for pool in pools for row in pool)
        ids, mask = caption_ids(tokenizer, told)
        features = retrieval.embed_pairs(model, test.features, ids, mask)
        found = retrieval.retrieval_at_100(*features, pools)
        wrong = caption_ids(tokenizer, [swapped[language, test.images[row]] for row in used])
        pictures = test.features[used]
        logits = [
            retrieval.match_pairs(model, pictures, *captions) for captions in ((ids[used], mask[used]), wrong)
        ]
        place = f"pretraining/{language}"
        figures |= {
            f"{place}/tr1_100": found.tr1,
            f"{place}/ir1_100": found.ir1,
            f"{place}/itm_balanced_accuracy": retrieval.itm_balanced_accuracy(*logits),
            f"{place}/itm_pairwise": float((logits[0] > logits[1]).float().mean()),
        }
    return figures


def answer_figures(preset, run: Path, kind: str, splits, per_type: int, seed: int = 0) -> dict[str, float]:
    """Questions of every type, boxes, and whether the right language answers."""
    tokenizer = parts.llm_tokenizer(preset.parts)
    model, _ = schedule.tune(preset, run, kind, 2)
    training = schedule.read(preset, run, "train").questions
    figures = {}
    for split in splits:
        data = schedule.read(preset, run, split)
        features = suite.image_features(model, data.images, data.features)
        types = [t for t in questions.RICH_TYPES if t != "read" or split != "concept"]
        asked = suite.draw_questions(data.questions, types, per_type, seed)
        answers = suite.evaluate(model, tokenizer, asked, features, data.row, seed)
        if split == "composition":
            blind, _ = schedule.tune_text_only(preset, run)
            answers |= suite.blind_baselines(blind, tokenizer, asked, training)
        found = suite.vqa_metrics(kind, answers, types, per_type, seed, split)[0]
        figures |= found | above_baselines(found)
        said = answers["model"].said
        figures |= abilities.hallucination_figures(kind, split, asked, said)[0]
        figures |= abilities.language_figures(kind, split, asked, said)[0]
        boxes = suite.draw_questions(data.questions, ("ground",), 2 * per_type, seed)
        boxes = [sample for sample in boxes if is_to_be_found(sample)]
        answers = [
            suite.ask(model, tokenizer, part, features, data.row, max_new_tokens=14)
            for part in (boxes, vqa.with_wrong_images(boxes, seed))
        ]
        figures |= abilities.grounding_figures(kind, split, boxes, *answers, seed)[0]
        figures |= description_figures(model, tokenizer, kind, split, data, features, 2 * per_type)
        talks = short_dialogues(data.dialogues, per_type)
        answers = dialogue.converse(model, tokenizer, talks, features, data.row)
        figures |= abilities.dialogue_figures(kind, split, talks, answers, seed)[0]
    return figures


def above_baselines(figures: dict[str, float]) -> dict[str, float]:
    """How far accuracy lies above the best that was reached without the right picture."""
    result = {}
    for name, accuracy in figures.items():
        if name.endswith("/vqa_accuracy"):
            others = [value for other, value in figures.items() if other.startswith(f"{name}_")]
            result[name.replace("vqa_accuracy", "vqa_above_baselines")] = accuracy - max(others, default=0.0)
    return result


def description_figures(model, tokenizer, kind, split, data, features, count: int) -> dict[str, float]:
    """Descriptions of `count` pictures in each language against all their captions."""
    wordings = "test" if split == "paraphrase" else "train"
    samples = []
    for language in LANGUAGES:
        asked = DESCRIBE[language, wordings]
        for number, image in enumerate(data.images[:count]):
            turn = Turn(asked[number % len(asked)], "")
            samples.append(Sample(f"{language}-{number}", (image,), (turn,), language=language))
    said = suite.ask(model, tokenizer, samples, features, data.row, max_new_tokens=60)
    references = [data.captions[sample.images[0], sample.language] for sample in samples]
    languages = [sample.language for sample in samples]
    return abilities.caption_figures(kind, split, said, references, languages)[0]


def short_dialogues(samples, count: int) -> list[Sample]:
    """`count` dialogues in each language without boxes and descriptions, which figures of their own judge."""

    def short(answer: str) -> bool:
        return "(" not in answer and len(answer.split()) <= 5 and len(answer) <= 30

    told = [sample for sample in samples if all(short(turn.response) for turn in sample.turns)]
    return [s for language in LANGUAGES for s in [t for t in told if t.language == language][:count]]


def is_to_be_found(sample) -> bool:
    """Targets of at most 15% of the picture: larger ones are hit by luck."""
    ((_, _, width, height),) = sample.boxes
    return width * height <= 0.15 * 96 * 96


def table(figures: dict[str, float]) -> list[str]:
    lines = [f"{'figure':<62}{'value':>7}  aim"]
    for name, value in figures.items():
        model, split, metric = name.split("/")[1], name.split("/")[-2], name.rsplit("/", 1)[1]
        least, most = AIMS.get(f"{model}/{metric}", AIMS.get(metric, (None, None)))
        if split not in ("composition", *LANGUAGES):
            least = most = None
        wanted = " to ".join(f"{bound:g}" for bound in (least, most) if bound is not None)
        short = (least is not None and value < least) or (most is not None and value > most)
        lines.append(f"{name:<62}{value:>7.3f}  {wanted}{' (missed)' if short else ''}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/aims"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every number of training steps")
    parser.add_argument("--per-type", type=int, default=60, help="questions of each type and language")
    parser.add_argument("--splits", nargs="*", default=list(SPLITS), choices=SPLITS)
    parser.add_argument("--kinds", nargs="*", default=["base", "chat"], choices=["base", "chat"])
    asked = parser.parse_args()
    preset, run = config.rich(asked.seed).with_steps(asked.scale), asked.run_dir.absolute()
    started, figures = time.perf_counter(), {}
    figures |= pretraining_figures(preset, run, asked.seed)
    print("\n".join(table(figures)), flush=True)
    for kind in asked.kinds:
        found = answer_figures(preset, run, kind, asked.splits, asked.per_type, asked.seed)
        print("\n".join(table(found)[1:]), flush=True)
        figures |= found
    run.mkdir(parents=True, exist_ok=True)
    (run / "aims.json").write_text(json.dumps(figures, indent=1), encoding="utf8")
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
