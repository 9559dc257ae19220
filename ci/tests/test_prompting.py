"""System messages and the fifty examples: true to their scenes, natural to read, and never the answer itself."""

import functools
import itertools
import json
import re
from collections import Counter

import numpy as np
import pytest
import yaml

from zvl.data import filters, moji, prompting, translation
from zvl.data.boxes import boxes_in
from zvl.data.samples import LANGUAGES, Turn
from zvl.data.symbols import HEADINGS, Symbols, Thing, parse_symbols, symbols_text
from zvl.data.teacher import Dialogue
from zvl.data.wordings import COLOURS, GROUP_PLURALS

COUNTS = {
    "conversation": 12, "detail": 8, "reasoning": 10, "translation": 6,
    "deepening": 4, "concretizing": 4, "increasing_reasoning": 3, "adding_constraints": 3,
}  # fmt: skip
ROWS = yaml.safe_load((prompting.PROMPTS / "examples.yaml").read_text("utf8"))
BY_ID = {row["id"]: row for row in ROWS}
EVERY = [one for kind in COUNTS for language in LANGUAGES for one in prompting.examples(kind, language)]
ON_SCENES = [one for one in EVERY if one.kind != "translation"]
TRANSLATIONS = prompting.examples("translation", "zh")

LEAKS = {
    "en": r"\b(captions?|box(es)?|bounding|coordinates?|annotat\w+|notes?|symbols?|thousandths?)\b"
    r"|\bdescriptions? (says?|mentions?)",
    "zh": r"框|坐标|标注|记录|图注|字幕|根据描述|描述(中|里|说|提到)|千分之",
}
DENIALS = {"en": r"\bno\b(?!,)", "zh": "没有|看不到"}
NUMBERS = {"en": ("one", "two", "three", "four", "five"), "zh": ("一", "两", "三", "四", "五")}


def name_of(one):
    return f"{one.id}-{one.language}"


def scene_of(one):
    seed, index = one.scene
    return scenes(seed)[index]


@functools.cache
def scenes(seed):
    """The scenes of training that the examples of this seed can stand on."""
    count = 1 + max(one.scene[1] for one in EVERY if one.scene[0] == seed)
    return moji.scenes(count, "train", seed, framed=0, signs=0, hold_out_concepts=False)


def symbols_of(scene, language):
    things = tuple(Thing(piece.thing.names[language], piece.box) for piece in scene.pieces)
    return Symbols("", "", 96, 96, (), things, language)


def written_in(one):
    """The language of an example's turns: a translation is Chinese whatever its system message is."""
    return "zh" if one.kind == "translation" else one.language


def original(one):
    """The dialogue that a rewriting or a translation begins with, none for other kinds."""
    text = one.query if one.kind == "translation" else one.query.partition("\n\n")[2]
    return [Turn(**turn) for turn in json.loads(text)["turns"]] if text else []


def named(text, language):
    """The concepts that a text names, the longest name first where one holds another (a horse in a zebra: 斑马)."""
    by_name, pattern = names_in(language)
    return [by_name[found] for found in pattern.findall(text.lower())]


@functools.cache
def names_in(language):
    by_name = {concept.names[language].lower(): concept for concept in moji.concepts()}
    names = "|".join(re.escape(name) for name in sorted(by_name, key=len, reverse=True))
    return by_name, re.compile(rf"\b({names})(?:e?s)?\b" if language == "en" else f"({names})")


def claimed_but_absent(text, scene, language):
    """The concepts that a text speaks of as if they were in the scene, and are not. A sentence may deny them."""
    present = {piece.concept for piece in scene.pieces}
    return [
        concept.names[language]
        for sentence in re.split(r"[.!?;。！？；\n]", text)
        if not re.search(DENIALS[language], sentence.lower())
        for concept in named(sentence, language)
        if concept.id not in present
    ]


def outermost(scene, axis, sign):
    order = sorted(scene.pieces, key=lambda piece: sign * getattr(piece, axis))
    apart = len(order) == 1 or abs(getattr(order[0], axis) - getattr(order[1], axis)) >= moji.CLEAR
    return order[0] if apart else None


