"""The aligned start: what large models bring along, and a tiny one has to be given.

Queries that each look at a place, and a projection that resembles words: closed forms that take seconds and see
training data alone. Ours; the paper needs none.
"""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zvl.data.samples import Pair
from zvl.model import chat

PICTURES = (
    2048  # how many tell where queries look at first, what they take in, and how the projection says it
)
RARE = 0.01  # share of the texts that say a word, up to which it is as loud as any
COUNTS = 0.02  # over the share of the texts that say the rarest word of a thing: how often its patches count
BOX_EDGES = 28  # numbers in which `box_code` tells a box before it turns them


@dataclass(frozen=True)
class Told:
    """What the training texts tell of one picture, in sums of word vectors, from `told_of_pictures`.

    boxes: (x, y, width, height) in pixels, by their places in `said` (boxes, width), the words of their phrases and the
    box itself, and in `counts` (boxes,), how much they are to count, 1 or more. ground: (width,), what belongs to no
    box. words: of each box the ids of its words.
    """

    boxes: tuple[tuple, ...]
    said: Tensor
    counts: Tensor
    ground: Tensor
    words: tuple[set[int], ...]


@torch.no_grad()
def told_of_pictures(
    row: Mapping[str, int],
    pairs: Sequence[Pair],
    regions: Sequence[Pair],
    tokenizer,
    words: Tensor,
    images: int,
    image_size: int,
    rare: float = RARE,
    most_counts: float = COUNTS,
) -> tuple[list[Told], dict[int, float]]:
    """What the training texts tell of the first `images` pictures and of their boxes; and the share of the phrases that
    have each word.

    Of a box it is the words of its phrases, in both languages, and the box as well, by `box_code`, as loud as a rare
    word; common words are less loud, by the logarithm of how common they are, so that names are heard. Of the ground it
    is those words of the captions that tell pictures apart and belong to no box (its colour, the number of things).

    row: picture -> its number; boxes in pixels of pictures of size image_size. words: (vocabulary, width). rare,
    most_counts: see RARE and COUNTS; things that are rarely spoken of count more, or the frequent ones would be all
    that is learned.
    """
    told, _ = telling_words(pairs, row, images, tokenizer, 0.2)
    size = words.pow(2).mean().sqrt()
    of_regions, shares_of_texts = telling_words(regions, row, images, tokenizer, 0.6)
    loud = torch.ones(len(words), 1)
    for token, share in shares_of_texts.items():
        loud[token] = min(1.0, math.log(share) / math.log(rare))
    heard = words * loud
    found: dict[int, list[tuple]] = defaultdict(list)
    for (number, box), ids in of_regions.items():
        x, y, width, height = box
        corners = torch.tensor([x, y, x + width, y + height], dtype=torch.float32) / image_size
        said = heard[sorted(ids)].sum(0) + size * box_code(corners, words.shape[1])
        count = max(1.0, most_counts / min((shares_of_texts[n] for n in ids), default=1.0))
        found[number].append((box, said, count, ids))
        told[number, None] = told.get((number, None), set()) - ids
    beside = torch.zeros(images, len(words))
    for (number, _), ids in told.items():
        beside[number, sorted(ids)] = 1.0
    beside = (beside - beside.mean(0)) @ heard
    result = []
    for number in range(images):
        boxes, said, counts, ids = zip(*found[number], strict=True) if found[number] else ((), (), (), ())
        stacked = torch.stack(said) if said else beside[:0]
        result.append(Told(boxes, stacked, torch.tensor(counts), beside[number], ids))
    return result, shares_of_texts


