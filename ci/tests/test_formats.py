"""Every format of the paper's data sets: the fixture gives exactly these records, and damage loses no row.

The rows under fixtures/ were made for these tests in the layout of the published files.
"""

import hashlib
import json
import os
import pickle
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zvl.data import readers
from zvl.data.llava_bench import read_llava_bench_context, read_llava_bench_rules
from zvl.data.readers import DataError, Quarantine
from zvl.data.samples import Sample, Turn
from zvl.data.symbols import Thing
from zvl.data.webpairs import row_name

FIXTURES = Path(__file__).with_name("fixtures")
IMAGES = "pictures"


def sha1(url: str) -> str:
    return f"{hashlib.sha1(url.encode()).hexdigest()}.jpg"


def said(record) -> tuple:
    """What a record says, and of which picture."""
    if isinstance(record, Sample):
        turns = tuple(text for turn in record.turns for text in (turn.instruction, turn.response))
        return tuple(os.path.relpath(image, IMAGES) for image in record.images), turns
    return os.path.relpath(record.image, IMAGES), record.caption


def laion(folder: Path) -> Path:
    """The rows of the fixture as the parquet file they stand for."""
    path = folder / "laion/part.parquet"
    rows = [json.loads(line) for line in (folder / "laion/rows.jsonl").read_text("utf8").splitlines()]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


