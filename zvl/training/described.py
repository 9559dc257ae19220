"""A Q-Former that has read descriptions before it sees pictures: the tutorial's counterpart of a BLIP-2 checkpoint.

InstructBLIP and Ziya-Visual's peers start from a Q-Former that somebody has pre-trained on 129 million pairs. Ours is
pre-trained on scenes that nobody draws: each patch is the sum of the words that its phrases say, a code of its place
and box, and noise. The objectives are those of pre-training (`zvl.model.objectives`), and one more mismatch for ITM,
the caption with one thing swapped. A linear layer that is thrown away must find in each query what is said around its
cell, or queries would keep only what tells captions apart. What was learned about words then serves for pictures
through one linear map from the ViT's patches to what is said of them (`see_pictures`), in closed form. Ours; the paper
is silent.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zvl.data import moji, wordings
from zvl.data.samples import LANGUAGES
from zvl.model.objectives import QFormerForPretraining
from zvl.training.loop import LoopConfig, train
from zvl.training.reading import TextIds, pad, scene_pool
from zvl.training.starts import align_cross_attention, box_code, grid_centres, patch_shares, ridge_regression

PATCHES = 64
MAX_WORDS = 32
COMMON = 0.6  # words that more than this share of a language's phrases have tell nothing
NOISE = (0.2, 1.2)  # root mean square of the noise, drawn for each scene, in that of what is said
LOUDNESS = (0.5, 1.2)
PLACE = 3.0  # how loud a patch's place is, in words: noise must not hide where a query looks
REACH = 0.11  # standard deviation of where a query looks at first, in sides of the picture
KEPT_WEIGHT = 1.0
SWAPPED_WEIGHT = 0.5  # of ITM on captions with one thing swapped


def place_code(patches: int, width: int) -> Tensor:
    """Where each patch of a square grid lies, as a box without extent: (patches, width); see `box_code`."""
    centres = grid_centres(patches)
    return box_code(torch.cat([centres, centres], 1), width)


def patch_vectors(said: Tensor, size: float) -> Tensor:
    """What `see_pictures` makes of a picture's patches: what is said of each, from `said_of_patches`, and its place.

    said: (images, patches, width). size: root mean square of a word embedding. Returns (images, patches, width).
    """
    return said + PLACE * size * place_code(said.shape[1], said.shape[2])


@functools.lru_cache(maxsize=4)
def _common_words(ids: TextIds, seed: int) -> frozenset[int]:
    """The tokens that tell no piece from another, as `starts.said_of_patches` finds them in a data set."""
    found: set[int] = set()
    for language in LANGUAGES:
        texts = [
            set(ids(wordings.piece_phrase(piece, language, rich=True)))
            for scene in scene_pool("train", seed, rich=True)[:1000]
            for piece in scene.pieces
        ]
        counts = np.bincount([token for text in texts for token in text])
        found |= set(np.flatnonzero(counts > COMMON * len(texts)).tolist())
    return frozenset(found)


def described_batch(ids: TextIds, step: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Scenes and one caption each, half of them in each language, a pure function of (seed, step).

    Returns input_ids, text_mask (batch, length) and image_ids (batch,) as the Q-Former takes them, swapped_ids and
    swapped_mask, the captions with one thing swapped; words and word_weights (batch, 6, words), what is said of each
    piece and, last, of the ground and the number; shares (batch, 64, 6), how much of each patch is whose, and corners
    (batch, 6, 4), boxed (batch, 6) as in `reading.Slots`; noise_seed.
    """
    rng = np.random.default_rng([seed, step, 17])
    pool, common = scene_pool("train", seed, rich=True), _common_words(ids, seed)
    chosen = [pool[i] for i in rng.integers(len(pool), size=batch_size)]
    rows = moji.MAX_PIECES + 1
    words = torch.zeros(batch_size, rows, MAX_WORDS, dtype=torch.long)
    corners, boxed = torch.zeros(batch_size, rows, 4), torch.zeros(batch_size, rows)
    shares = torch.zeros(batch_size, PATCHES, rows)
    captions, swapped = [], []
    for number, scene in enumerate(chosen):
        told = [
            {t for lang in LANGUAGES for t in ids(wordings.piece_phrase(piece, lang, rich=True))} - common
            for piece in scene.pieces
        ]
        around = {t for lang in LANGUAGES for t in ids(wordings.COLOURS[lang][scene.background])}
        around |= {t for lang in LANGUAGES for t in ids(wordings.NUMBERS[lang][len(scene.pieces)])}
        for k, tokens in zip((*range(len(told)), rows - 1), (*told, around), strict=True):
            line = sorted(tokens)[:MAX_WORDS]
            words[number, k, : len(line)] = torch.tensor(line)
        boxes = [piece.box for piece in scene.pieces]
        x, y, width, height = torch.tensor(boxes, dtype=torch.float32).T
        corners[number, : len(boxes)] = torch.stack([x, y, x + width, y + height], 1) / moji.SCENE_SIZE
        boxed[number, : len(boxes)] = 1.0
        shares[number, :, : len(boxes)] = patch_shares(boxes, PATCHES, moji.SCENE_SIZE).T
        shares[number, :, -1] = (1 - shares[number].sum(1)).clamp(min=0)
        language = LANGUAGES[number % 2]
        wording = int(rng.integers(len(wordings.CAPTIONS[language, "train"])))
        captions.append(wordings.caption(scene, language, "train", wording, rng))
        present = [piece.concept for piece in scene.pieces]
        others = [c.id for c in moji.concepts() if c.id not in present]
        replace = {int(rng.choice(present)): int(rng.choice(others))}
        swapped.append(wordings.caption(scene, language, "train", wording, rng, replace))
    cls = [ids.tokenizer.cls_token_id]
    input_ids, text_mask = pad([cls + ids(text) for text in captions])
    swapped_ids, swapped_mask = pad([cls + ids(text) for text in swapped])
    return {
        "input_ids": input_ids,
        "text_mask": text_mask,
        "image_ids": torch.arange(batch_size),
        "swapped_ids": swapped_ids,
        "swapped_mask": swapped_mask,
        "words": words,
        "word_weights": (words > 0).float(),
        "shares": shares,
        "corners": corners,
        "boxed": boxed,
        "noise_seed": torch.tensor(int(rng.integers(2**31))),
    }


