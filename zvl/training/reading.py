"""Text alone for the nano LLaMA: ordinary text, descriptions, and questions answered from what stands before them.

A frozen language model that cannot answer from text cannot answer from visual tokens, and a tiny one does not read
vectors that are not words (a large one does). So most of the rows replace the description by soft slots, vectors that
mean several words; they are made from word embeddings alone. No picture is involved, only training scenes' facts,
training combinations and training wordings.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zvl.data import moji, questions, wordings
from zvl.data.samples import LANGUAGES
from zvl.model.backbones import SPECIAL_TOKENS
from zvl.model.chat import BOT, HUMAN, IGNORED, IMAGE, spaced
from zvl.training.aligned import box_code
from zvl.training.guidance import ANSWER, DESCRIPTION, GUIDE_WEIGHT, guidance, looks
from zvl.training.slots import MAX_FACTS, MAX_WORDS, NUM_SLOTS, Slots, no_boxes, soft_slots

TOLD_WEIGHT = 0.1  # of the descriptions' own tokens in the loss: there are many, and answers are what matters
DETAIL_WEIGHT = 0.3  # of descriptions beside other answers
KINDS = (*questions.QUESTION_TYPES, "where", "ground")
BOXED = ("refer", "ground")  # only slots tell boxes
OFTEN = {  # how much more often than others a kind is asked: what is rarer in scenes, and what takes longest to learn
    "read": 4, "refer": 4, "left_right": 4, "above_below": 4, "ground": 4, "size": 3, "frame": 3, "bigger": 3,
    "false_premise": 3, "existence": 2, "count": 2, "background": 0.5,
}  # fmt: skip
BOX_WEIGHT = 4.0  # of a question whose answer is a box: many numbers, and each has to be right
BOX_ANSWERS = ("ground", "it_box")
LONG = ("detail", "describe", "grounded")  # answers that are descriptions
BY_TOKEN = ("input_ids", "labels", "answer", "turn", "share", "about")
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
    return moji.scenes(count, split, seed, 1 if split == "train" else 2, max_pieces)


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


# Where a thing is, or that it is nowhere: text alone asks this too, because whoever can look that up finds it easy to
# tell whether a thing is there, and which of two is further left.
WHERE = {
    "en": ("Where is {it}?", "Where do you see {it}?", "In which place is {it}?", "Tell me where {it} is."),
    "zh": ("{it}在哪里？", "你在哪里看到{it}？", "{it}在什么位置？", "说说{it}在哪儿。"),
}
NOWHERE = {"en": "nowhere", "zh": "哪里都没有"}


# Everything about a scene as one answer: many words to learn from at once.
DETAIL = {
    "en": (
        "Describe everything in detail.",
        "Tell me everything about the picture.",
        "What is where? Say it all.",
    ),
    "zh": ("详细描述一切。", "说说图片里的所有内容。", "什么东西在哪里？全部说出来。"),
}


def detail(scene: moji.Scene, language: str, rng: np.random.Generator) -> questions.Question:
    asked = DETAIL[language][rng.integers(len(DETAIL[language]))]
    return questions.Question("detail", language, asked, wordings.description(scene, language))


def ground_question(
    scene: moji.Scene, language: str, rng: np.random.Generator, split: str = "train"
) -> questions.Question:
    """The box of one thing, by one of the expressions that fit it, in a wording of the split."""
    piece = scene.pieces[rng.integers(len(scene.pieces))]
    said = questions.expressions(scene, piece, language)
    return questions.ground(str(rng.choice(said)), piece, language, split, rng)


def where_question(scene: moji.Scene, language: str, rng: np.random.Generator) -> questions.Question:
    """Where one thing is; in three of ten questions it is not there."""
    piece = scene.pieces[rng.integers(len(scene.pieces))]
    concept, answer = piece.thing, wordings.PLACES[language][piece.place]
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
    slots: Slots | None = None


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
    In the main batches (kinds KINDS) come descriptions in detail, lists of boxes and dialogues with "it" too, and kinds
    as often as OFTEN says. With no kinds at all, each row asks for a description and nothing else; with "ground" alone,
    for one box after the other.
    Returns what `collate_text` returns.
    """
    rng = np.random.default_rng([seed, step, 11])
    rows, is_soft = [], rng.random(batch_size) < soft
    most = 2 if ease > 0.5 else 3 if ease > 0 else moji.MAX_PIECES
    pool = scene_pool("train", seed, most)
    for number in range(batch_size):
        scene = pool[rng.integers(len(pool))]
        language, told = (LANGUAGES[i] for i in rng.integers(2, size=2))
        told = language if rng.random() < 0.8 * ease else told
        asked = _turns(scene, language, rng, kinds, turns, bool(is_soft[number]), ease)
        if not asked or (
            kinds == KINDS and rng.random() < (0.8 if ease else 0.25)
        ):  # captions name everything: most of what is learned first
            asked.insert(int(rng.integers(len(asked) + 1)), questions.describe(scene, language, "train", rng))
        if is_soft[number]:
            facts_in_slots = soft_slots(scene, ids, rng, slots, ease, told if ease else None)
            rows.append(Asked([IMAGE_ID] * slots, asked, facts_in_slots))
        else:
            text = wordings.description(scene, told, rng if rng.random() < 0.5 else None)
            rows.append(Asked(ids(text), asked))
    return collate_text(rows, ids, rng, 1 - ease)