# (name, files in the order of the reader's arguments, further arguments, what the records say)
FORMATS = [
    ("karpathy", ["karpathy/dataset_coco.json"], {}, [
        ("train2014/COCO_train2014_000000000007.jpg", "Two cats."),
        ("val2014/COCO_val2014_000000000073.jpg", "A motorbike."),
    ]),
    ("karpathy", ["karpathy/dataset_coco.json"], {"splits": ("test",)}, [
        ("val2014/COCO_val2014_000000000042.jpg", "A dog."),
        ("val2014/COCO_val2014_000000000042.jpg", "A brown dog."),
    ]),
    ("karpathy", ["karpathy/dataset_flickr30k.json"], {}, [("1000092795.jpg", "Two men talk.")]),
    ("flickr30k", ["flickr30k/results_20130124.token"], {}, [
        ("1000092795.jpg", "Two young men stand in a garden ."),
        ("1000092795.jpg", "Two friends talk ."),
        ("10002456.jpg", "Men work on a crane ."),
    ]),
    ("flickr30k_cna", ["flickr30k_cna/flickr30k_cn_test.txt"], {}, [
        ("1000092795.jpg", "两个年轻人站在花园里。"),
        ("10002456.jpg", "几个人在操作吊车。"),
    ]),
    ("coco_cn", ["coco_cn/imageid.human-written-caption.txt"], {"split": FIXTURES / "coco_cn/coco-cn_test.txt"}, [
        ("COCO_val2014_000000000042.jpg", "架子上有一只狗"),
        ("COCO_val2014_000000000042.jpg", "小狗趴在鞋上"),
    ]),
    ("ai_challenger", ["ai_challenger/caption_train_annotations_20170902.json"], {}, [
        ("8f00f3d0f1008e085ab660e70dffced16a8259f6.jpg", "两个衣着休闲的人在平整的道路上交谈"),
        ("8f00f3d0f1008e085ab660e70dffced16a8259f6.jpg", "一个戴着帽子的人和一个人在路上说话"),
        ("b96ff46ba5b1cbe5bb4cc32b566431132ca71a64.jpg", "房间里有三个坐在桌子旁的人在吃饭"),
    ]),
    ("nocaps", ["nocaps/nocaps_val_4500_captions.json"], {"domain": "in-domain"}, [
        ("0013ea2087020901.jpg", "A baby is standing in front of a house."),
        ("0013ea2087020901.jpg", "A toddler at a door."),
    ]),
    ("textcaps", ["textcaps/TextCaps_0.1_train.json"], {}, [
        ("11a5e102dd5e1a92.jpg", "The cubs hoodie of a lady in the crowd"),
        ("11a5e102dd5e1a92.jpg", "A lady wears a hoodie that says CUBS."),
    ]),
    ("cc3m", ["cc3m/Train_GCC-training.tsv"], {}, [
        (sha1("http://a.example/bus.jpg"), "a very typical bus station"),
        (sha1("http://b.example/top.jpg"), "sierra looked stunning in this top"),
    ]),
    ("cc12m", ["cc12m/cc12m.tsv"], {"image_name": row_name}, [
        ("00000/000000000.jpg", 'Red apples in a "wooden" box'),
        ("00000/000000001.jpg", "<PERSON> at the premiere"),
    ]),
    ("sbu", ["sbu/SBU_captioned_photo_dataset_urls.txt", "sbu/SBU_captioned_photo_dataset_captions.txt"], {}, [
        (sha1("http://static.example/4385058960_b0f291553e.jpg"), "A wooden chair in the living room"),
        (sha1("http://static.example/3348385580_10b53391f9.jpg"), "This is on a beach in Jamaica."),
    ]),
    ("wukong", ["wukong/wukong_100m_0.csv"], {"image_name": row_name}, [
        ("00000/000000000.jpg", "山西省大同市,云冈石窟"),
        ("00000/000000001.jpg", '他说"你好"'),
        ("00000/000000002.jpg", "两行\n文字"),
    ]),
    ("laion", [laion], {"image_name": row_name}, [
        ("00000/000000000.jpg", "红色的苹果"),
        ("00000/000000002.jpg", "海边的日落"),
    ]),
    ("own_pairs", ["own/pairs.csv"], {"language": "en"}, [
        ("cats/1.jpg", "Two cats on a sofa."), ("cats/1.jpg", "沙发上的两只猫。"), ("dog.png", "A dog, asleep."),
    ]),
    ("okvqa", ["okvqa/OpenEnded_mscoco_val2014_questions.json", "okvqa/mscoco_val2014_annotations.json"], {}, [
        (("COCO_val2014_000000297147.jpg",), ("What sport can you use this for?", "race")),
        (("COCO_val2014_000000339761.jpg",), ("Name the type of plant this is?", "vine")),
    ]),
    ("textvqa", ["textvqa/TextVQA_0.5.1_train.json"], {}, [
        (("003a8ae2ef43b901.jpg",), ("what is the brand of this camera?", "dakota")),
    ]),
    ("ocr_vqa", ["ocr_vqa/dataset.json"], {}, [
        (("0310246091.jpg",), ("Who wrote this book?", "Gary Chapman")),
        (("0310246091.jpg",), ("Is this a sci-fi book?", "No")),
        (("0761183272.gif",), ("What is the genre of this book?", "Calendars")),
    ]),
    ("clevr", ["clevr/CLEVR_val_questions.json"], {}, [
        (("CLEVR_val_000000.png",),
         ("Are there any other things that are the same shape as the big metallic object?", "no")),
        (("CLEVR_val_000000.png",), ("How many cubes are there?", "1")),
    ]),
    ("scienceqa", ["scienceqa/problems.json"], {}, [
        (("train/1/image.png",), ("Which of these states is farthest north?", "West Virginia")),
        ((), ("Mona printed her name.\nWhich tense does it use?", "past tense")),
    ]),
    ("vizwiz", ["vizwiz/val.json"], {}, [
        (("VizWiz_val_00000000.jpg",), ("Ok. There is another picture I hope it is a better one.", "unanswerable")),
        (("VizWiz_val_00000001.jpg",), ("What is this?", "beans")),
    ]),
    ("vcr", ["vcr/val.jsonl"], {"images": FIXTURES / "vcr"}, [
        (("lsmdc_1054/1054@0.jpg",), ("Why doesn't person 2 look at dog?", "person 2's eyes are closed.")),
    ]),
    ("refcoco", ["refcoco/refs(unc).p", "refcoco/instances.json"], {"language": "en"}, [
        (("COCO_train2014_000000581857.jpg",), ("THE LADY WITH THE BLUE SHIRT", "(500,100),(600,600)")),
        (("COCO_train2014_000000581857.jpg",), ("lady in back", "(500,100),(600,600)")),
        (("COCO_train2014_000000581857.jpg",), ("左边的男孩", "(0,0),(999,999)")),
    ]),
    ("visual_genome_references", ["visual_genome/region_descriptions.json", "visual_genome/image_data.json"], {}, [
        (("1.jpg",), ("the clock is green in colour", "(526,95),(628,326)")),
    ]),
    ("grit", ["grit/coyo_0_snappy.jsonl"], {}, [
        ((sha1("https://strap.example/customerservice-1.jpg"),), (
            "Describe the picture in a sentence, with the box of each thing that you name.",
            "a wire hanger (0,0),(999,999), (500,500),(750,999) with a paper cover (20,310),(960,960)",
        )),
    ]),
    ("svit", ["svit/referring_qa.json"], {}, [
        (("107899.jpg",), (
            "What is the man (250,100),(500,900) doing near the dogs (0,500),(200,999), (600,500),(800,999)?",
            "The man (250,100),(500,900) feeds them.",
        )),
        (("107899.jpg",), ("Is it day?", "Yes.", "Why?", "The sky is bright.")),
    ]),
    ("llava", ["llava/llava_instruct.json"], {"language": "en"}, [
        (("000000033471.jpg",),
         ("<image>\nWhat are the colors of the bus?", "White and red.", "Where is it?", "On a street.")),
        ((), ("你好", "你好！")),
    ]),
    ("qwen_vl", ["qwen_vl/train.json"], {"language": "zh"}, [
        ((), ("你好", "我是一个语言模型。")),
        (("assets/demo.jpeg",), ("<image>\n图中的狗是什么品种？", "是拉布拉多犬。",
                                "框出图中的格子衬衫", "格子衬衫 (588,499),(725,789)")),
        (("a.jpg", "b/c.jpg"), ("<image>\n<image>\nWhich is bigger?", "The second.")),
    ]),
    ("llava_bench", ["llava_bench/qa90_questions.jsonl", "llava_bench/qa90_gpt4_answer.jsonl"], {}, [
        (("000000441147.jpg",), ("What is the color of the two suitcases in the image?", "They are brown.")),
        (("000000441147.jpg",), ("Describe the image.", "Two antique suitcases stand on a floor.")),
    ]),
]  # fmt: skip
NAMES = [name for name, *_ in FORMATS]