def said_of_patches(told: Sequence[Told], patches: int, image_size: int) -> tuple[Tensor, Tensor]:
    """What the training texts say of each patch, (pictures, patches, width), as far as boxes reach into it and the
    ground for the rest; and how much each patch is to count, (pictures, patches), 1 for bare ground.
    """
    said = torch.stack([picture.ground for picture in told])[:, None].repeat(1, patches, 1)
    counted = torch.ones(len(told), patches)
    for number, picture in enumerate(told):
        if picture.boxes:
            shares = patch_shares(picture.boxes, patches, image_size)  # (boxes, patches)
            said[number] *= (1 - shares.sum(0).clamp(max=1))[:, None]
            said[number] += shares.T @ picture.said
            counted[number] += shares.T @ (picture.counts - 1)
    return said, counted


def ridge_regression(
    inputs: Tensor, targets: Tensor, counts: Tensor | None = None, ridge: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Weights (inputs' width, targets' width) of least squares with a small penalty, and what they predict.

    inputs, targets: (rows, width), centred by the caller. counts: (rows,), how much each row counts; None for all
    alike. ridge: in mean squares of the inputs.
    """
    counted = inputs if counts is None else counts[:, None] * inputs
    gram = counted.T @ inputs
    gram += ridge * gram.trace() / len(gram) * torch.eye(len(gram))
    weight = torch.linalg.solve(gram, counted.T @ targets)
    return weight, inputs @ weight


def _mean(rows: Tensor, counts: Tensor) -> Tensor:
    """The mean of rows (rows, width) by counts (rows,)."""
    return counts @ rows / counts.sum()


@torch.no_grad()
def align_cross_attention(
    model, features: Tensor, said: Tensor, counts: Tensor, reach: float = 0.11, strength: float = 1.0
) -> list[float]:
    """Start the cross-attention where each query looks at a place of its own and takes in words.

    Queries become the cells of a square grid. In every layer, keys tell where a patch lies and queries where their cell
    is, so that a query looks at the patches near its cell's centre; values are what is said of a patch, in the words
    that the text side reads. Their feed-forward starts silent: one that was made for text garbles what they took in.
    All of it is ridge regression on pre-training data alone; ours, the paper is silent.

    model: QFormerForPretraining whose number of queries is a square. features: (images, 1 + patches, width); said:
    (images, patches, width of the Q-Former) and counts: (images, patches), from `said_of_patches` with its word
    embeddings. reach: the standard deviation of where a query looks, in sides of the picture. strength: root mean
    square of what a layer adds to a query, whose own is 1. Returns for each layer the share of the said's variance that
    its values explain.
    Raises ValueError where the queries make no square.
    """
    queries, qformer, images = model.query_tokens.shape[1], model.qformer, len(said)
    cells, places = grid_centres(queries), grid_centres(said.shape[1])
    features = features[:images].float()
    patches, counts = features[:, 1:].flatten(0, 1), counts.flatten()
    middle, centre = patches.mean(0), _mean(patches, counts)
    wanted = said.flatten(0, 1)
    wanted = wanted - _mean(wanted, counts)
    # -|cell - place|^2 / (2 reach^2), but for what all places share, is a product of these two.
    asks = torch.cat([2 * cells, -torch.ones(len(cells), 1)], 1) / (2 * reach**2)
    tells = torch.cat([places, places.pow(2).sum(1, keepdim=True)], 1)
    shift = tells.mean(0)
    where, _ = ridge_regression(patches - middle, (tells - shift).repeat(images, 1))
    values, predicted = ridge_regression(patches - centre, wanted, counts)
    explained = float(1 - (predicted - wanted).pow(2).sum() / wanted.pow(2).sum())
    values = values * strength / predicted.pow(2).mean().sqrt()
    shares = []
    few = features[:256]
    for number, layer in enumerate(qformer.encoder.layer):
        if not layer.has_cross_attention:
            continue
        cross = layer.crossattention
        heads, width = cross.num_heads, qformer.config.hidden_size
        seen = _before_cross_attention(model, few, number)  # (images, queries, width)
        asked = asks.repeat(len(few), 1)
        ask, _ = ridge_regression(seen.flatten(0, 1) - seen.mean((0, 1)), asked - asks.mean(0))
        size = width // heads
        for linear, weight, bias in (
            (cross.attention.query, ask, asks.mean(0) - seen.mean((0, 1)) @ ask),
            (cross.attention.key, where, shift - middle @ where),
        ):
            linear.weight.mul_(0.1)
            for head in range(heads):
                rows = slice(head * size, head * size + weight.shape[1])
                linear.weight[rows], linear.bias[rows] = weight.T * size**0.25, bias * size**0.25
        cross.attention.value.weight.copy_(values.T)
        cross.attention.value.bias.copy_(-centre @ values)
        cross.output.dense.weight.copy_(torch.eye(width))
        cross.output.dense.bias.zero_()
        layer.output_query.dense.weight.zero_()
        layer.output_query.dense.bias.zero_()
        shares.append(explained)
    return shares


def grid_centres(cells: int) -> Tensor:
    """The centres (cells, 2) of a square grid's cells, row by row, x before y, in sides of the picture.

    Raises ValueError where so many cells make no square.
    """
    side = math.isqrt(cells)
    if side * side != cells:
        raise ValueError(f"{cells} queries make no square grid; give 16, 25 or 64 of them, for example")
    line = (torch.arange(side) + 0.5) / side
    return torch.stack([line.repeat(side), line.repeat_interleave(side)], 1)


def _before_cross_attention(model, image_embeds: Tensor, number: int) -> Tensor:
    """The queries' states that the cross-attention of layer `number` reads: (images, queries, width)."""
    states = []
    hook = model.qformer.encoder.layer[number].crossattention.register_forward_pre_hook(
        lambda _, inputs: states.append(inputs[0])
    )
    try:
        model.queries(image_embeds)
    finally:
        hook.remove()
    return states[0]


@torch.no_grad()
def said_where_queries_look(model, features: Tensor, said: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """What is said of the patches that each query attends to, over layers and heads: (images, queries, width), and how
    much it counts, (images, queries). model: a QFormerForPretraining; said and counts from `said_of_patches`.
    """
    found, counted = [], []
    for part, told, count in zip(features.split(256), said.split(256), counts.split(256), strict=True):
        looks = model.cross_attention(part.float()).mean((1, 2))[..., 1:]
        found.append(looks @ told)
        counted.append((looks @ count[..., None])[..., 0])
    return torch.cat(found), torch.cat(counted)


@torch.no_grad()
def align_projection(
    model,
    features: Tensor,
    wanted: Tensor,
    counts: Tensor,
    strength: float = 3.0,
    mark: Tensor | None = None,
) -> float:
    """Start the projection where its output resembles words: ridge regression from queries to word embeddings.

    A large language model learns to read any projection; the nano one reads sums of words. Pre-training data alone;
    ours, the paper is silent.

    features: (images, 1 + patches, width); wanted: (images, queries, width of the language model), what each query
    should say, in its word embeddings, and counts: (images, queries), how much that counts. strength: root mean square
    of the projected tokens, in that of a word embedding. mark: (width of the language model,), added to every token: by
    it the language model tells them from words. Returns the share of the targets' variance that the queries explain
    linearly.
    """
    embeddings = model.language_model.get_input_embeddings().weight
    queries = torch.cat([model.qformer_model.queries(part.float()) for part in features.split(256)])
    queries, targets, counts = queries.flatten(0, 1), wanted.flatten(0, 1), counts.flatten()
    mean = _mean(queries, counts)
    targets = targets - _mean(targets, counts)
    weight, predicted = ridge_regression(queries - mean, targets, counts)
    explained = 1 - (predicted - targets).pow(2).sum() / targets.pow(2).sum()
    weight *= strength * embeddings.pow(2).mean().sqrt() / predicted.pow(2).mean().sqrt()
    model.language_projection.weight.copy_(weight.T)
    model.language_projection.bias.copy_((0 if mark is None else mark) - mean @ weight)
    return float(explained)


def telling_words(
    pairs: Sequence[Pair], row: Mapping[str, int], images: int, tokenizer, most: float
) -> tuple[dict[tuple[int, tuple | None], set[int]], dict[int, float]]:
    """The token ids said of each (image, box), but none that more than the share `most` of a language's texts have; and
    the share of each in the language that says it most.
    """
    pairs = [pair for pair in pairs if row[pair.image] < images]
    tokens = [set(ids) for ids in chat.text_ids(tokenizer, [pair.caption for pair in pairs])]
    counts: dict[str, Counter] = defaultdict(Counter)
    texts = Counter(pair.language for pair in pairs)
    for pair, ids in zip(pairs, tokens, strict=True):
        counts[pair.language].update(ids)
    found: dict[tuple[int, tuple | None], set[int]] = defaultdict(set)
    for pair, ids in zip(pairs, tokens, strict=True):
        limit = most * texts[pair.language]
        found[row[pair.image], pair.box] |= {n for n in ids if counts[pair.language][n] <= limit}
    shares: dict[int, float] = {}
    for language, counted in counts.items():
        for token, number in counted.items():
            shares[token] = max(shares.get(token, 0.0), number / texts[language])
    return dict(found), shares


def patch_shares(boxes: Sequence[tuple], patches: int, image_size: int) -> Tensor:
    """How much of each patch lies in each box, (x, y, width, height) in pixels: (boxes, patches), from 0 to 1."""
    side = math.isqrt(patches)
    low = torch.arange(side) * image_size / side
    x, y, width, height = torch.tensor(boxes, dtype=torch.float32).T[..., None]  # each (boxes, 1)
    size = image_size / side
    across = (torch.minimum(low + size, x + width) - torch.maximum(low, x)).clamp(min=0) / size
    down = (torch.minimum(low + size, y + height) - torch.maximum(low, y)).clamp(min=0) / size
    return (down[:, :, None] * across[:, None]).flatten(1)


def reach_by_place(boxes: Sequence[tuple], cells: int, image_size: int) -> Tensor:
    """How far each box reaches into each cell of a square grid, in what it reaches into the cell that has most of it:
    (boxes, cells), from 0 to 1. Small things are as clear as large ones. boxes: as for `patch_shares`.

    Raises ValueError for a box that covers nothing of the picture: it reaches nowhere.
    """
    overlap = patch_shares(boxes, cells, image_size)
    most = overlap.amax(1, keepdim=True)
    for box, reached in zip(boxes, (most[:, 0] > 0).tolist(), strict=True):
        if not reached:
            raise ValueError(f"box {tuple(box)} covers nothing of a picture of {image_size} pixels a side")
    return overlap / most


def box_code(corners: Tensor, width: int) -> Tensor:
    """Boxes as vectors: what a visual token means by where its thing lies.

    Each edge as itself and as sines and cosines of three wavelengths, turned into `width` by a fixed rotation, so that
    near boxes have near vectors and a linear layer can read or write them. corners: (..., 4), left, top, right and
    bottom as shares of the sides. Returns (..., width) with a mean square of about 1. Raises ValueError below 28.
    """
    if width < BOX_EDGES:
        raise ValueError(f"box_code: a box needs a width of {BOX_EDGES} or more, got {width}")
    edges = box_edges(corners)
    return edges @ rotation(BOX_EDGES, width).to(edges) * math.sqrt(2 * width / BOX_EDGES)


def box_edges(corners: Tensor) -> Tensor:
    """Each edge of `corners` (..., 4) as itself and as sines and cosines of three wavelengths: (..., 28)."""
    angles = corners[..., None] * torch.pi * torch.tensor([1.0, 2.0, 4.0], device=corners.device)
    return torch.cat([2 * corners[..., None] - 1, angles.sin(), angles.cos()], -1).flatten(-2)


@functools.cache
def rotation(low: int, high: int, seed: int = 0) -> Tensor:
    """A fixed (low, high) matrix with orthogonal rows of length 1, the same everywhere."""
    drawn = torch.randn(high, low, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.T.float()
