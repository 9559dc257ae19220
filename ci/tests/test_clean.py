"""Cleaning: every kind of planted noise is found, good pairs stay, nothing of a stranger stops a run or is lost."""

import json
import os
import random
import struct
import time
import zlib
from collections import Counter
from dataclasses import replace
from functools import partial

import datasets
import emoji
import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.text import Text

from zvl.data import cleaning, noise
from zvl.data.caption_rules import TEXT_RULES, count
from zvl.data.clean import clean_images, clean_scores, clean_text
from zvl.data.cleaning_report import markdown, report
from zvl.data.limits import DEFAULT, MOJI, of_source
from zvl.data.markup import LONGEST, clean_caption
from zvl.data.picture_rules import measure
from zvl.data.readers import Quarantine, read_cc12m, read_own_pairs, read_wukong
from zvl.data.samples import Pair
from zvl.data.world import WorldConfig, write_world
from zvl.figures.cleaning import kept_and_dropped, score_histograms

STEPS = (partial(clean_text, limits=MOJI), partial(clean_images, limits=MOJI))


def as_batch(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def as_rows(batch):
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


@pytest.fixture(scope="module")
def seed():
    value = random.randrange(2**31)
    print(f"seed {value}")
    return value


@pytest.fixture(scope="module")
def planted(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("clean")
    config = WorldConfig(100, 2, seed=seed, dialogue_share=0.0)
    return noise.plant(write_world(folder / "world", config), folder / "noise", seed)


@pytest.fixture(scope="module")
def cleaned(planted, tmp_path_factory):
    folder = cleaning.run(tmp_path_factory.mktemp("run"), planted, STEPS, "moji", shard_size=400)
    return folder, [table.to_pylist() for table in cleaning.load(folder)]


def faults(caption, language="en", limits=DEFAULT):
    return [name for name, rule in TEXT_RULES.items() if rule(count(caption, language), limits)]


# --- on planted noise ---


def test_every_rule_has_precision_and_recall_over_095(cleaned):
    kept, dropped = cleaned[1]
    found = noise.precision_and_recall(kept + dropped)
    print({rule: (round(p, 3), round(r, 3), n) for rule, (p, r, n) in found.items()})
    assert set(found) == set(noise.RULES.values()) - {"score"}
    assert all(
        precision > 0.95 and recall > 0.95 and rows >= 30 for precision, recall, rows in found.values()
    ), found


def test_markup_is_cleaned_away_and_the_caption_is_whole_again(cleaned):
    marked = [row for row in cleaned[1][0] if row["planted"] == "html"]
    assert len(marked) >= 25
    assert [row["caption"] for row in marked] == [row["truth"] for row in marked]
    assert all(row["original"] != row["truth"] and "html" in row["changes"] for row in marked)


def test_no_row_is_lost_and_each_dropped_one_has_a_reason(planted, cleaned):
    kept, dropped = cleaned[1]
    known = sorted((row["image"], row["language"], row["caption"]) for row in planted)
    assert sorted((row["image"], row["language"], row["original"]) for row in kept + dropped) == known
    assert all(row["faults"] and len(row["reasons"]) == len(row["faults"]) for row in dropped)
    assert not any(row["faults"] for row in kept)


def test_the_result_does_not_depend_on_order_shards_or_processes(planted, cleaned, tmp_path):
    mixed = [planted[i] for i in np.random.default_rng().permutation(len(planted))]
    folder = cleaning.run(tmp_path / "other", mixed, STEPS, "moji", shard_size=333)

    def fates(kept):
        return sorted((row["image"], row["language"], row["caption"]) for row in kept)

    assert fates(cleaning.load(folder)[0].to_pylist()) == fates(cleaned[1][0])
    assert (folder / "report.json").read_text("utf8") == (cleaned[0] / "report.json").read_text("utf8")


@pytest.mark.slow
def test_datasets_maps_the_same_functions_in_two_processes(planted):
    rows = datasets.Dataset.from_list(planted)
    for step in STEPS:
        rows = rows.map(step, batched=True, batch_size=100, num_proc=2, load_from_cache_file=False)
    batch = as_batch(planted)
    for step in STEPS:
        batch = step(batch)
    assert rows["faults"] == batch["faults"] and rows["caption"] == batch["caption"]


@pytest.mark.slow
def test_two_processes_write_what_one_writes(planted, cleaned, tmp_path):
    two = cleaning.run(tmp_path, planted, STEPS, "moji", shard_size=400, processes=2)
    for first, second in zip(cleaning.load(cleaned[0]), cleaning.load(two), strict=True):
        assert first.equals(second)


# --- a killed run goes on ---


def test_a_killed_run_goes_on_with_whole_shards_only(planted, cleaned, tmp_path):
    calls = []

    def dies(batch, after):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return STEPS[1](STEPS[0](batch))

    with pytest.raises(KeyboardInterrupt):
        cleaning.run(tmp_path, planted, [partial(dies, after=2)], "moji", shard_size=400)
    (tmp_path / "shards" / "00002-dead.half").write_bytes(b"PAR1")
    assert len(list((tmp_path / "shards").glob("*.parquet"))) == 2
    calls.clear()
    cleaning.run(tmp_path, planted, [partial(dies, after=99)], "moji", shard_size=400)
    assert len(calls) == -(-len(planted) // 400) - 2, "whole shards were made again"
    for first, second in zip(cleaning.load(cleaned[0]), cleaning.load(tmp_path), strict=True):
        assert first.equals(second)
    calls.clear()
    cleaning.run(tmp_path, planted, [partial(dies, after=99)], "other settings", shard_size=400)
    assert len(calls) == -(-len(planted) // 400), "shards of other settings were taken"


def test_a_row_that_utf8_cannot_hold_is_put_aside_and_the_run_ends(tmp_path):
    Image.effect_noise((96, 96), 60).save(tmp_path / "a.png")
    pairs = [
        Pair(str(n), str(tmp_path / "a.png"), text, "en", "own")
        for n, text in enumerate(("a \ud800 dog", "a dog"))
    ]
    kept, dropped = cleaning.load(cleaning.run(tmp_path / "out", pairs, STEPS, "x"))
    assert len(kept) + len(dropped) == 2 and "html" not in str(dropped.to_pylist())


def test_no_pairs_make_an_empty_report(tmp_path):
    folder = cleaning.run(tmp_path, [], STEPS, "x")
    assert json.loads((folder / "report.json").read_text("utf8")) == {}


# --- captions ---


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a dog", "a dog"),
        ("x < y and y > z", "x < y and y > z"),
        ("I <3 my dog & my cat", "I <3 my dog & my cat"),
        ("R&amp;D <b>lab</b>s", "R&D labs"),
        ("&lt;b&gt;dog&lt;/b&gt;", "dog"),
        ("a<br>dog", "a dog"),
        ("a dog <img src='x", "a dog"),
        ("<script>alert(1)</script>a dog", "a dog"),
        ("<<b>s>a dog</s>", "a dog"),
        ("a dog</s><|im_end|><image>", "a dog"),
        ("see https://a.b/c?d=e, a dog", "see , a dog"),
        ("mail me@home.org a dog", "mail a dog"),
        ("IMG_0012.JPG a dog", "a dog"),
        ("a dog!!!!! 好。。。。", "a dog! 好。"),
        ("a\u200bdog\u202e here\x07", "adog here"),
        ("  a \t dog\u3000here \n", "a dog here"),
        ("3.5 litres", "3.5 litres"),
        ("这是https://a.cn/x.html，一只狗", "这是 ，一只狗"),
    ],
)
def test_captions_are_cleaned_of_markup_and_patterns(raw, clean):
    assert clean_caption(raw)[0] == clean


def test_no_caption_keeps_anything_that_reads_as_a_tag_or_a_control_token():
    rng = random.Random()
    parts = [
        "<",
        ">",
        "</",
        "b",
        "s>",
        "<s",
        "script",
        "image",
        "|im_end|",
        "&lt;",
        "&gt;",
        "&amp;",
        " ",
        "a",
        "<!--",
    ]
    for _ in range(3000):
        raw = "".join(rng.choices(parts, k=rng.randint(1, 14)))
        left = clean_caption(raw)[0]
        assert not any(tag in left for tag in ("</s>", "<s>", "<b>", "<image>", "<script>", "<|im_end|>")), (
            raw,
            left,
        )


@given(st.text(max_size=60))
def test_any_text_is_cleaned_and_judged_without_an_error_and_the_same_again(text):
    once = clean_caption(text)[0]
    assert clean_caption(once)[0] == once
    for language in ("en", "zh", "tlh"):
        faults(once, language)


def test_a_caption_of_megabytes_costs_no_more_than_one_of_ten_thousand_characters():
    for part in (
        "<a ",
        "<!--",
        "<script>",
        "&amp;",
        "a@",
        "http://",
        "a.",
        '"',
        "<b x=",
        "“",
        "a-",
        "((",
        "<a b=c ",
    ):
        start = time.process_time()
        text, _ = clean_caption(part * 1_000_000)
        assert len(text) <= LONGEST
        faults(text)
        assert time.process_time() - start < 0.5, part


@pytest.mark.parametrize(
    ("caption", "language", "broken"),
    [
        ("a red dog", "en", []),
        ("a café in Orléans", "en", []),
        ("a sign that says “营业”", "en", []),
        ("一只红色的狗", "zh", []),
        ("新款 Apple iPhone 手机壳", "zh", []),
        ("写着“open door”的牌子", "zh", []),
        ("an old dog ©", "en", []),
        ("25°C, 3×4 m², €5 — “half” price…", "en", []),
        ("一只红色的狗", "en", ["language"]),
        ("a red dog", "zh", ["language"]),
        ("ein schöner großer Bär über Köln", "en", ["characters"]),
        ("a big red собака", "en", ["characters"]),
        ("一只大きな犬", "zh", ["characters"]),
        ("a red dog 🐕", "en", ["emoji"]),
        ("a red dog ©️", "en", ["emoji"]),
        ("a red dog 👩‍🚀", "en", ["emoji"]),
        ("一面旗子🇫🇷", "zh", ["emoji"]),
        ("a big red собака 🐕", "en", ["characters", "emoji"]),
        ("dog", "en", ["length"]),
        ("", "zh", ["length"]),
        ("dog " * 257, "en", ["length"]),
        ("un perro rojo", "es", ["language"]),
    ],
)
def test_text_rules_by_example(caption, language, broken):
    assert faults(caption, language) == broken


def test_every_emoji_is_one_and_no_other_strange_character():
    whole = [c for c, told in emoji.EMOJI_DATA.items() if told["status"] == emoji.STATUS["fully_qualified"]]
    assert len(whole) > 3000
    assert {c: found for c in whole if (found := faults(f"a red {c} dog")) != ["emoji"]} == {}


def test_limits_are_those_of_the_data_set():
    rows = {"caption": ["a dog", "a dog"], "language": ["en"] * 2, "source": ["moji", "web"]}
    limits = {"moji": MOJI, "": DEFAULT}
    assert clean_text(rows, limits)["faults"] == [[], ["length"]]
    with pytest.raises(KeyError, match="'web'"):
        of_source({"moji": MOJI}, "web")


def test_what_is_no_text_is_put_aside():
    batch = clean_text({"caption": [None, 7], "language": ["en", None], "source": ["x", "x"]})
    assert all("length" in found for found in batch["faults"])


# --- pictures ---


def test_hostile_files_are_put_aside_and_never_fatal(tmp_path):
    for name, side in (("bomb.png", 9_000), ("larger.png", 20_000)):  # the larger one Pillow itself refuses
        Image.new("1", (9, 9)).save(tmp_path / name)
        data = bytearray((tmp_path / name).read_bytes())
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        (tmp_path / name).write_bytes(data)
    Image.effect_noise((300, 300), 50).save(tmp_path / "good.jpg")
    (tmp_path / "program.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 300 300\n(x) run\n")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(np.full((300, 300), 40_000, np.uint16)).save(tmp_path / "sixteen.png")
    expected = {"bomb.png": ["pixels"], "larger.png": ["unreadable"], "good.jpg": [], "program.eps": ["unreadable"],
                "empty.png": ["unreadable"], "sixteen.png": ["blank"], "missing.png": ["unreadable"]}  # fmt: skip
    files = [str(tmp_path / name) for name in expected]
    batch = clean_images({"image": files, "source": ["x"] * len(files)})
    assert dict(zip(expected, batch["faults"], strict=True)) == expected
    assert "UnidentifiedImageError" in batch["reasons"][files.index(str(tmp_path / "empty.png"))][0]
    assert str(tmp_path) not in str(batch["reasons"]) and "0x" not in str(batch["reasons"])


def test_any_cut_of_a_picture_is_measured_without_an_error(tmp_path):
    rng = random.Random()
    for kind in ("png", "jpeg", "gif", "webp", "bmp", "tiff"):
        path = tmp_path / f"a.{kind}"
        Image.effect_noise((210, 210), 50).convert("RGB").save(path)
        whole = bytearray(path.read_bytes())
        assert not measure(str(path), DEFAULT).error
        for _ in range(8):
            data = whole[: rng.randrange(len(whole))]
            for _ in range(rng.randrange(4)):
                data[rng.randrange(len(data) or 1) : 1] = bytes([rng.randrange(256)])
            path.write_bytes(data)
            measure(str(path), DEFAULT)


def test_rows_with_a_fault_are_not_decoded(tmp_path):
    batch = clean_images(
        {"image": ["missing"], "source": ["x"], "faults": [["emoji"]], "reasons": [["U+1F436"]]}
    )
    assert batch["faults"] == [["emoji"]] and batch["phash"] == [None]


def test_batches_are_left_as_they_were():
    batch = {
        "caption": ["a <b>dog"],
        "language": ["en"],
        "source": ["x"],
        "faults": [["a"]],
        "reasons": [["b"]],
    }
    before = json.dumps(batch)
    clean_text(batch)
    clean_images(batch | {"image": ["x"]})
    assert json.dumps(batch) == before


def test_the_score_is_judged_by_the_limit_of_its_data_set():
    limits = {"a": replace(MOJI, score=0.3), "b": replace(MOJI, score=0.1), "c": MOJI}
    rows = [("a", 0.2), ("a", 0.3), ("b", 0.2), ("c", -1.0), ("a", None), ("a", float("nan"))]
    batch = {"source": [source for source, _ in rows], "clip_score": [score for _, score in rows]}
    assert [bool(found) for found in clean_scores(batch, limits)["faults"]] == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]


# --- report and figures ---


def test_the_report_counts_what_is_there(cleaned, planted):
    table = json.loads((cleaned[0] / "report.json").read_text("utf8"))
    rows = [row for part in cleaned[1] for row in part]
    assert report(rows) == table and list(table) == ["en", "zh"]
    for language in table:
        told = table[language]["moji"]
        assert told["original"] == sum(row["language"] == language for row in planted)
        assert told["cleaned"] == sum(row["language"] == language for row in cleaned[1][0])
        assert told["remaining"] == pytest.approx(100 * told["cleaned"] / told["original"], abs=0.05)
        for rule, number in told["rules"].items():
            assert number == sum(
                row["language"] == language and rule in row["faults"] for row in cleaned[1][1]
            )
    text = (cleaned[0] / "report.md").read_text("utf8")
    assert (
        f"| English | moji | {table['en']['moji']['original']:,} | {table['en']['moji']['cleaned']:,} |"
        in text
    )


def test_names_of_strangers_make_no_markup_in_the_report():
    row = {"language": "<i>", "source": "a|b\n<script>&lt;", "faults": ["x"], "reasons": ["y"], "changes": []}
    text = markdown(report([row]))
    assert "<" not in text.replace("&#60;", "") and "&lt;" not in text and "a\\|b" in text


def test_the_gallery_shows_captions_as_plain_text(tmp_path, recwarn):
    Image.effect_noise((96, 96), 60).save(tmp_path / "a.png")
    texts = ["$\\frac{a}$ costs $5 and $6", "a dog 🐕 собака ภาพ", "<b>一只狗</b>"]
    rows = [{"image": str(tmp_path / "a.png"), "caption": text, "original": text, "faults": [], "reasons": []}
            for text in texts]  # fmt: skip
    rows[1] |= {"image": str(tmp_path / "none.png"), "faults": ["emoji"], "reasons": ["$x$ U+1F415"]}
    figure = kept_and_dropped(rows)
    figure.canvas.draw()
    shown = "\n".join(text.get_text() for text in figure.findobj(Text))
    for part in ("$\\frac{a}$ costs $5", "<b>一只狗</b>", "▯", "emoji: $x$", "kept"):
        assert part in shown
    assert not [w for w in recwarn if "lyph" in str(w.message)]
    plt.close("all")


def test_histograms_show_the_limit_and_refuse_no_scores():
    rng = np.random.default_rng()
    scores = {"$en$": {"matched": rng.normal(0.6, 0.1, 200), "other": rng.normal(0, 0.1, 200)}}
    figure = score_histograms(scores, {"$en$": 0.3})
    figure.canvas.draw()
    shown = "\n".join(text.get_text() for text in figure.findobj(Text))
    assert "limit 0.30" in shown and "matched (200)" in shown
    with pytest.raises(ValueError, match="'x' has no scores of 'a'"):
        score_histograms({"x": {"a": [], "b": [1.0]}})
    plt.close("all")


SOME = dict.fromkeys(noise.RULES, 0.05)


def test_planting_is_a_function_of_the_seed(tmp_path, seed):
    world = write_world(tmp_path / "world", WorldConfig(12, 2, seed=seed, dialogue_share=0.0))
    first, again, other = (noise.plant(world, tmp_path / "noise", s, SOME) for s in (1, 1, 2))
    assert first == again != other
    assert {row["planted"] for row in first} == {"", *noise.RULES}
    assert all(os.path.isfile(row["image"]) for row in first)
    few = noise.plant(world, tmp_path / "noise", 1, {"html": 0.5, "near_duplicate": 0.25}, pairs=20)
    assert len(few) == 25 and Counter(row["planted"] for row in few) == {
        "": 10,
        "html": 10,
        "near_duplicate": 5,
    }
    with pytest.raises(ValueError, match="more than all"):
        noise.plant(world, tmp_path / "noise", 1, {"html": 0.6, "swap": 0.5})
    with pytest.raises(ValueError, match="no noise of kind 'rain'; there are html"):
        noise.plant(world, tmp_path / "noise", 1, {"rain": 0.1})


def test_a_crawl_in_real_formats_is_read_back_and_what_was_kept_again(tmp_path, planted):
    english, chinese, truth = noise.write_crawl(planted, tmp_path)
    quarantine, images = Quarantine(), tmp_path / "images"
    pairs = [
        *read_cc12m(english, images, quarantine=quarantine, present=True),
        *read_wukong(chinese, images, quarantine=quarantine, present=True),
    ]
    assert len(pairs) + sum(quarantine.counts().values()) == len(planted)
    found = Counter(truth[pair.image_id, pair.caption, pair.language] for pair in pairs)
    lost = Counter(row["planted"] for row in planted) - found
    assert set(found) == {"", *noise.RULES} and set(lost) == {"short"}, "only captions that are empty"
    kept, dropped = cleaning.load(cleaning.run(tmp_path / "out", pairs, STEPS, "crawl", cosine=None))
    copies = [
        r for r in dropped.to_pylist() if truth[r["image_id"], r["original"], r["language"]] == "same_file"
    ]
    assert len(copies) == Counter(truth.values())["same_file"], (
        "the copy goes, and not the one that was copied"
    )
    kept = kept.to_pylist()
    sheet = cleaning.write_own_pairs(kept, images, tmp_path / "kept.csv")
    again = [(p.image, p.caption, p.language) for p in read_own_pairs(sheet, images, "en")]
    assert again == [(r["image"], r["caption"], r["language"]) for r in kept] and again
    with pytest.raises(ValueError, match="is not in the subpath"):
        cleaning.write_own_pairs(kept, tmp_path / "elsewhere", tmp_path / "kept.csv")
