"""Figures of a split: sorted by language, named as the report wants them, equal to what each measure gives."""

import numpy as np
import pytest

from zvl import results
from zvl.data.samples import LANGUAGES, Sample, Turn
from zvl.evaluation import abilities, captioning

BOXES = ["(0,0),(500,500)", "(500,500),(900,900)"]


def sample(number, language, question, answer, kind="existence"):
    return Sample(
        str(number), (f"{number}.png",), (Turn(question, answer),), question_type=kind, language=language
    )


def test_grounding_is_counted_in_each_language_with_right_and_wrong_pictures():
    samples = [sample(i, LANGUAGES[i % 2], "?", BOXES[0], "ground") for i in range(8)]
    said = [BOXES[0] if i % 2 == 0 or i == 1 else BOXES[1] for i in range(8)]
    figures, intervals = abilities.grounding_figures("chat", "style", samples, said, [BOXES[1]] * 8)
    assert figures == {
        "evaluation/chat/en/style/grounding_p50": 1.0,
        "evaluation/chat/en/style/grounding_p50_wrong_image": 0.0,
        "evaluation/chat/zh/style/grounding_p50": 0.25,
        "evaluation/chat/zh/style/grounding_p50_wrong_image": 0.0,
    }
    low, high = intervals["evaluation/chat/zh/style/grounding_p50"]
    assert 0 <= low < 0.25 < high <= 1


def test_only_yes_no_questions_tell_of_hallucination():
    words = {"en": ("yes", "no"), "zh": ("有", "没有")}
    samples = [sample(i, lang, "?", words[lang][i % 2]) for lang in LANGUAGES for i in range(4)]
    samples.append(sample(9, "en", "How many?", "two", "count"))
    said = ["yes"] * 4 + ["有", "没有", "有", "没有", "two"]
    figures, _ = abilities.hallucination_figures("base", "paraphrase", samples, said)
    place = "evaluation/base/{}/paraphrase/{}"
    assert figures[place.format("en", "hallucination_balanced_accuracy")] == 0.5
    assert figures[place.format("en", "yes_rate")] == 1.0
    assert figures[place.format("zh", "hallucination_balanced_accuracy")] == 1.0
    assert figures[place.format("zh", "yes_rate")] == 0.5


def test_cider_is_that_of_each_language_and_may_be_recorded(tmp_path):
    texts = {"en": ["a dog and a cat", "two red apples"], "zh": ["一只狗和一只猫", "桌子上有红苹果"]}
    said = texts["en"] + texts["zh"]
    languages = ["en", "en", "zh", "zh"]
    figures, _ = abilities.caption_figures("chat", "composition", said, [[text] for text in said], languages)
    for lang in LANGUAGES:
        wanted, _ = captioning.cider(texts[lang], [[text] for text in texts[lang]], lang)
        assert figures[f"evaluation/chat/{lang}/composition/caption_cider"] == wanted > 1
    results.record(tmp_path, "06", figures)
    assert results.load_all(tmp_path) == figures
    with pytest.raises(ValueError, match=r"is 11\.0, not a number from 0 to 10"):
        results.record(tmp_path, "06", {"evaluation/chat/en/composition/caption_cider": 11.0})


def test_turns_are_counted_by_depth():
    samples = [
        Sample(str(i), ("a.png",), (Turn("a?", "dog"), Turn("b?", "cat"))[: 1 + i % 2], language="en")
        for i in range(6)
    ]
    said = [["a dog", "pig"][: 1 + i % 2] for i in range(6)]
    figures, intervals = abilities.dialogue_figures("chat", "paraphrase", samples, said)
    place = "evaluation/chat/en/paraphrase/multi_turn_accuracy_"
    assert figures == {f"{place}1": 1.0, f"{place}2": 0.0} and set(intervals) == set(figures)


def test_what_is_read_from_signs_is_in_no_wrong_language():
    samples = [sample(0, "en", "?", "yes"), sample(1, "en", "?", "出口", "read"), sample(2, "zh", "?", "有")]
    figures, _ = abilities.language_figures("chat", "composition", samples, ["有", "出口", "有"])
    assert figures == {
        "evaluation/chat/en/composition/wrong_language_share": 1.0,
        "evaluation/chat/zh/composition/wrong_language_share": 0.0,
    }
    assert np.isfinite(list(figures.values())).all()
