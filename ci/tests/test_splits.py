"""What is measured on a split: drawn, named and held against the aims by hand."""

import pytest

from zvl.data.samples import LANGUAGES, Sample, Turn
from zvl.data.wordings import DESCRIBE
from zvl.evaluation import splits


def test_a_lead_is_over_the_best_of_the_baselines_that_were_measured():
    place = "evaluation/chat/en/composition/vqa_accuracy"
    found = splits.above_baselines({place: 0.8, f"{place}_majority": 0.2, f"{place}_wrong_image": 0.3})
    assert found == {"evaluation/chat/en/composition/vqa_above_baselines": pytest.approx(0.5)}
    assert splits.above_baselines({"evaluation/chat/en/style/by_type/count": 0.8}) == {}


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("pretraining/en/tr1_100", 0.95, "reached"),
        ("evaluation/base/zh/composition/grounding_p50", 0.69, "missed"),
        ("evaluation/chat/zh/composition/yes_rate", 0.61, "missed"),
        ("evaluation/chat/en/composition/wrong_language_share", 0.0, "reached"),
        ("evaluation/chat/en/composition/vqa_accuracy", 0.91, "reached"),
        ("evaluation/base/en/composition/vqa_accuracy", 0.1, ""),  # an aim of Chat alone
        ("evaluation/chat/en/style/grounding_p50", 0.1, ""),  # no aim on the other splits
    ],
)
def test_aims_are_those_of_the_composition_split(name, value, verdict):
    (_, (told, _, aim, found)) = splits.against_aims({name: value})
    assert (told, found) == (name, verdict) and bool(aim) == bool(verdict)


def test_signs_are_read_where_there_are_any():
    assert "read" in splits.types_of("style") and "read" not in splits.types_of("concept")


def test_descriptions_ask_of_each_picture_in_each_language_in_the_wordings_that_are_named():
    samples = splits.descriptions(["a.png", "b.png"], "test")
    assert [(s.images, s.language) for s in samples] == [
        ((image,), language) for language in LANGUAGES for image in ("a.png", "b.png")
    ]
    assert all(s.turns[0].instruction in DESCRIBE[s.language, "test"] for s in samples)
    assert len({s.id for s in samples}) == 4


def test_dialogues_with_boxes_or_descriptions_are_left_to_other_figures():
    def talk(number, language, *answers):
        turns = tuple(Turn("?", answer) for answer in answers)
        return Sample(str(number), ("a.png",), turns, language=language)

    short = [talk(i, language, "a dog", "yes") for i, language in enumerate(("en", "zh", "en", "en"))]
    boxed, told = talk(8, "en", "(1,2),(3,4)"), talk(9, "zh", "图里有" + "猫、" * 20)
    found = splits.short_dialogues([boxed, *short, told], 2)
    assert [sample.id for sample in found] == ["0", "2", "1"]
