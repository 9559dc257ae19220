"""Text alone for the nano LLaMA: ordinary text, descriptions, and questions answered from what stands before them.

A frozen language model that cannot answer from text cannot answer from visual tokens, and a tiny one does not read
vectors that are not words (a large one does). So most of the rows replace the description by soft slots, vectors that
mean several words; they are made from word embeddings alone. No picture is involved, only training scenes' facts,
training combinations and training wordings.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zvl.data import moji, questions, wordings
from zvl.data.samples import LANGUAGES
from zvl.model.backbones import SPECIAL_TOKENS
from zvl.model.chat import BOT, HUMAN, IGNORED, IMAGE, spaced
from zvl.training.starts import patch_shares

NUM_SLOTS = 16  # as many as the nano model has queries
MAX_FACTS, MAX_WORDS = 2 + moji.MAX_PIECES, 16
TOLD_WEIGHT = 0.1  # of the descriptions' own tokens in the loss: there are many, and answers are what matters
KINDS = (*questions.QUESTION_TYPES, "where")
IMAGE_ID = SPECIAL_TOKENS.index(IMAGE)


@functools.cache
def ordinary_text() -> tuple[str, ...]:
    """Text that has nothing to do with scenes: English prose of Python's language reference, and CLDR's names of some
    1,900 emoji as an English-Chinese word list. Both come with what is installed anyway.
    """
    from pydoc_data.topics import topics

    import emoji

    emoji.config.load_language("zh")
    prose = [" ".join(part.split()) for text in topics.values() for part in text.split("\n\n")]
    prose = [part for part in prose if 60 < len(part) and part[0].isalpha()]
    shown = {name for concept in moji.concepts() for name in concept.names.values()}
    entries = []
    for data in emoji.EMOJI_DATA.values():
        if "zh" in data and "tone" not in data["en"]:
            en, zh = (data[lang].strip(":").replace("_", " ") for lang in LANGUAGES)
            entries += [f"{en}: {zh}", f"{zh}：{en}"] * (4 if zh in shown else 1)
    return tuple(prose + entries)


def pad(rows: list[list[int]], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Rows of ids -> (ids, mask), both (rows, longest), padded with 0 on the right."""
    length = length or max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row[:length])
    return ids, ids != 0


@functools.lru_cache(maxsize=4)
def scene_pool(
    split: str, seed: int, max_pieces: int = moji.MAX_PIECES, count: int = 12000
) -> list[moji.Scene]:
    """Scenes to talk about; text needs no more, because what is asked about each is drawn anew."""
    return moji.scenes(count, split, seed, min_pieces=1 if split == "train" else 2, max_pieces=max_pieces)


class TextIds:
    """Tokenises and remembers, because templates repeat."""

    def __init__(self, tokenizer):
        self.tokenizer, self.known = tokenizer, {}

    def __call__(self, text: str) -> list[int]:
        if text not in self.known:
            self.known[text] = self.tokenizer.backend_tokenizer.encode(
                spaced(text), add_special_tokens=False
            ).ids
        return self.known[text]


def facts(scene: moji.Scene) -> list[list[tuple[str, str]]]:
    """The facts of a scene as words without grammar, each word in both languages: what a visual token could mean."""
    ground = tuple(wordings.COLOURS[lang][scene.background] for lang in LANGUAGES)
    number = tuple(wordings.NUMBERS[lang][len(scene.pieces)] for lang in LANGUAGES)
    result = [[ground, ("background", "背景")], [number, ("things", "东西")]]
    for piece in scene.pieces:
        names = moji.concepts()[piece.concept].names
        words = [(names["en"], names["zh"])]
        words.append(tuple(wordings.PLACES[lang][piece.place] for lang in LANGUAGES))
        words.append(tuple(wordings.SIZE_WORDS[lang][piece.size] for lang in LANGUAGES))
        result.append(words)
    return result


# Where a thing is, or that it is nowhere: text alone asks this too, because whoever can look that up finds it easy to
# tell whether a thing is there, and which of two is further left.
WHERE = {
    "en": ("Where is {it}?", "Where do you see {it}?", "In which place is {it}?", "Tell me where {it} is."),
    "zh": ("{it}在哪里？", "你在哪里看到{it}？", "{it}在什么位置？", "说说{it}在哪儿。"),
}
NOWHERE = {"en": "nowhere", "zh": "哪里都没有"}


