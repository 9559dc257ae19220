"""Intervals against hand-worked cases and known limits."""

import numpy as np
import pytest

from zvl.evaluation.bootstrap import Interval, interval, macro_average


def test_macro_average_weighs_each_group_once():
    # three of four right in one group, none of one in the other: (0.75 + 0) / 2, not 3 / 5
    assert macro_average([1, 1, 1, 0, 0], ["count"] * 4 + ["colour"]) == pytest.approx(0.375)


def test_interval_agrees_with_the_normal_approximation():
    values = np.r_[np.ones(300), np.zeros(100)]
    found = interval(values, n=4000)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert found.mean == 0.75
    assert found.low == pytest.approx(0.75 - half, abs=0.006)
    assert found.high == pytest.approx(0.75 + half, abs=0.006)


def test_interval_of_a_macro_average_sums_the_variances_of_its_groups():
    values = np.r_[np.ones(200), np.zeros(200), np.ones(50), np.zeros(50)]
    found = interval(values, ["a"] * 400 + ["b"] * 100, n=4000)
    half = 1.96 * np.sqrt(0.25 / 400 + 0.25 / 100) / 2
    assert found.mean == 0.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)


def test_rows_are_drawn_within_their_group():
    # each group is all right or all wrong, so no resample can change the macro-average
    assert interval([1, 1, 0, 0, 0], ["a", "a", "b", "b", "b"]) == Interval(0.5, 0.5, 0.5)


def test_questions_of_one_scene_fail_together_and_widen_the_interval():
    values = np.repeat(np.arange(60) % 2, 10)
    scenes = np.repeat(np.arange(60), 10)
    alone, together = interval(values, n=2000), interval(values, clusters=scenes, n=2000)
    widths = alone.high - alone.low, together.high - together.low
    assert together.mean == 0.5
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(10), rel=0.1)


def test_clusters_of_one_row_equal_plain_rows():
    values = np.arange(200) % 4 == 0
    plain, single = interval(values, n=4000), interval(values, clusters=range(200), n=4000)
    assert single.low == pytest.approx(plain.low, abs=0.011)
    assert single.high == pytest.approx(plain.high, abs=0.011)


def test_a_group_missing_from_a_resample_is_left_out_and_not_counted_as_zero():
    found = interval([1.0] * 10, ["a"] * 9 + ["b"], clusters=range(10))
    assert found == Interval(1.0, 1.0, 1.0)


def test_the_seed_decides_the_interval():
    values = np.random.default_rng(0).random(50)
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


def test_apart_needs_a_gap():
    assert Interval(0.9, 0.8, 1.0).above(Interval(0.6, 0.5, 0.7))
    assert not Interval(0.9, 0.7, 1.0).above(Interval(0.6, 0.5, 0.7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, "no values"),
        ({"values": [1.0, float("nan")]}, "value 1 is not finite"),
        ({"values": [1.0], "groups": ["a", "b"]}, "1 values but 2 groups"),
        ({"values": [1.0], "clusters": []}, "1 values but 0 clusters"),
        ({"values": [1.0], "confidence": 95}, "confidence=95"),
        ({"values": [1.0], "n": 0}, "n=0"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        interval(**arguments)
