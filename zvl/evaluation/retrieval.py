"""Does a picture find its caption, and a caption its picture? (Paper section 4.1, retrieval in Table 4.)

Small pools keep the figure comparable between test sets: the right one among a hundred, averaged over ten
disjoint pools. Ties rank last, so that a model which gives every pair one score gets 0 and not 1.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from zvl.evaluation.bootstrap import macro_average


@dataclass(frozen=True)
class Retrieval:
    """Which queries put their counterpart first. Both tensors are bool, (pools, pool size)."""

    tr1_hits: Tensor
    ir1_hits: Tensor

    @property
    def tr1(self) -> float:
        """Text retrieval: share of images whose own caption comes first."""
        return self.tr1_hits.float().mean(dim=1).mean().item()

    @property
    def ir1(self) -> float:
        """Image retrieval: share of captions whose own image comes first."""
        return self.ir1_hits.float().mean(dim=1).mean().item()


def ranks(similarity: Tensor) -> Tensor:
    """Rank, from 1, of the diagonal entry in its row; entries equal to it rank before it.

    similarity: (n, n), row i a query and column i its counterpart. Returns (n,) long.
    Raises ValueError where the matrix is not square or holds a number that is not finite.
    """
    similarity = torch.as_tensor(similarity)
    if similarity.dim() != 2 or similarity.shape[0] != similarity.shape[1] or not len(similarity):
        raise ValueError(f"similarity has shape {tuple(similarity.shape)}; a square matrix (n, n) is needed")
    if not torch.isfinite(similarity).all():
        raise ValueError("similarity holds NaN or infinity; a NaN would compare as a hit")
    return (similarity >= similarity.diagonal()[:, None]).sum(dim=1)


def recall_at_one(similarity: Tensor) -> float:
    """Share of rows whose diagonal entry is strictly the largest. similarity: (n, n), as in `ranks`."""
    return (ranks(similarity) == 1).float().mean().item()


def similarities(image_features: Tensor, text_features: Tensor) -> Tensor:
    """Cosine of every image with every text; the best query counts, as in BLIP-2 section 3.1.

    image_features: (n, queries, width) or (n, width); text_features: (m, width); both normalised. Returns
    (n, m) fp32.
    """
    # bf16 makes ties, and an evaluation in training runs under autocast.
    image_features, text_features = image_features.float(), text_features.float()
    with torch.autocast(image_features.device.type, enabled=False):
        if image_features.dim() == 2:
            return image_features @ text_features.T
        return torch.einsum("nqd,md->nmq", image_features, text_features).amax(dim=-1)


def disjoint_pools(
    captions: Sequence[str | tuple[str, ...]], size: int = 100, count: int = 10, seed: int = 0
) -> list[list[int]]:
    """Draw `count` disjoint pools of `size` scenes; within a pool no caption occurs twice.

    captions: one a scene, or a tuple of all that must be distinct (English and Chinese, say, so that both
    languages are measured on the same pools). Returns indices into `captions`. The same seed gives the same
    pools. Raises ValueError where the scenes do not suffice.
    """
    keys = [
        {_folded(c) for c in ((caption,) if isinstance(caption, str) else caption)} for caption in captions
    ]
    pools: list[list[int]] = [[] for _ in range(count)]
    held: list[set[str]] = [set() for _ in range(count)]
    for scene in np.random.default_rng(seed).permutation(len(keys)):
        for pool, seen in zip(pools, held, strict=True):
            if len(pool) < size and not keys[scene] & seen:
                pool.append(int(scene))
                seen |= keys[scene]
                break
    filled = [len(pool) for pool in pools]
    if min(filled, default=size) < size:
        raise ValueError(
            f"{len(captions)} scenes fill pools of {filled}; asked: {count} of {size} without repeats"
        )
    return pools


def retrieval_at_100(
    image_features: Tensor, text_features: Tensor, pools: Sequence[Sequence[int]]
) -> Retrieval:
    """Recall at one in each pool: `.tr1` from image to text, `.ir1` from text to image, means over the pools.

    image_features: (n, queries, width) or (n, width); text_features: (n, width); row i of both is scene i.
    pools: indices of equal number, from `disjoint_pools`. Source: tr1_100 and ir1_100 of the tutorial's
    results. Raises ValueError where features differ in number, or pools differ in size, overlap or point
    outside.
    """
    if len(image_features) != len(text_features):
        raise ValueError(
            f"{len(image_features)} images but {len(text_features)} texts; row i of both is scene i"
        )
    if not pools or len({len(pool) for pool in pools}) != 1 or not len(pools[0]):
        raise ValueError(f"pools hold {[len(pool) for pool in pools]} scenes; equal sizes over 0 are needed")
    flat = [index for pool in pools for index in pool]
    if len(set(flat)) != len(flat):
        raise ValueError("pools overlap; a scene may stand in one pool only")
    if min(flat) < 0 or max(flat) >= len(image_features):
        raise ValueError(
            f"pools point at {min(flat)}..{max(flat)}; features have 0..{len(image_features) - 1}"
        )
    tr1, ir1 = [], []
    for pool in pools:
        rows = torch.as_tensor(pool, device=image_features.device)
        similarity = similarities(image_features[rows], text_features[rows])  # (size, size)
        tr1.append(ranks(similarity) == 1)
        ir1.append(ranks(similarity.T) == 1)
    return Retrieval(torch.stack(tr1).cpu(), torch.stack(ir1).cpu())


@torch.no_grad()
def embed_pairs(
    model: nn.Module, image_embeds: Tensor, input_ids: Tensor, text_mask: Tensor, batch_size: int = 200
) -> tuple[Tensor, Tensor]:
    """ITC's features of pictures and captions, a chunk at a time: what `retrieval_at_100` compares.

    model: a QFormerForPretraining. image_embeds: (n, patches, width); input_ids, text_mask: (n, length).
    Returns (n, queries, projection_dim) and (n, projection_dim), both normalised and fp32.
    """
    images, texts = [], []
    for rows in torch.arange(len(image_embeds)).split(batch_size):
        images.append(model.image_features(image_embeds[rows].float()))
        texts.append(model.text_features(input_ids[rows], text_mask[rows]))
    return torch.cat(images), torch.cat(texts)


@torch.no_grad()
def match_pairs(
    model: nn.Module, image_embeds: Tensor, input_ids: Tensor, text_mask: Tensor, batch_size: int = 200
) -> Tensor:
    """ITM's logit for match minus that for mismatch of each pair: (n,). Arguments as in `embed_pairs`."""
    chunks = torch.arange(len(image_embeds)).split(batch_size)
    return torch.cat([model.match(image_embeds[c].float(), input_ids[c], text_mask[c]) for c in chunks])