def _turns(scene, language, rng, kinds, turns, soft, ease) -> list[questions.Question]:
    """What is asked in one row; boxes only of soft rows, which tell them."""
    if not kinds:
        return []
    if kinds == ("ground",):
        return [ground_question(scene, language, rng) for _ in range(turns)]
    if kinds == KINDS and (form := rng.random()) < 0.3:
        if form < 0.12:
            return [detail(scene, language, rng)]
        if form < 0.18 and soft:
            return [questions.grounded(scene, language, "train", rng)]
        if form >= 0.18 and soft and (dialogue := questions.follow_up(scene, language, "train", rng)):
            return dialogue
    own = {"where": where_question, "ground": ground_question}
    kinds = [kind for kind in kinds if soft or kind not in BOXED]
    asked = questions.questions(scene, language, "train", rng, [k for k in kinds if k not in own])
    asked += [own[kind](scene, language, rng) for kind in kinds if kind in own]
    often = np.array([OFTEN.get(question.kind, 1.0) for question in asked])
    return [asked[i] for i in rng.choice(len(asked), min(turns, len(asked)), False, often / often.sum())]


def collate_text(
    rows: list[Asked],
    ids: TextIds,
    rng: np.random.Generator | None = None,
    noise: float = 1.0,
) -> dict[str, Tensor]:
    """Rows of text as one batch; with `rng`, soft slots get noise, up to so many times their size, and another scale.

    Labels cover answers, end tokens and, where the description is in words, the description.
    Returns input_ids, labels and answer (batch, length), the last telling which labels are answers (1) and which of
    them describe everything (2); soft (batch,); words and word_weights (batch, 7, words), mixing (batch, slots, 7),
    corners (batch, 7, 4), boxed (batch, 7), noise and scale (batch, 1, 1); the scalars start (position of the first
    slot) and seed; and for `guidance` and a loss in which each question counts as one, boxes as four: called
    (batch, 7, 12), turn (batch, length), which question a token belongs to from 1 on, about (batch, length), whose box
    it helps to write, as the number of the fact plus 1, and share (batch, length), the question's weight over its
    answer's length.
    """
    opening, lines, labels, answers, turns, shares, abouts = [1, *ids(HUMAN)], [], [], [], [], [], []
    for row in rows:
        line, label = opening + row.prefix, [IGNORED] * len(opening)
        label = label + (row.prefix if row.slots is None else [IGNORED] * len(row.prefix))
        is_answer, turn_of, share, about = ([0] * len(label) for _ in range(4))
        for number, turn in enumerate(row.turns):
            prompt = ([] if number == 0 else ids(HUMAN)) + ids(turn.question) + ids(BOT)
            answer = [*ids(turn.answer), 2]
            line, label = line + prompt + answer, label + [IGNORED] * len(prompt) + answer
            is_answer += [0] * len(prompt) + [DESCRIPTION if turn.kind in LONG else ANSWER] * len(answer)
            turn_of += [number + 1] * (len(prompt) + len(answer))
            weight = BOX_WEIGHT if turn.kind in BOX_ANSWERS else 1.0
            share += [0] * len(prompt) + [weight / len(answer)] * len(answer)
            about += [0] * len(prompt) + _whose_boxes(answer, row.slots)
        lines.append(line)
        labels.append(label)
        answers.append(is_answer)
        turns.append(turn_of)
        shares.append(share)
        abouts.append(about)
    input_ids, _ = pad(lines)
    targets = torch.full_like(input_ids, IGNORED)
    for number, label in enumerate(labels):
        targets[number, : len(label)] = torch.tensor(label)
    kind_of_label, _ = pad(answers, input_ids.shape[1])
    count = len(rows)
    soft = torch.tensor([row.slots is not None for row in rows])
    given = [row.slots for row in rows if row.slots is not None]
    wide, most = (given[0].mixing.shape[0], given[0].words.shape[1]) if given else (NUM_SLOTS, MAX_WORDS)
    empty = Slots(
        torch.zeros(MAX_FACTS, most, dtype=torch.long), torch.zeros(MAX_FACTS, most), torch.zeros(wide, MAX_FACTS),
        *no_boxes(),
    )  # fmt: skip
    words, weights, mixing, corners, boxed, called = (
        torch.stack(t) for t in zip(*((row.slots or empty)[:6] for row in rows), strict=True)
    )
    noises, scale = np.zeros((count, 1, 1)), np.ones((count, 1, 1))
    if rng is not None:
        noises = noise * rng.uniform(0, 1, (count, 1, 1)) ** 2  # boxes drown first
        scale = np.exp(rng.uniform(-0.7, 0.7, (count, 1, 1)))
    length = input_ids.shape[1]
    return {
        "input_ids": input_ids,
        "labels": targets,
        "answer": kind_of_label,
        "soft": soft,
        "words": words,
        "word_weights": weights,
        "mixing": mixing,
        "corners": corners,
        "boxed": boxed,
        "noise": torch.from_numpy(noises).float(),
        "scale": torch.from_numpy(scale).float(),
        "start": torch.tensor(len(opening)),
        "seed": torch.tensor(0 if rng is None else int(rng.integers(2**31))),
        "called": called,
        "turn": pad(turns, length)[0],
        "about": pad(abouts, length)[0],
        "share": torch.tensor([row + [0.0] * (length - len(row)) for row in shares]),
    }