def where_question(scene: moji.Scene, language: str, rng: np.random.Generator) -> questions.Question:
    """Where one thing is; in three of ten questions it is not there."""
    piece = scene.pieces[rng.integers(len(scene.pieces))]
    concept, answer = moji.concepts()[piece.concept], wordings.PLACES[language][piece.place]
    if rng.random() < 0.3:
        present = {piece.concept for piece in scene.pieces}
        absent = [c for c in moji.concepts() if c.id not in present]
        concept, answer = absent[rng.integers(len(absent))], NOWHERE[language]
    template = WHERE[language][rng.integers(len(WHERE[language]))]
    question = template.format(it=wordings.definite(concept, language))
    return questions.Question("where", language, question, answer)


@dataclass(frozen=True)
class Asked:
    """One row of text: what stands before the first question, the turns, and, for soft rows, the facts in slots."""

    prefix: list[int]  # ids after `<s><human>:`; placeholders for soft slots
    turns: list[questions.Question]
    slots: tuple[Tensor, Tensor, Tensor] | None = None  # words, word weights, mixing: see `soft_slots`


def soft_slots(
    scene: moji.Scene,
    ids: TextIds,
    rng: np.random.Generator,
    slots: int = NUM_SLOTS,
    ease: float = 0.0,
    language=None,
):
    """What a visual token could mean: each slot is a mixture of facts, each fact a weighted sum of its words.

    The words are English, Chinese or both. Every fact leads in one slot at least; which slots, is drawn.
    ease: from 0 to 1, how much purer than that the slots are, for the beginning of training.
    Returns words (7, 16) ids, word_weights (7, 16), mixing (slots, 7) with rows summing to 1.
    """
    words, weights = torch.zeros(MAX_FACTS, MAX_WORDS, dtype=torch.long), torch.zeros(MAX_FACTS, MAX_WORDS)
    known = facts(scene)
    grid = math.isqrt(slots)
    seen_by_place = grid * grid == slots and rng.random() < 0.5 * (1 - ease)
    shares = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))[rng.integers(3)]
    if language is not None and rng.random() < ease:
        shares = (1.0, 0.0) if language == LANGUAGES[0] else (0.0, 1.0)
    for f, fact in enumerate(known):
        if seen_by_place and f > 1 and rng.random() < 0.5:
            fact = fact[:1]  # the name alone: where the slot lies tells the place
        flat = [(token, shares[k]) for word in fact for k in range(2) for token in ids(word[k])]
        tokens, share = zip(*flat[:MAX_WORDS], strict=True)
        words[f, : len(tokens)] = torch.tensor(tokens)
        weights[f, : len(tokens)] = (
            torch.tensor(share) * torch.from_numpy(rng.uniform(0.4, 1.6, len(tokens))).float()
        )
    mixing = torch.zeros(slots, MAX_FACTS)
    if seen_by_place:
        mixing[:, : len(known)] = torch.from_numpy(place_mixing(scene, grid, rng))
    else:
        logits = rng.normal(size=(slots, len(known))) * rng.uniform(1, 5)
        for f in range(min(len(known), slots)):
            logits[f, f] += 6 * rng.uniform(0.3, 1) + 6 * ease
        mixing[:, : len(known)] = torch.softmax(torch.from_numpy(rng.permutation(logits)), -1)
    return words, weights, mixing


def place_mixing(scene: moji.Scene, grid: int, rng: np.random.Generator) -> np.ndarray:
    """Slots that look each at its own place: (grid * grid, facts), rows sum to 1.

    Slot number r * grid + c means what lies in row r, column c of the picture: the things whose boxes reach into it, as
    far as they do, and the background. The number of things belongs to no place; at random it is said everywhere.
    """
    share = np.zeros((grid * grid, 2 + len(scene.pieces)))
    boxes = [(piece.x, piece.y, piece.side, piece.side) for piece in scene.pieces]
    overlap = patch_shares(boxes, grid * grid, moji.SCENE_SIZE).double().numpy()  # (things, slots)
    share[:, 2:] = (overlap / overlap.max(1, keepdims=True)).T
    share **= rng.uniform(0.7, 3)
    share[:, 0] = rng.uniform(0.1, 0.6)
    share[:, 1] = rng.uniform(0.1, 0.6) * (rng.random() < 0.5)
    share *= rng.uniform(0.5, 1.5, share.shape)
    return share / share.sum(1, keepdims=True)


