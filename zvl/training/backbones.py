"""How the nano backbones are made: a tokenizer, a ViT trained by contrast, a LLaMA trained on text alone.

All of it sees training scenes, training combinations and training wordings only. The ViT learns from whole captions
(CLIP) and, because minutes must do for days, also from regions: the patches under a piece against all names, places and
sizes in both languages (RegionCLIP's idea). The LLaMA never sees a picture.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zvl.data import moji, questions, wordings
from zvl.data.drawing import BACKGROUNDS, FRAMES
from zvl.data.pixels import to_pixels
from zvl.data.samples import LANGUAGES
from zvl.model.backbones import WIDTH, BilingualClip, new_llm, train_tokenizer
from zvl.training.aligned import BOX_EDGES, box_edges, patch_shares
from zvl.training.guidance import carry_boxes
from zvl.training.loop import LoopConfig, train
from zvl.training.reading import (
    TextIds,
    bucketed,
    embed_text,
    ground_question,
    ordinary_batch,
    ordinary_text,
    pad,
    reading_batch,
    reading_loss,
)

LOOKUP = (  # each finds one thing by another
    "where", "ground", "refer", "existence", "left_right", "above_below", "size", "frame", "bigger", "false_premise",
    "category",
)  # fmt: skip
GRID = 8  # patches a side
NAME_CODE = 144  # numbers in which a patch tells what it shows: fewer than names, to fit beside all else
APART_WEIGHT = 8.0  # of the squared error of a linear layer on these
CODE_SCALE = 10.0  # of the products with the names' directions, of which the right one is to be the largest
CODE_WEIGHT = 0.2  # of the squared error of that layer on the codes of boxes, 28 numbers
BOX_WEIGHT = 10.0  # of a box's error, in shares of the sides
BARE = 0.05  # share up to which a patch shows the ground alone
DENSE = 0.5  # share of a patch that a piece covers, from which on the patch alone tells what it belongs to


# --- text -------------------------------------------------------------------------------------------------------------


def make_tokenizer(seed: int = 0, scenes: int = 4000):
    """The tokenizer, trained on descriptions, captions and questions of training scenes and on ordinary text."""
    rng = np.random.default_rng(seed)
    texts = list(ordinary_text())
    for scene in moji.scenes(scenes, "train", seed, signs=0.3):  # as the shipped one was made
        for language in LANGUAGES:
            texts.append(wordings.description(scene, language))
            asked = questions.questions(scene, language, "train", rng)
            asked += questions.follow_up(scene, language, "train", rng)
            asked.append(questions.grounded(scene, language, "train", rng))
            asked.append(ground_question(scene, language, rng))
            texts += [f"{q.question} {q.answer}\n{q.answer}" for q in asked]
            texts.append(wordings.caption(scene, language, "train", int(rng.integers(5)), rng))
    names = [concept.names for concept in moji.concepts()]
    names += [{"en": word, "zh": word} for word in moji.SIGN_WORDS]
    for name in names:
        texts += [name["en"], " " + name["en"]] * 50
    return train_tokenizer(texts, [n["zh"] for n in names if len(n["zh"]) > 1 and not n["zh"].isascii()])


# --- the ViT and its text tower ---------------------------------------------------------------------------------------


def region_weights(scenes: list[moji.Scene]) -> Tensor:
    """How much of each patch a piece covers: (batch, 7, 64), rows summing to 1 (0 for absent pieces). The sixth region
    is all that no piece covers, the seventh the whole picture.
    """
    pieces = _covered(scenes)
    left = (1 - pieces.sum(1, keepdim=True)).clamp(min=0)
    pieces = torch.cat([pieces, left, torch.ones_like(left)], 1)
    return pieces / pieces.sum(-1, keepdim=True).clamp(min=1)


def _covered(scenes: list[moji.Scene]) -> Tensor:
    shares = torch.zeros(len(scenes), moji.MAX_PIECES, GRID * GRID)
    for i, scene in enumerate(scenes):
        boxes = [(piece.x, piece.y, piece.side, piece.side) for piece in scene.pieces]
        shares[i, : len(boxes)] = patch_shares(boxes, GRID * GRID, moji.SCENE_SIZE)
    return shares


def region_labels(scenes: list[moji.Scene]) -> dict[str, Tensor]:
    """Which text of each aspect is said of each region of `region_weights`: (batch, regions) numbers in `region_words`,
    -1 where it is said of none.
    """
    sizes, frames = list(wordings.SIZE_WORDS["en"]), [None, *FRAMES]
    regions = moji.MAX_PIECES + 2
    labels = {aspect: torch.full((len(scenes), regions), -1) for aspect in region_words("en")}
    for i, scene in enumerate(scenes):
        for j, piece in enumerate(scene.pieces):
            name = piece.concept
            if piece.word is not None:
                name = len(moji.concepts()) + piece.concept - moji.SIGN_ID
            said = {
                "name": name,
                "place": piece.place,
                "size": sizes.index(piece.size),
                "height": piece.height,
                "frame": frames.index(piece.frame),
            }
            for aspect, label in said.items():
                labels[aspect][i, j] = label
        labels["ground"][i, -2] = list(BACKGROUNDS).index(scene.background)
        labels["number"][i, -1] = len(scene.pieces) - 1
    return labels


def region_words(language: str) -> dict[str, list[str]]:
    """What can be said of a region, by aspect: all names and all that is on signs, places, heights, sizes and frames;
    of what is left over its colour, and of the whole the number of things.
    """
    grounds = [moji.Scene("", name, 0, ()) for name in BACKGROUNDS]
    names = [concept.names[language] for concept in moji.concepts()]
    return {
        "name": names + [wordings.sign(word, language) for word in moji.SIGN_WORDS],
        "place": list(wordings.PLACES[language]),
        "size": list(wordings.SIZE_WORDS[language].values()),
        "height": list(wordings.HEIGHTS[language]),
        "frame": [wordings.NO_FRAME[language]]
        + [wordings.framed("", frame, language).strip() for frame in FRAMES],
        "ground": [wordings.phrases(scene, language)[0] for scene in grounds],
        "number": list(wordings.NUMBERS[language][1:]),
    }


def region_texts(tokenizer) -> dict[str, tuple[Tensor, Tensor]]:
    """`region_words` of both languages, English first, as ids and mask: each (2 * words, length)."""
    texts = {}
    for aspect in region_words("en"):
        words = [word for language in LANGUAGES for word in region_words(language)[aspect]]
        rows = tokenizer(words, add_special_tokens=False)["input_ids"]
        texts[aspect] = pad([[tokenizer.cls_token_id, *row] for row in rows])
    return texts


def dense_labels(scenes: list[moji.Scene]) -> dict[str, Tensor]:
    """What each patch tells by itself: `patch_name` (batch, 64) in names and grounds of `region_words`, -1 where a
    piece covers some of it but no half; and `patch_box` (batch, 64, 4), the corners of the box of the piece that covers
    half of it (left, top, right, bottom) as shares of the sides, 0 elsewhere.

    `patch_said` (batch, 64, 144) is what a mixture of patches is made of: the `name_codes` of each thing, as much of
    it as lies in the patch, and of the ground for the rest; `patch_code` (batch, 64, 28) the edges of the boxes in the
    same shares. Bare patches tell the ground, so that a linear layer behind the ViT can tell a thing from none.
    """
    covered = _covered(scenes)
    share, piece = covered.max(1)
    labels = region_labels(scenes)
    names = labels["name"].gather(1, piece).masked_fill(share < DENSE, -1)
    words = region_words("en")
    ground = len(words["name"]) + labels["ground"][:, -2]
    names = torch.where(share < BARE, ground[:, None], names)
    boxes = torch.zeros(len(scenes), moji.MAX_PIECES, 4)
    for i, scene in enumerate(scenes):
        corners = [(p.x, p.y, p.x + p.side, p.y + p.side) for p in scene.pieces]
        boxes[i, : len(corners)] = torch.tensor(corners) / moji.SCENE_SIZE
    said = torch.zeros(len(scenes), GRID * GRID, len(words["name"]) + len(words["ground"]))
    things = labels["name"][:, : moji.MAX_PIECES].clamp(min=0)
    said.scatter_add_(2, things[:, None].expand(-1, GRID * GRID, -1), covered.transpose(1, 2))
    said[torch.arange(len(scenes)), :, ground] = (1 - covered.sum(1)).clamp(min=0)
    code = covered.transpose(1, 2) @ box_edges(boxes)
    boxes = boxes.gather(1, piece[..., None].expand(-1, -1, 4))
    return {
        "patch_name": names,
        "patch_box": boxes * (share >= DENSE)[..., None],
        "patch_said": said @ name_codes(said.shape[-1]),
        "patch_code": code,
    }


@functools.cache
def name_codes(count: int) -> Tensor:
    """A fixed direction (count, 144) of length 1 for each name, the same everywhere."""
    drawn = torch.randn(count, NAME_CODE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return F.normalize(drawn, dim=-1).float()


def clip_batch(tokenizer, step: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Fresh training scenes for one step, a pure function of (seed, step)."""
    rng = np.random.default_rng([seed, step, 7])
    scenes = moji.scenes(batch_size, "train", int(rng.integers(2**31)))
    batch = {
        "pixel_values": to_pixels([moji.render(scene) for scene in scenes]),
        "weights": region_weights(scenes),
        "labels": region_labels(scenes),
    } | dense_labels(scenes)
    cls = [tokenizer.cls_token_id]
    for language in LANGUAGES:
        texts = [wordings.caption(s, language, "train", int(rng.integers(5)), rng) for s in scenes]
        rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
        batch[f"{language}_ids"], batch[f"{language}_mask"] = pad([cls + row for row in rows])
    return batch


