"""Grounding: a question names a thing, the answer is its box (Qwen-VL, section 4.3; RefCOCO's precision at IoU 0.5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zvl.data.boxes import boxes_in, iou
from zvl.data.samples import Sample

SCALE = 1000.0  # written boxes are compared as they stand: IoU does not change when an axis is stretched


def overlap(said: str, wanted: str) -> float:
    """IoU of the first box in an answer with the first in what is wanted; 0 where the answer holds none.

    Raises ValueError where none is wanted.
    """
    right = boxes_in(wanted, SCALE, SCALE)
    if not right:
        raise ValueError(f"no box in its response {wanted!r}")
    found = boxes_in(said, SCALE, SCALE)
    return iou(found[0], right[0]) if found else 0.0


def overlaps(said: Sequence[str], samples: Sequence[Sample]) -> np.ndarray:
    """`overlap` of each answer with its sample's last response.

    Raises ValueError for unequal numbers, or a sample whose response holds no box.
    """
    if len(said) != len(samples):
        raise ValueError(f"overlaps: {len(said)} answers for {len(samples)} samples; one each is needed")
    result = np.zeros(len(samples))
    for i, (answer, sample) in enumerate(zip(said, samples, strict=True)):
        try:
            result[i] = overlap(answer, sample.turns[-1].response)
        except ValueError as error:
            raise ValueError(f"sample {sample.id!r}: {error}") from None
    return result


def hits(said: Sequence[str], samples: Sequence[Sample], threshold: float = 0.5) -> np.ndarray:
    """1.0 where the box overlaps enough, else 0.0; their mean is `grounding_p50`."""
    return (overlaps(said, samples) >= threshold).astype(float)
