"""The symbolic teacher writes what its symbols say, errs as often as it says, and always in the same way."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from zvl.data import moji, phrasebook, prompting, scene_talk, wordings
from zvl.data.mistakes import FAULTS
from zvl.data.symbolic_teacher import SymbolicTeacher
from zvl.data.symbols import Symbols, Thing, parse_symbols, symbols_text

SEED = int(np.random.default_rng().integers(10_000))
LATIN, HAN = re.compile("[A-Za-z](?!恤)"), re.compile("[一-鿿]")  # T恤 is Chinese


def symbols(scene, language, rng):
    captions = tuple(wordings.caption(scene, language, "train", k, rng) for k in range(5))
    things = tuple(Thing(piece.thing.names[language], piece.box) for piece in scene.pieces)
    return Symbols(scene.id, "x.png", 96, 96, captions, things, language)


@pytest.fixture(scope="module")
def told():
    """(symbols, language) of some scenes in both languages."""
    rng = np.random.default_rng(SEED)
    scenes = moji.scenes(120, "train", SEED)
    return [symbols(scene, language, rng) for scene in scenes for language in ("en", "zh")]


def dialogue(teacher, kind, language, query):
    text = teacher.complete(prompting.messages(kind, language, query, seed=0)).text
    return [(turn["instruction"], turn["response"]) for turn in json.loads(text)["turns"]]


def query_of(kind, told, teacher):
    if kind in prompting.KINDS:
        return symbols_text(told)
    first = dialogue(teacher, "conversation", told.language, symbols_text(told))
    turns = [{"instruction": asked, "response": said} for asked, said in first]
    return symbols_text(told) + "\n\n" + json.dumps({"turns": turns}, ensure_ascii=False)


@pytest.mark.parametrize("kind", [*prompting.KINDS, *prompting.REWRITINGS])
def test_clean_answers_name_only_what_is_there_and_in_one_language(kind, told):
    teacher = SymbolicTeacher(SEED, mistakes=0)
    for found in told[:80]:
        turns = dialogue(teacher, kind, found.language, query_of(kind, found, teacher))
        text = " ".join(said for _, said in turns)
        assert not (HAN if found.language == "en" else LATIN).search(text), text
        if not re.search(r"\bno\b|not see|没有|不见", text):
            here = [thing.name for thing in found.things]
            for name in phrasebook.names(found.language, "en"):
                if re.search(rf"\bthe {name}\b" if found.language == "en" else f"^{name}$", text):
                    assert any(name in other for other in here), (name, text)


def test_answers_are_a_function_of_seed_and_query(told):
    query = symbols_text(told[0])
    answers = {seed: [dialogue(SymbolicTeacher(seed), "conversation", "en", query) for _ in range(2)]
               for seed in range(6)}  # fmt: skip
    assert all(first == second for first, second in answers.values())
    assert len({str(first) for first, _ in answers.values()}) > 1


def test_it_errs_as_often_as_it_says_and_in_every_way(told):
    teacher = SymbolicTeacher(SEED, mistakes=0.6)
    faults = Counter(
        teacher.planted(prompting.messages(kind, found.language, symbols_text(found), 0))
        for found in told for kind in prompting.KINDS
    )  # fmt: skip
    share = 1 - faults[None] / faults.total()
    assert abs(share - 0.6) < 5 * (0.24 / faults.total()) ** 0.5
    assert set(faults) == {None, *FAULTS}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_mistake_is_what_it_is_called(fault, told):
    rng = np.random.default_rng(SEED)
    for found in told[:60]:
        seen = scene_talk.view(parse_symbols(symbols_text(found)))
        clean = scene_talk.WRITERS["conversation"](seen, [], rng)
        wrong = FAULTS[fault](seen, clean, rng)
        assert wrong != clean
        changed = [(a, b) for a, b in zip(clean, wrong, strict=False) if a != b]
        if fault == "duplicate":
            assert wrong[-1] in wrong[:-1] and wrong[:-1] == clean
            continue
        (_, before), (_, after) = changed[0]
        assert len(changed) == 1
        if fault == "truncated":
            assert len(after) > 5 and not after.endswith((".", "。")) and changed == [(clean[-1], wrong[-1])]
        elif fault == "language":
            assert not (LATIN if found.language == "en" else HAN).search(after)
        elif fault == "absent":
            more = after.removeprefix(before)
            assert not any(thing.name == name for thing in found.things for name in [more])
            names = phrasebook.names(found.language, "en")
            assert any(name in more for name in set(names) - {thing.name for thing in found.things})
        elif fault == "leaked":
            assert after.lower().endswith(before.lower())


def test_right_and_left_follow_the_boxes(told):
    """Answers on sides, checked by someone who only has the boxes."""
    rng, checked = np.random.default_rng(SEED), 0
    for found in told:
        if found.language == "zh" or len(found.things) < 2:
            continue
        centres = {thing.name: thing.box[0] + thing.box[2] / 2 for thing in found.things}
        turn = scene_talk._related(scene_talk.view(found_in_thousandths(found)), rng)
        hit = turn and re.match(
            r"(?:one finds )?the (.+?)(?: is| are)? to the (left|right) of the (.+)\.$", turn[1].lower()
        )
        if hit:
            checked += 1
            assert (centres[hit[1]] < centres[hit[3]]) == (hit[2] == "left"), turn
    assert checked > 10


def found_in_thousandths(found):
    return parse_symbols(symbols_text(found))


def test_the_background_is_read_from_the_captions(told):
    colours = [scene_talk.view(found_in_thousandths(found)).colour for found in told]
    assert all(colours), "each scene has a caption that names its background"
    for found, colour in zip(told, colours, strict=True):
        assert any(colour in caption for caption in found.captions)


def test_its_translations_leave_no_english(told):
    teacher, left = SymbolicTeacher(SEED, mistakes=0), []
    for found in told[::2]:
        for kind in (*prompting.KINDS, *prompting.REWRITINGS):
            first = dialogue(teacher, kind, "en", query_of(kind, found, teacher))
            turns = [{"instruction": asked, "response": said} for asked, said in first]
            text = json.dumps({"turns": turns})
            after = dialogue(teacher, "translation", "zh", text)
            assert len(after) == len(first)
            left += [text for turn in after for text in turn if LATIN.search(text)]
    assert left == []


def test_a_request_to_repair_gives_the_dialogue_again(told):
    messages = prompting.messages("detail", "en", symbols_text(told[0]), 0)
    teacher = SymbolicTeacher(SEED)
    first = teacher.complete(messages).text
    again = [
        *messages,
        {"role": "assistant", "content": "oops"},
        {"role": "user", "content": "Answer again."},
    ]
    assert teacher.complete(again).text == first


def test_messages_without_symbols_are_refused():
    with pytest.raises(ValueError, match="no message holds symbols"):
        SymbolicTeacher().complete([
            {"role": "system", "content": prompting.system_message("detail", "en")},
            {"role": "user", "content": "Hello"},
        ])  # fmt: skip
