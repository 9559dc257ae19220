"""Readers: raw rows come back whole, bad ones are put aside with a reason, a bad file says what is wrong."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zvl.data.readers import (
    DataError,
    Quarantine,
    read_coco_captions,
    read_gqa,
    read_llava,
    read_refcoco,
    read_visual_genome_regions,
    read_vqav2,
)
from zvl.data.samples import LANGUAGES, Turn
from zvl.data.world import WorldConfig, write_world

COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b/c.png"}],
    "annotations": [
        {"id": 10, "image_id": 1, "caption": " a tiger. "},
        {"id": 11, "image_id": 2, "caption": "老虎。"},
    ],
}
QUESTIONS = {"questions": [{"question_id": 5, "image_id": 42, "question": "What is this?"}]}
ANSWERS = {
    "annotations": [
        {
            "question_id": 5,
            "question_type": "what is",
            "multiple_choice_answer": "tiger",
            "answers": [{"answer": "tiger"}, {"answer": "big cat"}, {"answer": "tiger"}],
        }
    ]
}
REGIONS = [
    {"id": 42, "regions": [
        {"region_id": 1, "image_id": 42, "x": 3, "y": 4, "width": 20, "height": 10, "phrase": " a small tiger "},
        {"region_id": 2, "image_id": 42, "x": 0, "y": 0, "width": 5.5, "height": 6, "phrase": "左侧是老虎"},
    ]},
]  # fmt: skip
LLAVA = [
    {
        "id": "x1",
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>\n图里是什么？"},
            {"from": "gpt", "value": "老虎"},
            {"from": "human", "value": "What colour?"},
            {"from": "gpt", "value": "orange"},
        ],
    }
]


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), "utf8")
    return path


def coco(folder, value):
    put_aside = Quarantine()
    path = write(folder / "captions.json", value)
    return list(read_coco_captions(path, "pictures", "en", quarantine=put_aside)), put_aside


def regions(folder, value):
    put_aside = Quarantine()
    path = write(folder / "regions.json", value)
    return list(read_visual_genome_regions(path, "pictures", "en", quarantine=put_aside)), put_aside


def vqa(folder, questions, answers):
    put_aside = Quarantine()
    paths = write(folder / "questions.json", questions), write(folder / "annotations.json", answers)
    return list(read_vqav2(*paths, "pictures", "en", quarantine=put_aside)), put_aside


def llava(folder, value):
    put_aside = Quarantine()
    return list(
        read_llava(write(folder / "llava.json", value), "pictures", "zh", quarantine=put_aside)
    ), put_aside


def changed(value, *keys, to):
    """A deep copy with one field replaced, or removed where `to` is ..."""
    value = copy.deepcopy(value)
    place = value
    for key in keys[:-1]:
        place = place[key]
    if to is ...:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    return value


# --- the round trip ---


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "moji", WorldConfig(9, 6, seed=3))


@pytest.mark.parametrize(("pictures", "split"), [("train", "train"), ("test", "composition")])
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_moji_world_comes_back_row_for_row(world, language, pictures, split):
    images, put_aside = world / "images" / pictures, Quarantine()
    files = {"captions": pictures, "questions": split, "annotations": split, "llava": split}
    raw = {
        name: json.loads((world / f"{name}_{language}_{of}.json").read_text("utf8"))
        for name, of in files.items()
    }
    pairs = list(
        read_coco_captions(
            world / f"captions_{language}_{pictures}.json", images, language, quarantine=put_aside
        )
    )
    assert [(p.image_id, p.caption) for p in pairs] == [
        (str(row["image_id"]), row["caption"]) for row in raw["captions"]["annotations"]
    ]
    asked = list(
        read_vqav2(
            world / f"questions_{language}_{split}.json",
            world / f"annotations_{language}_{split}.json",
            images,
            language,
            image_name="{:06d}.png",
            quarantine=put_aside,
        )
    )
    rows = zip(raw["questions"]["questions"], raw["annotations"]["annotations"], strict=True)
    assert [(s.turns, s.references, s.question_type) for s in asked] == [
        (
            (Turn(q["question"], a["multiple_choice_answer"]),),
            (a["multiple_choice_answer"],),
            a["question_type"],
        )
        for q, a in rows
    ]
    told = list(read_llava(world / f"llava_{language}_{split}.json", images, language, quarantine=put_aside))
    assert [[value for t in s.turns for value in (t.instruction, t.response)] for s in told] == [
        [turn["value"] for turn in row["conversations"]] for row in raw["llava"]
    ]
    pictures = {str(path) for path in images.iterdir()}
    assert {pair.image for pair in pairs} == pictures == {s.images[0] for s in asked}
    assert {image for s in told for image in s.images} <= pictures
    assert {row.language for row in [*pairs, *asked, *told]} == {language}
    assert put_aside.rows == []


def test_captions_become_pairs(tmp_path):
    pairs, put_aside = coco(tmp_path, COCO)
    assert [(p.image_id, p.image, p.caption) for p in pairs] == [
        ("1", "pictures/a.png", "a tiger."),
        ("2", "pictures/b/c.png", "老虎。"),
    ]
    assert (pairs[0].language, pairs[0].source) == ("en", "coco") and not put_aside.rows


def test_questions_and_answers_are_joined_by_id(tmp_path):
    (sample,), put_aside = vqa(tmp_path, QUESTIONS, ANSWERS)
    assert sample.id == "vqav2-en-5" and sample.question_type == "what is"
    assert sample.images == ("pictures/COCO_train2014_000000000042.jpg",)
    assert sample.turns == (Turn("What is this?", "tiger"),)
    assert sample.references == ("tiger", "big cat") and not put_aside.rows


def test_conversations_keep_their_turns_and_marks(tmp_path):
    (sample,), put_aside = llava(tmp_path, LLAVA)
    assert sample.images == ("pictures/a.png",) and sample.task == "conversation" and not put_aside.rows
    assert sample.turns == (Turn("<image>\n图里是什么？", "老虎"), Turn("What colour?", "orange"))
    (text_only,), _ = llava(tmp_path, [{"id": 1, "conversations": LLAVA[0]["conversations"][2:]}])
    assert text_only.images == ()
    two = changed(LLAVA, 0, "image", to=["a.png", "b.png"])
    two = changed(two, 0, "conversations", 2, "value", to="<image>\n那这张呢？")
    assert llava(tmp_path, two)[0][0].images == ("pictures/a.png", "pictures/b.png")


def test_visual_genome_regions_become_pairs_with_boxes(tmp_path):
    pairs, put_aside = regions(tmp_path, REGIONS)
    assert [(pair.image, pair.caption, pair.box) for pair in pairs] == [
        ("pictures/42.jpg", "a small tiger", (3, 4, 20, 10)),
        ("pictures/42.jpg", "左侧是老虎", (0, 0, 5.5, 6)),
    ]
    assert not put_aside.rows


# --- bad rows ---


@pytest.mark.parametrize(
    ("field", "to", "blamed", "reason"),
    [
        ("phrase", " ", "phrase", "empty or not text"),
        ("phrase", ..., "phrase", "missing"),
        ("image_id", "42", "image_id", "not a whole number"),
        ("width", 0, "width", "not a box of positive size"),
        ("x", -1, "width", "not a box of positive size"),
        ("height", float("inf"), "width", "not a box of positive size"),
        ("y", float("nan"), "width", "not a box of positive size"),
        ("y", "4", "width", "not a box of positive size"),
    ],
)
def test_a_bad_region_is_put_aside_and_the_others_stay(tmp_path, field, to, blamed, reason):
    pairs, put_aside = regions(tmp_path, changed(REGIONS, 0, "regions", 0, field, to=to))
    assert [pair.caption for pair in pairs] == ["左侧是老虎"]
    assert put_aside.counts() == {f"{blamed}: {reason}": 1}


def test_an_image_without_a_list_of_regions_is_put_aside(tmp_path):
    pairs, put_aside = regions(tmp_path, [{"id": 1}, 7, *REGIONS])
    assert len(pairs) == 2 and put_aside.counts() == {"regions: not a list": 2}


@pytest.mark.parametrize(
    ("keys", "to", "row", "field", "reason"),
    [
        (("annotations", 0), 7, "annotations[0]", "row", "not an object"),
        (("annotations", 0, "caption"), ..., "annotations[0]", "caption", "missing"),
        (("annotations", 0, "caption"), "  ", "10", "caption", "empty or not text"),
        (("annotations", 0, "caption"), None, "10", "caption", "empty or not text"),
        (("annotations", 0, "image_id"), 99, "10", "image_id", "no such image"),
        (("annotations", 0, "image_id"), [1], "annotations[0]", "image_id", "not a number or text"),
        (("images", 0, "file_name"), "../../etc/passwd", "10", "file_name", "leaves the image folder"),
        (("images", 0, "file_name"), "/etc/passwd", "10", "file_name", "leaves the image folder"),
        (("images", 0, "file_name"), "b/../../x.png", "10", "file_name", "leaves the image folder"),
        (("images", 0, "file_name"), "a\0.png", "10", "file_name", "leaves the image folder"),
        (("images", 0, "file_name"), {}, "10", "file_name", "leaves the image folder"),
    ],
)
def test_a_bad_caption_row_is_put_aside_and_the_others_stay(tmp_path, keys, to, row, field, reason):
    pairs, put_aside = coco(tmp_path, changed(COCO, *keys, to=to))
    assert [pair.caption for pair in pairs] == ["老虎。"]
    assert put_aside.rows == [("captions.json", row, field, reason)]
    assert put_aside.counts() == {f"{field}: {reason}": 1}


def test_an_image_given_twice_is_counted(tmp_path):
    pairs, put_aside = coco(
        tmp_path, changed(COCO, "images", to=[*COCO["images"], {"id": 1, "file_name": "z"}])
    )
    assert [pair.image for pair in pairs] == ["pictures/a.png", "pictures/b/c.png"]
    assert put_aside.counts() == {"id: given twice": 1}


@pytest.mark.parametrize(
    ("file", "keys", "to", "field", "reason"),
    [
        ("questions", ("questions", 0, "question"), " ", "question", "empty or not text"),
        ("questions", ("questions", 0, "image_id"), "42", "image_id", "not a whole number"),
        ("questions", ("questions", 0, "question_id"), {}, "question_id", "not a number or text"),
        ("questions", ("questions", 0, "question"), ..., "question", "missing"),
        (
            "annotations",
            ("annotations", 0, "multiple_choice_answer"),
            "",
            "multiple_choice_answer",
            "empty or not text",
        ),
        ("annotations", ("annotations", 0, "answers"), None, "answers", "not a list of answers"),
        ("annotations", ("annotations", 0, "answers"), ["tiger"], "answers", "not a list of answers"),
        ("annotations", ("annotations", 0, "answers"), ..., "answers", "missing"),
    ],
)
def test_a_bad_question_or_answer_is_put_aside(tmp_path, file, keys, to, field, reason):
    files = {"questions": QUESTIONS, "annotations": ANSWERS}
    files[file] = changed(files[file], *keys, to=to)
    samples, put_aside = vqa(tmp_path, *files.values())
    assert samples == []
    assert (f"{file}.json", field, reason) in {(row[0], *row[2:]) for row in put_aside.rows}


def test_questions_without_answers_and_answers_without_questions_are_counted(tmp_path):
    samples, put_aside = vqa(tmp_path, QUESTIONS, changed(ANSWERS, "annotations", 0, "question_id", to=6))
    assert samples == []
    assert put_aside.rows == [
        ("questions.json", "5", "question_id", "has no annotation"),
        ("annotations.json", "6", "question_id", "has no question"),
    ]


@pytest.mark.parametrize(
    ("keys", "to", "field", "reason"),
    [
        ((0,), "text", "row", "not an object"),
        ((0, "image"), "../x.png", "image", "leaves the image folder"),
        ((0, "image"), ["a.png", "/x.png"], "image", "leaves the image folder"),
        ((0, "image"), 7, "image", "not a file name or a list of them"),
        ((0, "image"), {"a.png": 1}, "image", "not a file name or a list of them"),
        ((0, "image"), ["a.png", "b.png"], "conversations", "as many <image> marks as images are needed"),
        ((0, "image"), None, "conversations", "as many <image> marks as images are needed"),
        ((0, "conversations"), [], "conversations", "needs pairs of human and gpt turns"),
        ((0, "conversations", 3), ..., "conversations", "needs pairs of human and gpt turns"),
        ((0, "conversations", 1, "value"), "", "conversations[1].value", "empty or not text"),
        ((0, "conversations", 2, "value"), None, "conversations[2].value", "empty or not text"),
        (
            (0, "conversations", 0, "from"),
            "gpt",
            "conversations[0].from",
            "turns must go human, gpt, human, gpt",
        ),
    ],
)
def test_a_bad_conversation_is_put_aside_and_the_others_stay(tmp_path, keys, to, field, reason):
    good = {**LLAVA[0], "id": "good"}
    samples, put_aside = llava(tmp_path, [*changed(LLAVA, *keys, to=to), good])
    assert [sample.id for sample in samples] == ["good"]
    assert [row[2:] for row in put_aside.rows] == [(field, reason)]
    assert put_aside.rows[0][1] == ("0" if keys == (0,) else "x1"), "the row is named"


# --- bad files ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"7", "the top level must be a"),
        (b"{}", "'images' must be a list|top level must be a list"),
        (b'{"images": [], "annotations": {}}', "'annotations' must be a list|top level must be a list"),
    ],
)
@pytest.mark.parametrize("reader", [read_coco_captions, read_llava])
def test_a_file_that_is_not_the_format_is_named(tmp_path, reader, content, message):
    path = tmp_path / "raw.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"raw\.json.*({message})"):
        list(reader(path, tmp_path, "en"))


def test_a_missing_annotation_file_is_named(tmp_path):
    questions = write(tmp_path / "questions.json", QUESTIONS)
    with pytest.raises(DataError, match=r"nothing\.json: no such file"):
        list(read_vqav2(questions, tmp_path / "nothing.json", tmp_path, "en"))


# --- anything at all ---

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["", "a", "../a", "<image>", "human", "gpt"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["id", "value", "answer"]), inner)
    ),
    max_leaves=4,
)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(where=st.sampled_from(["id", "image_id", "caption", "file_name"]), value=values)
@quick
def test_no_value_stops_the_caption_reader_or_loses_a_row(tmp_path, where, value):
    rows = "images" if where == "file_name" else "annotations"
    pairs, put_aside = coco(tmp_path, changed(COCO, rows, 0, where, to=value))
    assert len(pairs) + len(put_aside.rows) == 2


@given(
    where=st.sampled_from(["question_id", "image_id", "question", "multiple_choice_answer", "answers"]),
    value=values,
)
@quick
def test_no_value_stops_the_question_reader(tmp_path, where, value):
    if where in QUESTIONS["questions"][0]:
        samples, put_aside = vqa(tmp_path, changed(QUESTIONS, "questions", 0, where, to=value), ANSWERS)
    else:
        samples, put_aside = vqa(tmp_path, QUESTIONS, changed(ANSWERS, "annotations", 0, where, to=value))
    assert samples or put_aside.rows


@given(where=st.sampled_from(["id", "image", "conversations"]), value=values)
@quick
def test_no_value_stops_the_conversation_reader_or_loses_a_row(tmp_path, where, value):
    samples, put_aside = llava(tmp_path, changed(LLAVA, 0, where, to=value))
    assert len(samples) + len(put_aside.rows) == 1
    assert all(image.startswith("pictures/") and ".." not in image for s in samples for image in s.images)


GQA = {
    "02930152": {
        "question": "Is the sky dark? ", "imageId": "2354786", "answer": "yes", "fullAnswer": "Yes, it is.",
        "isBalanced": True, "types": {"structural": "verify", "semantic": "attr", "detailed": "verifyAttr"},
    }
}  # fmt: skip
INSTANCES = {
    "images": [{"id": 3, "file_name": "a.jpg", "width": 200, "height": 100}],
    "annotations": [{"id": 7, "image_id": 3, "bbox": [50, 25, 50, 50], "category_id": 1}],
}
REFS = [
    {"ref_id": 0, "ann_id": 7, "image_id": 3, "category_id": 1, "split": "train", "file_name": "a.jpg",
     "sentences": [{"raw": "left dog ", "sent_id": 0}, {"raw": "左边的狗", "sent_id": 1}], "sent_ids": [0, 1]}
]  # fmt: skip


def gqa(tmp_path, value):
    put_aside = Quarantine()
    file = write(tmp_path / "gqa.json", value)
    return list(read_gqa(file, tmp_path, "en", quarantine=put_aside)), put_aside


def refcoco(tmp_path, refs, instances=INSTANCES):
    put_aside = Quarantine()
    files = write(tmp_path / "refs.json", refs), write(tmp_path / "instances.json", instances)
    return list(read_refcoco(*files, tmp_path, "en", quarantine=put_aside)), put_aside


def test_gqa_comes_back_whole(tmp_path):
    (sample,), put_aside = gqa(tmp_path, GQA)
    assert sample.images == (str(tmp_path / "2354786.jpg"),) and not put_aside.rows
    assert sample.turns == (Turn("Is the sky dark?", "yes"),)
    assert (sample.question_type, sample.task, sample.source) == ("verifyAttr", "vqa", "gqa")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": " "}, "question: empty or not text"),
        ({"answer": 3}, "answer: empty or not text"),
        ({"imageId": "../x"}, "imageId: leaves the image folder"),
        ({"imageId": 5}, "imageId: empty or not text"),
        (None, "question: missing"),
    ],
)
def test_a_bad_row_of_gqa_is_put_aside(tmp_path, change, reason):
    row = {"imageId": "1"} if change is None else GQA["02930152"] | change
    read, put_aside = gqa(tmp_path, GQA | {"bad": row})
    assert len(read) == 1 and put_aside.counts() == {reason: 1}
    assert gqa(tmp_path, {"bad": []})[1].counts() == {"row: not an object": 1}


def test_each_sentence_of_refcoco_becomes_a_sample_with_its_box_as_text(tmp_path):
    read, put_aside = refcoco(tmp_path, REFS)
    assert [s.turns for s in read] == [
        (Turn("left dog", "(250,250),(500,750)"),),
        (Turn("左边的狗", "(250,250),(500,750)"),),
    ]
    assert read[0].boxes == ((50, 25, 50, 50),) and read[0].task == "grounding" and not put_aside.rows


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ann_id": 8}, "ann_id: no such annotation of this image"),
        ({"image_id": 4}, "ann_id: no such annotation of this image"),
        ({"sentences": "dog"}, "sentences: not a list, or an empty one"),
        ({"sentences": []}, "sentences: not a list, or an empty one"),
        ({"sentences": [{"raw": ""}]}, "raw: empty or not text"),
        ({"sentences": ["dog"]}, "raw: empty or not text"),
    ],
)
def test_a_bad_reference_is_put_aside(tmp_path, change, reason):
    read, put_aside = refcoco(tmp_path, [*REFS, REFS[0] | change])
    assert len(read) == 2 and put_aside.counts() == {reason: 1}


def test_a_reference_to_a_picture_elsewhere_is_put_aside(tmp_path):
    read, put_aside = refcoco(tmp_path, REFS, changed(INSTANCES, "images", 0, "file_name", to="/etc/x"))
    assert not read and put_aside.counts() == {"file_name: leaves the image folder": 1}


@pytest.mark.parametrize("box", [[50, 25, 0, 50], [190, 0, 20, 5], "box", [1, 2, 3]])
def test_a_reference_to_a_box_outside_its_picture_is_put_aside(tmp_path, box):
    instances = INSTANCES | {"annotations": [INSTANCES["annotations"][0] | {"bbox": box}]}
    read, put_aside = refcoco(tmp_path, REFS, instances)
    assert not read and put_aside.counts() == {"bbox: not a box within its image": 1}
