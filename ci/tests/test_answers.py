"""Every answer, expression and later turn follows from boxes, categories and pixels alone."""

import json
import re
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from zvl.data import drawing, moji, questions, wordings
from zvl.data.boxes import boxes_in
from zvl.data.readers import Quarantine, read_gqa, read_llava, read_refcoco, read_vqav2
from zvl.data.samples import LANGUAGES
from zvl.data.tasks import describe_turn, ground_turn, grounding_questions
from zvl.data.world import GQA_TYPES, QUESTION_SPLITS, VQA_TYPES, WorldConfig, write_world

CONFIG = WorldConfig(train_scenes=64, test_scenes=48, extra_scenes=24, seed=5)
ROWS = {"train": 64, "composition": 48, "paraphrase": 48, "style": 24, "concept": 24}
NUMBERS = {
    "en": ("zero", "one", "two", "three", "four", "five"),
    "zh": ("零个", "一个", "两个", "三个", "四个", "五个"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "moji", CONFIG)


def load(world, name):
    return json.loads((world / f"{name}.json").read_text("utf8"))


class Picture:
    """What boxes, categories and pixels tell of one picture."""

    def __init__(self, file, rows, categories, language):
        self.pixels = np.asarray(Image.open(file), int)
        self.things, self.language = {}, language
        free = np.ones(self.pixels.shape[:2], bool)
        for row in rows:
            category, (x, y, side, _) = categories[row["category_id"]], row["bbox"]
            name = category["name" if language == "en" else "name_zh"]
            assert name not in self.things
            self.things[name] = {
                "x": x + side / 2, "y": y + side / 2, "big": side >= 30, "group": category["supercategory"],
                "box": tuple(row["bbox"]), "frame": self.frame(x, y, side),
            }  # fmt: skip
            free[max(y - 2, 0) : y + side + 2, max(x - 2, 0) : x + side + 2] = False
        seen = np.median(self.pixels[free], axis=0)
        self.ground = min(drawing.BACKGROUNDS, key=lambda c: np.abs(seen - drawing.BACKGROUNDS[c]).sum())

    def frame(self, x, y, side):
        if min(x, y) < 1:
            return None
        line = self.pixels[y - 1, x : x + side]
        fits = [c for c, rgb in drawing.FRAMES.items() if (np.abs(line - rgb).max(1) == 0).all()]
        return fits[0] if fits else None


@pytest.fixture(scope="module")
def pictures(world):
    """(folder of pictures, language) -> the pictures in order."""
    found = {}
    for folder in ("train", "test", "style", "concept"):
        data = load(world, f"instances_{folder}")
        rows = defaultdict(list)
        for row in data["annotations"]:
            rows[row["image_id"]].append(row)
        categories = {row["id"]: row for row in data["categories"]}
        for language in LANGUAGES:
            found[folder, language] = [
                Picture(
                    world / "images" / folder / image["file_name"], rows[image["id"]], categories, language
                )
                for image in data["images"]
            ]
    return found


NAMES = {
    language: "|".join(
        sorted((re.escape(c.names[language]) for c in (*moji.concepts(), moji.SIGN)), key=len, reverse=True)
    )
    for language in LANGUAGES
}


PLURALS = {language: "|".join(words.values()) for language, words in wordings.GROUP_PLURALS.items()}


def fields_of(question, kind, language, split):
    """The fields with which the question is an instance of a wording of its kind; asserts that it is one."""
    for template in wordings.QUESTIONS[kind, language, split]:
        parts = re.split(r"\{(\w+)\}", template)
        for i, part in enumerate(parts):
            named = {
                "box": r"[(),0-9]+", "group": "|".join(moji.GROUP_NAMES[language].values()) + "|piece of clothing",
                "group_a": PLURALS[language], "group_b": PLURALS[language], "ref": ".+?",
            }.get(part, f"(?:the |an? )?(?:{NAMES[language]})")  # fmt: skip
            parts[i] = f"(?P<{part}>{named})" if i % 2 else re.escape(part)
        if match := re.fullmatch("".join(parts), question):
            return {name: text.removeprefix("the ") for name, text in match.groupdict().items()}
    raise AssertionError(f"{question!r} is no wording of {kind} for {split}")


def expected(picture, kind, question, split, it=None):
    """The answer to a question as the picture gives it. it: the name of the thing spoken of before."""
    language, things, zh = picture.language, picture.things, picture.language == "zh"
    if kind == "false_premise":
        for of in questions.PRESUMING:
            try:
                fields = fields_of(question, of, language, split)
            except AssertionError:
                continue
            missing = [
                fields[key] for key in ("the_a", "the_b") if key in fields and fields[key] not in things
            ]
            if len(missing) == 1:
                return f"图里没有{missing[0]}" if zh else f"I see no {missing[0]}"
        raise AssertionError(f"{question!r} takes nothing for granted")
    fields = fields_of(question, kind, language, split)
    a, b = (things.get(it if key == "the_a" and it else fields.get(key)) for key in ("the_a", "the_b"))
    if kind in ("existence", "which_picture"):
        name = re.sub(r"^an? ", "", fields["a"])
        return (("no", "没有"), ("yes", "有"))[name in things][zh] if kind == "existence" else name in things
    if kind == "count":
        return NUMBERS[language][len(things)]
    if kind == "background":
        return wordings.COLOURS[language][picture.ground]
    if kind in ("size", "it_size"):
        return wordings.SIZE_ANSWERS[language]["big" if a["big"] else "small"]
    if kind in ("frame", "it_frame"):
        return wordings.COLOURS[language][a["frame"]] if a["frame"] else ("none", "没有框")[zh]
    if kind in ("left_right", "it_side"):
        assert abs(a["x"] - b["x"]) >= 8
        return (("right", "右边"), ("left", "左边"))[a["x"] < b["x"]][zh]
    if kind == "above_below":
        assert abs(a["y"] - b["y"]) >= 8
        return (("below", "下方"), ("above", "上方"))[a["y"] < b["y"]][zh]
    if kind == "bigger":
        assert a["big"] != b["big"]
        return fields["the_a" if a["big"] else "the_b"]
    if kind == "more":
        words = {word: group for group, word in wordings.GROUP_PLURALS[language].items()}
        counts = Counter(thing["group"] for thing in things.values())
        first, second = fields["group_a"], fields["group_b"]
        assert counts[words[first]] != counts[words[second]]
        return max(first, second, key=lambda word: counts[words[word]])
    if kind in ("refer", "ground", "it_box"):
        side = moji.SCENE_SIZE
        if kind == "refer":
            (found,) = boxes_in(fields["box"], side, side)
            return min(things, key=lambda name: np.abs(np.subtract(things[name]["box"], found)).sum())
        raise AssertionError("boxes are compared as boxes")
    if kind == "category":
        named = [n for n, t in things.items() if wordings.group_word(t["group"], language) == fields["group"]]
        assert len(named) == 1
        return named[0]
    if kind == "leftmost":
        first, second = sorted(things.values(), key=lambda thing: thing["x"])[:2]
        assert second["x"] - first["x"] >= 8
        return min(things, key=lambda name: things[name]["x"])
    raise AssertionError(kind)


def test_each_split_of_questions_has_its_pictures_and_its_wordings():
    assert QUESTION_SPLITS == {
        "train": ("train", "train"), "composition": ("test", "train"), "paraphrase": ("test", "test"),
        "style": ("style", "train"), "concept": ("concept", "train"),
    }  # fmt: skip
    assert set(VQA_TYPES) | set(GQA_TYPES) == set(questions.QUESTION_TYPES)


@pytest.mark.parametrize("split", QUESTION_SPLITS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_answer_follows_from_boxes_and_pixels(world, pictures, split, language):
    folder, wording = QUESTION_SPLITS[split]
    images, put_aside = world / "images" / folder, Quarantine()
    files = [world / f"{name}_{language}_{split}.json" for name in ("questions", "annotations", "gqa")]
    samples = list(read_vqav2(*files[:2], images, language, image_name="{:06d}.png", quarantine=put_aside))
    samples += read_gqa(files[2], images, language, image_name="{}.png", quarantine=put_aside)
    assert not put_aside.rows
    kinds = Counter()
    for sample in samples:
        picture = pictures[folder, language][int(sample.images[0][-10:-4])]
        question, answer = sample.turns[0].instruction, sample.turns[0].response
        kinds[sample.question_type] += 1
        if sample.question_type == "read":  # no oracle reads; that the plate shows the word is drawing's test
            fields_of(question, "read", language, wording)
            assert answer in moji.SIGN_WORDS and {"sign", "牌子"} & picture.things.keys()
        else:
            assert answer == expected(picture, sample.question_type, question, wording), sample
    assert kinds["count"] == kinds["background"] == ROWS[split]
    assert set(kinds) == set(questions.QUESTION_TYPES) - ({"read"} if split == "concept" else set())


@pytest.mark.parametrize("split", QUESTION_SPLITS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_expression_fits_one_thing_and_its_box(world, pictures, split, language):
    folder, _ = QUESTION_SPLITS[split]
    files = world / f"refs_{language}_{split}.json", world / f"instances_{folder}.json"
    samples = list(read_refcoco(*files, world / "images" / folder, language))
    kinds = Counter()
    for sample in samples:
        things = pictures[folder, language][int(sample.images[0][-10:-4])].things
        text, zh = sample.turns[0].instruction, language == "zh"
        assert len(things) >= 2
        fits, colours = [], {wordings.COLOURS[language][c]: c for c in drawing.FRAMES}
        for name, thing in things.items():
            others = [other for other in things.values() if other is not thing]
            size = wordings.SIZE_ANSWERS[language]["big" if thing["big"] else "small"]
            said = {name if zh else f"the {name}": "name"}
            said[f"{size}{wordings.group_word(thing['group'], language)}" if zh
                 else f"the {size} {wordings.group_word(thing['group'], language)}"] = "group"  # fmt: skip
            for word, colour in colours.items():
                if thing["frame"] == colour:
                    said[f"{word[0]}框里的东西" if zh else f"the thing in the {word} frame"] = "frame"
            for axis, low, high in (("x", "leftmost", "rightmost"), ("y", "highest", "lowest")):
                ends = {low: -1, high: 1}
                for end, sign in ends.items():
                    if all(sign * (thing[axis] - other[axis]) >= 8 for other in others):
                        chinese = {
                            "leftmost": "最左边",
                            "rightmost": "最右边",
                            "highest": "最高处",
                            "lowest": "最低处",
                        }
                        said[f"{chinese[end]}的东西" if zh else f"the {end} thing"] = end
            if text in said:
                fits.append(thing)
                kinds[said[text]] += 1
        assert len(fits) == 1, (text, things)
        assert fits[0]["box"] == sample.boxes[0]
        assert fits[0]["box"][2] ** 2 <= 0.15 * moji.SCENE_SIZE**2, "the target is small"
        (found,) = boxes_in(sample.turns[0].response, 96, 96)
        assert np.abs(np.subtract(found, sample.boxes[0])).max() < 0.3
    assert set(kinds) == {"name", "group", "frame", "leftmost", "rightmost", "highest", "lowest"}


@pytest.mark.parametrize("split", ["train", "paraphrase"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_turn_of_a_dialogue_is_right_about_the_picture_that_it_is_about(
    world, pictures, split, language
):
    folder, wording = QUESTION_SPLITS[split]
    samples = list(read_llava(world / f"llava_{language}_{split}.json", world / "images" / folder, language))
    assert len(samples) == ROWS[split] // 2
    seen, depths, numbers = Counter(), Counter(), Counter()
    for sample in samples:
        shown, it = [], None
        numbers[len(sample.images)] += 1
        depths[len(sample.turns)] += 1
        for turn in sample.turns:
            if turn.instruction.startswith("<image>\n"):
                shown.append(pictures[folder, language][int(sample.images[len(shown)][-10:-4])])
            question, picture = turn.instruction.removeprefix("<image>\n"), shown[-1]
            kind = kind_of(question, language, wording, turn.response, picture)
            seen[kind] += 1
            if kind == "describe":
                assert all(name in turn.response for name in picture.things)
            elif kind == "grounded":
                boxes = boxes_in(turn.response, 96, 96)
                order = sorted(picture.things, key=lambda name: picture.things[name]["x"])
                assert [turn.response.index(name) for name in order] == sorted(
                    map(turn.response.index, order)
                )
                for name, box in zip(order, boxes, strict=True):
                    assert np.abs(np.subtract(box, picture.things[name]["box"])).max() < 0.3
            elif kind == "it_box":
                (box,) = boxes_in(turn.response, 96, 96)
                assert np.abs(np.subtract(box, picture.things[it]["box"])).max() < 0.3
            elif kind == "same_ground":
                same = shown[0].ground == shown[1].ground
                assert turn.response == wordings.SAME[language][0 if same else 1]
            elif kind == "which_picture":
                there = [expected(picture, kind, question, wording) for picture in shown]
                assert there.count(True) == 1
                assert turn.response == wordings.ORDINALS[language][there.index(True)]
            elif kind == "read":
                assert turn.response in moji.SIGN_WORDS
            elif kind.startswith("it_"):
                spoken_of = fields_of(question, kind, language, wording) | {"the_a": it}
                assert spoken_of["the_a"] in picture.things
                assert turn.response == expected(picture, kind, question, wording, it)
            else:
                assert turn.response == expected(picture, kind, question, wording)
                it = turn.response if turn.response in picture.things else it
        assert len(shown) == len(sample.images)
    assert {"it_size", "it_frame", "it_side", "it_box", "same_ground", "which_picture", "grounded"} <= set(
        seen
    )
    assert set(numbers) == {1, 2, 3} and max(depths) >= 4


def kind_of(question, language, wording, response, picture):
    if question in wordings.DESCRIBE[language, wording]:
        return "describe"
    for kind in (
        *questions.FOLLOW_UPS,
        "same_ground",
        "which_picture",
        "grounded",
        *questions.QUESTION_TYPES,
    ):
        if kind == "false_premise":
            continue
        try:
            fields = fields_of(question, kind, language, wording)
        except AssertionError:
            continue
        named = [fields[key] for key in ("the_a", "the_b") if key in fields]
        missing = [name for name in named if name not in picture.things]
        return "false_premise" if missing else kind
    raise AssertionError(question)


def test_splits_share_no_pair_of_things_and_no_unseen_picture(world):
    pairs, shown = {}, {}
    for folder in ("train", "test", "concept"):
        together = defaultdict(set)
        for row in load(world, f"instances_{folder}")["annotations"]:
            together[row["image_id"]].add(row["category_id"])
        shown[folder] = set().union(*together.values()) - {moji.SIGN.id}
        pairs[folder] = {
            pair
            for ids in together.values()
            for pair in combinations(sorted(ids), 2)
            if moji.SIGN.id not in pair
        }
    assert len(pairs["test"]) > 40 and not pairs["train"] & pairs["test"]
    unseen = set(moji.unseen_concepts())
    assert not unseen & (shown["train"] | shown["test"]) and len(unseen & shown["concept"]) > 5


def test_the_style_split_asks_about_the_same_scenes(world):
    first, second = (load(world, f"instances_{folder}")["annotations"] for folder in ("test", "style"))
    assert [row["bbox"] for row in first[: len(second)]] == [row["bbox"] for row in second]


@pytest.mark.slow
def test_yes_and_no_are_even_for_every_thing():
    """A thing is asked for as often where it is as where it is not, so its name alone tells nothing."""
    scenes = moji.scenes(4000, "train", 1, framed=0.4, signs=0.3, hold_out_concepts=True)
    rng, counts = np.random.default_rng(0), defaultdict(Counter)
    shown = {piece.concept for scene in scenes for piece in scene.pieces}
    for scene in scenes:
        for asked in questions.questions(scene, "zh", "train", rng, ("existence",)):
            counts[asked.question][asked.answer] += 0
            name = next(iter(fields_of(asked.question, "existence", "zh", "train").values()))
            counts[name][asked.answer] += 1
    for concept in moji.concepts():
        yes, no = (counts[concept.names["zh"]][word] for word in ("有", "没有"))
        if concept.id in shown:
            assert abs(yes - no) < 4.5 * np.sqrt(yes + no), f"{concept.names}: {yes} to {no}"
        else:
            assert yes == 0


@pytest.mark.slow
def test_answers_of_two_words_are_even_and_frames_come_in_all_colours():
    scenes = moji.scenes(1500, "train", 2, framed=0.4, signs=0.3, hold_out_concepts=True)
    rng, counts = np.random.default_rng(0), defaultdict(Counter)
    for scene in scenes:
        for asked in questions.questions(scene, "en", "train", rng, questions.QUESTION_TYPES):
            counts[asked.kind][asked.answer] += 1
    for kind in ("size", "above_below", "left_right", "existence"):
        first, second = counts[kind].values()
        assert abs(first - second) < 3 * np.sqrt(first + second), counts[kind]
    assert set(counts["frame"]) == {*drawing.FRAMES, "none"}
    assert max(counts["frame"].values()) < 0.3 * counts["frame"].total()
    assert max(counts["more"].values()) < 0.3 * counts["more"].total()
    assert max(counts["read"].values()) < 0.06 * counts["read"].total()


def test_references_become_questions_in_the_wordings_of_their_split(world):
    folder, _ = QUESTION_SPLITS["paraphrase"]
    files = world / "refs_zh_paraphrase.json", world / f"instances_{folder}.json"
    samples = list(read_refcoco(*files, world / "images" / folder, "zh"))
    asked = grounding_questions(samples, "test", seed=3)
    assert (
        asked == grounding_questions(samples, "test", seed=3) != grounding_questions(samples, "test", seed=4)
    )
    for before, after in zip(samples, asked, strict=True):
        fields = fields_of(after.turns[0].instruction, "ground", "zh", "test")
        assert fields == {"ref": before.turns[0].instruction}
        assert after.turns[0].response == before.turns[0].response and after.boxes == before.boxes
    odd = ground_turn(samples[0], "train", np.random.default_rng(0))
    assert odd.response == samples[0].turns[0].response


def test_captions_become_instructions_to_describe():
    rng = np.random.default_rng(0)
    turns = [describe_turn(["a dog.", "a cat."], "en", "train", rng) for _ in range(60)]
    assert {turn.response for turn in turns} == {"a dog.", "a cat."}
    assert {turn.instruction for turn in turns} <= set(wordings.DESCRIBE["en", "train"])
    assert len({turn.instruction for turn in turns}) > 4
