"""Scoring of answers in both languages, and the baselines, against cases worked by hand."""

import pytest

from zvl.data.samples import Sample, Turn
from zvl.evaluation import vqa


def ask(scene: str, kind: str, answer: str, language: str = "en", references: tuple[str, ...] = ()) -> Sample:
    images = (f"{scene}.png",) if scene else ()
    return Sample(
        f"{scene}/{kind}", images, (Turn("?", answer),), references, question_type=kind, language=language
    )


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("A Cat.", "en", "cat"),
        ("the  DOG,\n a cat!", "en", "dog cat"),
        ("Two", "en", "2"),
        ("two dogs", "en", "2 dogs"),
        ("A", "en", "a"),
        ("ｃａｔ　２", "en", "cat 2"),
        ("3.5, 1,000; 10:30", "en", "3.5 1000 10:30"),
        ("Don't", "en", "dont"),
        ("theatre", "en", "theatre"),
        ("left-hand", "en", "left hand"),
        ("？！", "en", ""),
        ("是的。", "zh", "是的"),
        (" 两 ", "zh", "2"),
        ("３", "zh", "3"),
        ("三明治", "zh", "三明治"),
        ("“红 苹果”！", "zh", "红苹果"),
    ],
)
def test_normalise(text, language, expected):
    assert vqa.normalise(text, language) == expected
    assert vqa.normalise(expected, language) == expected, "normalising twice changes nothing"


def test_normalise_refuses_other_languages():
    with pytest.raises(ValueError, match="'fr' is not one of en, zh"):
        vqa.normalise("chat", "fr")


def test_score_is_exact_after_normalisation():
    samples = [ask("s", "category", "cat")] * 5
    predictions = ["Cat.", "a cat", "cat dog", "catfish", ""]
    assert vqa.score(predictions, samples).tolist() == [1, 1, 0, 0, 0]


def test_score_takes_any_reference_and_the_last_turn_without_references():
    sample = ask("s", "count", "ignored", "zh", references=("二", "2个"))
    assert vqa.score(["2个", "两", "ignored"], [sample] * 3).tolist() == [1, 1, 0]
    dialogue = Sample("d", (), (Turn("a?", "first"), Turn("b?", "second")))
    assert vqa.score(["first", "second"], [dialogue] * 2).tolist() == [0, 1]


def test_an_empty_answer_is_never_right():
    with pytest.raises(ValueError, match="'s/count' has no accepted answer"):
        vqa.score([""], [ask("s", "count", "。")])
    assert vqa.score([""], [ask("s", "count", "", references=("2", "?"))]).tolist() == [0]


def test_vqa_accuracy_weighs_each_type_once():
    samples = [ask("s", "count", "2")] * 4 + [ask("s", "category", "cat")]
    assert vqa.vqa_accuracy([1, 1, 1, 0, 0], samples) == pytest.approx(0.375)
    assert vqa.accuracy_by_type([1, 1, 1, 0, 0], samples) == {"category": 0.0, "count": 0.75}


def test_vqa_accuracy_wants_the_fixed_list_of_types():
    samples = [ask("s", "count", "2")] * 2
    with pytest.raises(ValueError, match=r"too few questions of \{'background': 0\}"):
        vqa.vqa_accuracy([1, 1], samples, types=["count", "background"])
    with pytest.raises(ValueError, match=r"\['count'\] are not in the fixed list"):
        vqa.vqa_accuracy([1, 1], samples, types=["background"])
    with pytest.raises(ValueError, match="at least 200"):
        vqa.vqa_accuracy([1, 1], samples, minimum=200)


def test_majority_is_counted_for_each_type_and_language_after_normalisation():
    training = [ask("a", "count", x) for x in ("3", "Two", "2", "3.")] + [ask("a", "category", "A dog")]
    training += [ask("a", "count", x, "zh") for x in ("三", "3", "二")]
    answers = vqa.majority_answers(training)
    assert answers == {
        ("count", "en"): "2",
        ("category", "en"): "dog",
        ("count", "zh"): "3",
    }  # 2 ties 3
    questions = [ask("b", "count", "1", "zh"), ask("b", "category", "cat"), ask("c", "category", "dog")]
    assert vqa.majority_predictions(answers, questions) == ["3", "dog", "dog"]
    assert vqa.score(vqa.majority_predictions(answers, questions), questions).tolist() == [0, 0, 1]


def test_majority_names_a_type_that_training_lacks():
    with pytest.raises(ValueError, match=r"\('background', 'en'\)"):
        vqa.majority_predictions({("count", "en"): "2"}, [ask("a", "background", "sea")])


def test_wrong_images_are_another_scene_for_every_question():
    samples = [
        ask(f"s{i}", kind, "2", language) for i in range(9) for kind in "ab" for language in ("en", "zh")
    ]
    samples.append(ask("", "a", "2"))
    swapped = vqa.with_wrong_images(samples, seed=5)
    trade = {s.images: w.images for s, w in zip(samples, swapped, strict=True)}
    assert all(w.images == trade[s.images] for s, w in zip(samples, swapped, strict=True)), (
        "one wrong scene each"
    )
    assert all(right != wrong for right, wrong in trade.items() if right)
    assert len(set(trade.values())) == 10, "every scene is used once"
    assert trade[()] == (), "text-only rows stay"
    assert [s.turns for s in swapped] == [s.turns for s in samples]
    assert swapped == vqa.with_wrong_images(samples, seed=5)
    assert swapped != vqa.with_wrong_images(samples, seed=6)


def test_wrong_images_keep_the_number_of_pictures_and_need_a_partner():
    two = [Sample(str(i), (f"{i}a", f"{i}b"), (Turn("?", "x"),)) for i in range(3)]
    one = [Sample(f"o{i}", (f"{i}",), (Turn("?", "x"),), boxes=((0, 0, 1, 1),)) for i in range(2)]
    swapped = vqa.with_wrong_images(two + one)
    assert [len(sample.images) for sample in swapped] == [2, 2, 2, 1, 1]
    assert swapped[3].images == ("1",)
    assert swapped[3].boxes == ()
    with pytest.raises(ValueError, match="only one scene of 1 picture"):
        vqa.with_wrong_images(two + one[:1])


def test_table_rows_split_languages():
    samples = [ask("a", "count", "2"), ask("b", "count", "2"), ask("a", "count", "2", "zh")]
    rows = vqa.table_rows({"Chat": [1, 0, 1], "majority": [0, 0, 0]}, samples)
    found = [(row["model"], row["language"], row["accuracy"], row["questions"]) for row in rows]
    assert found == [
        ("Chat", "en", 0.5, 2),
        ("Chat", "zh", 1.0, 1),
        ("majority", "en", 0, 2),
        ("majority", "zh", 0, 1),
    ]
    assert rows[0]["low"] == 0.0
    assert rows[0]["high"] == 1.0
    assert rows[0]["count"] == 0.5


def test_unequal_lengths_are_named():
    with pytest.raises(ValueError, match="1 predictions for 0 samples"):
        vqa.score(["x"], [])
    with pytest.raises(ValueError, match="Chat: 1 scores for 2 samples"):
        vqa.table_rows({"Chat": [1]}, [ask("a", "count", "2")] * 2)