def holds(fact, scene):
    """Whether a fact of examples.yaml is true of a scene. Raises KeyError for a thing that it does not show."""
    pieces = {piece.thing.names["en"]: piece for piece in scene.pieces}
    if found := re.fullmatch(r"(\d) things", fact):
        return len(pieces) == int(found[1])
    if found := re.fullmatch(r"(\d) of (\w+)", fact):
        assert found[2] in GROUP_PLURALS["en"]
        return sum(piece.thing.group == found[2] for piece in pieces.values()) == int(found[1])
    if found := re.fullmatch(r"(.+) (left of|right of|above|below|bigger than|as big as) (.+)", fact):
        one, other = pieces[found[1]], pieces[found[3]]
        return {
            "left of": other.centre - one.centre >= moji.CLEAR,
            "right of": one.centre - other.centre >= moji.CLEAR,
            "above": other.middle - one.middle >= moji.CLEAR,
            "below": one.middle - other.middle >= moji.CLEAR,
            "bigger than": one.side - other.side >= 4,
            "as big as": one.side == other.side,
        }[found[2]]
    thing, _, word = fact.partition(" is ")
    piece = pieces[thing]
    return {
        "left": piece.place < 2, "middle": piece.place == 2, "right": piece.place > 2,
        "high": piece.height == 0, "halfway": piece.height == 1, "low": piece.height == 2,
        "leftmost": piece == outermost(scene, "centre", 1), "rightmost": piece == outermost(scene, "centre", -1),
        "highest": piece == outermost(scene, "middle", 1), "lowest": piece == outermost(scene, "middle", -1),
        "small": piece.size == "small", "big": piece.size == "big",
    }[word]  # fmt: skip


def test_there_are_fifty_examples_of_the_agreed_kinds_on_fifty_scenes():
    assert len(ROWS) == len(BY_ID) == 50
    assert Counter(row["kind"] for row in ROWS) == COUNTS
    assert set(COUNTS) == set(prompting.ALL_KINDS)
    assert len({tuple(row["scene"]) for row in ROWS}) == 50
    for kind, language in itertools.product(COUNTS, LANGUAGES):
        assert len(prompting.examples(kind, language)) == COUNTS[kind]


@pytest.mark.parametrize("one", ON_SCENES, ids=name_of)
def test_the_query_shows_the_boxes_of_its_scene_and_names_of_the_moji_world(one):
    scene, told = scene_of(one), one.query.partition("\n\n")[0]
    assert parse_symbols(one.query).language == one.language
    heading = HEADINGS[one.language][1]
    wanted = symbols_text(symbols_of(scene, one.language))
    assert told.partition(heading)[2] == wanted.partition(heading)[2]
    for text in parse_symbols(one.query).captions:
        assert {concept.id for concept in named(text, one.language)} == {
            piece.concept for piece in scene.pieces
        }
        ground = COLOURS[one.language][scene.background]
        assert set(grounds(text, one.language)) <= {ground}
    assert one.kind in prompting.KINDS or original(one), "a rewriting needs something to rewrite"


def grounds(text, language):
    """The colours that a text gives to the background."""
    colours = "|".join(COLOURS[language].values())
    pattern = (
        rf"\b({colours})\b (?=background)"
        if language == "en"
        else f"({colours})(?=的?背景)|(?<=背景是)({colours})"
    )
    return [found[0].strip() for found in re.finditer(pattern, text)]


@pytest.mark.parametrize("one", EVERY, ids=name_of)
def test_the_answers_are_dialogues_that_speak_as_one_who_sees_the_picture(one):
    read = Dialogue.model_validate_json(prompting.dialogue_text(one.turns))
    assert [(turn.instruction, turn.response) for turn in read.turns] == [
        (turn.instruction, turn.response) for turn in one.turns
    ]
    for turn in (*one.turns, *original(one)):
        for text in (turn.instruction, turn.response):
            for language in LANGUAGES:
                assert not re.search(LEAKS[language], text, re.IGNORECASE), text
            assert one.kind == "translation" or not re.search(r"\d{2,3}\s*,\s*\d", text), "places in figures"


@pytest.mark.parametrize("one", EVERY, ids=name_of)
def test_every_text_is_in_its_language(one):
    for turn in one.turns:
        for text in (turn.instruction, turn.response):
            if written_in(one) == "en":
                assert not re.search(r"[一-鿿，。！？：；、]", text), text
            else:
                assert not re.sub(r"<image>|JSON|T恤", "", text).isascii(), text
                assert not re.search(r"[A-Za-z]{2,}", re.sub(r"<image>|JSON", "", text)), text
                assert not re.search(r"(?<=[一-鿿])[,.!?;:]", text), f"Western punctuation: {text}"


