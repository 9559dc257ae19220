"""Grounding: a question names a thing, the answer is its box (Qwen-VL, section 4.3; RefCOCO's precision at IoU 0.5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zvl.data.boxes import boxes_in, iou
from zvl.data.samples import Sample

SCALE = 1000.0  # written boxes are compared as they stand: IoU does not change when an axis is stretched


def overlaps(said: Sequence[str], samples: Sequence[Sample]) -> np.ndarray:
    """IoU of the first box in each answer with the box of its sample's last response; 0 where none is written.

    Raises ValueError for unequal numbers, or a sample whose response holds no box.
    """
    if len(said) != len(samples):
        raise ValueError(f"overlaps: {len(said)} answers for {len(samples)} samples; one each is needed")
    result = np.zeros(len(samples))
    for i, (answer, sample) in enumerate(zip(said, samples, strict=True)):
        wanted = boxes_in(sample.turns[-1].response, SCALE, SCALE)
        if not wanted:
            raise ValueError(f"sample {sample.id!r}: no box in its response {sample.turns[-1].response!r}")
        found = boxes_in(answer, SCALE, SCALE)
        result[i] = iou(found[0], wanted[0]) if found else 0.0
    return result


def hits(said: Sequence[str], samples: Sequence[Sample], threshold: float = 0.5) -> np.ndarray:
    """1.0 where the box overlaps enough, else 0.0; their mean is `grounding_p50`."""
    return (overlaps(said, samples) >= threshold).astype(float)
