"""A card is readable by people and by programs, and a broken one says where."""

import importlib
import re

import pytest

from zvl.cards import read_card, read_cards
from zvl.results import repository

GOOD = (
    "---\nid: moji\nname: The Moji world\nlicence: CC BY-SA 4.0\nlanguages: [en, zh]\n---\n\n# Moji\n\n世界\n"
)

# The data sets of the paper's Tables 1 to 4 and Qwen-VL's further ones, by the names of their cards.
PAPER = {
    1: "cc12m cc3m sbu coco ai_challenger wukong laion_high",
    2: "cc3m coco coco_cn flickr30k flickr30k_cna ai_challenger textcaps vqav2 vqav2_t gqa ocr_vqa gqa_t textvqa clevr "
    "visual_genome refcoco refcoco_plus refcocog vcr",
    3: "llava llava_t m3it m3it_t svit bmmic",
    4: "nocaps coco_cn flickr30k_cna flickr30k vqav2 okvqa gqa scienceqa vizwiz",
}
FURTHER = "llava_bench moji docvqa chartqa ai2d grit synthdog dvqa vgqa touchstone seed_bench mme"
OURS = {"moji", "bmmic"}  # made here; their prose has sections of its own
WITHOUT_READER = {*"docvqa chartqa ai2d synthdog dvqa vgqa touchstone seed_bench mme".split()}
PENDING: set[str] = set()  # readers that cards may name before they are written
SECTIONS = ["Motivation", "Composition", "How to obtain it", "Limits", "Contamination"]

FRONT = """id: wukong
name: Wukong
languages: [zh]
licence: unknown
home_page: https://wukong-dataset.github.io
paper_reference: Table 1
stage: [pretraining]
task: [captioning]
chat_only: not applicable
printed:
  - {table: 1, row: 6, language: Chinese, dataset: Wukong, original: 100M, cleaned: 12M, remaining: 12 %}
splits: {train: all of it}
reader: zvl.data.readers.read_wukong
expected_files: [a.csv]
known_problems: [dead addresses]
"""


@pytest.fixture(scope="module")
def cards():
    return read_cards(repository() / "data_cards")


def card(tmp_path, text):
    path = tmp_path / "moji.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_card_gives_its_fields_and_its_text(tmp_path):
    fields, text = read_card(card(tmp_path, GOOD))
    assert fields["languages"] == ["en", "zh"]
    assert text == "# Moji\n\n世界"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# Moji\n", "line 1"),
        ("---\nid: moji\n", "no closing line"),
        ("---\nid: [moji\n---\n", "line 2.*not YAML"),
        ("---\n- moji\n---\n", "not list"),
        (GOOD.replace("licence: CC BY-SA 4.0\n", ""), "field 'licence'"),
        (GOOD.replace("moji\n", '""\n', 1), "field 'id'"),
    ],
)
def test_a_broken_card_is_named_with_its_fault(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"moji\.md.*{message}"):
        read_card(card(tmp_path, text))


def test_every_data_set_of_the_tables_has_a_card_and_no_card_is_left_over(cards):
    assert set(cards) == {*" ".join(PAPER.values()).split(), *FURTHER.split()}


@pytest.mark.parametrize("table", PAPER)
def test_cards_stand_in_the_tables_that_print_them(cards, table):
    assert {name for name in cards if table in [row.table for row in cards[name].printed]} == {
        *PAPER[table].split()
    }


def test_chat_only_is_unknown_where_the_paper_marks_it_by_colour_and_told_of_no_other_set(cards):
    marked = {*PAPER[2].split(), *PAPER[3].split()}
    assert {name for name in cards if cards[name].chat_only == "unknown"} == marked
    assert {cards[name].chat_only for name in set(cards) - marked} == {"not applicable"}
    for name in marked:
        assert any("no colour" in problem for problem in cards[name].known_problems), name


