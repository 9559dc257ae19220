"""The audit: drawn by seed, shown with no way out of its text, read back whole, compared by hand-checked rules."""

import base64
import csv
import hashlib
import io
import json
import math
import os
import random
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from zvl.data.samples import LANGUAGES, Sample, Turn
from zvl.evaluation.audit import (
    COLUMNS,
    VERDICTS,
    Annotation,
    agreement,
    cohen_kappa,
    draw,
    neutral,
    plain,
    read_annotations,
    write_form,
    write_sheet,
)

SEED = int(os.environ.get("ZVL_TEST_SEED", "7"))  # any will do
HOSTILE = (
    "<script>alert(1)</script>", "</textarea><img src=x onerror=alert(2)>", "</script><b>bold</b>", "<!-- <script>",
    "{{rows}} {{title}} {{key}}", "&lt;i&gt; & \u2028 \u2029 \\u003c", "=1+1", "+SUM(A1)", "-2", "@cmd", "\t=1", "'=1",
    "'", "＝1", 'a "quoted", text;\nwith\r\nlines', "第一行\n第二行", "]]>", "${alert(3)}", "\\", "𝒳🐅",
)  # fmt: skip


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "x.png"
    Image.new("RGB", (40, 30), "red").save(path)
    return str(path)


def samples(count, images=()):
    return [
        Sample(f"{language}-{number}", tuple(images), (Turn("问题 Q?", "答案 A."),), language=language)
        for language in LANGUAGES
        for number in range(count)
    ]


def hostile(picture):
    return [
        Sample(
            text,
            (picture,) * (number % 3),
            (Turn(text, "ok"), Turn("ok", text)),
            language=LANGUAGES[number % 2],
        )
        for number, text in enumerate(HOSTILE)
    ]


# --- drawing ---


def test_the_draw_depends_on_the_seed_and_not_on_the_order():
    pool = samples(30)
    shuffled = random.Random(SEED).sample(pool, len(pool))
    drawn = draw(pool, 10, seed=3)
    assert drawn == draw(shuffled, 10, seed=3) != draw(pool, 10, seed=4)
    assert [sample.language for sample in drawn] == ["en"] * 10 + ["zh"] * 10
    assert len({sample.id for sample in drawn}) == 20


def test_every_sample_is_drawn_equally_often():
    pool, times = samples(10), 400
    counts = dict.fromkeys((sample.id for sample in pool), 0)
    for seed in range(times):
        for sample in draw(pool, 3, seed):
            counts[sample.id] += 1
    assert all(abs(count - 0.3 * times) < 5 * math.sqrt(0.21 * times) for count in counts.values()), counts


def test_too_few_and_doubled_samples_are_named():
    with pytest.raises(ValueError, match="10 samples of en are asked for, there are 9"):
        draw(samples(9), 10)
    with pytest.raises(ValueError, match="two samples have the id 'en-0'"):
        draw([*samples(9), *samples(1)], 1)


# --- the sheet and the form ---


