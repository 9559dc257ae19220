"""Sentences about scenes: other wordings in the test split, five captions, one right answer a question."""

import re
from collections import Counter
from itertools import product
from string import Formatter

import numpy as np
import pytest

from zvl.data import moji, questions, wordings
from zvl.data.samples import LANGUAGES

KINDS = sorted({kind for kind, _, _ in wordings.QUESTIONS})


@pytest.fixture(scope="module")
def many():
    """400 training scenes, which need not be drawn to be talked about."""
    return moji.scenes(400, "train", seed=11)


@pytest.fixture(scope="module")
def asked(many):
    rng = np.random.default_rng(0)
    return {
        language: [q for scene in many for q in questions.questions(scene, language, "train", rng)]
        for language in LANGUAGES
    }


def fields(wording):
    return {name for _, name, _, _ in Formatter().parse(wording) if name}


@pytest.mark.parametrize("language", LANGUAGES)
def test_test_wordings_are_kept_out_of_training(language):
    for table in (wordings.CAPTIONS, wordings.DESCRIBE):
        assert not set(table[language, "train"]) & set(table[language, "test"])
    for kind in KINDS:
        train, test = (wordings.QUESTIONS[kind, language, split] for split in ("train", "test"))
        assert len(set(train)) == len(train) >= 5 and len(set(test)) == len(test) >= 3
        assert not set(train) & set(test)


def test_no_sentence_of_the_test_split_is_ever_asked_in_training(many, asked):
    rng = np.random.default_rng(1)
    for language in LANGUAGES:
        train = {q.question for q in asked[language]}
        scenes = moji.scenes(150, "test", seed=11, min_pieces=2)
        test = {q.question for s in scenes for q in questions.questions(s, language, "test", rng)}
        assert test and not train & test


@pytest.mark.parametrize(("kind", "language"), product(KINDS, LANGUAGES))
def test_all_wordings_of_a_question_need_the_same_things(kind, language):
    wanted = fields(wordings.QUESTIONS[kind, "en", "train"][0])
    for split in ("train", "test"):
        assert all(fields(wording) == wanted for wording in wordings.QUESTIONS[kind, language, split])


def test_every_kind_of_question_has_wordings():
    assert set(questions.QUESTION_TYPES) - {"false_premise"} | set(questions.FOLLOW_UPS) <= set(KINDS)


def test_all_captions_name_the_things_and_five_differ():
    for wordings_of in wordings.CAPTIONS.values():
        assert len(set(wordings_of)) == 5
        assert all("things" in fields(wording) for wording in wordings_of)


@pytest.mark.parametrize("split", ["train", "test"])
def test_sentences_are_whole_and_in_their_language(many, split):
    rng = np.random.default_rng(2)
    for scene in many[:60]:
        for language in LANGUAGES:
            said = [wordings.caption(scene, language, split, k, rng) for k in range(5)]
            said += [wordings.description(scene, language), *wordings.phrases(scene, language)]
            for question in questions.questions(scene, language, split, rng):
                said += [question.question, question.answer]
            for text in said:
                if text in moji.SIGN_WORDS:
                    continue
                assert text == text.strip() and not re.search(r"[{}]|  ", text), text
                text = re.sub('"[^"]+"|“[^”]+”', "", text)  # what a sign says is in either language
                if language == "en":
                    assert text.replace("’", "").isascii(), text
                else:
                    assert re.search("[\u4e00-\u9fff]", text.replace("T恤", "衫")), text
                    assert not re.search("[a-zA-Z]", text.replace("T恤", "")), text


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_name_all_things_and_only_those(many, language):
    rng = np.random.default_rng(3)
    for scene in many[:40]:
        names = [piece.word or piece.thing.names[language] for piece in scene.pieces]
        for wording in range(5):
            text = wordings.caption(scene, language, "train", wording, rng)
            assert all(name in text for name in names)
            assert text.count("、" if language == "zh" else ", ") == max(len(names) - 2, 0)


