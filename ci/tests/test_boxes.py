"""Boxes as text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zvl.data.boxes import box_text, boxes_in, iou


@st.composite
def boxes(draw):
    width, height = draw(st.integers(20, 2000)), draw(st.integers(20, 2000))
    x, y = draw(st.integers(0, width - 10)), draw(st.integers(0, height - 10))
    return (x, y, draw(st.integers(10, width - x)), draw(st.integers(10, height - y))), width, height


@given(boxes())
def test_a_box_comes_back_from_its_text_within_two_thousandths(case):
    box, width, height = case
    (found,) = boxes_in(f"It is at {box_text(box, width, height)}.", width, height)
    for got, wanted, size in zip(found, box, (width, height) * 2, strict=True):
        assert abs(got - wanted) <= 0.002 * size


def test_the_form_is_that_of_qwen_vl():
    assert box_text((24, 48, 24, 48), 96, 96) == "(250,500),(500,999)"
    assert boxes_in("a (0,0),(500,500), b（x） (1,2),(3,4)", 100, 200) == [
        (0, 0, 50, 100),
        pytest.approx((0.1, 0.4, 0.2, 0.4)),
    ]


@pytest.mark.parametrize("text", ["", "(1,2)", "(5,5),(5,9)", "(9,1),(2,3)", "(1000,1),(2,3)", "12,3,4,5"])
def test_what_is_no_box_is_none(text):
    assert boxes_in(text, 96, 96) == []


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (-1, 0, 5, 5), (90, 0, 10, 5), (0, 90, 5, 7)])
def test_a_box_without_area_or_outside_is_refused(box):
    with pytest.raises(ValueError, match="does not lie within a picture of 96 by 96"):
        box_text(box, 96, 96)


@given(boxes(), boxes())
def test_iou_is_what_counting_squares_gives(first, second):
    a, b = first[0], second[0]
    squares = [
        {(i, j) for i in range(x // 10, (x + w) // 10) for j in range(y // 10, (y + h) // 10)}
        for x, y, w, h in (a, b)
    ]
    snapped = [(x // 10, y // 10, (x + w) // 10 - x // 10, (y + h) // 10 - y // 10) for x, y, w, h in (a, b)]
    union = len(squares[0] | squares[1])
    wanted = len(squares[0] & squares[1]) / union if union else 0.0
    assert iou(*snapped) == pytest.approx(wanted) and iou(snapped[0], snapped[1]) == iou(
        snapped[1], snapped[0]
    )


def test_iou_of_a_hand_worked_pair():
    assert iou((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (10, 0, 5, 5)) == 0