def test_the_sheet_opens_in_chinese_and_holds_no_formula(tmp_path, picture):
    write_sheet(tmp_path / "s.csv", hostile(picture))
    raw = (tmp_path / "s.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    header, *rows = csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""))
    assert tuple(header) == COLUMNS and len(rows) == len(HOSTILE)
    assert not any(re.match(r"[=+\-@＝＋－＠\t\r\n]", cell) for row in rows for cell in row)
    for text, row in zip(HOSTILE, rows, strict=True):
        assert plain(row[0]) == text and f"Q: {text}\nA: ok\nQ: ok\nA: {text}" == plain(row[3])


def test_neutral_and_plain_are_inverse():
    rng = random.Random(SEED)
    for _ in range(2000):
        text = "".join(rng.choices("'=+-@a \t＝中", k=rng.randrange(5)))
        assert plain(neutral(text)) == text


class Page(HTMLParser):
    """Tags with their attributes, and the text of each script."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.shown, self._open = [], [], "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1] += data
        else:
            self.shown += data


def page(path, told):
    write_form(path, told)
    return Page(path.read_text("utf8"))


def test_no_text_of_a_sample_becomes_an_element(tmp_path, picture):
    tame, wild = page(tmp_path / "a.html", samples(1, [picture])), page(tmp_path / "b.html", hostile(picture))

    def bare(tags):
        return [(tag, [pair for pair in attrs if pair[0] != "data-key"]) for tag, attrs in tags]

    assert bare(wild.tags) == bare(tame.tags)
    assert wild.shown == tame.shown
    assert wild.scripts[1] == tame.scripts[1]


def test_a_title_stays_text(tmp_path, picture):
    write_form(tmp_path / "a.html", samples(1, [picture]), title="</title><script>alert(1)</script>")
    assert len(Page((tmp_path / "a.html").read_text("utf8")).scripts) == 2


def test_the_rows_and_their_pictures_are_in_the_page(tmp_path, picture):
    told = hostile(picture)
    rows = json.loads(page(tmp_path / "a.html", told).scripts[0])
    assert [row["id"] for row in rows] == list(HOSTILE)
    assert [row["turns"] for row in rows] == [
        [[turn.instruction, turn.response] for turn in s.turns] for s in told
    ]
    assert [len(row["images"]) for row in rows] == [len(sample.images) for sample in told]
    uri = rows[1]["images"][0]
    assert uri.startswith("data:image/webp;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert image.size == (40, 30) and all(
        abs(a - b) < 8 for a, b in zip(image.convert("RGB").getpixel((5, 5)), (255, 0, 0), strict=True)
    )


def test_the_page_loads_nothing_and_runs_one_script_only(tmp_path, picture):
    found = page(tmp_path / "a.html", hostile(picture))
    (policy,) = [
        dict(attrs)["content"]
        for tag, attrs in found.tags
        if ("http-equiv", "Content-Security-Policy") in attrs
    ]
    digest = base64.b64encode(hashlib.sha256(found.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'")
    assert not [
        attrs for _, attrs in found.tags for name, _ in attrs if name in ("src", "href", "action", "srcset")
    ]
    assert not [name for _, attrs in found.tags for name, _ in attrs if name.startswith("on")]


def test_two_audits_do_not_share_their_memory(tmp_path, picture):
    keys = set()
    for told in (samples(1), samples(2), samples(1, [picture])):
        (body,) = [attrs for tag, attrs in page(tmp_path / "x.html", told).tags if tag == "body"]
        keys.add(dict(body)["data-key"])
    assert len(keys) == 3


# --- reading back ---


def saved(path, rows, header=("id", "language", "verdict", "comment"), encoding="utf-8-sig", delimiter=","):
    with open(path, "w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def test_a_filled_sheet_and_a_saved_form_say_the_same(tmp_path, picture):
    told = hostile(picture)
    write_sheet(tmp_path / "sheet.csv", told)
    with open(tmp_path / "sheet.csv", encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file)
    verdicts = random.Random(SEED).choices(list(VERDICTS), k=len(told))
    for row, verdict in zip(rows, verdicts, strict=True):
        row[-2:] = VERDICTS[verdict], neutral("-好")
    saved(tmp_path / "sheet.csv", rows, header, delimiter=";")
    form = [[neutral(s.id), s.language, verdict, "'-好"] for s, verdict in zip(told, verdicts, strict=True)]
    saved(tmp_path / "form.csv", form)
    first, second = read_annotations([tmp_path / "sheet.csv", tmp_path / "form.csv"])
    assert first == second
    assert list(first.values()) == [
        Annotation(s.id, s.language, v, "-好") for s, v in zip(told, verdicts, strict=True)
    ]


@pytest.mark.parametrize("rows, header, told", [
    ([["a", "en", "correct"], ["b", "en", "good"]], None,
     r"f\.csv: row 3, column 'verdict': 'good' is not one of correct, 正确, incorrect, 错误, unsure, 不确定"),
    ([["a", "en", ""]], None, r"row 2, column 'verdict': '' is not one of"),
    ([["a", "fr", "correct"]], None, r"row 2, column 'language': 'fr' is not one of en, zh"),
    ([["a", "en", "correct"], [], ["a", "en", "correct"]], None, r"row 4, column 'id': 'a' is given twice"),
    ([["a", "en", "correct"]], ("id", "language", "judgement"), r"row 1 has no column 'verdict'"),
    ([], None, r"no row below the header"),
])  # fmt: skip
def test_a_bad_sheet_says_where_and_what_is_allowed(tmp_path, rows, header, told):
    path = saved(tmp_path / "f.csv", rows, header or ("id", "language", "verdict"))
    with pytest.raises(ValueError, match=told):
        read_annotations([path])


def test_a_sheet_in_another_encoding_is_named(tmp_path):
    path = saved(
        tmp_path / "f.csv", [["a", "zh", "正确"]], encoding="gb18030", header=("id", "language", "verdict")
    )
    with pytest.raises(ValueError, match="not UTF-8"):
        read_annotations([path])


# --- agreement ---


def table(verdicts, language="en"):
    return {
        f"{language}{i}": Annotation(f"{language}{i}", language, verdict)
        for i, verdict in enumerate(verdicts)
    }


def test_kappa_of_a_worked_example():
    """50 grants: both yes 20, both no 15, first only 5, second only 10: p_o = 0.7, p_e = 0.5, kappa = 0.4."""
    y, n = "correct", "incorrect"
    pairs = [(y, y)] * 20 + [(n, n)] * 15 + [(y, n)] * 5 + [(n, y)] * 10
    assert cohen_kappa(pairs) == pytest.approx(0.4)


def test_kappa_equals_the_formula_on_random_tables():
    rng = random.Random(SEED)
    for _ in range(200):
        weights = [rng.random() for _ in range(9)]
        cells = [(a, b) for a in VERDICTS for b in VERDICTS]
        pairs = rng.choices(cells, weights, k=rng.randrange(5, 200))
        observed = sum(a == b for a, b in pairs) / len(pairs)
        expected = sum(
            sum(a == v for a, _ in pairs) / len(pairs) * sum(b == v for _, b in pairs) / len(pairs)
            for v in VERDICTS
        )
        if expected < 1:
            assert cohen_kappa(pairs) == pytest.approx((observed - expected) / (1 - expected))
            assert cohen_kappa([(b, a) for a, b in pairs]) == pytest.approx(cohen_kappa(pairs))


def test_kappa_of_one_verdict_alone_is_no_number():
    assert math.isnan(cohen_kappa([("correct", "correct")] * 9))


def test_agreement_is_told_by_language_and_over_all():
    first = table(["correct"] * 8 + ["unsure"] * 2) | table(["correct"] * 5 + ["incorrect"] * 5, "zh")
    second = table(["correct"] * 7 + ["incorrect"] * 3) | table(["incorrect"] * 10, "zh")
    found = agreement(first, second)
    assert {key: value.count for key, value in found.items()} == {"en": 10, "zh": 10, "all": 20}
    english, chinese = found["en"], found["zh"]
    assert (english.first.mean, english.second.mean, english.alike.mean, english.agreed.mean) == (
        0.8,
        0.7,
        0.7,
        1.0,
    )
    assert (chinese.first.mean, chinese.second.mean, chinese.alike.mean, chinese.agreed.mean) == (
        0.5,
        0,
        0.5,
        0,
    )
    assert chinese.kappa == 0 and found["all"].first.mean == pytest.approx(0.65)
    assert 0.4 < english.first.low < 0.8 < english.first.high <= 1


def test_annotators_who_never_agree_have_no_agreed_accuracy():
    found = agreement(table(["correct"] * 3), table(["incorrect"] * 3))["en"]
    assert found.agreed is None and found.alike.mean == 0 and found.kappa == 0


def test_tables_of_other_samples_are_refused():
    with pytest.raises(ValueError, match="1 samples are in one table only, such as"):
        agreement(table(["correct"] * 3), table(["correct"] * 2))