@pytest.mark.parametrize("one", EVERY, ids=name_of)
def test_no_answer_claims_a_thing_that_the_scene_does_not_show(one):
    scene = scene_of(one)
    for turn in one.turns:
        assert not claimed_but_absent(turn.response, scene, written_in(one)), turn.response
    for turn in original(one):
        language = "en" if one.kind == "translation" else one.language
        assert not claimed_but_absent(turn.response, scene, language), turn.response


@pytest.mark.parametrize("one", EVERY, ids=name_of)
def test_what_an_example_declares_is_said_and_true(one):
    scene, language = scene_of(one), written_in(one)
    said = " ".join(f"{turn.instruction} {turn.response}" for turn in one.turns)
    shown = {piece.thing.names["en"]: piece.thing for piece in scene.pieces}
    facts = BY_ID[one.id]["facts"]
    assert facts
    for fact in facts:
        assert holds(fact, scene), fact
        for name, concept in shown.items():
            if re.search(rf"\b{name}\b", fact):
                assert concept in named(said, language), f"{fact}: {name} is not named"
        count = re.match(r"(\d) ", fact)
        if count and int(count[1]) > 1:
            number = NUMBERS[language][int(count[1]) - 1]
            assert re.search(number if language == "zh" else rf"(?i)\b{number}\b", said), fact
    assert set(grounds(said, language)) <= {COLOURS[language][scene.background]}


@pytest.mark.parametrize("one", [one for one in EVERY if one.kind == "detail"], ids=name_of)
def test_a_detailed_description_names_everything_and_the_background(one):
    scene, (turn,) = scene_of(one), one.turns
    assert {concept.id for concept in named(turn.response, one.language)} == {p.concept for p in scene.pieces}
    colour = COLOURS[one.language][scene.background]
    assert colour in turn.response


@pytest.mark.parametrize("one", ON_SCENES, ids=name_of)
def test_the_detector_keeps_what_the_teacher_is_shown_as_good(one):
    assert not filters.detect(one.turns, parse_symbols(one.query), one.language)


def test_a_fact_turned_round_is_found_false():
    """The checker of facts is not lenient: on fresh scenes, of two opposite facts at most one holds."""
    checked = 0
    for scene in moji.scenes(60, "train", seed=77, min_pieces=2):
        one, other = (piece.thing.names["en"] for piece in scene.pieces[:2])
        for word in ("left of", "above", "bigger than"):
            assert not (holds(f"{one} {word} {other}", scene) and holds(f"{other} {word} {one}", scene))
            checked += holds(f"{one} {word} {other}", scene)
        assert not holds(f"{len(scene.pieces) - 1} things", scene)
        assert not (holds(f"{one} is big", scene) and holds(f"{one} is small", scene))
    assert checked > 30
    with pytest.raises(KeyError):
        holds("cow above moon", scene)


@pytest.mark.parametrize("one", [one for one in EVERY if one.kind in prompting.REWRITINGS], ids=name_of)
def test_a_rewriting_changes_every_turn_and_keeps_their_number(one):
    before = original(one)
    assert 0 <= len(one.turns) - len(before) <= (one.kind == "deepening")
    for old, new in zip(before, one.turns, strict=False):
        assert old.instruction != new.instruction
    assert sum(len(turn.instruction) for turn in one.turns) > sum(len(turn.instruction) for turn in before)


@pytest.mark.parametrize("one", TRANSLATIONS, ids=name_of)
def test_a_translation_keeps_turns_figures_boxes_and_placeholders(one):
    before = original(one)
    assert len(before) == len(one.turns)
    for old, new in zip(before, one.turns, strict=True):
        for a, b in ((old.instruction, new.instruction), (old.response, new.response)):
            assert Counter(re.findall(r"\d+", a)) == Counter(re.findall(r"\d+", b))
            assert boxes_in(a, 96, 96) == boxes_in(b, 96, 96)
            assert re.findall(r"<\w+>", a) == re.findall(r"<\w+>", b)
            assert a != b
    assert not translation.check_dialogue(before, one.turns)


def test_translations_show_boxes_figures_and_a_second_picture():
    told = [" ".join(turn.instruction + turn.response for turn in original(one)) for one in TRANSLATIONS]
    assert any(boxes_in(text, 96, 96) for text in told)
    assert any(text.count("<image>") == 2 for text in told)
    assert any(re.search(r"\b\d\b", text) for text in told)


def test_the_boxes_of_a_translation_are_those_of_its_scene():
    for one in TRANSLATIONS:
        scene = scene_of(one)
        shown = set(re.findall(r"\(\d+,\d+\),\(\d+,\d+\)", symbols_text(symbols_of(scene, "en"))))
        assert set(re.findall(r"\(\d+,\d+\),\(\d+,\d+\)", one.query)) <= shown


