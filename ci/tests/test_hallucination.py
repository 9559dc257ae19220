"""Yes and no: what counts as which, and figures that no constant answer can win."""

import pytest

from zvl.data.samples import Sample, Turn
from zvl.evaluation.hallucination import hallucination_metrics, said_yes


def sample(answer, language="en"):
    return Sample("1", ("a.png",), (Turn("?", answer),), language=language)


@pytest.mark.parametrize(
    ("answer", "language", "wanted"),
    [
        ("Yes.", "en", True), ("yes, on the left", "en", True), ("No", "en", False), ("no dog", "en", False),
        ("a dog", "en", None), ("", "en", None), ("northern", "en", None),
        ("有", "zh", True), ("有的。", "zh", True), ("是的", "zh", True), ("没有", "zh", False), ("不是", "zh", False),
        ("没有。图里只有狗", "zh", False), ("狗", "zh", None), ("yes", "zh", None),
    ],
)  # fmt: skip
def test_what_means_yes_and_what_no(answer, language, wanted):
    assert said_yes(answer, language) is wanted


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="'fr' is not one of en, zh"):
        said_yes("oui", "fr")


def test_a_hand_worked_example():
    samples = [sample("yes"), sample("yes"), sample("yes"), sample("no"), sample("没有", "zh")]
    found = hallucination_metrics(["yes", "no", "tiger", "yes", "没有"], samples)
    assert found["hallucination_balanced_accuracy"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert found["yes_rate"] == pytest.approx(2 / 5) and found["neither_rate"] == pytest.approx(1 / 5)


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_a_constant_answer_gets_one_half_however_uneven_the_questions_are(answer):
    samples = [sample("yes")] * 9 + [sample("no")]
    assert hallucination_metrics([answer] * 10, samples)["hallucination_balanced_accuracy"] == 0.5


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="neither yes nor no"):
        hallucination_metrics(["yes"], [sample("tiger")])
    with pytest.raises(ValueError, match="questions of both kinds"):
        hallucination_metrics(["yes"], [sample("yes")])
    with pytest.raises(ValueError, match="2 answers for 1 samples"):
        hallucination_metrics(["yes", "no"], [sample("yes")])
