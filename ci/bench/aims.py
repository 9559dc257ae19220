"""The nano schedule, and how far each aim is reached: one command, one table.

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
from zvl.data.samples import LANGUAGES
from zvl.evaluation import retrieval, splits, suite
from zvl.model import backbones, parts
from zvl.model.tokenizers import caption_ids
from zvl.training import schedule


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


def answer_figures(preset, run: Path, kind: str, chosen, per_type: int, seed: int = 0) -> dict[str, float]:
    """What `splits.figures_of` measures, on each of the chosen splits; baselines without a picture on one."""
    tokenizer = backbones.load_tokenizer()
    model, _ = schedule.tune(preset, run, kind, 2)
    training = schedule.read(preset, run, "train").questions
    figures = {}
    for split in chosen:
        data = schedule.read(preset, run, split)
        features, answers = suite.image_features(model, data.images, data.features), None
        if split == "composition":
            blind, _ = schedule.tune_text_only(preset, run)
            asked = suite.draw_questions(data.questions, splits.types_of(split), per_type, seed)
            answers = suite.evaluate(model, tokenizer, asked, features, data.row, seed)
            answers |= suite.blind_baselines(blind, tokenizer, asked, training)
        figures |= splits.figures_of(model, tokenizer, kind, split, data, features, per_type, answers, seed)[
            0
        ]
    return figures


def table(figures: dict[str, float]) -> str:
    return "\n".join(
        f"{name:<62}{value:>7}  {aim} {said}" for name, value, aim, said in splits.against_aims(figures)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/aims"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every number of training steps")
    parser.add_argument("--per-type", type=int, default=60, help="questions of each type and language")
    parser.add_argument("--splits", nargs="*", default=list(splits.SPLITS), choices=splits.SPLITS)
    parser.add_argument("--kinds", nargs="*", default=["base", "chat"], choices=["base", "chat"])
    asked = parser.parse_args()
    preset, run = config.nano(asked.seed).with_steps(asked.scale), asked.run_dir.absolute()
    started, figures = time.perf_counter(), {}
    figures |= pretraining_figures(preset, run, asked.seed)
    print(table(figures), flush=True)
    for kind in asked.kinds:
        found = answer_figures(preset, run, kind, asked.splits, asked.per_type, asked.seed)
        print(table(found), flush=True)
        figures |= found
    run.mkdir(parents=True, exist_ok=True)
    (run / "aims.json").write_text(json.dumps(figures, indent=1), encoding="utf8")
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
