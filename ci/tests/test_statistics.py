"""What a data set consists of, counted as a person would count it."""

from collections import Counter

import pytest
from matplotlib.figure import Figure

from zvl.data import statistics
from zvl.figures.factory import dataset_statistics, factory_diagram

ROWS = [
    {"language": "en", "kind": "detail", "rewriting": "", "translated": False,
     "turns": [{"instruction": "Describe the picture.", "response": "A hot dog is drawn beside two tigers."}]},
    {"language": "en", "kind": "detail", "rewriting": "deepening", "translated": False,
     "turns": [{"instruction": "What did you see?", "response": "A tiger."},
               {"instruction": "And then?", "response": "It was lying there."}]},
    {"language": "zh", "kind": "reasoning", "rewriting": "", "translated": True,
     "turns": [{"instruction": "图里有什么？", "response": "看到两只老虎。"}]},
]  # fmt: skip


def test_rows_count_as_what_they_were_made_by():
    found = statistics.statistics(ROWS)
    assert found["kind"] == {("detail", "en"): 1, ("deepening", "en"): 1, ("translation", "zh"): 1}
    assert found["language"] == {"en": 2, "zh": 1} and found["turns"] == {1: 2, 2: 1}


def test_lengths_are_words_or_characters():
    found = statistics.statistics(ROWS)
    assert found["words/en"] == {8: 1, 2: 1, 4: 1}
    assert found["words/zh"] == {6: 1}


def test_verbs_come_in_their_base_form_and_nouns_by_their_longest_name():
    found = statistics.statistics(ROWS)
    assert found["verbs/en"] == {"describe": 1, "draw": 1, "see": 1, "lie": 1}
    assert found["nouns/en"]["hot dog"] == 1 and "dog" not in found["nouns/en"]
    assert "看到" in found["verbs/zh"] and "老虎" in found["nouns/zh"]


def test_the_figures_are_drawn_and_refuse_what_cannot_be():
    found = statistics.statistics(ROWS)
    assert isinstance(dataset_statistics(found, Counter(refusal=3)), Figure)
    steps = {"generated": 5, "rewritten": 3, "translated": 1}
    drawn = factory_diagram(7, steps, {**steps, "generated": 4})
    told = " ".join(text.get_text() for text in drawn.axes[0].texts)
    assert "8 rows kept" in told and "1 put aside" in told and "7 pictures" in told
    with pytest.raises(ValueError, match="steps are"):
        factory_diagram(7, steps, {**steps, "generated": 6})
    with pytest.raises(ValueError, match="steps are"):
        factory_diagram(7, {"generated": 5}, steps)