def read(name, files, options, folder=FIXTURES):
    """(records, quarantine) of one format, from a folder laid out as the fixtures are."""
    quarantine = Quarantine()
    paths = [file(folder) if callable(file) else folder / file for file in files]
    options = {"images": IMAGES, "quarantine": quarantine} | options
    return list(getattr(readers, f"read_{name}")(*paths, **options)), quarantine


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(FIXTURES, tmp_path / "fixtures"))


@pytest.mark.parametrize(("name", "files", "options", "expected"), FORMATS, ids=NAMES)
def test_the_fixture_gives_exactly_these_records(copy, name, files, options, expected):
    images = options.get("images", IMAGES)
    records, quarantine = read(name, files, options, copy)
    if images != IMAGES:
        expected = [
            (tuple(os.path.relpath(images / image, IMAGES) for image in shown), text)
            for shown, text in expected
        ]
    assert [said(record) for record in records] == expected
    wide = ["width: not a box within its image"] if name == "visual_genome_references" else []
    assert list(quarantine.counts()) == wide


def test_languages_sources_and_ids_are_told():
    pairs, _ = read("own_pairs", ["own/pairs.csv"], {"language": "en"})
    assert [pair.language for pair in pairs] == ["en", "zh", "en"]
    for name, files, options, _ in FORMATS:
        if not callable(files[0]) and name not in ("llava", "qwen_vl"):
            records, _ = read(name, files, options)
            assert {record.source for record in records} <= {
                name,
                name.removesuffix("_pairs"),
                "coco",
                "visual_genome",
            }
            if isinstance(records[0], Sample):
                assert len({record.id for record in records}) == len(records)


