"""The world on disk: files in the real formats, whose captions and boxes are those of the scenes."""

import json
import re
from collections import Counter, defaultdict
from itertools import combinations, product
from pathlib import Path

import pytest
from PIL import Image

from zvl.cards import read_card
from zvl.data import moji
from zvl.data.samples import LANGUAGES
from zvl.data.world import WorldConfig, draw_scenes, write_world

CONFIG = WorldConfig(train_scenes=24, test_scenes=16, extra_scenes=8, seed=7)
PICTURES = ("train", "test", "style", "concept")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "moji", CONFIG)


def load(world, name):
    return json.loads((world / f"{name}.json").read_text("utf8"))


class Oracle:
    """What stands in each picture, by instances_*.json alone."""

    def __init__(self, world, pictures):
        data = load(world, f"instances_{pictures}")
        categories = {row["id"]: row for row in data["categories"]}
        self.things = defaultdict(list)
        for row in data["annotations"]:
            of = categories[row["category_id"]]
            self.things[row["image_id"]].append({"en": of["name"], "zh": of["name_zh"]})
        self.names = {
            "en": [c["name"] for c in data["categories"]],
            "zh": [c["name_zh"] for c in data["categories"]],
        }

    def mentioned(self, text, language):
        """Names in a text; a longer name hides a shorter one inside it, and what a sign says is none."""
        text = re.sub(r'"[^"]*"|“[^”]*”', "", text)
        longest_first = sorted(map(re.escape, self.names[language]), key=len, reverse=True)
        pattern = "|".join(longest_first)
        return Counter(re.findall(rf"\b(?:{pattern})\b" if language == "en" else pattern, text))

    def present(self, image_id, language):
        return Counter(names[language] for names in self.things[image_id])


@pytest.fixture(scope="module", params=PICTURES)
def pictures(request):
    return request.param


@pytest.mark.parametrize("language", LANGUAGES)
def test_five_captions_a_scene_name_what_is_boxed(world, pictures, language):
    data, oracle = load(world, f"captions_{language}_{pictures}"), Oracle(world, pictures)
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


@pytest.mark.parametrize("language", LANGUAGES)
def test_wrong_captions_to_learn_from_say_nothing_that_is_kept_for_the_test(world, language):
    """One thing is wrong, and what they name could stand together in a training scene."""
    oracle = Oracle(world, "train")
    number = {concept.names[language]: concept.id for concept in moji.concepts()}
    rows = load(world, f"captions_swapped_{language}_train")["annotations"]
    assert [row["image_id"] for row in rows] == [i for i in range(CONFIG.train_scenes) for _ in range(5)]
    for row in rows:
        said, there = oracle.mentioned(row["caption"], language), oracle.present(row["image_id"], language)
        assert (said - there).total() == (there - said).total() == 1, row
        things = [number[name] for name in said if name in number]
        assert not any(moji.held_out(a, b) for a, b in combinations(things, 2)), row
        assert not set(things) & set(moji.unseen_concepts()), row


def test_no_two_things_of_a_test_scene_stand_together_in_training(world):
    pairs = {}
    for name in ("train", "test"):
        together = defaultdict(set)
        for row in load(world, f"instances_{name}")["annotations"]:
            if row["category_id"] == moji.SIGN_ID:  # what is on signs: test_moji
                continue
            together[row["image_id"]].add(row["category_id"])
        pairs[name] = {pair for ids in together.values() for pair in combinations(sorted(ids), 2)}
    assert len(pairs["test"]) > 20 and not pairs["train"] & pairs["test"]


def test_boxes_and_pictures_are_those_of_the_scenes(world, pictures):
    scenes, data = draw_scenes(CONFIG)[pictures], load(world, f"instances_{pictures}")
    assert len(scenes) == len(data["images"]) > 0
    assert [row["id"] for row in data["annotations"]] == list(range(len(data["annotations"])))
    for image_id, scene in enumerate(scenes):
        rows = [row for row in data["annotations"] if row["image_id"] == image_id]
        assert [row["bbox"] for row in rows] == [[p.x, p.y, p.side, p.side] for p in scene.pieces]
        file = world / "images" / pictures / data["images"][image_id]["file_name"]
        assert Image.open(file).tobytes() == moji.render(scene).tobytes()


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_configuration_gives_the_same_bytes_again_and_a_seed_other_ones(tmp_path):
    small = WorldConfig(train_scenes=4, test_scenes=3, extra_scenes=2, seed=1)
    one, other = (contents(write_world(tmp_path / name, small)) for name in ("one", "other"))
    assert one == other
    changed = contents(
        write_world(tmp_path / "one", WorldConfig(train_scenes=4, test_scenes=3, extra_scenes=2, seed=2))
    )
    assert changed.keys() == one.keys()
    assert all(changed[name] != one[name] for name in one)


def test_a_whole_world_is_kept_and_half_a_world_is_made_anew(tmp_path):
    small = WorldConfig(train_scenes=3, test_scenes=2, extra_scenes=2, seed=1)
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
    world = WorldConfig()
    sizes = {"train": world.train_scenes, "test": world.test_scenes}
    assert fields["rows"]["scenes"] == sizes | dict.fromkeys(("style", "concept"), world.extra_scenes)
