"""The paper's tables come out of the cards as printed, and its arithmetic is checked without trusting its rounding."""

import random
import warnings

import pytest

from zvl import results
from zvl.arithmetic import ADDS_UP, ROUNDING, UNEXPLAINED, WRONG, check_arithmetic, finding_rows, rounded
from zvl.cards import read_cards
from zvl.figures.tables import table_figure
from zvl.results import repository
from zvl.tables import (
    TABLES,
    as_lists,
    report,
    report_blocks,
    table_1,
    table_2,
    table_3,
    table_4,
    tables_markdown,
    trained_and_tested,
)

# Copied from the paper, not from the cards.
PAPER_1 = """English CC12M 10.5M 9M 85 %
English CC3M 2.8M 2.8M 100 %
English SBU 0.88M 0.7M 80 %
English COCO Caption 0.6M 0.6M 100 %
Chinese AI Challenger 3M 3M 100 %
Chinese Wukong 100M 12M 12 %
Chinese Laion High 2.3M 1.8M 75 %"""
PAPER_2 = [
    (
        "Image Captioning",
        "8.8M",
        "CC3M, COCO, COCO-CN, Flickr30k, Flickr30k-CNA, AI Challenger 2017, TextCaps",
    ),
    ("Visual Question Answering", "4.5M", "VQAv2, VQAv2 (T), GQA, OCR-VQA, GQA (T), TextVQA, CLEVR"),
    ("Reference Grounding", "7.0M", "Visual Genome, RefCOCO, RefCOCO+, RefCOCOg, VCR"),
    ("Grounded Captioning", "7.0M", "Visual Genome, RefCOCO, RefCOCO+, RefCOCOg, VCR"),
]
PAPER_3 = """LLaVA Captioning 595k
LLaVA Detail Description 23k
LLaVA Complex Reasoning 77k
LLaVA Conversation 58k
LLaVA (T) Total 753k
M3IT Image Captioning 748k
M3IT Classification 360k
M3IT Visual Question Answering 235k
M3IT Knowledgeable Visual QA 57k
M3IT Reasoning 121k
M3IT Generation 174k
M3IT Chinese 273k
M3IT (T) Total 1.98M
SVIT Conversation 1.6M
SVIT Complex Reasoning 1.6M
SVIT Detail Description 106k
SVIT Referring QAs 1.0M
In-House Total 300k"""
PAPER_4 = """Nocaps Captioning of natural images val CIDEr (↑)
COCO-CN Captioning of natural images karpathy-test CIDEr (↑)
Flickr30k-CNA Captioning of natural images karpathy-test CIDEr (↑)
Flickr30K Captioning of natural images karpathy-test CIDEr (↑)
VQAv2 VQA on natural images test-dev VQA Score (↑)
OKVQA VQA on natural images requiring outside knowledge val VQA Score (↑)
GQA VQA on scene understanding and reasoning test-balanced EM (↑)
ScienceQA Multi-choice VQA on a diverse set of science topics test Accuracy (↑)
VizWiz VQA on photos taken by people who are blind test-dev VQA Score (↑)"""


@pytest.fixture(scope="module")
def cards():
    return read_cards(repository() / "data_cards")


def printed(rows):
    return "\n".join(" ".join(row.values()) for row in rows)


def finding(cards, place):
    return next(found for found in check_arithmetic(cards) if found.place == place)


def changed(cards, name, table, **fields):
    """The cards with one printed row changed."""
    rows = [row.model_copy(update=fields) if row.table == table else row for row in cards[name].printed]
    return cards | {name: cards[name].model_copy(update={"printed": rows})}


def test_the_tables_are_the_papers_row_by_row(cards):
    assert printed(table_1(cards)) == PAPER_1
    assert [tuple(row.values()) for row in table_2(cards)] == PAPER_2
    assert printed(table_3(cards)) == PAPER_3
    assert printed({k: v for k, v in row.items() if k != "Task"} for row in table_4(cards)) == PAPER_4
    assert [row["Task"] for row in table_4(cards)] == ["Image Caption"] * 4 + ["General VQA"] * 5


def test_the_order_is_the_papers_whatever_the_order_of_the_cards(cards):
    mixed = list(cards.items())
    random.shuffle(mixed)
    for table in TABLES.values():
        assert table(dict(mixed)) == table(cards)


