"""Queries that say what lies around their places, in the language model's own words: the last step before tuning.

Pre-training makes queries that tell pictures apart. A large language model learns to read whatever they hold; the nano
one reads sums of words, and the closed form of `aligned.align_projection` finds less than half of what should be said
in them (notebook 04). Here queries and a linear layer are trained to hold it: each says what the texts say of the
things that reach into its cell of a square grid. Regression on pre-training data alone, for a minute or two. Ours; the
paper is silent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from zvl.config import Preset, SayingConfig
from zvl.model import backbones, parts
from zvl.model.objectives import QFormerForPretraining
from zvl.training import aligned, loop, material, own, pretraining, stages
from zvl.training.material import Data, read

SHARPNESS = 2.0  # power of how far a box reaches into a cell: each query speaks of one thing above all
GROUND = 0.5  # share of the ground beside things that fill a cell
RARE = 0.15  # share of the texts that say a word, up to which it is as loud as any
COUNTS = 0.06  # how often the patches of rare things count, as `aligned.COUNTS`
NAMES = 0.03  # share of the texts up to which a word is one that the queries must tell from all others
NAMES_WEIGHT = 0.2  # of that cross-entropy; squares alone find hundreds of names slowly
NAMES_SHARPNESS = 10.0  # of its logits, at first; learned
BOX_WEIGHT = 1.0  # of the squared error in the directions in which boxes are told, taken by itself


@dataclass(frozen=True)
class Sayings:
    """What each query should say of each picture, from `sayings`.

    wanted: (images, queries, width), centred, with a root mean square of 1. counts: (images, queries), how much each
    one counts. shares: (images, queries, names) in half precision, how much of a query's saying each rare word is.
    directions: (names, width), these words' embeddings at length 1.
    """

    wanted: Tensor
    counts: Tensor
    shares: Tensor
    directions: Tensor


@torch.no_grad()
def sayings(data: Data, words: Tensor, queries: int, images: int, tokenizer) -> Sayings:
    """What texts say of the cells that `queries` make of the first `images` pictures; words: (vocabulary, width)."""
    told, shares_of_texts = material.told_of_pictures(
        data, words, images, tokenizer, rare=RARE, most_counts=COUNTS
    )
    column = {
        word: n for n, word in enumerate(sorted(w for w, share in shares_of_texts.items() if share < NAMES))
    }
    wanted = torch.zeros(len(told), queries, words.shape[1])
    counts = torch.ones(len(told), queries)
    named = torch.zeros(len(told), queries, len(column), dtype=torch.half)
    for number, picture in enumerate(told):
        shares = _shares(picture.boxes, queries)
        wanted[number] = shares.T @ torch.cat([picture.said, picture.ground[None]])
        counts[number] += shares[:-1].T @ (picture.counts - 1)
        for share, ids in zip(shares[:-1], picture.words, strict=True):
            if names := [column[n] for n in ids if n in column]:
                named[number][:, names] += (share[:, None] / len(names)).half()
    wanted -= (counts.flatten() @ wanted.flatten(0, 1)) / counts.sum()
    wanted /= wanted.pow(2).mean().sqrt()
    rare = words[list(column)]
    return Sayings(wanted, counts, named, rare / rare.norm(dim=-1, keepdim=True))


def _shares(boxes: Sequence[tuple], queries: int) -> Tensor:
    """How much each query should speak of each box and, in the last row, of the ground: (boxes + 1, queries)."""
    ground = torch.full((1, queries), GROUND)
    shares = ground
    if boxes:
        reach = aligned.reach_by_place(boxes, queries, backbones.IMAGE_SIZE)
        shares = torch.cat([reach**SHARPNESS, ground])
    return shares / shares.sum(0)


class Speaker(nn.Module):
    """A Q-Former with the linear layer through which its queries are heard; the layer is thrown away with the training.

    It starts from ridge regression on what the queries hold already. features: (images, 1 + patches, width), the first
    of the pictures that `said` is about.
    """

    def __init__(self, qformer_model: QFormerForPretraining, features: Tensor, said: Sayings):
        super().__init__()
        self.qformer_model = qformer_model
        self.hears = nn.Linear(qformer_model.qformer.config.hidden_size, said.wanted.shape[-1])
        self.sharpness = nn.Parameter(torch.tensor(NAMES_SHARPNESS))
        self.register_buffer("directions", said.directions)
        with torch.no_grad():
            held = torch.cat([qformer_model.queries(part.float()) for part in features.split(256)])
            held = held.flatten(0, 1)
            mean = held.mean(0)
            weight, _ = aligned.ridge_regression(held - mean, said.wanted[: len(features)].flatten(0, 1))
            self.hears.weight.copy_(weight.T)
            self.hears.bias.copy_(-mean @ weight)

    def forward(self, image_embeds: Tensor, **said: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """`saying_loss` of a batch; image_embeds: (batch, 1 + patches, width), said: wanted, counts and shares."""
        heard = self.hears(self.qformer_model.queries(image_embeds)).float()
        return saying_loss(heard, **said, directions=self.directions, sharpness=self.sharpness)


def saying_loss(
    heard: Tensor, wanted: Tensor, counts: Tensor, shares: Tensor, directions: Tensor, sharpness: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error of what is heard, that of the boxes in it, and cross-entropy of the names in it, all by counts;
    arguments as in `Sayings`.

    heard: (batch, queries, width). A query without names has no cross-entropy; below `aligned.BOX_EDGES` numbers there
    are no boxes.
    """

    def by_counts(missed: Tensor) -> Tensor:
        return (missed.pow(2).mean(-1) * counts).sum() / counts.sum()

    missed, width = heard - wanted, heard.shape[-1]
    squares = by_counts(missed)
    boxes = squares.new_zeros(())
    if width >= aligned.BOX_EDGES:
        boxes = by_counts(missed @ aligned.rotation(aligned.BOX_EDGES, width).to(missed).T)
    logits = sharpness * heard @ directions.T / math.sqrt(width)
    shares = shares.to(heard)
    named = shares.sum(-1)
    surprise = -(shares * logits.log_softmax(-1)).sum(-1) / named.clamp(min=1e-6)
    weight = named.clamp(max=1) * counts
    names = (surprise * weight).sum() / weight.sum().clamp(min=1e-6)
    loss = squares + BOX_WEIGHT * boxes + NAMES_WEIGHT * names
    return loss, {"squares": squares.detach(), "boxes": boxes.detach(), "names": names.detach()}