# --- system messages ---


@pytest.mark.parametrize("kind, language", itertools.product(COUNTS, LANGUAGES))
def test_a_system_message_says_what_comes_in_and_what_goes_out(kind, language):
    text = prompting.system_message(kind, language)
    assert '{"turns": [{"instruction": "...", "response": "..."}]}' in text
    assert "JSON" in text
    if kind == "translation":
        assert "<image>" in text and boxes_in(text, 96, 96)
    else:
        for heading in HEADINGS[language]:
            assert heading in text
    chinese = len(re.findall(r"[一-鿿]", text))
    assert chinese > 200 if language == "zh" else chinese < 10
    assert len(text) > (300 if language == "zh" else 1000)


def test_the_system_messages_are_sixteen_and_differ():
    keys = list(itertools.product(COUNTS, LANGUAGES))
    assert len({prompting.system_message(*key) for key in keys}) == 16
    files = {path.relative_to(prompting.PROMPTS).as_posix() for path in prompting.PROMPTS.rglob("*.txt")}
    assert files == {f"{language}/{kind}.txt" for kind, language in keys}


@pytest.mark.parametrize("kind, language", itertools.product(COUNTS, LANGUAGES))
def test_a_request_tells_its_kind_by_its_system_message(kind, language):
    rng = np.random.default_rng(5)
    told = prompting.messages(kind, language, f"query {rng.integers(1000)}", seed=int(rng.integers(1000)))
    assert prompting.kind_of(told) == (kind, language)
    for strange in (told[1:], (), ({"role": "system", "content": told[0]["content"] + " Now!"}, *told[1:])):
        with pytest.raises(ValueError, match="conversation, detail, reasoning"):
            prompting.kind_of(strange)


@pytest.mark.parametrize("call", [prompting.system_message, prompting.examples,
                                  lambda kind, language: prompting.messages(kind, language, "x", 0)])  # fmt: skip
def test_an_unknown_kind_or_language_is_named_with_those_allowed(call):
    with pytest.raises(ValueError, match=r"'poem' is not one of conversation, detail, .*adding_constraints"):
        call("poem", "en")
    with pytest.raises(ValueError, match="'fr' is not one of en, zh"):
        call("detail", "fr")
    with pytest.raises(ValueError, match="is not one of"):
        call("../../secrets", "en")


# --- the in-context function ---


@pytest.mark.parametrize("kind, language", itertools.product(COUNTS, LANGUAGES))
def test_a_request_is_system_message_then_three_examples_of_the_kind_then_the_query(kind, language):
    told = prompting.messages(kind, language, "the query", seed=3)
    roles = [message["role"] for message in told]
    assert roles == ["system", *["user", "assistant"] * 3, "user"]
    assert told[0]["content"] == prompting.system_message(kind, language)
    assert told[-1] == {"role": "user", "content": "the query"}
    known = {one.query: prompting.dialogue_text(one.turns) for one in prompting.examples(kind, language)}
    shown = [(told[i]["content"], told[i + 1]["content"]) for i in (1, 3, 5)]
    assert len(set(shown)) == 3
    for query, answer in shown:
        assert known[query] == answer
        assert "\\u" not in answer, "Chinese must be readable"


def test_examples_are_drawn_by_the_seed_and_all_get_their_turn():
    drawn = [prompting.messages("conversation", "zh", "q", seed) for seed in range(60)]
    assert drawn == [prompting.messages("conversation", "zh", "q", seed) for seed in range(60)]
    seen = {told[i]["content"] for told in drawn for i in (1, 3, 5)}
    assert seen == {one.query for one in prompting.examples("conversation", "zh")}


@pytest.mark.parametrize("one", EVERY, ids=name_of)
def test_a_query_is_never_given_its_own_answer(one):
    # The same JSON as others would write it.
    spaced = one.query.replace('": "', '":"').replace('}, {"', '},{"') + "\n"
    for query, seed in itertools.product((one.query, spaced), range(6)):
        told = prompting.messages(one.kind, one.language, query, seed)
        assert prompting.dialogue_text(one.turns) not in [message["content"] for message in told]
        assert len(told) == 2 + 2 * min(3, COUNTS[one.kind] - 1)


def test_the_files_are_read_once(monkeypatch):
    prompting.messages("detail", "en", "q", 0)
    monkeypatch.setattr(prompting, "PROMPTS", prompting.PROMPTS / "gone")
    assert prompting.messages("detail", "en", "q", 0)
