"""The rule-based detector, scored on planted faults whose phrases the rules have not seen."""

import functools
import random
import re

import numpy as np
import pytest
from fault_phrases import CLEAN, HALVES, PHRASES, aliases, half

from zvl.data import moji, questions
from zvl.data.claims import claims
from zvl.data.filters import RULES, detect, summarise
from zvl.data.lexicon import default_lexicon
from zvl.data.samples import LANGUAGES, Turn
from zvl.data.symbols import Symbols, Thing
from zvl.data.wordings import CAPTIONS, DESCRIBE, caption, description, indefinite

COUNT = 1000  # clean dialogues of each language
PLANTED = 300  # of each fault and language
LEAST = 0.95
SEED = 20261122


def symbols_of(scene, language, rng):
    captions = [caption(scene, language, split, k, rng) for split in ("train", "test")
                for k in range(len(CAPTIONS[language, split]))]  # fmt: skip
    chosen = tuple(captions[i] for i in rng.permutation(len(captions))[:5])
    things = tuple(Thing(piece.thing.names[language], piece.box) for piece in scene.pieces)
    return Symbols(scene.id, f"{scene.id}.png", moji.SCENE_SIZE, moji.SCENE_SIZE, chosen, things, language)


@functools.cache
def clean_dialogues(language, count=COUNT, seed=SEED):
    """[(scene, symbols, turns)]: dialogues about one picture each, in all forms that Moji has."""
    rng = np.random.default_rng([seed, LANGUAGES.index(language)])
    scenes = moji.scenes(count, "train", seed, 1, framed=0.4, signs=0.3)
    found = []
    for number, scene in enumerate(scenes):
        split = ("train", "test")[number % 2]
        _, turns = questions.dialogue(scenes, number, (0, 1, 4, 5)[number // 2 % 4], language, split, rng)
        turns = [Turn(asked.question, asked.answer) for _, asked in turns]
        if number % 3 == 0:
            wordings = DESCRIBE[language, "test" if split == "train" else "train"]
            turns.append(Turn(wordings[rng.integers(len(wordings))], description(scene, language, rng)))
        found.append((scene, symbols_of(scene, language, rng), tuple(turns)))
    return found


def hard_cases(language, which):
    """[(symbols, turns)] of the clean list: dialogues that look wrong."""
    found = []
    for line in CLEAN[language]:
        if half(line) == which:
            things, instruction, response = (part.strip() for part in line.split("|"))
            names = tuple(Thing(name, (0, 0, 100, 100)) for name in things.split("; "))
            symbols = Symbols("", "", 1000, 1000, (), names, language)
            found.append((symbols, (Turn(instruction, response.replace("\\n", "\n")),)))
    return found


def no_box(rnd):
    """A box as a teacher writes a wrong one."""
    a, b, c, d = (rnd.randrange(20, 480) for _ in range(4))
    return rnd.choice((
        f"({a},{b}),({a + c + 500},{1000 + d})", f"({500 + a},{b}),({a},{b + d})", f"({a},{500 + b}),({a + c},{b})",
        f"({a},{b}),({a},{b + d})", f"(-{a},{b}),({c + 480},{b + d})", f"(0.{a},0.{b}),(0.9,0.95)",
        f"[{a}, {b}, {a + 1000}, {b + d}]", f"({a}, {b}), ({a + c}, 1000)",
    ))  # fmt: skip


def plant(fault, language, which, sample, rnd):
    """The turns with one fault somewhere, its phrase from one half of the list."""
    scene, symbols, turns = sample
    phrase = rnd.choice([phrase for phrase in PHRASES[fault, language] if half(phrase) == which])
    turns, at = list(turns), rnd.randrange(len(turns))
    if fault == "empty":
        turns[at] = (
            Turn(turns[at].instruction, phrase) if rnd.random() < 0.5 else Turn(phrase, turns[at].response)
        )
        return tuple(turns)
    pieces = [piece for piece in scene.pieces if piece.word is None]
    piece = rnd.choice(pieces or list(scene.pieces))
    lexicon, present = default_lexicon(), lexicon_held(symbols)
    while True:
        absent = rnd.choice(moji.concepts())
        others = [
            name for key, name in aliases(language) if key == absent.names["en"] and half(name) == which
        ]
        name = rnd.choice([absent.names[language], *others])
        senses = {s for mention in lexicon.mentions(name, language) for s in mention.senses}
        if absent.names["en"] not in present and not senses & present:
            break
    thing = moji.Concept(absent.id, absent.char, absent.group, {language: name})
    long = [i for i, turn in enumerate(turns) if len(turn.response) > (60 if language == "en" else 30)]
    if fault == "truncated" and long and rnd.random() < 0.5:  # a long answer, cut anywhere beyond its middle
        at = rnd.choice(long)
        whole = turns[at].response
        cut = whole[: rnd.randrange(len(whole) // 2, len(whole) - 1)].rstrip()
        turns[at] = Turn(turns[at].instruction, cut)
        return tuple(turns)
    fields = {
        "name": piece.thing.names[language], "a": indefinite(piece.thing, language), "box": questions.box_of(piece),
        "absent": name, "an_absent": indefinite(thing, language) if not name.endswith("s") else name,
        "bad": no_box(rnd), "q": turns[at].instruction, "r": turns[at].response,
    }  # fmt: skip
    told = re.sub(r"\{(\w+)\}", lambda match: fields[match[1]], phrase)
    told = told[0].upper() + told[1:] if rnd.random() < 0.5 else told
    found = re.fullmatch(r"Q:(.*?) A:(.*)", told, re.DOTALL)
    neutral = {"en": "And what else can be said?", "zh": "还能说些什么？"}[language]
    turn = Turn(found[1].strip(), found[2].strip()) if found else Turn(neutral, told)
    turns.insert(at + 1 if fault == "duplicate" else rnd.randrange(len(turns) + 1), turn)
    return tuple(turns)


def lexicon_held(symbols):
    names = [thing.name for thing in symbols.things]
    return default_lexicon().held(names, symbols.captions, symbols.language)


@functools.cache
def verdicts(language, which):
    """[(planted fault or "", turns, what the detector says)] of clean dialogues, hard cases and planted ones."""
    rnd, samples = random.Random(f"{SEED}{language}{which}"), clean_dialogues(language)
    told = [("", turns, detect(turns, symbols, language)) for _, symbols, turns in samples]
    told += [("", turns, detect(turns, symbols, language)) for symbols, turns in hard_cases(language, which)]
    for fault in (fault for fault, lang in PHRASES if lang == language):
        for _ in range(PLANTED):
            sample = rnd.choice(samples)
            turns = plant(fault, language, which, sample, rnd)
            told.append((fault, turns, detect(turns, sample[1], language)))
    return told


def scores(language, which):
    """rule -> (precision, recall, planted)."""
    told, found = verdicts(language, which), {}
    for rule in (fault for fault, lang in PHRASES if lang == language):
        hits = [fault for fault, _, verdict in told if rule in verdict]
        planted = sum(fault == rule for fault, *_ in told)
        right = hits.count(rule)
        found[rule] = (right / max(len(hits), 1), right / planted, planted)
    return found


def table():
    lines = [f"{'rule':20}{'language':9}{'half':13}{'precision':>10}{'recall':>8}{'planted':>9}"]
    for language in LANGUAGES:
        for which in HALVES:
            for rule, (precision, recall, planted) in scores(language, which).items():
                lines.append(f"{rule:20}{language:9}{which:13}{precision:10.3f}{recall:8.3f}{planted:9d}")
            lost = [bool(verdict) for fault, _, verdict in verdicts(language, which) if not fault]
            lines.append(
                f"{'clean lost':20}{language:9}{which:13}{sum(lost) / len(lost):10.4f}{len(lost):17d}"
            )
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_each_fault_is_found_in_the_held_out_half_of_the_phrases(language):
    for rule, (precision, recall, _) in scores(language, "held_out").items():
        assert min(precision, recall) > LEAST, f"{rule} in {language!r}\n{table()}"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.slow
def test_at_most_one_percent_of_clean_dialogues_is_lost(language):
    told = verdicts(language, "held_out")
    lost = [(turns, verdict) for fault, turns, verdict in told if not fault and verdict]
    assert len(lost) <= 0.01 * sum(not fault for fault, *_ in told), lost
    hard = [verdict for verdict in (detect(turns, symbols, language)
            for which in HALVES for symbols, turns in hard_cases(language, which)) if verdict]  # fmt: skip
    assert len(hard) <= 0.05 * len(CLEAN[language]), hard


def test_other_names_of_a_thing_are_that_thing():
    for language in LANGUAGES:
        unknown = [
            (key, name)
            for key, name in aliases(language)
            if half(name) == "held_out"
            and not lexicon_held(_symbols((key,), "en")) & default_lexicon().meaning(name, language)
        ]
        assert len(unknown) <= 0.1 * len(aliases(language)) / 2, unknown


def _symbols(names, language, captions=()):
    things = tuple(Thing(name, (100, 100, 200, 200)) for name in names)
    return Symbols("", "", 1000, 1000, tuple(captions), things, language)


def _found(language, *turns, things=("cat",), captions=(), in_language=None):
    symbols = _symbols(things, in_language or language, captions)
    return list(detect(tuple(Turn(q, a) for q, a in turns), symbols, language))


@pytest.mark.parametrize(
    ("language", "turn", "things", "rules"),
    [
        ("en", ("What is it?", "一只猫。"), ("cat",), ["language"]),
        ("zh", ("这是什么？", "a cat"), ("猫",), ["language"]),
        ("zh", ("这是什么？", "T恤"), ("T恤",), []),
        ("en", ("What does the sign say?", "出口"), ("sign",), []),
        ("en", ("What is it?", "According to the caption, a cat."), ("cat",), ["leaked_symbols"]),
        ("en", ("Describe the picture with boxes.", "a cat (100,100),(300,300)."), ("cat",), []),
        ("zh", ("这是什么？", "根据描述，这是猫。"), ("猫",), ["leaked_symbols"]),
        ("zh", ("找到猫并给出它的框。", "(100,100),(300,300)"), ("猫",), []),
        ("en", ("What is it?", " "), ("cat",), ["empty"]),
        ("en", ("What is it?", "The cat is on the"), ("cat",), ["truncated"]),
        ("zh", ("这是什么？", "猫的旁边有"), ("猫",), ["truncated"]),
        ("en", ("Where is it?", "(100,100),(300,300)"), ("cat",), []),
        ("en", ("Where is it?", "(100,100),(1000,300)"), ("cat",), ["boxes_out_of_range"]),
        ("en", ("Where is it?", "(300,100),(100,300)"), ("cat",), ["boxes_out_of_range"]),
        ("en", ("Where is it?", "(600,600),(900,900)"), ("cat",), ["strange_boxes"]),
        ("en", ("Where is it?", "I'm sorry, but I cannot see the image."), ("cat",), ["refusal"]),
        ("zh", ("在哪里？", "抱歉，我无法查看图片。"), ("猫",), ["refusal"]),
        ("en", ("What is it?", "There is a dog."), ("cat",), ["absent_objects"]),
        ("en", ("Is there a dog?", "yes"), ("cat",), ["absent_objects"]),
        ("en", ("Is there a dog?", "no"), ("cat",), []),
        ("en", ("What colour is the dog?", "red"), ("cat",), ["absent_objects"]),
        ("en", ("What colour is the dog?", "I see no dog"), ("cat",), []),
        ("en", ("What animal is it?", "an animal, not a dog."), ("cat",), []),
        ("en", ("What is it?", "A car."), ("taxi",), []),
        ("en", ("What is it?", "A taxi."), ("automobile",), ["absent_objects"]),
        ("en", ("What food is it?", "A hot dog."), ("hot dog",), []),
        ("en", ("What is behind it?", "Orange."), ("cat",), []),
        ("en", ("What is behind it?", "An orange."), ("cat",), ["absent_objects"]),
        ("en", ("Where is it?", "In an orange frame."), ("cat",), []),
        ("zh", ("这是什么？", "一只狗。"), ("猫",), ["absent_objects"]),
        ("zh", ("这是什么？", "我没看到狗。"), ("猫",), []),
        ("zh", ("这是什么？", "热狗。"), ("热狗",), []),
        ("zh", ("这是什么？", "它马上就要跑了，身上有花纹。"), ("猫",), []),
        ("zh", ("这是什么？", "这里有一匹马。"), ("猫",), ["absent_objects"]),
    ],
)  # fmt: skip
def test_what_each_rule_says_of_one_turn(language, turn, things, rules):
    assert _found(language, turn, things=things) == rules


def test_a_turn_that_repeats_another_is_a_duplicate_and_short_answers_are_not():
    first = ("Is it big or small?", "small")
    assert _found("en", first, ("Please, is it BIG or small", "small")) == ["duplicate"]
    assert _found("en", first, ("And how big is its frame?", "small")) == []
    long = "The cat sits on the left and looks at the viewer."
    assert _found("en", ("Describe it.", long), ("What does it do?", long)) == ["duplicate"]


def test_the_last_answer_is_cut_where_it_alone_does_not_end_as_a_sentence():
    first = ("What is it?", "It is a cat.")
    assert _found("en", first, ("Where is it?", "It is on th")) == ["truncated"]
    assert _found("en", first, ("Where is it?", "left")) == []
    assert _found("en", ("What is it?", "cat"), ("Where is it?", "On the left")) == []
    first = ("这是什么？", "这是一只猫。")
    assert _found("zh", first, ("它在哪里？", "它在画面左"), things=("猫",)) == ["truncated"]
    assert _found("zh", first, ("它在哪里？", "左边"), things=("猫",)) == []


def test_what_is_said_of_the_picture_is_claimed_even_where_the_question_supposes():
    asked = "What would happen if the cat were gone?"
    assert _found("en", (asked, "One would miss it. There is a dog on the left.")) == ["absent_objects"]
    assert _found("en", (asked, "A dog would come.")) == []
    asked = "如果猫走了会怎样？"
    assert _found("zh", (asked, "会少一只猫。中间有狗。"), things=("猫",)) == ["absent_objects"]
    assert _found("zh", (asked, "狗会跑过来。"), things=("猫",)) == []


def test_a_row_with_several_faults_names_each():
    found = _found(
        "en",
        ("What is there?", "According to the caption, there is a dog at (5,5),(1200,90)."),
        ("What is there?", "I'm sorry, but as an AI language model I cannot see images."),
        ("What else?", ""), ("And what is behind it?", "它在左边。"), ("And then?", "The cat is on the"),
    )  # fmt: skip
    assert found == ["empty", "language", "refusal", "leaked_symbols", "truncated", "duplicate",
                     "boxes_out_of_range", "absent_objects"]  # fmt: skip


def test_captions_hold_things_too_and_symbols_may_be_in_the_other_language():
    assert _found("en", ("What is it?", "A dog."), captions=["a dog beside a cat"]) == []
    assert _found("zh", ("这是什么？", "一只猫。"), in_language="en") == []
    assert _found("zh", ("这是什么？", "一只狗。"), in_language="en") == ["absent_objects"]
    assert _found("en", ("What is it?", "A zither."), things=("zither",)) == []
    assert _found("en", ("What is it?", "An orange."), things=("orange",)) == []
    assert _found("en", ("What is it?", "A dog."), things=("brown dog",)) == []
    assert _found("en", ("What is it?", "A dog house."), things=("dog house",)) == []
    assert _found("en", ("What is it?", "A dog house with a dog."), things=("dog house",)) == [
        "absent_objects"
    ]


def test_the_vocabulary_is_a_parameter():
    turns = (Turn("What is it?", "There is a zither."),)
    assert RULES["absent_objects"](turns, _symbols(("cat",), "en"), "en") == ""
    wider = default_lexicon().with_names(["zither"], "en")
    assert "zither" in RULES["absent_objects"](turns, _symbols(("cat",), "en"), "en", lexicon=wider)


def test_a_denied_a_supposed_and_a_compared_thing_is_not_claimed():
    find = functools.partial(default_lexicon().mentions, language="en")
    told = Turn(
        "What is it?",
        "There is no dog but a cat. A horse would run. It looks like a tiger. Next to it is a kite.",
    )
    assert [mention.name for mention in claims((told,), find, "en")] == ["cat", "kite"]


def test_a_summary_counts_dialogues_and_shows_a_few_reasons():
    verdicts_ = [{}, {"empty": "a"}, {"empty": "b", "language": "c"}, {"empty": "a"}]
    counts, examples = summarise(verdicts_, examples=2)
    assert (counts["kept"], counts["rejected"], counts["empty"], counts["language"], counts["refusal"]) == (
        1,
        3,
        3,
        1,
        0,
    )
    assert examples["empty"] == ["a", "b"] and examples["language"] == ["c"] and examples["refusal"] == []


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="'fr' is not one of en, zh"):
        detect((), _symbols(("cat",), "en"), "fr")