@pytest.mark.parametrize(
    ("text", "low", "value", "high"),
    [
        ("10.5M", 10_450_000, 10_500_000, 10_550_000),
        ("9M", 8_500_000, 9_000_000, 9_500_000),
        ("0.88M", 875_000, 880_000, 885_000),
        ("595k", 594_500, 595_000, 595_500),
        ("1.0M", 950_000, 1_000_000, 1_050_000),
        ("34602", 34_602, 34_602, 34_602),
        ("85 %", 84.5, 85, 85.5),
    ],
)
def test_a_printed_number_stands_for_all_that_round_to_it(text, low, value, high):
    number = rounded(text)
    assert (number.low, number.value, number.high) == (low, value, high)


@pytest.mark.parametrize("text", ["", "M", "about 3M", "-3M", "3B", "1.2.3M", "nan", "%", " %", ".5M"])
def test_what_is_no_count_is_refused(text):
    with pytest.raises(ValueError, match="neither a count"):
        rounded(text)


def test_true_numbers_are_never_called_impossible():
    """Whatever the true counts: their sum and quotient lie inside the intervals of the printed ones."""
    seed = random.randrange(10**9)
    draw = random.Random(seed)
    for _ in range(500):
        whole = draw.randint(600_000, 200_000_000)
        part = draw.randint(whole // 20, whole)
        digits = draw.randint(0, 2)
        shown = [f"{count / 1e6:.{digits}f}M" for count in (part, whole)]
        if rounded(shown[1]).low <= 0 or rounded(shown[0]).value == 0:
            continue
        quotient = rounded(shown[0]).percent_of(rounded(shown[1]))
        assert quotient.low <= 100 * part / whole <= quotient.high, (seed, part, whole, shown)
        total = rounded(shown[0]) + rounded(shown[1])
        assert total.low <= part + whole <= total.high, (seed, part, whole, shown)


@pytest.mark.parametrize(
    ("place", "computed", "low", "high", "verdict"),
    [  # worked by hand from the printed numbers
        ("Table 1, CC12M, remaining", 85.714, 80.569, 90.909, ROUNDING),  # 8.5/10.55, 9.5/10.45
        ("Table 1, COCO Caption, remaining", 100, 84.615, 100, ADDS_UP),  # .55/.65; never over 100
        ("Table 1, SBU, remaining", 79.545, 73.446, 85.714, ADDS_UP),  # .65/.885, .75/.875
        ("Table 1, Wukong, remaining", 12, 11.443, 12.563, ADDS_UP),  # 11.5/100.5, 12.5/99.5
        ("Table 1, Laion High, remaining", 78.261, 74.468, 82.222, ROUNDING),  # 1.75/2.35, 1.85/2.25
        ("Section 3.3, English pairs", 13.1e6, 12.45e6, 13.75e6, ADDS_UP),
        ("Section 3.3, Chinese pairs", 16.8e6, 15.75e6, 17.85e6, ADDS_UP),  # 16.8 rounds to 17
        ("Table 1, AI Challenger, original", 1.5e6, 1.45e6, 1.55e6, WRONG),  # 300,000 times 5, printed 3M
        ("Table 2, Image Captioning", 6_882_088, 6_282_088, 7_482_088, UNEXPLAINED),
        ("Table 2, Visual Question Answering", 4_508_105, 4_458_105, 4_558_105, ADDS_UP),
        ("Table 2, Reference Grounding", 6_068_783, 6_018_283, 6_119_283, UNEXPLAINED),
        ("Table 3, LLaVA (T)", 753_000, 751_000, 755_000, ADDS_UP),
        ("Table 3, M3IT (T)", 1_968_000, 1_964_500, 1_971_500, WRONG),  # printed 1.98M
        ("Table 3, M3IT by part", 1_967_560, 1_967_560, 1_967_560, ADDS_UP),
        ("Table 3, SVIT", 4_306_000, 4_155_500, 4_456_500, ROUNDING),
        ("Section 1, BMMIC, over", 4_419_757, 4_413_757, 4_425_757, UNEXPLAINED),
    ],
)
def test_the_papers_arithmetic_as_worked_by_hand(cards, place, computed, low, high, verdict):
    found = finding(cards, place)
    assert (found.computed, found.low, found.high) == pytest.approx((computed, low, high), rel=1e-4)
    assert found.verdict == verdict


def test_two_places_cannot_be_right_and_four_are_unexplained(cards):
    findings = check_arithmetic(cards)
    assert {found.place for found in findings if found.verdict == WRONG} == {
        "Table 1, AI Challenger, original",
        "Table 3, M3IT (T)",
    }
    assert sum(found.verdict == UNEXPLAINED for found in findings) == 4
    assert len(findings) == len({found.place for found in findings}) == 24


def test_the_verdict_follows_what_the_cards_say(cards):
    def verdict(place, name, table, **fields):
        return finding(changed(cards, name, table, **fields), place).verdict

    assert verdict("Table 1, Laion High, remaining", "laion_high", 1, remaining="78 %") == ADDS_UP
    assert verdict("Table 1, Laion High, remaining", "laion_high", 1, remaining="73 %") == WRONG
    assert verdict("Table 3, M3IT (T)", "m3it_t", 3, samples={"Total": "1.97M"}) == ADDS_UP
    assert verdict("Section 3.3, Chinese pairs", "wukong", 1, cleaned="11M") == ROUNDING
    assert verdict("Section 3.3, Chinese pairs", "wukong", 1, cleaned="9M") == WRONG


def test_m3its_printed_parts_hold_validation_and_test_rows(cards):
    found = finding(cards, "Table 3, M3IT by part")
    assert "396,108 of the rows are validation or test rows" in found.note
    splits = {
        split: rows if split != "test" else rows | {"Generation": 0}
        for split, rows in cards["m3it"].splits.items()
    }
    broken = cards | {"m3it": cards["m3it"].model_copy(update={"splits": splits})}
    found = finding(broken, "Table 3, M3IT by part")
    assert found.verdict == WRONG and found.note.endswith("do not give Generation")


def test_what_is_tested_and_trained_on_is_listed(cards):
    rows = {row["Dataset"]: row["Trained"] for row in trained_and_tested(cards)}
    assert rows == dict.fromkeys(["COCO-CN", "Flickr30k-CNA", "Flickr30k", "VQAv2", "GQA"], "Table 2")


def test_the_markdown_holds_every_table_and_no_markup_of_a_card(cards):
    text = tables_markdown(changed(cards, "wukong", 1, dataset="a|b <script>"))
    assert "a\\|b &lt;script&gt;" in text and "<script>" not in text
    lines = text.split("\n")
    assert sum(line.startswith("|--") for line in lines) == 6
    rows = 7 + 4 + 18 + 9 + 24 + 5
    assert sum(line.startswith("|") for line in lines) == rows + 2 * 6
    assert "nothing here was measured" in text


def test_the_report_of_a_run_can_draw_every_block(cards, tmp_path):
    for block in report_blocks(cards):
        assert results._as_markdown(block, tmp_path) and results._as_html(block)


def test_rows_with_different_columns_are_no_table():
    for rows in ([], [{"a": "1"}, {"b": "2"}]):
        with pytest.raises(ValueError, match="same columns"):
            as_lists(rows)
        with pytest.raises(ValueError, match="same columns"):
            table_figure(rows, "none")


def test_a_figure_shows_every_cell_once_and_draws_chinese(cards):
    rows = [*table_3(cards), {"Dataset": "In-House", "Data Description": "中文对话", "# Samples": "12k"}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph warns
        figure = table_figure(rows, "Table 3", "它的行数", red=("1.98M",))
        figure.canvas.draw()
    cells = figure.axes[0].tables[0].get_celld()
    texts = [cells[number + 1, 0].get_text().get_text() for number in range(len(rows))]
    assert [text for text in texts if text] == ["LLaVA", "LLaVA (T)", "M3IT", "M3IT (T)", "SVIT", "In-House"]
    assert [cells[n + 1, 2].get_text().get_text() for n in range(len(rows))] == [r["# Samples"] for r in rows]
    colours = {n: cells[n + 1, 2].get_text().get_color() for n in range(len(rows))}
    assert [n for n in colours if colours[n] != colours[0]] == [12], "only M3IT (T) is red"


def test_the_check_fits_a_figure(cards):
    rows = finding_rows(check_arithmetic(cards))
    assert rows[6]["Computed"] == "78.3 %" and rows[6]["Rounding allows"] == "74.5 % to 82.2 %"
    figure = table_figure(rows, "The paper's arithmetic", red=(WRONG,))
    assert max(figure.get_size_inches()) < 18


def test_the_report_of_a_run_shows_the_paper_s_tables(tmp_path):
    results.record(tmp_path, "02_clean_pairs", {"cleaning/en/roc_area": 0.5})
    for path in report(tmp_path):
        text = path.read_text("utf8")
        assert "AI Challenger" in text and "does not add up" in text and "nothing here was measured" in text