def test_a_swapped_caption_differs_in_one_name(many):
    scene = next(s for s in many if len(s.pieces) == 3 and s.pieces[0].word is None)
    out, present = scene.pieces[0].concept, {piece.concept for piece in scene.pieces}
    other = next(concept for concept in moji.concepts() if concept.id not in present)
    right, wrong = (
        wordings.caption(scene, "zh", "test", 0, np.random.default_rng(5), replace)
        for replace in (None, {out: other.id})
    )
    assert wrong == right.replace(moji.concepts()[out].names["zh"], other.names["zh"]) != right


def test_english_uses_articles_as_a_person_does():
    said = {concept.names["en"]: wordings.indefinite(concept, "en") for concept in moji.concepts()}
    assert wordings.framed("a cat", "blue", "en") == "a cat in a blue frame"
    orange = moji.Scene("x", "orange", 0, (moji.Piece(7, "openmoji", 6, 12, 24),))
    told = [
        wordings.caption(orange, "en", split, number, np.random.default_rng())
        for split in ("train", "test")
        for number in range(5)
    ]
    assert sum("an orange" in text for text in told) == 2 and not any("a orange" in text for text in told)
    assert said["ant"] == "an ant" and said["dolphin"] == "a dolphin" and said["grapes"] == "grapes"
    assert wordings.BARE <= said.keys(), "a name without article that no concept has"
    plurals = {name for name in said if name.endswith("s") and not name.endswith("ss")}
    assert plurals - wordings.BARE <= {"bus", "octopus", "cactus"}
    assert wordings.listing(["a", "b", "c"], "en") == "a, b and c"
    assert wordings.listing(["狗", "猫", "鱼"], "zh") == "狗、猫和鱼"


@pytest.mark.parametrize("language", LANGUAGES)
def test_yes_and_no_and_left_and_right_are_even(asked, language):
    for kind, words in (("existence", wordings.YES_NO), ("left_right", wordings.SIDES)):
        answers = Counter(q.answer for q in asked[language] if q.kind == kind)
        assert set(answers) == set(words[language])
        total = answers.total()
        assert abs(answers[words[language][0]] / total - 0.5) < 2.3 / total**0.5, answers


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("kind", "most"), [("count", 0.27), ("background", 0.19), ("category", 0.06), ("leftmost", 0.2)]
)
def test_no_answer_is_a_good_guess(asked, language, kind, most):
    answers = Counter(q.answer for q in asked[language] if q.kind == kind)
    assert max(answers.values()) / answers.total() < most, answers.most_common(3)


def test_every_scene_is_asked_whether_how_many_and_what_colour(many):
    rng = np.random.default_rng(4)
    for scene in many[:80]:
        kinds = [q.kind for q in questions.questions(scene, "en", "train", rng)]
        assert {"existence", "count", "background"} <= set(kinds) and len(kinds) == len(set(kinds))
        assert len(scene.pieces) > 1 or not {"left_right", "leftmost"} & set(kinds)


def test_both_languages_give_the_same_answer_to_what_the_scene_alone_decides(many):
    english = {concept.names["zh"]: concept.names["en"] for concept in (*moji.concepts(), moji.SIGN)}
    english |= {wordings.COLOURS["zh"][name]: name for name in moji.BACKGROUNDS}
    english |= dict(zip(wordings.NUMBERS["zh"], wordings.NUMBERS["en"], strict=True))
    rng, kinds = np.random.default_rng(6), ("count", "background", "leftmost")
    for scene in many[:80]:
        en, zh = (questions.questions(scene, language, "train", rng, kinds) for language in LANGUAGES)
        assert [(q.kind, q.answer) for q in en] == [(q.kind, english[q.answer]) for q in zh]


def test_an_unknown_question_type_is_named(many):
    with pytest.raises(ValueError, match=r"'colour' is not one of existence, count"):
        questions.questions(many[0], "en", "train", np.random.default_rng(0), ("colour",))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_description_holds_every_fact(many, language):
    for scene in many[:40]:
        text = wordings.description(scene, language)
        ground, number, *things = wordings.phrases(scene, language)
        assert all(fact in text for fact in (ground, number, *things))
        order = [text.index(things[scene.pieces.index(piece)]) for piece in scene.left_to_right()]
        assert order == sorted(order), "things come from left to right"
