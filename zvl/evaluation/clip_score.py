"""The CLIP score of a pair: cosine of picture and caption, by any CLIP of transformers, and where to cut it.

The paper cleans its pre-training pairs with an in-house bilingual CLIP (section 3.3), Qwen-VL by a limit for each data
set (appendix A.1). Scores of two models, or of two data sets, do not compare: a limit belongs to both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from zvl.data.clean import Batch, started
from zvl.data.pixels import read_image, to_pixels
from zvl.model.backbones import NANO, load_clip, load_tokenizer

CONTEXT = {"chinese_clip": 52}  # tokens Chinese-CLIP was trained with; its position table has 512


@dataclass(frozen=True)
class Clip:
    """A model that scores pairs. Both functions return (n, width) float32 on the CPU, rows of unit length."""

    name: str
    embed_images: Callable[[Sequence[Image.Image]], Tensor]
    embed_texts: Callable[[Sequence[str]], Tensor]


def nano_clip(folder: Path = NANO) -> Clip:
    """The tutorial's bilingual CLIP, for scenes of 96 pixels."""
    model, tokenizer = load_clip(folder), load_tokenizer(folder)
    longest = model.text_model.config.max_position_embeddings

    @torch.no_grad()
    def images(pictures: Sequence[Image.Image]) -> Tensor:
        return model.image_features(model.image_embeds(to_pixels(pictures)))

    @torch.no_grad()
    def texts(captions: Sequence[str]) -> Tensor:
        # split_special_tokens: "</s>" in a caption is four characters
        rows = tokenizer(list(captions), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = [torch.tensor([tokenizer.cls_token_id, *row][:longest]) for row in rows]
        mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        return model.text_features(
            pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id), mask
        )

    return Clip("nano", images, texts)


def pretrained_clip(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Clip:
    """A CLIP of transformers by its name or folder: CLIP for English, Chinese-CLIP for Chinese, others of their kind.

    Pictures go through the PIL image processor, since torchvision may be missing. Raises ValueError for a model that
    does not embed both pictures and texts.
    """
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(name, dtype=dtype).to(device).eval()
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise ValueError(f"{name}: {type(model).__name__} has no embeddings of pictures and texts to compare")
    tokenizer = AutoTokenizer.from_pretrained(name)
    processor = AutoImageProcessor.from_pretrained(name, backend="pil")
    longest = CONTEXT.get(model.config.model_type, model.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def images(pictures: Sequence[Image.Image]) -> Tensor:
        pixels = processor(images=list(pictures), return_tensors="pt")["pixel_values"].to(device, dtype)
        return _unit(model.get_image_features(pixel_values=pixels))

    @torch.no_grad()
    def texts(captions: Sequence[str]) -> Tensor:
        ids = tokenizer(
            list(captions), padding=True, truncation=True, max_length=longest, split_special_tokens=True,
            return_tensors="pt",
        )  # fmt: skip
        return _unit(model.get_text_features(**ids.to(device)))

    return Clip(str(name), images, texts)


def score_pairs(batch: Batch, clip: Clip, chunk: int = 128) -> Batch:
    """The CLIP score of each pair that has no fault yet, and the embedding of its picture, for finding duplicates.

    batch: columns image (a path), caption; faults and reasons where it was judged before. Returns the batch with
    `clip_score` and `embedding` (a list of numbers), both None where the row has a fault. A picture is embedded once
    a batch. `zvl.data.clean.clean_scores` judges the scores.
    """
    batch = started(batch)
    rows = [row for row, faults in enumerate(batch["faults"]) if not faults]
    files = list(dict.fromkeys(batch["image"][row] for row in rows))
    pictures: dict[str, Tensor] = {}
    for start in range(0, len(files), chunk):
        opened = {}
        for file in files[start : start + chunk]:
            try:
                opened[file] = read_image(file)
            except ValueError as err:
                broken = [row for row in rows if batch["image"][row] == file]
                why = f"no picture that Pillow can decode: {type(err.__cause__).__name__}"
                for row in broken:
                    batch["faults"][row], batch["reasons"][row] = ["unreadable"], [why]
        if opened:
            pictures |= dict(zip(opened, clip.embed_images(list(opened.values())), strict=True))
    rows = [row for row in rows if batch["image"][row] in pictures]
    scores: list[float | None] = [None] * len(batch["image"])
    embeddings: list[list[float] | None] = [None] * len(scores)
    for start in range(0, len(rows), chunk):
        some = rows[start : start + chunk]
        seen = torch.stack([pictures[batch["image"][row]] for row in some])
        said = clip.embed_texts([batch["caption"][row] for row in some])
        for row, score, vector in zip(some, (seen * said).sum(1).tolist(), seen.tolist(), strict=True):
            scores[row], embeddings[row] = score, vector
    return batch | {"clip_score": scores, "embedding": embeddings}


def choose_threshold(
    scores: Sequence[float], labels: Sequence[bool], precision: float = 0.95
) -> tuple[float, float]:
    """The lowest limit at which that share of the kept pairs match, and the share of matching pairs it keeps.

    scores, labels: of a sample drawn from the data set as it is, True where a person says that caption and picture
    match; a sample with fewer bad pairs than the data set gives too low a limit. A pair is kept where its score is at
    least the limit. Returns (limit, recall). Raises ValueError where no limit reaches the precision, and for scores
    that are not finite.
    """
    values, good = _checked(scores, labels)
    order = np.argsort(-values, kind="stable")
    values, good = values[order], good[order]
    hits = np.cumsum(good)
    reached = hits / np.arange(1, len(hits) + 1)
    last = np.append(values[1:] != values[:-1], True)  # equal scores are kept or dropped together
    enough = np.flatnonzero(last & (reached >= precision))
    if not len(enough):
        raise ValueError(
            f"no limit keeps pairs of which {precision:g} match; the best has {reached[last].max():.3f}"
        )
    cut = enough[-1]
    return float(values[cut]), float(hits[cut] / hits[-1])


def roc_area(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """The chance that a matching pair scores higher than one that does not match; ties count half."""
    values, good = _checked(scores, labels)
    below = np.sort(values[~good])
    left, right = np.searchsorted(below, values[good]), np.searchsorted(below, values[good], side="right")
    return float((left + right).mean() / (2 * len(below)))


def _checked(scores: Sequence[float], labels: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    values, good = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if values.shape != good.shape or values.ndim != 1 or good.all() or not good.any():
        raise ValueError(
            f"{values.size} scores, {good.size} labels, {good.sum()} of them True: both kinds are needed"
        )
    if not np.isfinite(values).all():
        raise ValueError("scores hold NaN or infinity")
    return values, good


def _unit(output) -> Tensor:
    """Features of unit length; transformers 5 returns them within an output object."""
    features = output if isinstance(output, Tensor) else output.pooler_output
    return normalize(features.float(), dim=-1).cpu()