def clip_loss(
    model: BilingualClip,
    batch: dict[str, Tensor],
    texts: dict[str, tuple[Tensor, Tensor]],
    where: torch.nn.Linear | None = None,
) -> tuple[Tensor, dict]:
    """Caption contrast in both languages, plus region contrast against all that is said of regions, plus each patch
    against all names and grounds; with `where`, each patch also tells its place, its box and, linearly, its names.
    """
    image_embeds = model.image_embeds(batch["pixel_values"])
    images = model.image_features(image_embeds).float()
    target = torch.arange(len(images))
    total, metrics = 0.0, {}
    for language in LANGUAGES:
        features = model.text_features(batch[f"{language}_ids"], batch[f"{language}_mask"]).float()
        logits = model.log_scale.clamp(max=4.6).exp() * images @ features.T
        total = total + (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 4
        metrics[f"top1_{language}"] = (logits.argmax(1) == target).float().mean()
    features = model.region_features(image_embeds, batch["weights"].to(image_embeds.dtype)).float()
    # A lower scale leaves no way to a low loss but names that are far apart.
    scale = model.region_log_scale.clamp(max=3.0).exp()
    tables = {  # each (language, words, width)
        aspect: model.text_features(*text).float().view(2, -1, features.shape[-1])
        for aspect, text in texts.items()
    }
    for aspect, table in tables.items():
        present = batch["labels"][aspect] >= 0
        regions, labels = features[present], batch["labels"][aspect][present]
        logits = scale * torch.einsum("rd,lcd->lrc", regions, table)
        loss = sum(F.cross_entropy(logits[i], labels) for i in range(2)) / 2
        total = total + loss
        metrics[f"region_{aspect}"] = loss.detach()
        metrics[f"region_{aspect}_top1"] = (logits[0].argmax(1) == labels).float().mean()
    known = batch["patch_name"] >= 0
    patches = F.normalize(model.region_projection(image_embeds[:, 1:][known]).float(), dim=-1)
    labels, table = batch["patch_name"][known], torch.cat([tables["name"], tables["ground"]], 1)
    logits = scale * torch.einsum("rd,lcd->lrc", patches, table)
    dense = sum(F.cross_entropy(logits[i], labels) for i in range(2)) / 2
    total, metrics["patch_name"] = total + dense, dense.detach()
    things = labels < tables["name"].shape[1]
    metrics["patch_name_top1"] = (logits[0].argmax(1) == labels)[things].float().mean()
    if where is not None:
        told, found = told_loss(where, image_embeds, batch)
        total, metrics = total + told, metrics | found
    return total, metrics


def told_loss(where: torch.nn.Linear, image_embeds: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, dict]:
    """What a linear layer must tell from each patch: its place, the box of what it shows, and its names in shares.

    Contrast only asks that the right name be the nearest. What reads patches, cross-attention's values and the
    projection, is linear: for it each name needs a direction of its own.

    where: width -> 16 numbers of `place_loss`, 4 corners, 144 of names and 28 of the boxes' edges, thrown away after
    the training. image_embeds: (batch, 65, width); batch: with `dense_labels`.
    """
    place = place_loss(where, image_embeds)
    told = where(image_embeds[:, 1:])[..., 2 * GRID :].float()
    names, label, said = told[..., 4 : 4 + NAME_CODE], batch["patch_name"], batch["patch_said"]
    apart = (names - said).pow(2).sum(-1).mean()
    # Squares alone find hundreds of names slowly.
    known, codes = label >= 0, name_codes(sum(len(region_words("en")[of]) for of in ("name", "ground")))
    nearest = F.cross_entropy(CODE_SCALE * names[known] @ codes.T, label[known])
    edges = (told[..., 4 + NAME_CODE :] - batch["patch_code"]).pow(2).sum(-1).mean()
    boxed = batch["patch_box"].any(-1)
    off = (told[..., :4][boxed] - batch["patch_box"][boxed]).abs().mean()
    metrics = {
        "patch_place": place.detach(),
        "patch_apart": apart.detach(),
        "patch_nearest": nearest.detach(),
        "patch_code": edges.detach(),
        "patch_box_pixels": moji.SCENE_SIZE * off.detach(),
    }
    return place + APART_WEIGHT * apart + nearest + CODE_WEIGHT * edges + BOX_WEIGHT * off, metrics


def place_loss(where: torch.nn.Linear, image_embeds: Tensor) -> Tensor:
    """Every patch tells its own row and column. A ViT that only has to match captions forgets where it looked, and
    nothing behind it can learn "left of" again; large ones keep it by their size.

    where: width -> rows and columns (the first 16 outputs), thrown away after the training. image_embeds:
    (batch, 65, width).
    """
    told = where(image_embeds[:, 1:])[..., : 2 * GRID]
    logits = told.float().unflatten(-1, (2, GRID))  # (batch, patches, row and column, 8)
    number = torch.arange(GRID * GRID)
    target = torch.stack([number // GRID, number % GRID], 1).expand(len(logits), -1, -1)
    return F.cross_entropy(logits.flatten(0, 2), target.flatten())


def train_clip(
    tokenizer,
    config: LoopConfig,
    batch_size: int = 128,
    folder=None,
    start: BilingualClip | None = None,
) -> tuple[BilingualClip, list[dict]]:
    """A ViT and text tower, trained on fresh training scenes; returns them with the history.

    start: a pair to go on with; None for a new one.
    """
    model = start
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if model is None:
            model = BilingualClip(len(tokenizer))
            embeddings = model.vision_model.embeddings
            for p in (embeddings.class_embedding, embeddings.position_embedding):
                torch.nn.init.normal_(p, std=0.02)
        model.where = torch.nn.Linear(WIDTH, 2 * GRID + 4 + NAME_CODE + BOX_EDGES)
        with torch.no_grad():  # hundreds of wild guesses would drown all other losses in the first steps
            model.where.weight[2 * GRID :], model.where.bias[2 * GRID :] = 0.0, 0.0
    model.vision_model.set_attn_implementation("eager")
    model.text_model.set_attn_implementation("eager")
    texts = region_texts(tokenizer)
    history = train(
        model,
        lambda model, batch, step: clip_loss(model, batch, texts, model.where),
        lambda step, micro: clip_batch(
            tokenizer, step * config.accumulation + micro, batch_size, config.seed
        ),
        config,
        folder,
        "ViT and text tower",
    )
    del model.where
    return model.eval(), history


def train_llm(
    tokenizer,
    config: LoopConfig,
    batch_size: int = 64,
    folder=None,
    soft: float = 0.9,
    start=None,
    drills: bool = False,
):
    """A LLaMA trained on text alone; every 16th batch is ordinary text. Returns it with the history.

    start: a LLaMA to go on with, past the curriculum; None for a new one. soft: share of the rows in soft slots.
    drills: a quarter of the batches asks for descriptions alone, another for boxes alone. In between is too little to
    learn to name each thing once, and to find what "the small animal" is.
    """
    if start is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = new_llm(len(tokenizer))
    else:
        model = start
    ids, kept = TextIds(tokenizer), {}
    if start is None:
        with torch.no_grad():
            first = embed_text(model, reading_batch(ids, 0, batch_size, config.seed, soft=1.0))
            carry_boxes(model, model.model(inputs_embeds=first, output_hidden_states=True).hidden_states)

    def batches(step: int, micro: int) -> dict[str, Tensor]:
        number = step * config.accumulation + micro
        if number % 16 == 15:
            return ordinary_batch(ids, number, batch_size // 2, config.seed)
        done = 1.0 if start is not None else number / (config.steps * config.accumulation)
        if drills and number % 2 == 0:
            kinds, only = ((), soft) if number % 4 == 0 else (("ground",), 1.0)
            return reading_batch(ids, 2 * 10**6 + number, batch_size, config.seed, soft=only, kinds=kinds)
        mixed = number // 4 if drills else number // 3  # main batches up to this one
        if number % 4 == 1 if drills else number % 3:  # only asks to look things up, the hardest to learn
            ease = (0.6, 0.3, 0.0)[mixed % 3]
            return reading_batch(
                ids,
                10**6 + number,
                batch_size,
                config.seed,
                soft=soft,
                turns=6,
                ease=ease,
                kinds=LOOKUP,
            )
        large, part = divmod(mixed, 4)  # four batches are drawn as one and cut by length
        if large not in kept:
            kept.clear()
            ease = 1.0 if done < 0.15 else 0.3 if done < 0.3 else 0.0
            kept[large] = bucketed(
                reading_batch(ids, large, 4 * batch_size, config.seed, soft=soft, ease=ease), 4
            )
        return kept[large][part]

    history = train(
        model, lambda model, batch, step: reading_loss(model, batch), batches, config, folder, "nano LLaMA"
    )
    return model.eval(), history


@torch.no_grad()
def clip_quality(model: BilingualClip, tokenizer, pools: int = 10, seed: int = 0) -> dict[str, float]:
    """On test scenes: retrieval among 100, both directions and languages, and naming of boxes among all names."""
    scenes = moji.scenes(100 * pools, "test", seed + 1, min_pieces=2)
    rng = np.random.default_rng(seed)
    embeds = torch.cat([
        model.image_embeds(to_pixels([moji.render(scene) for scene in scenes[i : i + 100]]))
        for i in range(0, len(scenes), 100)
    ])  # fmt: skip
    images, result = model.image_features(embeds), {}
    labels = region_labels(scenes)
    regions = model.region_features(embeds, region_weights(scenes))
    tables = {
        aspect: model.text_features(*text).view(2, -1, regions.shape[-1])
        for aspect, text in region_texts(tokenizer).items()
    }
    for k, language in enumerate(LANGUAGES):
        captions = [wordings.caption(scene, language, "test", int(rng.integers(5)), rng) for scene in scenes]
        rows = tokenizer(captions, add_special_tokens=False)["input_ids"]
        texts = model.text_features(*pad([[tokenizer.cls_token_id, *row] for row in rows]))
        similarity = torch.stack([a @ b.T for a, b in zip(images.split(100), texts.split(100), strict=True)])
        right = torch.arange(100)
        result[f"{language}/tr1_100"] = float((similarity.argmax(2) == right).float().mean())
        result[f"{language}/ir1_100"] = float((similarity.argmax(1) == right).float().mean())
        for aspect, table in tables.items():
            present = labels[aspect] >= 0
            right_word = (regions[present] @ table[k].T).argmax(1) == labels[aspect][present]
            result[f"{language}/region_{aspect}_top1"] = float(right_word.float().mean())
    return result
