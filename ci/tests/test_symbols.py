"""Symbols: from annotations, as text for a teacher, and back."""

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zvl.data.readers import DataError, Quarantine
from zvl.data.samples import LANGUAGES
from zvl.data.symbols import HEADINGS, Symbols, Thing, can_be_told, parse_symbols, read_symbols, symbols_text
from zvl.data.wordings import CAPTIONS
from zvl.data.world import WorldConfig, draw_scenes, write_world

# --- Moji's exact boxes are the oracle ---


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    config = WorldConfig(train_scenes=14, test_scenes=8, seed=random.randrange(10**6), extra_scenes=5)
    return write_world(tmp_path_factory.mktemp("world") / "moji", config), config


def read(folder, split, language, quarantine=None):
    files = folder / f"captions_{language}_{split}.json", folder / f"instances_{split}.json"
    return list(read_symbols(*files, folder / "images" / split, language, quarantine))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_symbols_of_a_world_are_its_scenes(world, language):
    folder, config = world
    for split, scenes in draw_scenes(config).items():
        quarantine = Quarantine()
        found = read(folder, split, language, quarantine)
        assert quarantine.rows == [] and len(found) == len(scenes)
        for index, (symbols, scene) in enumerate(zip(found, scenes, strict=True)):
            assert symbols.things == tuple(Thing(p.thing.names[language], p.box) for p in scene.pieces)
            assert symbols.image == str(folder / "images" / split / f"{index:06d}.png")
            assert (symbols.image_id, symbols.language) == (str(index), language)
            assert (symbols.width, symbols.height) == (96, 96)
            assert len(symbols.captions) == len(CAPTIONS[language, "train"])
            assert len(set(symbols.captions)) > 1 and all(symbols.captions)


def test_captions_are_those_of_the_same_picture(world):
    folder, _ = world
    told = json.loads((folder / "captions_zh_test.json").read_text("utf8"))["annotations"]
    for symbols in read(folder, "test", "zh"):
        assert list(symbols.captions) == [
            r["caption"] for r in told if str(r["image_id"]) == symbols.image_id
        ]


def near(symbols, again):
    """Names and captions come back, boxes to within a thousandth of the sides at each edge."""
    assert again.language == symbols.language
    assert [t.name for t in again.things] == [" ".join(t.name.split()) for t in symbols.things]
    assert list(again.captions) == [" ".join(text.split()) for text in symbols.captions]
    for one, other in zip(symbols.things, again.things, strict=True):
        for axis, side in enumerate((symbols.width, symbols.height)):
            low, high = one.box[axis] / side, (one.box[axis] + one.box[axis + 2]) / side
            assert abs(other.box[axis] / 1000 - low) <= 0.001 + 1e-9
            assert abs((other.box[axis] + other.box[axis + 2]) / 1000 - high) <= 0.001 + 1e-9


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_world_survives_the_text_form(world, language):
    folder, _ = world
    for symbols in read(folder, "train", language):
        near(symbols, parse_symbols(symbols_text(symbols)))


# --- the text form ---


def test_the_text_form_to_the_letter():
    things = (Thing("red apple", (0, 0, 50, 25)), Thing("cat", (50, 50, 50, 50)))
    english = Symbols("7", "7.png", 100, 100, ("A red apple and a cat.",), things, "en")
    assert symbols_text(english) == (
        "Captions:\n- A red apple and a cat.\nBoxes:\n- red apple (0,0),(500,250)\n- cat (500,500),(999,999)"
    )
    chinese = Symbols("7", "7.png", 100, 100, ("一只猫。",), (Thing("猫", (50, 50, 50, 50)),), "zh")
    assert symbols_text(chinese) == "描述：\n- 一只猫。\n物体框：\n- 猫 (500,500),(999,999)"