def said_of_scenes(words: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """What is said of each patch of a batch's scenes: (batch, 64, width), less what is said of all.

    words: (vocabulary, width), the Q-Former's word embeddings, which get no gradient from here.
    """
    words = words.detach().float()
    size = words.pow(2).mean().sqrt()
    told = (words[batch["words"]] * batch["word_weights"][..., None]).sum(2)  # (batch, 6, width)
    told = told + size * batch["boxed"][..., None] * box_code(batch["corners"], words.shape[1])
    said = batch["shares"] @ told  # (batch, 64, width)
    return said - said.mean((0, 1))


def described_patches(words: Tensor, batch: dict[str, Tensor], noise: bool = True) -> Tensor:
    """The patches of a batch's scenes as a Q-Former gets them: (batch, 65, width), of which the first says nothing."""
    said, size = said_of_scenes(words, batch), words.detach().float().pow(2).mean().sqrt()
    if noise:
        generator = torch.Generator().manual_seed(int(batch["noise_seed"]))
        count, scale = (len(said), 1, 1), said.pow(2).mean().sqrt()
        loud, strength = (
            torch.rand(count, generator=generator) * (high - low) + low for low, high in (LOUDNESS, NOISE)
        )
        said = loud * said + strength * scale * torch.randn(said.shape, generator=generator)
    return F.pad(patch_vectors(said, size), (0, 0, 1, 0))


def around_cells(said: Tensor, queries: int) -> Tensor:
    """What is said around each query's cell, nearer patches louder: (batch, queries, width)."""
    far = torch.cdist(grid_centres(queries), grid_centres(said.shape[1]))
    return (-(far**2) / (2 * REACH**2)).softmax(1) @ said


def kept_loss(keeper: torch.nn.Module, queries: Tensor, around: Tensor) -> Tensor:
    """The share of `around`'s variance that `keeper` does not find in the queries; both (batch, queries, width)."""
    error = keeper(queries).float() - around
    return error.pow(2).mean() / (around - around.mean((0, 1))).pow(2).mean()


def described_loss(
    model: QFormerForPretraining, batch: dict[str, Tensor], hard: bool, keeper: torch.nn.Module
) -> tuple[Tensor, dict]:
    """The three objectives, ITM on captions with one thing swapped, and what `keeper` finds in the queries, with those
    captions beside them and alone.
    """
    words = model.qformer.embeddings.word_embeddings.weight
    image_embeds = described_patches(words, batch)
    around = around_cells(said_of_scenes(words, batch), model.query_tokens.shape[1])
    found = model(
        image_embeds, batch["input_ids"], batch["text_mask"], batch["image_ids"], hard_negatives=hard
    )
    beside = model.queries(image_embeds, batch["swapped_ids"], batch["swapped_mask"])
    logits = model.itm_logits(beside)
    swapped = F.softplus(logits).mean()
    alone = model.queries(image_embeds)
    kept = (kept_loss(keeper, alone, around) + kept_loss(keeper, beside, around)) / 2
    metrics = {name: value.detach() for name, value in found.items() if name != "loss"}
    metrics |= {"swapped": swapped.detach(), "swapped_right": (logits.detach() < 0).float().mean()}
    metrics["kept"] = 1 - kept.detach()
    return found["loss"] + SWAPPED_WEIGHT * swapped + KEPT_WEIGHT * kept, metrics


def train_described(
    model: QFormerForPretraining,
    tokenizer,
    config: LoopConfig,
    batch_size: int = 96,
    folder: Path | None = None,
    uniform: float = 0.1,
) -> list[dict]:
    """Train a Q-Former on described scenes alone, in place; returns the history.

    uniform: share of the steps, from the first, whose negatives are uniform.
    """
    ids = TextIds(tokenizer)
    words = model.qformer.embeddings.word_embeddings.weight
    few = described_batch(ids, 0, 1024, config.seed + 1)
    patches = described_patches(words, few, noise=False)
    align_cross_attention(model, patches, patches[:, 1:], REACH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model.keeper = torch.nn.Linear(words.shape[1], words.shape[1])
    history = train(
        model,
        lambda model, batch, step: described_loss(model, batch, step >= uniform * config.steps, model.keeper),
        lambda step, micro: described_batch(ids, step * config.accumulation + micro, batch_size, config.seed),
        config,
        folder,
        "Q-Former on described scenes",
    )
    del model.keeper
    return history


@torch.no_grad()
def see_pictures(model: QFormerForPretraining, features: Tensor, said: Tensor, ridge: float = 1e-3) -> float:
    """Let a Q-Former that reads described patches read those of a ViT: keys and values go through ridge regression from
    the ViT's patches to `patch_vectors`, folded into their weights.

    features: (images, 1 + patches, ViT's width) of training pictures; said: (images, patches, width), from
    `said_of_patches` with the Q-Former's word embeddings, boxes too. Returns the share of the variance explained.
    """
    size = float(model.qformer.embeddings.word_embeddings.weight.pow(2).mean().sqrt())
    patches = features[: len(said), 1:].float().flatten(0, 1)
    wanted = patch_vectors(said - said.mean((0, 1)), size).flatten(0, 1)
    middle, target = patches.mean(0), wanted.mean(0)
    weight, predicted = ridge_regression(patches - middle, wanted - target, ridge)
    shift = target - middle @ weight  # wanted is about patches @ weight + shift
    for layer in model.qformer.encoder.layer:
        if layer.has_cross_attention:
            for linear in (layer.crossattention.attention.key, layer.crossattention.attention.value):
                linear.bias += linear.weight @ shift
                linear.weight.copy_(linear.weight @ weight.T)
    rest = (wanted - target - predicted).pow(2).sum() / (wanted - target).pow(2).sum()
    return float(1 - rest)