def learn_to_say(
    model: QFormerForPretraining, features: Tensor, said: Sayings, config: SayingConfig, folder: Path | None
) -> list[dict]:
    """Train the queries, and all of the Q-Former that they feel, in place; returns the history.

    features: (images, 1 + patches, width), of the pictures of `said`. Which pictures a batch has is a pure function of
    (seed, step, micro).
    """
    speaker = Speaker(model, features[:1024], said)
    unfelt = stages.unfelt_by_queries(model, reads_text=False)
    for name, p in model.named_parameters():
        p.requires_grad_(re.match(r"query_tokens$|qformer\.", name) is not None and not unfelt(name))

    def batches(step: int, micro: int) -> dict:
        rng = np.random.default_rng([config.loop.seed, step, micro, 3])
        rows = torch.from_numpy(rng.integers(len(said.wanted), size=config.batch_size))
        return {
            "image_embeds": features[rows].float(),
            "wanted": said.wanted[rows],
            "counts": said.counts[rows],
            "shares": said.shares[rows],
        }

    return loop.train(
        speaker, lambda model, batch, _: model(**batch), batches, config.loop, folder, "queries learn to say"
    )


def say(preset: Preset, run: Path) -> tuple[QFormerForPretraining, list[dict]]:
    """The pre-trained Q-Former whose queries say what lies around them, with the history; as pre-trained, and none,
    where the preset has no such step.
    """
    model, _ = pretraining.pretrain(preset, run)
    config = preset.saying
    if config is None:
        return model, []

    def build(path: Path) -> None:
        data = read(preset, run, "train")
        words = parts.new_llm(preset.parts).get_input_embeddings().weight.detach()
        tokenizer = backbones.load_tokenizer()
        said = sayings(data, words, preset.num_queries, config.pictures, tokenizer)
        history = learn_to_say(model, data.features[: len(said.wanted)], said, config, path)
        stages.save_trained(model, history, path)

    path = stages.cached("saying", inputs(preset, run), run / "stages", build)
    model.load_state_dict(load_file(str(path / "model.safetensors")), strict=False)
    return model.requires_grad_(True).eval(), stages.read_history(path)


def inputs(preset: Preset, run: Path) -> dict:
    """What the sayings depend on, and all that is trained behind them."""
    found = material.inputs(preset, run, "llm") | {
        "made of": parts.made_of(preset.parts),
        "pretraining": preset.pretraining,
        "queries": preset.num_queries,
        "saying": preset.saying,
        "its code": [Path(__file__), Path(pretraining.__file__), Path(own.__file__)],
    }
    return found | (own.inputs(preset.own) if preset.own.pairs else {})
