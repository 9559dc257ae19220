"""Sentences stand side by side in both languages, and English ones are recognised and said in Chinese."""

import re

import numpy as np
import pytest

from zvl.data import moji, phrasebook, questions, wordings

LATIN = re.compile("[A-Za-z](?!恤)")  # T恤 is Chinese
SLOT = re.compile(r"\{(\w+)\}")


@pytest.mark.parametrize("kind", phrasebook.sentences())
def test_both_languages_say_the_same(kind):
    both = phrasebook.sentences()[kind]
    assert set(both) == {"en", "zh"} and len(both["en"]) == len(both["zh"])
    for english, chinese in zip(both["en"], both["zh"], strict=True):
        slots = {
            name.lower().removeprefix("the_") for name in SLOT.findall(english) if not name.startswith("is_")
        }
        assert slots >= set(SLOT.findall(chinese)), "Chinese says what English does not"
        assert not re.search("[a-z]", SLOT.sub("", chinese)), "a Chinese sentence with English in it"


def test_every_question_of_the_world_is_translated():
    rng = np.random.default_rng()
    scenes = moji.scenes(60, "train", int(rng.integers(1000)), min_pieces=2)
    for scene in scenes:
        for asked in questions.questions(
            scene, "en", str(rng.choice(["train", "test"])), rng, questions.QUESTION_TYPES
        ):
            told = phrasebook.translate(asked.question)
            assert not LATIN.search(told), (asked.question, told)
            said = phrasebook.translate(asked.answer)
            assert not LATIN.search(said) or asked.kind == "read", (asked.answer, said)


def test_every_caption_of_the_world_is_translated_with_its_names():
    rng = np.random.default_rng()
    for scene in moji.scenes(60, "train", int(rng.integers(1000))):
        for split in ("train", "test"):
            for number in range(5):
                english = wordings.caption(scene, "en", split, number, rng)
                told = phrasebook.translate(english)
                assert all(piece.thing.names["zh"] in told for piece in scene.pieces), (english, told)


def test_what_the_phrasebook_does_not_have_stays_as_it_is():
    assert (
        phrasebook.translate("Colourless green ideas sleep furiously.")
        == "Colourless green ideas sleep furiously."
    )
    assert phrasebook.translate("Hello there. What do you see here?") == "Hello there.你看到了什么？"


def test_the_longest_name_counts():
    assert "热狗" in phrasebook.translate("I see a hot dog and a tiger.")


def test_numbers_are_words_up_to_twelve():
    assert [phrasebook.count_word(n, "en") for n in (2, 12, 13)] == ["two", "twelve", "13"]
    assert [phrasebook.count_word(n, "zh") for n in (2, 12, 13)] == ["两个", "十二个", "13个"]
