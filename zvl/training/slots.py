"""Soft slots: what a visual token could mean, made of word embeddings alone, for a LLaMA that never sees a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zvl.data import moji, questions, wordings
from zvl.data.samples import LANGUAGES
from zvl.training.aligned import reach_by_place

NUM_SLOTS = 16  # as many as the nano model has queries
BY_PLACE = 0.75  # share of the scenes whose slots each look at a place of their own
MAX_FACTS, MAX_WORDS = 2 + moji.MAX_PIECES, 28


def facts(scene: moji.Scene) -> list[list[tuple[str, str]]]:
    """The facts of a scene as words without grammar, each word in both languages: what a visual token could mean.
    Of a sign, what stands on it comes before what it is.
    """
    ground = tuple(wordings.COLOURS[lang][scene.background] for lang in LANGUAGES)
    number = tuple(wordings.NUMBERS[lang][len(scene.pieces)] for lang in LANGUAGES)
    result = [[ground, ("background", "背景")], [number, ("things", "东西")]]
    for piece in scene.pieces:
        names = piece.thing.names
        words = [(names["en"], names["zh"])]
        if piece.word is not None:
            words.insert(0, (piece.word, piece.word))
        words.append(tuple(wordings.PLACES[lang][piece.place] for lang in LANGUAGES))
        words.append(tuple(wordings.SIZE_WORDS[lang][piece.size] for lang in LANGUAGES))
        words.append(tuple(wordings.HEIGHTS[lang][piece.height] for lang in LANGUAGES))
        if piece.frame is not None:
            words.append(tuple(wordings.framed("", piece.frame, lang).strip() for lang in LANGUAGES))
        result.append(words)
    return result


class Slots(NamedTuple):
    """Facts in soft slots, see `soft_slots`."""

    words: Tensor  # (7, words) ids
    weights: Tensor  # (7, words)
    mixing: Tensor  # (slots, 7), rows summing to 1
    corners: Tensor  # (7, 4): left, top, right, bottom of the fact's box as shares of the sides
    boxed: Tensor  # (7,): how loud the box is; 0 where there is none
    called: Tensor  # (7, 12): ids of the thing's names, or of what stands on it; -1 behind them
    boxes: tuple[tuple[int, ...], ...] = ((),) * MAX_FACTS  # ids of each fact's box as answers write it


def soft_slots(
    scene: moji.Scene,
    ids: Callable[[str], list[int]],
    rng: np.random.Generator,
    slots: int = NUM_SLOTS,
    ease: float = 0.0,
    language=None,
) -> Slots:
    """What a visual token could mean: each slot is a mixture of facts, each fact a weighted sum of its words; each
    thing tells its box, too.

    The words are English, Chinese or both. Three of four scenes are laid out by place; in the others every fact leads
    in one slot at least, and which slots, is drawn.
    ease: from 0 to 1, how much purer than that the slots are, for the beginning of training.
    """
    words, weights = torch.zeros(MAX_FACTS, MAX_WORDS, dtype=torch.long), torch.zeros(MAX_FACTS, MAX_WORDS)
    corners, boxed, called = no_boxes()
    boxes: list[tuple[int, ...]] = [()] * MAX_FACTS
    known = facts(scene)
    grid = math.isqrt(slots)
    seen_by_place = grid * grid == slots and rng.random() < BY_PLACE * (1 - ease)
    shares = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))[rng.integers(3)]
    if language is not None and rng.random() < ease:
        shares = (1.0, 0.0) if language == LANGUAGES[0] else (0.0, 1.0)
    for f, fact in enumerate(known):
        if f > 1:
            piece = scene.pieces[f - 2]
            edges = (piece.x, piece.y, piece.x + piece.side, piece.y + piece.side)
            corners[f] = torch.tensor(edges) / moji.SCENE_SIZE
            boxes[f] = tuple(ids(questions.box_of(piece)))
            boxed[f] = float(rng.uniform(0.4, 1.6))
            tokens = [token for name in fact[0] for token in ids(name)][: called.shape[1]]
            called[f, : len(tokens)] = torch.tensor(tokens)
            named = 1 + (piece.word is not None)
            # Its box alone can tell where it is and how big.
            fact = [word for k, word in enumerate(fact) if k < named or k >= named + 3 or rng.random() < 0.6]
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
    return Slots(words, weights, mixing, corners, boxed, called, tuple(boxes))


def no_boxes() -> tuple[Tensor, Tensor, Tensor]:
    """`corners`, `boxed` and `called` of slots in which no box is told."""
    return torch.zeros(MAX_FACTS, 4), torch.zeros(MAX_FACTS), torch.full((MAX_FACTS, 12), -1)


def place_mixing(scene: moji.Scene, grid: int, rng: np.random.Generator) -> np.ndarray:
    """Slots that look each at its own place: (grid * grid, facts), rows sum to 1.

    Slot number r * grid + c means what lies in row r, column c of the picture: the things whose boxes reach into it, as
    far as they do, and the background. The number of things belongs to no place; at random it is said everywhere.
    """
    boxes = [(piece.x, piece.y, piece.side, piece.side) for piece in scene.pieces]
    share = np.zeros((grid * grid, 2 + len(scene.pieces)))
    share[:, 2:] = reach_by_place(boxes, grid * grid, moji.SCENE_SIZE).double().numpy().T
    share **= rng.uniform(0.7, 3)
    share[:, 0] = rng.uniform(0.1, 0.6)
    share[:, 1] = rng.uniform(0.1, 0.6) * (rng.random() < 0.5)
    share *= rng.uniform(0.5, 1.5, share.shape)
    return share / share.sum(1, keepdims=True)
