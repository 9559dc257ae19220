"""Grounding: precision at IoU 0.5 of the first box written."""

import numpy as np
import pytest

from zvl.data.boxes import box_text, iou
from zvl.data.samples import Sample, Turn
from zvl.evaluation.grounding import hits, overlaps


def sample(text, number=0):
    return Sample(str(number), ("a.png",), (Turn("Where is the dog?", text),), task="grounding")


def test_the_overlap_is_that_of_the_boxes_in_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        first, second = (
            tuple(int(v) for v in (*rng.integers(0, 50, 2), *rng.integers(20, 46, 2))) for _ in range(2)
        )
        texts = [box_text(box, 96, 96) for box in (first, second)]
        (found,) = overlaps([f"it is at {texts[0]}."], [sample(texts[1])])
        assert found == pytest.approx(iou(first, second), abs=0.02)


def test_an_answer_without_a_box_misses_and_only_the_first_box_counts():
    wanted = sample("(0,0),(500,500)")
    said = ["(0,0),(500,500)", "on the left", "", "(500,500),(900,900) (0,0),(500,500)", "(0,0),(500,240)"]
    assert hits(said, [wanted] * 5).tolist() == [1, 0, 0, 0, 0]
    assert hits(said, [wanted] * 5, threshold=0.4).tolist() == [1, 0, 0, 0, 1]


def test_unequal_numbers_and_samples_without_boxes_are_refused():
    with pytest.raises(ValueError, match="1 answers for 2 samples"):
        hits(["x"], [sample("(0,0),(5,5)")] * 2)
    with pytest.raises(ValueError, match="sample '7': no box in its response 'left'"):
        hits(["x"], [sample("left", 7)])