def itm_hits(matching: Tensor, swapped: Tensor) -> tuple[list[float], list[str]]:
    """1.0 for each right verdict of the ITM head, and the group of each, ready for `bootstrap.interval`.

    matching, swapped: (n,) and (m,) logit differences, match minus no match, of right captions and of
    captions with one object swapped. A difference of exactly 0 is no verdict and counts as wrong in both.
    """
    matching, swapped = torch.as_tensor(matching).float(), torch.as_tensor(swapped).float()
    for name, logits in (("matching", matching), ("swapped", swapped)):
        if logits.dim() != 1 or not len(logits) or not torch.isfinite(logits).all():
            raise ValueError(
                f"{name} has shape {tuple(logits.shape)}; a filled vector of finite logits is needed"
            )
    hits = torch.cat([matching > 0, swapped < 0]).float().tolist()
    return hits, ["matching"] * len(matching) + ["swapped"] * len(swapped)


def itm_balanced_accuracy(matching: Tensor, swapped: Tensor) -> float:
    """Mean of the accuracy on right captions and on swapped ones: 0.5 for a head that always says the same.

    Arguments as in `itm_hits`. Source: image-text matching, paper section 3.3.
    """
    return macro_average(*itm_hits(matching, swapped))


def _folded(caption: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", caption).casefold().split())
