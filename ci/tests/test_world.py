"""The world on disk: files in the real formats, and answers that follow from boxes and pixels alone."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zvl.cards import read_card
from zvl.data import moji, questions, wordings
from zvl.data.samples import LANGUAGES
from zvl.data.world import SPLITS, WorldConfig, write_world

CONFIG = WorldConfig(train_scenes=24, test_scenes=16, seed=7)
ENGLISH = ("zero", "one", "two", "three", "four", "five")
CHINESE = ("零个", "一个", "两个", "三个", "四个", "五个")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "moji", CONFIG)


def load(world, name):
    return json.loads((world / f"{name}.json").read_text("utf8"))


# --- an oracle that knows only instances_*.json, the pictures and the templates ---


@dataclass
class Thing:
    names: dict[str, str]
    group: str
    box: tuple[int, int, int, int]

    @property
    def centre(self):
        return self.box[0] + self.box[2] / 2


class Oracle:
    """Answers a question on a picture from its boxes, categories and pixels."""

    def __init__(self, world, split):
        data = load(world, f"instances_{split}")
        categories = {row["id"]: row for row in data["categories"]}
        self.files = {row["id"]: world / "images" / split / row["file_name"] for row in data["images"]}
        self.things = defaultdict(list)
        for row in data["annotations"]:
            of = categories[row["category_id"]]
            thing = Thing({"en": of["name"], "zh": of["name_zh"]}, of["supercategory"], tuple(row["bbox"]))
            self.things[row["image_id"]].append(thing)
        self.names = {
            "en": [c["name"] for c in data["categories"]],
            "zh": [c["name_zh"] for c in data["categories"]],
        }
        self.patterns = {lang: list(self._patterns(lang, split)) for lang in LANGUAGES}

    def _patterns(self, language, split):
        name = "|".join(sorted(map(re.escape, self.names[language]), key=len, reverse=True))
        groups = "|".join(wordings.group_word(group, language) for group in moji.GROUPS)
        article = {"a": "(?:an? )?", "the_a": "the ", "the_b": "the "} if language == "en" else {}
        for (kind, lang, of), templates in wordings.QUESTIONS.items():
            asked = (lang, of) == (language, split) and kind in questions.QUESTION_TYPES
            for template in templates if asked else ():
                parts = re.split(r"\{(\w+)\}", template)
                pattern = "".join(
                    f"{article.get(p, '')}(?P<{p}>{groups if p == 'group' else name})"
                    if i % 2
                    else re.escape(p)
                    for i, p in enumerate(parts)
                )
                yield kind, re.compile(pattern)

    def mentioned(self, text, language):
        """Names in a text; a longer name hides a shorter one inside it."""
        longest_first = sorted(map(re.escape, self.names[language]), key=len, reverse=True)
        pattern = "|".join(longest_first)
        return Counter(re.findall(rf"\b(?:{pattern})\b" if language == "en" else pattern, text))

    def present(self, image_id, language):
        return Counter(thing.names[language] for thing in self.things[image_id])

    def answer(self, image_id, language, question):
        """(kind, answer); the question must be an instance of exactly one template."""
        found = [(kind, match) for kind, p in self.patterns[language] if (match := p.fullmatch(question))]
        assert len(found) == 1, f"{question!r} is {len(found)} templates"
        (kind, match), things, zh = found[0], self.things[image_id], language == "zh"
        by_name = {thing.names[language]: thing for thing in things}
        if kind == "existence":
            return kind, (("no", "没有"), ("yes", "有"))[match["a"] in by_name][zh]
        if kind == "count":
            return kind, (CHINESE if zh else ENGLISH)[len(things)]
        if kind == "background":
            return kind, wordings.COLOURS[language][self.background(image_id)]
        if kind == "left_right":
            a, b = by_name[match["the_a"]].centre, by_name[match["the_b"]].centre
            assert abs(a - b) >= 8, "too close to call"
            return kind, (("right", "右边"), ("left", "左边"))[a < b][zh]
        if kind == "category":
            named = [t for t in things if wordings.group_word(t.group, language) == match["group"]]
            assert len(named) == 1, "a question on a group needs one thing of it"
            return kind, named[0].names[language]
        first, second = sorted(things, key=lambda thing: thing.centre)[:2]
        assert second.centre - first.centre >= 8, "too close to call"
        return kind, first.names[language]

    def background(self, image_id):
        pixels = np.asarray(Image.open(self.files[image_id]), float)
        free = np.ones(pixels.shape[:2], bool)
        for thing in self.things[image_id]:
            x, y, width, height = thing.box
            free[y : y + height, x : x + width] = False
        seen = np.median(pixels[free], axis=0)
        return min(moji.BACKGROUNDS, key=lambda name: np.abs(seen - moji.BACKGROUNDS[name]).sum())


@pytest.fixture(scope="module", params=SPLITS)
def split(request):
    return request.param


@pytest.fixture(scope="module")
def oracle(world, split):
    return Oracle(world, split)


# --- claims ---


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_vqa_answer_follows_from_boxes_and_pixels(world, split, oracle, language):
    asked = load(world, f"questions_{language}_{split}")["questions"]
    told = load(world, f"annotations_{language}_{split}")["annotations"]
    assert [row["question_id"] for row in asked] == [row["question_id"] for row in told]
    kinds = Counter()
    for row, answer in zip(asked, told, strict=True):
        expected = oracle.answer(row["image_id"], language, row["question"])
        assert (answer["question_type"], answer["multiple_choice_answer"]) == expected, row
        assert answer["image_id"] == row["image_id"]
        assert [given["answer"] for given in answer["answers"]] == [expected[1]] * 10
        kinds[expected[0]] += 1
    scenes = CONFIG.train_scenes if split == "train" else CONFIG.test_scenes
    assert kinds.keys() == set(questions.QUESTION_TYPES)
    assert kinds["existence"] == kinds["count"] == kinds["background"] == scenes


@pytest.mark.parametrize("language", LANGUAGES)
def test_five_captions_a_scene_name_what_is_boxed(world, split, oracle, language):
    data = load(world, f"captions_{language}_{split}")
    texts = defaultdict(set)
    for row in data["annotations"]:
        texts[row["image_id"]].add(row["caption"])
        assert oracle.mentioned(row["caption"], language) == oracle.present(row["image_id"], language)
    assert texts.keys() == {row["id"] for row in data["images"]} == oracle.things.keys()
    assert {len(captions) for captions in texts.values()} == {5}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_swapped_caption_has_one_thing_wrong(world, language):
    oracle = Oracle(world, "test")
    rows = load(world, f"captions_swapped_{language}_test")["annotations"]
    assert [row["image_id"] for row in rows] == list(range(CONFIG.test_scenes))
    for row in rows:
        said, there = oracle.mentioned(row["caption"], language), oracle.present(row["image_id"], language)
        assert (said - there).total() == (there - said).total() == 1, row
    assert not (world / f"captions_swapped_{language}_train.json").exists()


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_turn_of_a_conversation_is_right_about_its_picture(world, split, oracle, language):
    rows = load(world, f"llava_{language}_{split}")
    several = 0
    for row in rows:
        files = [row["image"]] if isinstance(row["image"], str) else row["image"]
        numbers = [int(file.removesuffix(".png")) for file in files]
        shown = -1
        for human, gpt in zip(row["conversations"][::2], row["conversations"][1::2], strict=True):
            assert (human["from"], gpt["from"]) == ("human", "gpt")
            shown += human["value"].startswith("<image>\n")
            question, image_id = human["value"].removeprefix("<image>\n"), numbers[shown]
            if question in wordings.DESCRIBE[language, split]:
                assert oracle.mentioned(gpt["value"], language) == oracle.present(image_id, language)
            else:
                assert gpt["value"] == oracle.answer(image_id, language, question)[1]
        assert shown == len(files) - 1, "each picture enters where a mark says so"
        several += len(files) > 1
    scenes = CONFIG.train_scenes if split == "train" else CONFIG.test_scenes
    assert len(rows) == scenes // 2 and several == len(rows) // 8


def test_no_two_things_of_a_test_scene_stand_together_in_training(world):
    pairs = {}
    for name in SPLITS:
        together = defaultdict(set)
        for row in load(world, f"instances_{name}")["annotations"]:
            together[row["image_id"]].add(row["category_id"])
        pairs[name] = {pair for ids in together.values() for pair in combinations(sorted(ids), 2)}
    assert len(pairs["test"]) > 20 and not pairs["train"] & pairs["test"]


def test_boxes_are_those_of_the_scenes(world, split):
    count, fewest = (CONFIG.train_scenes, 1) if split == "train" else (CONFIG.test_scenes, 2)
    scenes = moji.scenes(count, split, CONFIG.seed, fewest)
    data = load(world, f"instances_{split}")
    assert [row["id"] for row in data["annotations"]] == list(range(len(data["annotations"])))
    for image_id, scene in enumerate(scenes):
        rows = [row for row in data["annotations"] if row["image_id"] == image_id]
        assert [row["bbox"] for row in rows] == [[p.x, p.y, p.side, p.side] for p in scene.pieces]
        file = world / "images" / split / data["images"][image_id]["file_name"]
        assert Image.open(file).tobytes() == moji.render(scene).tobytes()


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_configuration_gives_the_same_bytes_again_and_a_seed_other_ones(tmp_path):
    small = WorldConfig(train_scenes=4, test_scenes=3, seed=1)
    one, other = (contents(write_world(tmp_path / name, small)) for name in ("one", "other"))
    assert one == other
    changed = contents(write_world(tmp_path / "one", WorldConfig(train_scenes=4, test_scenes=3, seed=2)))
    assert changed.keys() == one.keys()
    assert all(changed[name] != one[name] for name in one)


def test_a_whole_world_is_kept_and_half_a_world_is_made_anew(tmp_path):
    small = WorldConfig(train_scenes=3, test_scenes=2, seed=1)
    folder = write_world(tmp_path / "moji", small)
    whole = contents(folder)
    (folder / "images" / "train" / "000001.png").write_bytes(b"mark")
    write_world(folder, small)
    assert (folder / "images" / "train" / "000001.png").read_bytes() == b"mark", "nothing was made twice"
    (folder / "world.json").unlink()  # as after a kill: it is written last
    assert contents(write_world(folder, small)) == whole


def test_the_data_card_names_the_files_and_numbers_of_the_world(world):
    fields, text = read_card(Path(__file__).resolve().parents[2] / "data_cards" / "moji.md")
    named = set()
    for pattern in fields["expected_files"]:
        parts = re.split(r"\{([a-z,]+)\}", pattern.replace("{:06d}", "000000"))
        choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
        named |= {"".join(chosen) for chosen in product(*choices)}
    written = {str(path) for path in contents(world)}
    assert named == {name for name in written if "/0" not in name or name.endswith("000000.png")}
    assert f"{len(moji.concepts())} things in ten groups" in text
    assert moji.attribution() in text
    assert fields["rows"]["scenes"] == {
        "train": WorldConfig().train_scenes,
        "test": WorldConfig().test_scenes,
    }