def reading_batch(
    ids: TextIds,
    step: int,
    batch_size: int,
    seed: int,
    slots: int = NUM_SLOTS,
    soft: float = 0.7,
    turns: int = 4,
    ease: float = 0.0,
    kinds: tuple[str, ...] = KINDS,
) -> dict[str, Tensor]:
    """One step of text, a pure function of (seed, step): dialogues on scenes told in the prompt.

    A share `soft` of the rows is told in soft slots, the others in words, in either language. `ease` above 0.5 leaves
    scenes of one or two pieces, above 0 of three: looking up is learned on short descriptions first.
    Returns what `collate_text` returns.
    """
    rng = np.random.default_rng([seed, step, 11])
    rows, is_soft = [], rng.random(batch_size) < soft
    pool = scene_pool("train", seed, 2 if ease > 0.5 else 3 if ease > 0 else moji.MAX_PIECES)
    for number in range(batch_size):
        scene = pool[rng.integers(len(pool))]
        language, told = (LANGUAGES[i] for i in rng.integers(2, size=2))
        told = language if rng.random() < 0.8 * ease else told
        asked = questions.questions(scene, language, "train", rng, [k for k in kinds if k != "where"])
        asked += [where_question(scene, language, rng) for kind in kinds if kind == "where"]
        asked = [asked[i] for i in rng.permutation(len(asked))[:turns]]
        if not asked or (
            kinds == KINDS and rng.random() < (0.8 if ease else 0.25)
        ):  # captions name everything: most of what is learned first
            asked.insert(int(rng.integers(len(asked) + 1)), questions.describe(scene, language, "train", rng))
        if is_soft[number]:
            rows.append(
                Asked(
                    [IMAGE_ID] * slots,
                    asked,
                    soft_slots(scene, ids, rng, slots, ease, told if ease else None),
                )
            )
        else:
            text = wordings.description(scene, told, rng if rng.random() < 0.5 else None)
            rows.append(Asked(ids(text), asked))
    return collate_text(rows, ids, rng, noise=0.6 * (1 - ease))


def collate_text(
    rows: list[Asked], ids: TextIds, rng: np.random.Generator | None = None, noise: float = 0.6
) -> dict[str, Tensor]:
    """Rows of text as one batch; with `rng`, soft slots get noise and another scale.

    Labels cover answers, end tokens and, where the description is in words, the description.
    Returns input_ids, labels and answer (batch, length), the last telling which labels are answers; soft (batch,);
    words and word_weights (batch, 7, 16), mixing (batch, slots, 7), noise and scale (batch, 1, 1); and the scalars
    start (first slot's position) and seed.
    """
    opening, lines, labels, firsts = [1, *ids(HUMAN)], [], [], []
    for row in rows:
        line, label = opening + row.prefix, [IGNORED] * len(opening)
        label = label + (row.prefix if row.slots is None else [IGNORED] * len(row.prefix))
        for number, turn in enumerate(row.turns):
            prompt = ([] if number == 0 else ids(HUMAN)) + ids(turn.question) + ids(BOT)
            answer = [*ids(turn.answer), 2]
            line, label = line + prompt + answer, label + [IGNORED] * len(prompt) + answer
        lines.append(line)
        labels.append(label)
        firsts.append(len(opening) + len(row.prefix))
    input_ids, _ = pad(lines)
    targets = torch.full_like(input_ids, IGNORED)
    for number, label in enumerate(labels):
        targets[number, : len(label)] = torch.tensor(label)
    count = len(rows)
    soft = torch.tensor([row.slots is not None for row in rows])
    width = max([row.slots[2].shape[0] for row in rows if row.slots is not None], default=NUM_SLOTS)
    empty = (torch.zeros(MAX_FACTS, MAX_WORDS, dtype=torch.long), torch.zeros(MAX_FACTS, MAX_WORDS),
             torch.zeros(width, MAX_FACTS))  # fmt: skip
    words, weights, mixing = (torch.stack(t) for t in zip(*(row.slots or empty for row in rows), strict=True))
    noises, scale = np.zeros((count, 1, 1)), np.ones((count, 1, 1))
    if rng is not None:
        noises = rng.uniform(0, noise, (count, 1, 1))
        scale = np.exp(rng.uniform(-0.7, 0.7, (count, 1, 1)))
    return {
        "input_ids": input_ids,
        "labels": targets,
        "answer": (targets != IGNORED) & (torch.arange(targets.shape[1]) >= torch.tensor(firsts)[:, None]),
        "soft": soft,
        "words": words,
        "word_weights": weights,
        "mixing": mixing,
        "noise": torch.from_numpy(noises).float(),
        "scale": torch.from_numpy(scale).float(),
        "start": torch.tensor(len(opening)),
        "seed": torch.tensor(0 if rng is None else int(rng.integers(2**31))),
    }


