"""Answers in the wrong language."""

import pytest

from zvl.evaluation.language import in_wrong_language, wrong_language_share


@pytest.mark.parametrize(
    ("answer", "language", "wrong"),
    [
        ("a dog", "en", False), ("狗", "en", True), ("a 狗", "en", True), ("a sign that says “出口”", "en", False),
        ("狗", "zh", False), ("a dog", "zh", True), ("T恤", "zh", False), ("写着“open”的牌子", "zh", False),
        ("", "zh", False), ("(1,2),(3,4)", "en", False), ("(1,2),(3,4)", "zh", False), ("3", "zh", False),
    ],
)  # fmt: skip
def test_which_answers_are_in_the_wrong_language(answer, language, wrong):
    assert in_wrong_language(answer, language) is wrong


def test_the_share_of_wrong_answers():
    assert wrong_language_share(["yes", "有", "yes", "有"], ["en", "en", "zh", "zh"]) == 0.5
    with pytest.raises(ValueError, match="0 answers in 0 languages"):
        wrong_language_share([], [])
    with pytest.raises(ValueError, match="'fr' is not one of"):
        in_wrong_language("oui", "fr")
