"""CIDEr in both languages, against a naive reading of its paper."""

import math
from collections import Counter

import numpy as np
import pytest

from zvl.evaluation.captioning import cider, named_things, naming_figures, words

ENGLISH = [
    ["a dog and a cat.", "a cat and a dog.", "The dog sits beside a cat."],
    ["two red apples", "Apples on a table", "some red apples"],
    ["a small boat on the sea", "a boat", "the sea with a boat on it"],
]
CHINESE = [
    ["一只狗和一只猫。", "图片里有猫和狗。"],
    ["桌子上有红色的苹果。", "红苹果。"],
    ["海上有一艘小船。", "小船在海上。"],
]


def naive_cider(said, references, language, sigma=6.0):
    """Vedantam et al. 2015 with CIDEr-D's clipping and length penalty, written from the formulas."""
    grams = lambda text, n: Counter(zip(*[text[i:] for i in range(n)], strict=False))  # noqa: E731
    texts = [[words(text, language).split() for text in row] for row in references]
    answers = [words(text, language).split() for text in said]
    total = np.zeros(len(said))
    for n in range(1, 5):
        seen = Counter(gram for row in texts for gram in {g for text in row for g in grams(text, n)})

        def weigh(text, n=n, seen=seen):
            rare = {g: math.log(len(said)) - math.log(max(1, seen[g])) for g in grams(text, n)}
            return {g: count * rare[g] for g, count in grams(text, n).items()}

        for i, (answer, row) in enumerate(zip(answers, texts, strict=True)):
            one = weigh(answer)
            for text in row:
                other = weigh(text)
                dot = sum(min(one[g], other[g]) * other[g] for g in one.keys() & other.keys())
                norm = math.sqrt(sum(v * v for v in one.values()) * sum(v * v for v in other.values()))
                length = sum(grams(answer, 2).values()) - sum(grams(text, 2).values())
                total[i] += (dot / norm if norm else 0.0) * math.exp(-(length**2) / (2 * sigma**2)) / len(row)
    return total / 4 * 10


@pytest.mark.parametrize(("references", "language"), [(ENGLISH, "en"), (CHINESE, "zh")])
def test_it_is_cider_d_as_written_in_its_paper(references, language):
    said = [references[0][1], references[1][0], references[0][0]]
    mean, scores = cider(said, references, language)
    assert scores == pytest.approx(naive_cider(said, references, language), abs=1e-6)
    assert mean == pytest.approx(scores.mean()) and scores[2] < scores[0]


def test_chinese_is_counted_in_words_and_english_without_case():
    assert words("图片里有猫和狗。", "zh").split() == ["图片", "里", "有", "猫", "和", "狗"]
    assert words("A Dog, and\na cat!", "en") == "a dog and a cat"
    with pytest.raises(ValueError, match="'fr' is not one of en, zh"):
        words("un chien", "fr")


def test_a_right_caption_scores_far_above_a_wrong_one_in_chinese_too():
    right, _ = cider([row[0] for row in CHINESE], CHINESE, "zh")
    wrong, _ = cider([row[0] for row in CHINESE[1:] + CHINESE[:1]], CHINESE, "zh")
    assert right > 3 and right > 10 * wrong


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="1 captions, but references for 2"):
        cider(["a"], [["a"], ["b"]], "en")
    with pytest.raises(ValueError, match="at least two captions"):
        cider(["a"], [["a"]], "en")
    with pytest.raises(ValueError, match=r"rows \[1\] have no references"):
        cider(["a", "b"], [["a"], []], "en")


def test_longer_names_hide_shorter_ones_and_signs_say_no_names():
    english, chinese = {1: "bear", 2: "teddy bear", 3: "ant"}, {1: "熊", 2: "泰迪熊", 3: "蚂蚁"}
    text = 'A teddy bear, a bear, a bear, an elephant and a sign that says "bear".'
    assert named_things(text, english, "en") == Counter({1: 2, 2: 1})
    assert named_things("泰迪熊、泰迪熊和写着“熊”的牌子。", chinese, "zh") == Counter({2: 2})


def test_naming_figures_by_hand():
    named = [Counter({1: 3, 2: 1}), Counter({5: 1}), Counter()]
    found = naming_figures(named, [{1, 4}, {5}, {6}])
    assert found == {"recall": 2 / 4, "precision": 2 / 3, "repeats": 2 / 5, "exact": 1 / 3}
    assert naming_figures([Counter()], [{1}])["precision"] == 0.0
    with pytest.raises(ValueError, match="2 descriptions of 1 pictures"):
        naming_figures(named[:2], [{1}])
    with pytest.raises(ValueError, match="in no picture"):
        naming_figures([Counter()], [set()])