def bucketed(batch: dict[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
    """Split a batch into `parts` smaller ones of like lengths, in an order drawn by the batch's seed: less padding."""
    length = (batch["input_ids"] != 0).sum(1)
    result = []
    for rows in length.argsort().chunk(parts):
        part = {
            name: value[rows] if value.ndim and len(value) == len(length) else value
            for name, value in batch.items()
        }
        longest = int(length[rows].max())
        result.append(part | {name: part[name][:, :longest] for name in ("input_ids", "labels", "answer")})
    order = np.random.default_rng(int(batch["seed"])).permutation(parts)
    return [result[i] for i in order]


def ordinary_batch(
    ids: TextIds, step: int, batch_size: int, seed: int, length: int = 96
) -> dict[str, Tensor]:
    rng = np.random.default_rng([seed, step, 13])
    texts = ordinary_text()
    rows = [[1, *ids(texts[i])[:length], 2] for i in rng.integers(len(texts), size=batch_size)]
    input_ids, mask = pad(rows)
    return {"input_ids": input_ids, "labels": input_ids.masked_fill(~mask, -100)}


def embed_text(model, batch: dict[str, Tensor]) -> Tensor:
    """Word embeddings (batch, length, width); in soft rows the placeholders hold the slots."""
    embed = model.get_input_embeddings()
    inputs = embed(batch["input_ids"])
    if "soft" not in batch or not bool(batch["soft"].any()):
        return inputs
    soft, start = batch["soft"], int(batch["start"])
    told = (embed(batch["words"][soft]) * batch["word_weights"][soft][..., None]).sum(
        2
    )  # (soft, facts, width)
    slots = batch["mixing"][soft].to(told.dtype) @ told  # (soft, slots, width)
    noise = torch.randn(slots.shape, generator=torch.Generator().manual_seed(int(batch["seed"])))
    strength = slots.detach().pow(2).mean(-1, keepdim=True).sqrt() * batch["noise"][soft]
    inputs = inputs.clone()
    inputs[soft, start : start + slots.shape[1]] = ((slots + noise * strength) * batch["scale"][soft]).to(
        inputs.dtype
    )
    return inputs


def reading_loss(model, batch: dict[str, Tensor]) -> tuple[Tensor, dict]:
    """Next-token loss where there are labels, logits for these alone; the metrics tell soft rows from others."""
    hidden = model.model(inputs_embeds=embed_text(model, batch)).last_hidden_state[:, :-1]
    target = batch["labels"][:, 1:]
    wanted = target != IGNORED
    logits = model.lm_head(hidden[wanted]).float()
    losses = F.cross_entropy(logits, target[wanted], reduction="none")
    if "soft" not in batch:
        return losses.mean(), {"ordinary": losses.detach().mean()}
    answer = batch["answer"][:, 1:][wanted]
    loss = losses[answer].mean()
    if not bool(answer.all()):
        loss = loss + TOLD_WEIGHT * losses[~answer].mean()
    right = (logits.detach().argmax(-1) == target[wanted]).float()
    rows = batch["soft"][:, None].expand_as(target)[wanted]
    metrics = {}
    for name, chosen in (("soft", answer & rows), ("text", answer & ~rows)):
        if bool(chosen.any()):
            metrics[f"{name}_loss"], metrics[f"{name}_right"] = (
                losses.detach()[chosen].mean(),
                right[chosen].mean(),
            )
    return loss, metrics


@torch.no_grad()
def reading_quality(model, tokenizer, scenes: int = 600, seed: int = 1) -> dict[str, float]:
    """The text-only reading score: test wordings on test combinations; the whole answer must be right.

    Keys `{text,soft}/{en,zh}/{question type}`: told in words of the same language, or in 16 soft slots.
    """
    ids, result = TextIds(tokenizer), {}
    pool = moji.scenes(scenes, "test", seed, min_pieces=2)
    for form in ("text", "soft"):
        for language in LANGUAGES:
            rng = np.random.default_rng(seed)
            rows = []
            for scene in pool:
                for turn in questions.questions(scene, language, "test", rng):
                    if form == "soft":
                        rows.append(Asked([IMAGE_ID] * NUM_SLOTS, [turn], soft_slots(scene, ids, rng)))
                    else:
                        rows.append(Asked(ids(wordings.description(scene, language)), [turn]))
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
                    right.setdefault(row.turns[0].kind, []).append(float(hit))
            for kind, hits in right.items():
                result[f"{form}/{language}/{kind}"] = sum(hits) / len(hits)
    return result