# --- what the formats say beyond questions and answers ---


def test_the_most_confident_answer_wins_over_the_most_frequent():
    """motocross: three votes, two of which say no; race: a yes and a maybe."""
    (first, _), _ = read("okvqa", FORMATS[NAMES.index("okvqa")][1], {})
    assert first.turns[0].response == "race" and first.references == ("motocross", "race", "ride")


def test_vqav2_keeps_the_answer_that_it_defines(copy):
    path = copy / "okvqa/mscoco_val2014_annotations.json"
    notes = json.loads(path.read_text("utf8"))
    notes["annotations"][0]["multiple_choice_answer"] = "ride"
    path.write_text(json.dumps(notes), "utf8")
    (first, _), _ = read("okvqa", FORMATS[NAMES.index("okvqa")][1], {}, copy)
    assert first.turns[0].response == "ride"


def test_choices_and_splits_are_kept():
    (both, text_only), _ = read("scienceqa", ["scienceqa/problems.json"], {})
    assert (
        both.choices == ("West Virginia", "Louisiana", "Arizona") and both.question_type == "social science"
    )
    assert text_only.images == ()
    (test,), _ = read("scienceqa", ["scienceqa/problems.json"], {"splits": ("test",)})
    assert test == text_only
    (book,), _ = read("ocr_vqa", ["ocr_vqa/dataset.json"], {"split": "test"})
    assert book.turns == (Turn("What is the genre of this book?", "Calendars"),)


def test_vcr_names_its_things_and_tells_their_boxes():
    (plain,), _ = read("vcr", ["vcr/val.jsonl"], {"images": FIXTURES / "vcr"})
    assert plain.choices == (
        "person 1 and person 2 are afraid.",
        "person 2's eyes are closed.",
        "It barks.",
        "It is dark, and late.",
    )
    assert plain.boxes == ((200, 20, 100, 100), (0, 100, 400, 100), (10.5, 20, 100, 200)), "as they come up"
    (boxed,), _ = read("vcr", ["vcr/val.jsonl"], {"images": FIXTURES / "vcr", "grounded": True})
    assert boxed.turns[0].response == "person 2 (500,83),(750,500)'s eyes are closed."


def test_refcoco_reads_one_split_and_turns_into_grounded_captions():
    from zvl.data.grounding import captions_of_boxes

    files = FORMATS[NAMES.index("refcoco")][1]
    (only,), _ = read("refcoco", files, {"language": "zh", "splits": ("testA",)})
    (turned,) = captions_of_boxes([only])
    assert turned.turns == (Turn("(0,0),(999,999)", "左边的男孩"),) and turned.question_type == "refer"
    assert turned.boxes == only.boxes == ((0, 0, 640, 427),) and turned.id != only.id


def test_grit_tells_boxes_in_pixels_and_reads_parquet_alike(copy):
    (sample,), _ = read("grit", ["grit/coyo_0_snappy.jsonl"], {}, copy)
    assert sample.boxes[:2] == ((0, 0, 1000, 500), (500, 250, 250, 250)) and len(sample.boxes) == 3
    rows = [json.loads(line) for line in (copy / "grit/coyo_0_snappy.jsonl").read_text("utf8").splitlines()]
    pq.write_table(pa.Table.from_pylist(rows), copy / "grit/part.parquet")
    assert read("grit", ["grit/part.parquet"], {}, copy)[0] == [sample]