breaks = st.sampled_from(
    ["\n", "\r\n", "\n\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
)
pieces = st.one_of(
    breaks,
    st.sampled_from(["- cat (1,2),(3,4)", *HEADINGS["en"], *HEADINGS["zh"], "- ", "(0,0),(999,999)"]),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
hostile = st.lists(pieces, min_size=1, max_size=6).map("".join)


@st.composite
def all_symbols(draw):
    width, height = draw(st.integers(16, 4000)), draw(st.integers(16, 4000))
    things = []
    for _ in range(draw(st.integers(0, 5))):
        x, y = draw(st.floats(0, width * 0.9)), draw(st.floats(0, height * 0.9))
        w, h = draw(st.floats(0.01, 1)) * (width - x) * 0.99, draw(st.floats(0.01, 1)) * (height - y) * 0.99
        name = draw(hostile.filter(lambda text: text.split()))
        if can_be_told((x, y, w, h), width, height):
            things.append(Thing(name, (x, y, w, h)))
    captions = draw(st.lists(hostile, max_size=4))
    return Symbols(
        "i", "i.png", width, height, tuple(captions), tuple(things), draw(st.sampled_from(LANGUAGES))
    )


@settings(max_examples=40, deadline=None)
@given(all_symbols())
def test_what_is_written_is_read_whatever_the_names_and_captions_are(symbols):
    text = symbols_text(symbols)
    assert len(text.splitlines()) == 2 + len(symbols.captions) + len(symbols.things), (
        "text added a line of its own"
    )
    near(symbols, parse_symbols(text))
    # What follows, such as a dialogue to be rewritten, changes nothing.
    assert parse_symbols(text + '\n\n{"turns": []}\n- cat (1,2),(3,4)') == parse_symbols(text)


def test_a_box_too_thin_for_thousandths_is_refused_rather_than_told_without_area():
    assert can_be_told((10, 10, 3, 3), 2000, 2000) and not can_be_told((10, 10, 1, 300), 2000, 2000)
    assert not can_be_told((99.95, 0, 0.05, 50), 100, 100)  # its edges are both 999
    for box in [
        (0, 0, 101, 5),
        (-1, 0, 5, 5),
        (0, 0, 0, 5),
        (0, 0, float("nan"), 5),
        (0, 0, 5),
        None,
        ("a",) * 4,
    ]:
        assert not can_be_told(box, 100, 100)
    thin = Symbols("i", "i.png", 2000, 2000, (), (Thing("straw", (10, 10, 1, 300)),), "en")
    with pytest.raises(ValueError, match="'straw' cannot be told in thousandths"):
        symbols_text(thin)


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "no headings"),
        ("A cat.", "no headings"),
        ("Captions:\n- a cat", "no headings"),
        ("Captions:\n- a cat\n物体框：", "no headings"),
        ("Captions:\na cat\nBoxes:", "not the line of a caption: 'a cat'"),
        ("Captions:\nBoxes:\n- cat", "not the line of a box: '- cat'"),
        ("Captions:\nBoxes:\n- cat (5,5),(5,9)", "not the line of a box"),
        ("Captions:\nBoxes:\n- cat (5,5),(1000,9)", "not the line of a box"),
        ("Captions:\nBoxes:\n- (5,5),(10,9)", "not the line of a box"),
    ],
)
def test_what_symbols_text_does_not_write_is_refused(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_symbols(text)


# --- rows that cannot be used ---

GOOD = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}
CATEGORY = "category_id: no such category"
BOX = "bbox: not a box within its image"


def written(tmp_path, annotations, categories=({"id": 1, "name": "cat", "name_zh": "猫"},), captions=None):
    image = {"id": 1, "file_name": "1.png", "width": 100, "height": 100}
    rows = [{"id": 1, "image_id": 1, "caption": "A cat."}] if captions is None else captions
    (tmp_path / "captions.json").write_text(json.dumps({"images": [image], "annotations": rows}))
    boxes = {"images": [image, None, {}], "annotations": annotations, "categories": list(categories)}
    (tmp_path / "instances.json").write_text(json.dumps(boxes))
    return tmp_path / "captions.json", tmp_path / "instances.json", tmp_path


@pytest.mark.parametrize(
    "row, reason",
    [
        (None, "image_id: no such image"),
        ({**GOOD, "image_id": 2}, "image_id: no such image"),
        ({**GOOD, "image_id": [1]}, "image_id: no such image"),
        ({**GOOD, "category_id": 9}, CATEGORY),
        ({**GOOD, "category_id": [1]}, CATEGORY),
        ({"id": 1, "image_id": 1, "bbox": GOOD["bbox"]}, CATEGORY),
        ({**GOOD, "bbox": [10, 10, 100, 20]}, BOX),
        ({**GOOD, "bbox": [10, 10, 20]}, BOX),
        ({**GOOD, "bbox": [10, 10, 0, 20]}, BOX),
        ({**GOOD, "bbox": [10, 10, 0.01, 20]}, BOX),
        ({**GOOD, "bbox": [10, 10, float("nan"), 20]}, BOX),
        ({**GOOD, "bbox": [10**400, 10, 1.5, 20]}, BOX),
        ({**GOOD, "bbox": "1234"}, BOX),
        ({**GOOD, "bbox": {"x": 1}}, BOX),
        ({"id": 1, "image_id": 1, "category_id": 1}, BOX),
    ],
)
def test_a_row_that_cannot_be_used_is_put_aside_and_the_others_stay(tmp_path, row, reason):
    files = written(tmp_path, [row, {**GOOD, "id": 2}], [None, {"id": [3]}, {"id": 1, "name": " cat "}])
    quarantine = Quarantine()
    (symbols,) = read_symbols(*files, "en", quarantine)
    assert symbols.things == (Thing("cat", (10, 10, 20, 20)),)
    assert quarantine.counts() == {reason: 1}


def test_a_category_without_a_chinese_name_has_its_other_name(tmp_path):
    categories = [
        {"id": 1, "name": "cat", "name_zh": "猫"},
        {"id": 2, "name": "dog"},
        {"id": 3, "name": "  "},
    ]
    rows = [{**GOOD, "category_id": number} for number in (1, 2, 3)]
    quarantine = Quarantine()
    files = written(tmp_path, rows, categories)
    assert [[t.name for t in s.things] for s in read_symbols(*files, "zh", quarantine)] == [["猫", "dog"]]
    assert [[t.name for t in s.things] for s in read_symbols(*files, "en", quarantine)] == [["cat", "dog"]]
    assert quarantine.counts() == {CATEGORY: 2}


def test_a_picture_without_boxes_is_put_aside(tmp_path):
    quarantine = Quarantine()
    assert list(read_symbols(*written(tmp_path, []), "en", quarantine)) == []
    assert quarantine.counts() == {"annotations: no box of this image": 1}


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "{}", '{"images": {}, "annotations": [], "categories": []}']
)
def test_a_file_that_is_not_such_a_file_is_named(tmp_path, content):
    captions, instances, images = written(tmp_path, [])
    instances.write_text(content)
    with pytest.raises(DataError, match=r"instances\.json"):
        list(read_symbols(captions, instances, images, "en"))
