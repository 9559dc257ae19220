"""What a detector's raw boxes amount to, and how good they are: pure functions, without any model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zvl.data import boxes
from zvl.data.symbols import Symbols, Thing, can_be_told


@dataclass(frozen=True, slots=True)
class Detection:
    """A named box as a detector gives it. corners: (left, top, right, bottom) in pixels, perhaps beyond the picture."""

    name: str
    score: float
    corners: tuple[float, float, float, float]

    @property
    def box(self) -> boxes.Box:
        left, top, right, bottom = self.corners
        return left, top, right - left, bottom - top


def spans_of(ids: Sequence[int], dot: int) -> list[slice]:
    """Which tokens are each tag's, where a full stop follows each; the first token is [CLS]."""
    spans, start = [], 1
    for position, token in enumerate(ids):
        if token == dot:
            spans.append(slice(start, position))
            start = position + 1
    return spans


def named(
    logits: Tensor,
    corners: Tensor,
    spans: Sequence[slice],
    names: Sequence[str],
    box_threshold: float,
    text_threshold: float,
) -> list[Detection]:
    """Detections from what Grounding DINO says of its boxes.

    logits: (boxes, tokens); corners: (boxes, 4) in pixels; spans: the tokens of each name. A box has the name whose
    tokens are likeliest on average, and is kept where this is over text_threshold and the best of them, its score, over
    box_threshold. (The stock processor strings together all tokens over a threshold, which need not be a name at all.)
    """
    if not spans:
        return []
    likely = logits.sigmoid()
    mean, best = torch.stack([likely[:, span].mean(1) for span in spans], 1).max(1)
    score = torch.stack([likely[:, span].amax(1) for span in spans], 1).gather(1, best[:, None])[:, 0]
    kept = ((score > box_threshold) & (mean > text_threshold)).nonzero()[:, 0].tolist()
    return [Detection(names[int(best[i])], float(score[i]), tuple(corners[i].tolist())) for i in kept]


def tidy(
    detections: Iterable[Detection], width: int, height: int, same: float = 0.8
) -> tuple[list[Detection], list[str]]:
    """Detections with boxes in whole pixels within a picture, best first, and one reason for each that was dropped.

    Of two boxes with one name and an intersection over union above `same` the better one stays. Sides are whole pixels
    so that x + width is exact.
    """
    kept: list[Detection] = []
    dropped: list[str] = []
    for one in sorted(detections, key=lambda one: -one.score):
        if not all(abs(value) < float("inf") for value in one.corners):
            dropped.append("not finite")
            continue
        limits = (width, height, width, height)
        corners = tuple(
            min(max(round(value), 0), limit) for value, limit in zip(one.corners, limits, strict=True)
        )
        clipped = replace(one, corners=corners)
        if not can_be_told(clipped.box, width, height):
            dropped.append("no area within the picture")
        elif any(other.name == one.name and boxes.iou(other.box, clipped.box) > same for other in kept):
            dropped.append("found twice")
        else:
            kept.append(clipped)
    return kept, dropped


def recall_precision(
    found: Iterable[Symbols], truth: Iterable[Symbols], iou: float = 0.5
) -> tuple[float, float]:
    """How much of the truth was found and how much of what was found is true, over all things of all pictures.

    Pictures are matched by id. Two things match where names are equal and boxes overlap by `iou` or more, one to one,
    those that overlap most first. A share of nothing is nan.
    """
    told = {symbols.image_id: symbols.things for symbols in found}
    true = {symbols.image_id: symbols.things for symbols in truth}
    hits = sum(_matches(told.get(image_id, ()), things, iou) for image_id, things in true.items())
    wanted, given = (sum(map(len, side.values())) for side in (true, told))
    return hits / wanted if wanted else float("nan"), hits / given if given else float("nan")


def _matches(found: Sequence[Thing], truth: Sequence[Thing], least: float) -> int:
    overlaps = [
        (boxes.iou(one.box, other.box), i, k)
        for i, one in enumerate(found)
        for k, other in enumerate(truth)
        if one.name == other.name
    ]
    used_found, used_truth = set(), set()
    for overlap, i, k in sorted(overlaps, reverse=True):
        if overlap >= least and i not in used_found and k not in used_truth:
            used_found.add(i)
            used_truth.add(k)
    return len(used_found)