def test_the_judge_of_llava_bench_gets_symbols_and_rules():
    context = read_llava_bench_context(FIXTURES / "llava_bench/caps_boxes_coco2014_val_80.jsonl")
    shown = context["000000441147.jpg"]
    assert shown.captions == ("Two antique suitcases sit stacked.", "A brown case.")
    assert shown.things == (Thing("suitcase", (250, 500, 500, 500)),)
    rules = read_llava_bench_rules(FIXTURES / "llava_bench/rule.json")
    assert rules["conv"] == ("Assistant", "We would like to request your feedback.")


def test_pictures_that_are_not_there_are_put_aside_when_asked(tmp_path):
    (tmp_path / sha1("http://b.example/top.jpg")).touch()
    options = {"images": tmp_path, "present": True}
    (pair,), quarantine = read("cc3m", ["cc3m/Train_GCC-training.tsv"], options)
    assert pair.caption.startswith("sierra") and quarantine.counts() == {"image: no such file": 1}
    assert quarantine.rows == [("Train_GCC-training.tsv", "1", "image", "no such file")]


def test_a_rule_of_the_callers_cannot_lead_out_of_the_folder():
    options = {"image_name": lambda url, row: "../" + url.rsplit("/", 1)[1]}
    records, quarantine = read("cc3m", ["cc3m/Train_GCC-training.tsv"], options)
    assert not records and quarantine.counts() == {"image: leaves the image folder": 2}


# --- damage ---

VALUES = [None, True, -1, 7, 0.5, float("nan"), "", " ", "a", "../../x", "<image>", "<st>a<ed> [9,9,9,9]", "\ud800",
          "<box>(3,3),(1,1)</box>", "<img>/etc/passwd</img>", [], [[]], ["a"], {}, {"a": 1}, 10**400]  # fmt: skip


