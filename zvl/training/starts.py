"""Where trainings start: what large models bring along, and a tiny one has to be given.

The Q-Former's text side starts from a text model, as BLIP-2's does from BERT. The start of the projection is ours, a
closed form that takes seconds and sees training data alone; the paper, at its size, needs none.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zvl.data.samples import Pair
from zvl.model import chat


def initialise_from_bert(qformer: torch.nn.Module, bert: dict[str, Tensor]) -> list[str]:
    """Copy BERT's weights into a Q-Former; its query FFNs become copies of the text FFNs. Returns what stays new."""
    own = qformer.state_dict()
    left = []
    for name, value in own.items():
        source = name.replace("attention.attention.", "attention.self.").replace(
            "embeddings.layernorm", "embeddings.LayerNorm"
        )
        source = source.replace("intermediate_query", "intermediate").replace("output_query", "output")
        if "crossattention" not in name and source in bert and bert[source].shape == value.shape:
            value.copy_(bert[source])
        else:
            left.append(name)
    # The sum of BERT's word, position and (single) type embeddings: the Q-Former has no type embedding.
    own["embeddings.position_embeddings.weight"] += bert["embeddings.token_type_embeddings.weight"][0]
    qformer.load_state_dict(own)
    return left


@torch.no_grad()
def said_of_patches(
    row: Mapping[str, int],
    pairs: Sequence[Pair],
    regions: Sequence[Pair],
    tokenizer,
    words: Tensor,
    images: int,
    patches: int,
    image_size: int,
) -> Tensor:
    """What the training texts say of each patch of the first `images` pictures, as sums of word vectors.

    Of a patch inside a box it is the words of the box's phrases, in both languages; of the others it is those words of
    the captions that tell pictures apart and belong to no box (the colour of the ground, the number of things).

    row: picture -> its number; boxes in pixels of pictures of size image_size. words: (vocabulary, width).
    Returns (images, patches, width).
    """
    told = _telling_words(pairs, row, images, tokenizer, 0.2)
    boxes: dict[int, dict[tuple, Tensor]] = defaultdict(dict)
    for (number, box), ids in _telling_words(regions, row, images, tokenizer, 0.6).items():
        boxes[number][box] = words[sorted(ids)].sum(0)
        told[number, None] = told.get((number, None), set()) - ids
    beside = torch.zeros(images, len(words))
    for (number, _), ids in told.items():
        beside[number, sorted(ids)] = 1.0
    beside = (beside - beside.mean(0)) @ words
    said = beside[:, None].repeat(1, patches, 1)
    for number, phrases in boxes.items():
        shares = patch_shares(list(phrases), patches, image_size)  # (boxes, patches)
        said[number] *= (1 - shares.sum(0).clamp(max=1))[:, None]
        said[number] += shares.T @ torch.stack(list(phrases.values()))
    return said


def ridge_regression(inputs: Tensor, targets: Tensor, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Weights (inputs' width, targets' width) of least squares with a small penalty, and what they predict.

    inputs, targets: (rows, width), centred by the caller. ridge: in mean squares of the inputs.
    """
    gram = inputs.T @ inputs
    gram += ridge * gram.trace() / len(gram) * torch.eye(len(gram))
    weight = torch.linalg.solve(gram, inputs.T @ targets)
    return weight, inputs @ weight


@torch.no_grad()
def align_projection(model, features: Tensor, said: Tensor, strength: float = 3.0) -> float:
    """Start the projection where its output resembles words: ridge regression from queries to word embeddings.

    A query should say what is said of the patches that it attends to. A large language model learns to read any
    projection; the nano one reads sums of words. Pre-training data alone; ours, the paper is silent.

    features: (images, 1 + patches, width); said: (images, patches, width of the language model), from
    `said_of_patches` with its word embeddings. strength: root mean square of the projected tokens, in that of a word
    embedding. Returns the share of the targets' variance that the queries explain linearly.
    """
    embeddings = model.language_model.get_input_embeddings().weight
    queries, targets = [], []
    for part, told in zip(features.split(256), said.split(256), strict=True):
        queries.append(model.qformer_model.queries(part.float()))
        looks = model.qformer_model.cross_attention(part.float()).mean((1, 2))  # over layers and heads
        targets.append(looks[..., 1:] @ told)  # (images, queries, width)
    queries, targets = torch.cat(queries).flatten(0, 1), torch.cat(targets).flatten(0, 1)
    mean = queries.mean(0)
    targets -= targets.mean(0)
    weight, predicted = ridge_regression(queries - mean, targets)
    explained = 1 - (predicted - targets).pow(2).sum() / targets.pow(2).sum()
    weight *= strength * embeddings.pow(2).mean().sqrt() / predicted.pow(2).mean().sqrt()
    model.language_projection.weight.copy_(weight.T)
    model.language_projection.bias.copy_(-mean @ weight)
    return float(explained)


def _telling_words(
    pairs: Sequence[Pair], row: Mapping[str, int], images: int, tokenizer, most: float
) -> dict[tuple[int, tuple | None], set[int]]:
    """The token ids said of each (image, box), but none that more than the share `most` of a language's texts have."""
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
    return dict(found)


def patch_shares(boxes: Sequence[tuple], patches: int, image_size: int) -> Tensor:
    """How much of each patch lies in each box, (x, y, width, height) in pixels: (boxes, patches), from 0 to 1."""
    side = math.isqrt(patches)
    low = torch.arange(side) * image_size / side
    x, y, width, height = torch.tensor(boxes, dtype=torch.float32).T[..., None]  # each (boxes, 1)
    size = image_size / side
    across = (torch.minimum(low + size, x + width) - torch.maximum(low, x)).clamp(min=0) / size
    down = (torch.minimum(low + size, y + height) - torch.maximum(low, y)).clamp(min=0) / size
    return (down[:, :, None] * across[:, None]).flatten(1)