def test_prose_is_whole_and_short(cards):
    for name in set(cards) - OURS:
        text = cards[name].text
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS, name
        words = sum(len(line.split()) for line in text.split("\n") if not line.startswith("#"))
        assert 80 <= words <= 200, (name, words)
        assert text.startswith(f"# {cards[name].name}\n"), name


def test_a_licence_that_is_not_known_for_sure_sends_the_reader_to_the_home_page(cards):
    for name, found in cards.items():
        if re.search("unknown|unconfirmed|remembered", found.licence):
            assert re.search("check|on request", found.licence), (name, found.licence)
            assert found.home_page != "none", name


def test_readers_that_cards_name_exist(cards):
    assert {name for name in cards if not cards[name].readers()} == WITHOUT_READER
    for name, found in cards.items():
        for reader in set(found.readers()) - PENDING:
            module, _, function = reader.rpartition(".")
            assert callable(getattr(importlib.import_module(module), function, None)), (name, reader)
    assert {reader for found in cards.values() for reader in found.readers()} >= PENDING, "names of no card"


def folder(tmp_path, front, name="wukong"):
    (tmp_path / f"{name}.md").write_text(f"---\n{front}---\n\n# Wukong\n", encoding="utf-8")
    return tmp_path


def test_a_whole_card_passes(tmp_path):
    found = read_cards(folder(tmp_path, FRONT))["wukong"]
    assert found.printed[0].original == "100M" and found.text == "# Wukong"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stage: [pretraining]\n", "", r"field 'stage' is missing"),
        (
            "[pretraining]",
            "[pretrain]",
            r"field 'stage\.0': .*'pretraining', 'tuning' or 'evaluation'.*given: 'pretrain'",
        ),
        ("[captioning]", "[]", r"field 'task': .*at least 1"),
        ("languages: [zh]", "languages: [cn]", r"field 'languages\.0': .*'en' or 'zh'.*'cn'"),
        ("original: 100M", "original: 100 million", r"field 'printed\.0.*original': .*'100 million'"),
        ("remaining: 12 %", "remaining: 0.12", r"field 'printed\.0.*remaining': .*'?0\.12"),
        ("table: 1,", "table: 5,", r"field 'printed\.0': .*'5'.*expected.*1, 2, 3, 4"),
        ("original: 100M, ", "", r"field 'printed\.0.*original' is missing"),
        (
            "not applicable",
            "maybe",
            r"field 'chat_only': .*True, False, 'unknown' or 'not applicable'.*'maybe'",
        ),
        ("not applicable", "unknown", r"chat_only must be not applicable"),
        ("home_page: https://", "home_page: ", r"field 'home_page': "),
        ("reader: zvl.data.readers.read_wukong", "reader: os.path.join", r"field 'reader.*os\.path\.join"),
        ("splits: {", "split: {", r"field 'split': .*allowed: id, name, .*splits"),
        ("id: wukong", "id: wu kong", r"field 'id': .*'wu kong'"),
        ("id: wukong", "id: wukong_2", r"field 'id': 'wukong_2', but the file is named 'wukong'"),
        ("licence: unknown", 'licence: ""', r"field 'licence' is missing or empty"),
        ("id: wukong", "text: x\nid: wukong", r"field 'text'"),
    ],
)
def test_a_broken_field_is_named_with_what_is_allowed(tmp_path, old, new, message):
    assert old in FRONT
    with pytest.raises(ValueError, match=rf"wukong\.md: .*{message}"):
        read_cards(folder(tmp_path, FRONT.replace(old, new)))


def test_all_broken_cards_are_named_at_once(tmp_path):
    folder(tmp_path, FRONT.replace("[zh]", "[cn]"))
    folder(tmp_path, FRONT.replace("stage", "stages"), "second")
    with pytest.raises(ValueError) as fault:
        read_cards(tmp_path)
    assert "wukong.md: field 'languages.0'" in str(fault.value)
    assert "second.md: field 'stage' is missing" in str(fault.value)
    assert "second.md: field 'stages'" in str(fault.value)


def test_a_folder_without_cards_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no data cards"):
        read_cards(tmp_path)