def _whose_boxes(answer: list[int], slots: Slots | None) -> list[int]:
    """For each token of an answer the number of the fact, plus 1, whose box it helps to write; 0 for all others."""
    result = [0] * len(answer)
    for fact, box in enumerate(slots.boxes if slots else ()):
        for start in range(len(answer) - len(box) + 1 if box else 0):
            if tuple(answer[start : start + len(box)]) == box:
                result[start : start + len(box)] = [fact + 1] * len(box)
    return result


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
        result.append(part | {name: part[name][:, :longest] for name in BY_TOKEN})
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
    """Word embeddings (batch, length, width); in soft rows the placeholders hold the slots, added to the placeholder's
    own embedding: a mark by which they can be told from words.
    """
    embed = model.get_input_embeddings()
    inputs = embed(batch["input_ids"])
    if "soft" not in batch or not bool(batch["soft"].any()):
        return inputs
    soft, start = batch["soft"], int(batch["start"])
    told = embed(batch["words"][soft]) * batch["word_weights"][soft][..., None]
    told = told.sum(2)  # (soft, facts, width)
    boxed = batch["boxed"][soft]
    if bool(boxed.any()):
        size = embed.weight.detach().pow(2).mean().sqrt()  # a box is as loud as a word
        told = told + size * boxed[..., None] * box_code(batch["corners"][soft], told.shape[-1])
    slots = batch["mixing"][soft].to(told.dtype) @ told  # (soft, slots, width)
    noise = torch.randn(slots.shape, generator=torch.Generator().manual_seed(int(batch["seed"])))
    strength = slots.detach().pow(2).mean(-1, keepdim=True).sqrt() * batch["noise"][soft]
    inputs = inputs.clone()
    slots = (slots + noise * strength) * batch["scale"][soft]
    slots = slots + inputs[soft, start : start + slots.shape[1]]
    inputs[soft, start : start + slots.shape[1]] = slots.to(inputs.dtype)
    return inputs


def reading_loss(model, batch: dict[str, Tensor]) -> tuple[Tensor, dict]:
    """Next-token loss where there are labels, logits for these alone, each question as one, however long its answer;
    with `guidance`. The metrics tell soft rows from others.
    """
    with looks(model) if "soft" in batch else nullcontext() as attention:
        hidden = model.model(inputs_embeds=embed_text(model, batch)).last_hidden_state[:, :-1]
    target = batch["labels"][:, 1:]
    wanted = target != IGNORED
    logits = model.lm_head(hidden[wanted]).float()
    losses = F.cross_entropy(logits, target[wanted], reduction="none")
    if "soft" not in batch:
        return losses.mean(), {"ordinary": losses.detach().mean()}
    kind = batch["answer"][:, 1:][wanted]
    answer = kind == ANSWER
    share = answer * batch["share"][:, 1:][wanted]
    loss = (losses * share).sum() / share.sum().clamp(min=1e-6)
    detail = DETAIL_WEIGHT if bool(answer.any()) else 1.0
    for number, weight in ((0, TOLD_WEIGHT), (DESCRIPTION, detail)):
        if bool((kind == number).any()):
            loss = loss + weight * losses[kind == number].mean()
    right = (logits.detach().argmax(-1) == target[wanted]).float()
    rows = batch["soft"][:, None].expand_as(target)[wanted]
    metrics = {}
    guide = guidance(*attention, batch)
    if guide is not None:
        loss, metrics["guidance"] = loss + GUIDE_WEIGHT * guide, guide.detach()
    for name, chosen in (("soft", answer & rows), ("text", answer & ~rows)):
        if bool(chosen.any()):
            metrics[f"{name}_loss"], metrics[f"{name}_right"] = (
                losses.detach()[chosen].mean(),
                right[chosen].mean(),
            )
    return loss, metrics