def places(value, at=()):
    """The path of each field below a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield (*at, key)
        yield from places(child, (*at, key))


def damaged(value, chance: random.Random):
    """The value with one field replaced by something of another kind, or removed where it is a field of a row."""
    *way, last = chance.choice(list(places(value)))
    inner = value
    for key in way:
        inner = inner[key]
    if isinstance(inner, dict) and way and chance.random() < 0.2:
        del inner[last]
    else:  # a list for a list would only be another number of rows
        inner[last] = chance.choice(
            [v for v in VALUES if not isinstance(v, list) or not isinstance(inner[last], list)]
        )
    return value


def spoil(path: Path, chance: random.Random) -> None:
    """Damage one place of a file: a field where it is JSON or a pickle, some bytes elsewhere."""
    if path.suffix == ".json":
        path.write_text(json.dumps(damaged(json.loads(path.read_text("utf8")), chance)), "utf8")
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text("utf8").splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in damaged(rows, chance)), "utf8")
    elif path.suffix == ".p":
        path.write_bytes(pickle.dumps(damaged(pickle.loads(path.read_bytes()), chance), 0))
    else:
        raw = bytearray(path.read_bytes())
        raw[chance.randrange(len(raw))] = chance.choice(b'\xff\x00"\t\r\n,#a')
        path.write_bytes(raw)


FILES = [entry for entry in FORMATS if not callable(entry[1][0])]


@pytest.mark.parametrize(("name", "files", "options", "expected"), FILES, ids=[name for name, *_ in FILES])
def test_damage_is_put_aside_or_names_the_file(copy, name, files, options, expected):
    """One damaged place: what is missing from the records then is in the quarantine, and no picture lies elsewhere."""
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    if name == "vcr":
        options, files = options | {"images": copy / "vcr"}, [*files, "vcr/lsmdc_1054/1054@0.json"]
    arguments = [file for file in files if "1054" not in file]
    whole, _ = read(name, arguments, options, copy)
    listed = "split" in options  # a picture whose name is damaged is on no list
    for _ in range(15):
        file = chance.choice(files)
        shutil.copy(FIXTURES / file, copy / file)
        spoil(copy / file, chance)
        try:
            records, quarantine = read(name, arguments, options, copy)
        except DataError as err:
            assert Path(file).name in str(err), f"seed {seed}: {err} does not name {file}"
        else:
            gone = sum(record not in records for record in whole)
            new = sum(record not in whole for record in records)
            spoilt = (copy / file).read_bytes()[:2000]
            assert gone <= new or quarantine.rows or listed, (
                f"seed {seed}: {gone} records are lost from {spoilt}"
            )
            shown = [image for r in records for image in (r.images if isinstance(r, Sample) else [r.image])]
            assert all(Path(image).is_relative_to(options.get("images", IMAGES)) for image in shown)
            assert not any(".." in Path(image).parts for image in shown)
            (
                json.dumps([said(record) for record in records], ensure_ascii=False).encode(),
                "no lone surrogates",
            )
        shutil.copy(FIXTURES / file, copy / file)


@pytest.mark.parametrize("name", ["cc3m", "cc12m", "wukong", "own_pairs", "flickr30k"])
def test_kept_and_put_aside_are_all_rows_of_a_large_file(tmp_path, name):
    """Of 400 rows some are spoilt in ways that leave each on its line."""
    chance, rows, separator = random.Random(), 400, "\t" if name in ("cc3m", "cc12m", "flickr30k") else ","
    header = {"wukong": "url,caption\n", "own_pairs": "image,caption\n"}.get(name, "")
    bad = [separator * 3, "", "\ud800", "no second column"]
    spoilt, text = 0, []
    for n in range(rows):
        first, second = (f"{n}.jpg#0" if name == "flickr30k" else f"http://a.example/{n}"), f"图 {n}"
        if chance.random() < 0.2:
            spoilt += 1
            fault = chance.choice(bad)
            line = fault if fault in bad[::3] else first + separator + fault
        else:
            line = first + separator + second
        text.append(line + "\n")
    path = tmp_path / "rows.txt"
    path.write_bytes((header + "".join(text)).encode("utf8", "surrogatepass"))
    options = {"language": "zh"}
    records, quarantine = read(name, ["rows.txt"], options, tmp_path)
    assert len(records) == rows - spoilt and len(quarantine.rows) == spoilt
    assert len({place for _, place, _, _ in quarantine.rows}) == spoilt, "each bad row has its own line"


# --- damage of each kind is named ---


SPAN = "not a span of the caption with a box within the picture"
NAMED = [
    ("cc3m", b"only one column\n", "row: not two columns, caption and url"),
    ("cc3m", b"a\tb\tc\n", "row: not two columns, caption and url"),
    ("cc3m", b" \thttp://a\n", "caption: empty or not text"),
    ("cc3m", b"a\t\n", "url: empty or not text"),
    ("cc3m", b"caf\xe9\thttp://a\n", "row: not UTF-8"),
    ("wukong", b'url,caption\nhttp://a,"never closed\n', "row: not CSV (unexpected end of data)"),
    ("wukong", b"url,caption\nhttp://a\n", "row: not as many cells as the header"),
    ("wukong", b"url,caption\nhttp://a,\xff\n", "row: not UTF-8"),
    ("wukong", b"url,caption\nhttp://a,\n", "caption: empty or not text"),
    ("own_pairs", b"image,caption\n/etc/passwd,a\n", "image: leaves the image folder"),
    ("own_pairs", b"image,caption\n../a.png,a\n", "image: leaves the image folder"),
    ("own_pairs", b"image,caption,language\na.png,un chat,fr\n", "language: not one of en, zh"),
    ("flickr30k", b"1.jpg#0 a caption\n", "row: not two columns, name and caption"),
    ("flickr30k", b"1.jpg\ta caption\n", "image: not a name, # and the number of a caption"),
    ("flickr30k", b"../1.jpg#0\ta caption\n", "image: leaves the image folder"),
    ("ai_challenger", b'[{"image_id": "a.jpg", "caption": []}]', "caption: not a list, or an empty one"),
    ("ai_challenger", b'[{"image_id": "a.jpg", "caption": [7]}]', "caption: empty or not text"),
    ("karpathy", b'{"images": [{"split": "train", "filename": "a"}]}', "imgid: missing"),
    ("textcaps", b'{"data": [{"image_id": "../a", "caption_str": "a"}]}', "image_id: leaves the image folder"),
    ("textvqa", b'{"data": [{"question_id": 1, "image_id": "a", "question": "?", "answers": [1]}]}',
     "answers: no answer among them"),
    ("ocr_vqa", b'{"a": {"imageURL": "http://a/b.jpg", "questions": ["?"], "answers": ["a", "b"]}}',
     "answers: not as many as questions"),
    ("scienceqa", b'{"1": {"split": "dev", "image": null}}', "split: not one of train, val, test"),
    ("karpathy", b'{"images": [{"split": "dev"}]}', "split: not one of train, restval, val, test"),
    ("clevr", b'{"questions": [{"image_filename": "a.png", "question": "?"}]}', "answer: missing"),
    ("scienceqa", b'{"1": {"split": "train", "image": null, "choices": ["a"], "answer": 1, "question": "?"}}',
     "answer: not the number of a choice"),
    ("vizwiz", b'[{"image": "a.jpg", "question": "?", "answers": ["a"]}]', "answers: not a list of answers"),
    ("vcr", b"{}\n", "annot_id: missing"),
    ("vcr", b"[1\n", "row: not JSON"),
    ("vcr", b'{"annot_id": "a", "img_fn": "a.jpg", "metadata_fn": "a.json", "objects": ["dog"], "answer_label": 0, '
     b'"answer_choices": [["a"]], "question": [[0]]}\n', "metadata_fn: no such file, or not boxes within a picture"),
    ("grit", b'{"id": 1, "url": "u", "caption": "a dog", "width": 9, "height": 9, "ref_exps": [], '
     b'"noun_chunks": [[0, 5, 0.5, 0, 0.4, 1, 1]]}\n', "noun_chunks: " + SPAN),
    ("grit", b'{"id": 1, "url": "u", "caption": "a dog", "width": 9, "height": 9, "ref_exps": [], '
     b'"noun_chunks": [[0, 6, 0, 0, 1, 1, 1]]}\n', "noun_chunks: " + SPAN),
    ("grit", b'{"id": 1, "url": "u", "caption": "a dog", "width": 9, "height": 9, "ref_exps": [], "noun_chunks": []}\n',
     "noun_chunks: no phrase with a box"),
    ("svit", b'[{"image_id": 1, "conversations": [{"content": [{"from": "user", "value": "<st>a<ed> [0, 0, 2, 1]"}, '
     b'{"from": "gpt", "value": "b"}]}]}]', "value: a box without area or beyond the picture"),
    ("svit", b'[{"image_id": 1, "conversations": [{"content": [{"from": "user", "value": "<st>a"}, '
     b'{"from": "gpt", "value": "b"}]}]}]', "value: a mark <st> that does not close"),
    ("qwen_vl", b'[{"id": 1, "conversations": [{"from": "user", "value": "<img>../a</img>"}, '
     b'{"from": "assistant", "value": "b"}]}]', "conversations: leaves the image folder"),
    ("qwen_vl", b'[{"id": 1, "conversations": [{"from": "user", "value": "<img>https://a/b.jpg</img>"}, '
     b'{"from": "assistant", "value": "b"}]}]', "conversations: an address in place of a picture's file"),
    ("qwen_vl", b'[{"id": 1, "conversations": [{"from": "user", "value": "a"}, '
     b'{"from": "assistant", "value": "<box>(5,5),(3,9)</box>"}]}]', "value: a box without area or beyond the picture"),
    ("qwen_vl", b'[{"id": 1, "conversations": [{"from": "user", "value": "a"}, '
     b'{"from": "assistant", "value": "<img>a.jpg</img>"}]}]', "value: a mark <img> that does not close"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "raw", "reason"), NAMED)
def test_damage_of_each_kind_is_named(tmp_path, name, raw, reason):
    (tmp_path / "raw.txt").write_bytes(raw)
    records, quarantine = read(name, ["raw.txt"], {"language": "en"}, tmp_path)
    assert not records and quarantine.counts() == {reason: 1}
    assert quarantine.rows[0][0] == "raw.txt"


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("wukong", b"address,text\n", "line 1: no column 'url' among ['address', 'text']"),
        ("own_pairs", b"", "line 1: no column 'image' among []"),
        ("textcaps", b"{}", "field 'data' must be a list"),
        ("svit", b"{}", "the top level must be a list"),
        ("laion", b"PAR1 no", "not parquet, or damaged"),
        ("grit", None, "no such file"),
        ("cc3m", None, "no such file"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path, name, raw, message):
    if raw is not None:
        (tmp_path / "raw.txt").write_bytes(raw)
    with pytest.raises(DataError) as err:
        read(name, ["raw.txt"], {"language": "en"}, tmp_path)
    assert message in str(err.value) and "raw.txt" in str(err.value)


def test_a_bad_line_of_sbu_moves_no_other(copy):
    path = copy / "sbu/SBU_captioned_photo_dataset_captions.txt"
    path.write_bytes(b"caf\xe9\n" + path.read_bytes().split(b"\n", 1)[1] + b"one too many\n")
    (pair,), quarantine = read("sbu", FORMATS[NAMES.index("sbu")][1], {}, copy)
    assert pair.caption == "This is on a beach in Jamaica." and "3348385580" not in pair.caption
    assert pair.image_id == sha1("http://static.example/3348385580_10b53391f9.jpg")
    assert quarantine.counts() == {"caption: not UTF-8": 1, "url: empty or not text": 1}


def test_an_open_quote_takes_a_few_lines_and_the_rest_is_read(tmp_path):
    rows = [f"http://a.example/{n},图 {n}\n" for n in range(50_000)]
    rows[10] = 'http://a.example/10,"never closed\n'
    (tmp_path / "w.csv").write_text("url,caption\n" + "".join(rows), "utf8")
    records, quarantine = read("wukong", ["w.csv"], {}, tmp_path)
    ((_, place, field, reason),) = quarantine.rows
    first, last = map(int, place.split("-"))
    assert first == 12 and field == "row" and "field larger than field limit" in reason
    assert len(records) + last - first + 1 == len(rows) and len(records) > 40_000


def test_bad_text_in_parquet_costs_one_row(tmp_path):
    table = pa.table({
        "URL": ["http://a/0", "http://a/1", None],
        "TEXT": pa.array([b"caf\xe9", "好".encode(), b"x"]).view(pa.string()),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "p.parquet")
    (pair,), quarantine = read("laion", ["p.parquet"], {"image_name": row_name}, tmp_path)
    assert pair.caption == "好" and pair.image_id == "00000/000000001.jpg"
    assert quarantine.rows == [
        ("p.parquet", "0", "TEXT", "not UTF-8"),
        ("p.parquet", "2", "URL", "empty or not text"),
    ]


def test_a_damaged_parquet_is_named(copy):
    path = laion(copy)
    raw = bytearray(path.read_bytes())
    raw[4:60] = bytes(56)
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"part\.parquet: .*(damaged|cannot be read)"):
        read("laion", ["laion/part.parquet"], {}, copy)


def test_a_parquet_without_captions_is_named(tmp_path):
    pq.write_table(pa.table({"URL": ["a"]}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet: no column 'TEXT' among \['URL'\]"):
        read("laion", ["p.parquet"], {}, tmp_path)
