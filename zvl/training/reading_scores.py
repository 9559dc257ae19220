"""How well a LLaMA reads: test wordings on test combinations, told in words or in soft slots, and no picture."""

from __future__ import annotations

import numpy as np
import torch

from zvl.data import moji, questions, wordings
from zvl.data.samples import LANGUAGES
from zvl.evaluation import captioning, grounding
from zvl.training.reading import (
    BOXED,
    IMAGE_ID,
    Asked,
    TextIds,
    collate_text,
    embed_text,
    ground_question,
)
from zvl.training.slots import NUM_SLOTS, soft_slots


@torch.no_grad()
def reading_quality(model, tokenizer, scenes: int = 600, seed: int = 1) -> dict[str, float]:
    """The text-only reading score: test wordings on test combinations; the whole answer must be right.

    Keys `{text,soft}/{en,zh}/{question type}`: told in words of the same language, or in 16 soft slots; boxes from
    slots alone. A box counts where it is right to half the union.
    """
    ids, result = TextIds(tokenizer), {}
    pool = moji.scenes(scenes, "test", seed, min_pieces=2)
    for form in ("text", "soft"):
        for language in LANGUAGES:
            rng = np.random.default_rng(seed)
            rows = []
            for scene in pool:
                asked = questions.questions(scene, language, "test", rng)
                if form == "soft":
                    asked.append(ground_question(scene, language, rng, "test"))
                for turn in asked:
                    if form == "soft":
                        rows.append(Asked([IMAGE_ID] * NUM_SLOTS, [turn], soft_slots(scene, ids, rng)))
                    elif turn.kind not in BOXED:
                        told = wordings.description(scene, language)
                        rows.append(Asked(ids(told), [turn]))
            right: dict[str, list[float]] = {}
            rows.sort(key=lambda row: len(row.prefix))
            for start in range(0, len(rows), 256):
                part = rows[start : start + 256]
                batch = collate_text(part, ids)
                found = model(inputs_embeds=embed_text(model, batch)).logits[:, :-1].argmax(-1)
                for row, guess, line in zip(part, found, batch["input_ids"], strict=True):
                    end = len(line) if 0 not in line[1:] else int((line == 0).nonzero()[0])
                    length = len(ids(row.turns[0].answer)) + 1
                    hit = bool((guess[end - 1 - length : end - 1] == line[end - length : end]).all())
                    if (
                        row.turns[0].kind == "ground"
                    ):  # teacher-forced: each number after the right ones before it
                        told = tokenizer.decode(guess[end - 1 - length : end - 2])
                        hit = grounding.overlap(told, row.turns[0].answer) >= 0.5
                    right.setdefault(row.turns[0].kind, []).append(float(hit))
            for kind, hits in right.items():
                result[f"{form}/{language}/{kind}"] = sum(hits) / len(hits)
    return result


@torch.no_grad()
def description_quality(model, tokenizer, scenes: int = 60, seed: int = 3) -> dict[str, float]:
    """How test combinations, told in 16 soft slots, are described when training's first wording asks; greedy.

    Keys `{en,zh}/{recall,precision,repeats,exact}`: `captioning.naming_figures` of the things, signs left out.
    """
    ids, result = TextIds(tokenizer), {}
    pool = moji.scenes(scenes, "test", seed, min_pieces=2)
    there = [{piece.concept for piece in scene.pieces if piece.word is None} for scene in pool]
    for language in LANGUAGES:
        rng = np.random.default_rng(seed)
        asked = questions.Question("describe", language, wordings.DESCRIBE[language, "train"][0], "")
        rows = [Asked([IMAGE_ID] * NUM_SLOTS, [asked], soft_slots(scene, ids, rng)) for scene in pool]
        prompts = embed_text(model, collate_text(rows, ids))[:, :-1]  # all but the end of the empty answer
        mask = torch.ones(prompts.shape[:2], dtype=torch.long)
        said = model.generate(inputs_embeds=prompts, attention_mask=mask, max_new_tokens=64, do_sample=False)
        names = {concept.id: concept.names[language] for concept in moji.concepts()}
        texts = tokenizer.batch_decode(said, skip_special_tokens=True)
        named = [captioning.named_things(text, names, language) for text in texts]
        figures = captioning.naming_figures(named, there)
        result |= {f"{language}/{name}": value for name, value in figures.items()}
    return result
