"""Shards: any WebDataset tool reads them, the same pairs give the same bytes, and no kill leaves half of one."""

import hashlib
import io
import json
import multiprocessing
import os
import random
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from zvl import cards
from zvl.cli import main
from zvl.data.pair_readers import pair_readers, read_pairs
from zvl.data.rows import DataError, Fault, Quarantine
from zvl.data.samples import Pair
from zvl.data.shards import write_shards
from zvl.data.tars import Shards, index_folder, index_path, index_tar


def picture(path, kind="JPEG", size=(40, 30), **options):
    noise = np.random.default_rng().integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path, kind, **options)
    return path.read_bytes()


@pytest.fixture
def pairs(tmp_path):
    """12 pictures with 2 English captions and a Chinese one each; the captions of a picture stand together."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    kinds = [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif")]
    found = []
    for number in range(12):
        kind, extension = kinds[number % 4]
        path = folder / f"{number}.{extension}"
        picture(path, kind)
        for caption, language in (
            (f"picture {number}", "en"),
            (f"No. {number}", "en"),
            (f"第{number}张图", "zh"),
        ):
            found.append(Pair(f"id{number}", str(path), caption, language, "own"))
    return found


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name[0] != "."}


def test_the_stock_library_reads_what_we_write(pairs, tmp_path):
    write_shards(pairs, tmp_path / "out", {}, pairs_per_shard=10)
    tars = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    assert len(tars) == 3
    read = list(webdataset.WebDataset(tars, shardshuffle=False))
    shards = Shards(tmp_path / "out")
    assert len(read) == len(shards) == 12
    for number, (theirs, ours) in enumerate(zip(read, shards, strict=True)):
        told = json.loads(theirs["json"])
        extension = pairs[3 * number].image.rsplit(".")[-1]
        with open(pairs[3 * number].image, "rb") as file:
            assert theirs[extension] == ours.image == file.read(), "not byte for byte"
        assert theirs["__key__"] == told["key"] == ours.key
        assert told["captions"] == list(ours.captions) == [pair.caption for pair in pairs[3 * number :][:3]]
        assert told["languages"] == list(ours.languages) == ["en", "en", "zh"]
        assert (told["caption"], told["image_id"], told["source"]) == (
            f"picture {number}",
            ours.image_id,
            "own",
        )
        assert (told["width"], told["height"]) == (40, 30)


@pytest.mark.slow  # new processes import torch
def test_the_same_pairs_give_the_same_bytes_with_any_number_of_processes(pairs, tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        write_shards(pairs, tmp_path / name, {}, pairs_per_shard=10, workers=workers)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_captions_that_stand_apart_share_a_record_when_grouped(pairs, tmp_path):
    scattered = pairs[::3] + pairs[1::3] + pairs[2::3]
    apart = write_shards(scattered, tmp_path / "apart", {})
    grouped = write_shards(scattered, tmp_path / "grouped", {}, grouped=True)
    assert (apart["records"], grouped["records"]) == (36, 12)
    assert apart["pairs"] == grouped["pairs"] == {"en": 24, "zh": 12}
    assert [record.captions for record in Shards(tmp_path / "grouped")] == [
        tuple(pair.caption for pair in pairs[3 * n :][:3]) for n in range(12)
    ]


def test_size_shrinks_the_shorter_side_and_leaves_small_pictures_alone(tmp_path):
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    picture(large, "PNG", (200, 100))
    kept = picture(small, "PNG", (90, 20))
    box = (20.0, 10.0, 100.0, 50.0)
    pairs = [Pair("a", str(large), "large", "en", "own", box), Pair("b", str(small), "small", "en", "own")]
    write_shards(pairs, tmp_path / "out", {}, size=50)
    first, second = webdataset.WebDataset(str(tmp_path / "out/shard-000000.tar"), shardshuffle=False)
    told = json.loads(first["json"])
    with Image.open(io.BytesIO(first["jpg"])) as image:
        assert image.size == (told["width"], told["height"]) == (100, 50)
    assert (told["original_width"], told["original_height"]) == (200, 100)
    assert told["boxes"] == [[side / 2 for side in box]], "a box must fit the picture that it is about"
    assert second["png"] == kept


def test_unreadable_pictures_are_put_aside_with_their_reason_and_every_pair_is_counted(pairs, tmp_path):
    folder = tmp_path / "pictures"
    (folder / "0.jpg").write_bytes(b"no picture")
    (folder / "1.png").unlink()
    (folder / "2.webp").write_bytes((folder / "2.webp").read_bytes()[:200])
    (folder / "3.gif").unlink()
    os.mkfifo(folder / "3.gif")  # reading it would wait for ever
    quarantine = Quarantine()
    totals = write_shards(pairs, tmp_path / "out", {}, pairs_per_shard=10, quarantine=quarantine)
    assert totals["refused"] == len(quarantine.rows) == 12
    assert sum(totals["pairs"].values()) + totals["refused"] == len(pairs)
    assert quarantine.counts() == {
        "image: no picture that Pillow can decode: UnidentifiedImageError": 3,
        "image: cannot be read: FileNotFoundError": 3,
        "image: no picture that Pillow can decode: OSError": 3,
        f"image: no plain file, or over {1 << 28} bytes": 3,
    }
    again = Quarantine()  # of shards that are whole already
    write_shards(pairs, tmp_path / "out", {}, pairs_per_shard=10, quarantine=again)
    assert again.rows == quarantine.rows


def test_a_picture_that_arrives_later_is_taken_in_by_the_same_command(pairs, tmp_path):
    late = tmp_path / "late.png"
    some = [*pairs[:6], Pair("late", str(late), "late", "en", "own")]
    assert write_shards(some, tmp_path / "out", {})["refused"] == 1
    Image.new("RGB", (9, 9)).save(late)
    totals = write_shards(some, tmp_path / "out", {})
    assert totals["refused"] == 0 and sum(totals["pairs"].values()) == len(some)


def test_whole_shards_are_kept_and_damaged_or_changed_ones_made_anew(pairs, tmp_path):
    out = tmp_path / "out"
    write_shards(pairs, out, {}, pairs_per_shard=10)
    expected = contents(out)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    damaged = bytearray(expected["shard-000001.tar"])
    damaged[len(damaged) // 2] ^= 1
    (out / "shard-000001.tar").write_bytes(damaged)
    write_shards(pairs, out, {}, pairs_per_shard=10)
    assert contents(out) == expected
    assert (out / "shard-000000.tar").stat().st_mtime_ns == times["shard-000000.tar"], (
        "a whole shard was made anew"
    )
    fewer = pairs[:12] + pairs[15:24]
    write_shards(fewer, out, {}, pairs_per_shard=10)
    write_shards(fewer, tmp_path / "fresh", {}, pairs_per_shard=10)
    assert contents(out) == contents(tmp_path / "fresh"), "shards of an earlier run are left"


def test_no_index_stands_beside_a_tar_that_it_was_not_made_from(pairs, tmp_path, monkeypatch):
    write_shards(pairs, tmp_path / "out", {})

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("zvl.data.shards.index_tar", killed)
    with pytest.raises(KeyboardInterrupt):
        write_shards(pairs[3:], tmp_path / "out", {})
    assert not list((tmp_path / "out").glob("*.index.json"))


def test_a_folder_made_otherwise_is_refused(pairs, tmp_path):
    write_shards(pairs, tmp_path / "out", {"reader": "a"}, size=20)
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match="made with size = 20, now 30"):
        write_shards(pairs, tmp_path / "out", {"reader": "a"}, size=30)
    with pytest.raises(DataError, match="reader = 'a', now 'b'"):
        write_shards(pairs, tmp_path / "out", {"reader": "b"}, size=20)
    assert contents(tmp_path / "out") == before
    (tmp_path / "out/shards.json").unlink()
    with pytest.raises(DataError, match="did not make"):
        write_shards(pairs, tmp_path / "out", {"reader": "a"}, size=20)


def test_a_kill_at_any_moment_leaves_no_half_shard_and_the_next_run_ends_the_same(pairs, tmp_path):
    out, many = tmp_path / "out", pairs * 20
    write_shards(many, tmp_path / "whole", {}, pairs_per_shard=60)
    context = multiprocessing.get_context("fork")
    halves = 0
    for _ in range(8):
        run = context.Process(target=write_shards, args=(many, out, {}), kwargs={"pairs_per_shard": 60})
        run.start()
        while run.is_alive() and not any(out.glob(".shard-*.tar.*")):
            time.sleep(0.0005)
        time.sleep(random.uniform(0, 0.02))
        run.kill()
        run.join()
        manifest = out / "shards.json"
        if manifest.is_file() and "complete" in json.loads(manifest.read_text("utf8")):
            break
        halves += any(out.glob(".shard-*.tar.*"))
        for index in out.glob("*.index.json"):
            told = json.loads(index.read_text("utf8"))
            digest = hashlib.sha256((out / told["tar"]).read_bytes()).hexdigest()
            assert digest == told["sha256"], "an index beside a half written tar"
        if run.exitcode == 0:
            break
        with pytest.raises(DataError):
            Shards(out)
    assert halves, "no run was killed while it wrote"
    write_shards(many, out, {}, pairs_per_shard=60)
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.glob(".*")), "temporary files are left"


# --- tars of other programs ---


def foreign(path, records, **options):
    """A tar as img2dataset writes it: jpg, json and txt of one key beside each other."""
    with tarfile.open(path, "w", **options) as tar:
        for name, data in records:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), time.time()
            tar.addfile(member, io.BytesIO(data))
    return path


def test_tars_of_img2dataset_are_read_by_an_index(tmp_path):
    data = picture(tmp_path / "x.jpg")
    told = {"caption": "a dog", "url": "https://x/y.jpg", "key": "000000001", "status": "success",
            "error_message": None, "width": 40, "height": 30, "original_width": 80, "original_height": 60,
            "exif": "{}", "sha256": "0" * 64}  # fmt: skip
    deep = 40 * "folder/"
    tar = foreign(tmp_path / "00000.tar", [
        ("000000001.jpg", data), ("000000001.json", json.dumps(told).encode()), ("000000001.txt", b"a dog"),
        ("000000002.jpg", data), ("000000002.txt", "一只狗".encode()),
        ("000000003.json", json.dumps(told).encode()),
        ("000000004.jpg", data), ("000000004.txt", b" "),
        ("000000005.jpg", data), ("000000005.json", json.dumps(told | {"LANGUAGE": "de"}).encode()),
        (deep + "000000006.png", data), (deep + "000000006.txt", b"{braces}"),
        ("000000007.jpg", data), ("000000007.json", json.dumps(told | {"LANGUAGE": "de"}).encode()),
        ("000000007.txt", b"ein Hund"),
        ("000000008.jpg", data), ("000000008.json", b'{"caption": "cut'), ("000000008.txt", "一只猫".encode()),
    ])  # fmt: skip
    with pytest.raises(DataError, match="zvl index"):
        Shards(tmp_path)
    index = index_tar(tar, "zh", "laion")
    shards = Shards(tmp_path)
    assert [(r.image, r.captions, r.languages, r.source) for r in shards] == [
        (data, ("a dog",), ("zh",), "laion"),
        (data, ("一只狗",), ("zh",), "laion"),
        (data, ("{braces}",), ("zh",), "laion"),
        (data, ("一只猫",), ("zh",), "laion"),
    ]
    assert [shards[n].key for n in (0, 1)] == ["000000001", "000000002"]
    assert [entry[1:] for entry in index["refused"]] == [
        ["000000003", "image", "none in the record"],
        ["000000004", "caption", "empty or not text"],
        ["000000005", "language", "not one of en, zh"],
        ["000000007", "language", "not one of en, zh"],
    ]
    theirs = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert [sample["jpg"] for sample in theirs[:2]] == [shards[0].image, shards[1].image]


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_kind_of_tar_has_its_members_where_the_index_says(tmp_path, kind):
    rng = np.random.default_rng()
    data = [rng.bytes(rng.integers(1, 3000)) for _ in range(5)]
    records = [
        part for n, d in enumerate(data) for part in ((f"图/{n}.jpg", d), (f"图/{n}.txt", f"图{n}".encode()))
    ]
    index_tar(foreign(tmp_path / "0.tar", records, format=kind), "zh")
    assert [(r.image, r.captions[0]) for r in Shards(tmp_path)] == [(d, f"图{n}") for n, d in enumerate(data)]


def test_what_is_no_whole_tar_is_named(tmp_path):
    tar = foreign(
        tmp_path / "0.tar", [("0.jpg", os.urandom(5000)), ("0.txt", b"x"), ("1.jpg", os.urandom(5000))]
    )
    whole = tar.read_bytes()
    third = 512 + 5120 + 512 + 512  # where the third member begins
    damaged = bytearray(whole)
    damaged[third + 10] ^= 1
    index_tar(tar)
    index_path(tar).unlink()
    for cut, content in (
        ("between members", whole[:third]),
        ("a header", bytes(damaged)),
        ("two tars", whole + whole),
        ("text", b"no tar at all" * 100),
        ("cut", whole[: 512 + 3000]),
        ("gz", b"\x1f\x8b" + whole),
    ):
        tar.write_bytes(content)
        with pytest.raises(
            DataError, match=r"0\.tar: (no tar, compressed, or cut off|cut off, damaged or joined)"
        ):
            index_tar(tar)
        assert not index_path(tar).exists(), cut


def test_a_tar_that_changed_after_its_index_is_named(tmp_path):
    tar = foreign(tmp_path / "0.tar", [("0.jpg", b"x"), ("0.txt", b"x")])
    index_tar(tar)
    tar.write_bytes(tar.read_bytes() + b"\0" * 512)
    with pytest.raises(DataError, match=r"0\.tar: 10752 bytes, its index says 10240"):
        Shards(tmp_path)
    with pytest.raises(DataError, match="tars"):
        Shards(tmp_path / "nothing")


def test_a_flipped_bit_in_our_own_shards_is_a_fault(pairs, tmp_path):
    write_shards(pairs[:3], tmp_path / "out", {})
    tar, shards = tmp_path / "out/shard-000000.tar", Shards(tmp_path / "out")
    data = bytearray(tar.read_bytes())
    data[data.index(shards[0].image) + 50] ^= 1
    tar.write_bytes(data)
    with pytest.raises(Fault, match="SHA-256"):
        Shards(tmp_path / "out")[0]


# --- the command ---


def test_the_readers_are_those_of_the_data_cards():
    known = cards.read_cards(Path(__file__).resolve().parents[2] / "data_cards").values()
    named = {name for card in known for name in card.readers()}
    assert set(pair_readers()) - named == {"zvl.data.readers.read_own_pairs"}, (
        "a reader of pairs that no card names"
    )
    assert {f"zvl.data.readers.read_{name}" for name in ("cc3m", "wukong", "sbu", "coco_captions")} <= set(
        pair_readers()
    )


def test_the_command_builds_and_says_what_it_put_aside(tmp_path, capsys):
    (tmp_path / "p").mkdir()
    picture(tmp_path / "p/a.jpg")
    for language, caption in (("en", "a dog"), ("zh", "一只狗")):
        (tmp_path / f"{language}.csv").write_text(
            f"image,caption\na.jpg,{caption}\nb.jpg,gone\na.jpg,\n", "utf8"
        )
    command = ["shards", "--reader", "zvl.data.readers.read_own_pairs", "--images", str(tmp_path / "p"), "--grouped",
               "--out", str(tmp_path / "out"), "--annotations", str(tmp_path / "en.csv"), "--language", "en",
               "--annotations", str(tmp_path / "zh.csv"), "--language", "zh", "-p", "source=mine"]  # fmt: skip
    for _ in range(2):
        assert main(command) == 0
        told = capsys.readouterr().out
        assert "1 shards, 1 pictures, pairs: 1 en, 1 zh" in told
        assert "put aside: 2 rows, caption: empty or not text" in told
        assert "put aside: 2 rows, image: cannot be read: FileNotFoundError" in told
        rows = (tmp_path / "out/quarantine.jsonl").read_text("utf8").splitlines()
        assert len(rows) == 4, "what an earlier run put aside must not stand there twice"
    (record,) = Shards(tmp_path / "out")
    assert (record.captions, record.languages, record.source) == (("a dog", "一只狗"), ("en", "zh"), "mine")


def test_the_command_indexes_tars_of_other_programs(tmp_path, capsys):
    foreign(
        tmp_path / "00000.tar",
        [("0.jpg", picture(tmp_path / "x.jpg")), ("0.txt", "狗".encode()), ("1.jpg", b"x")],
    )
    assert main(["index", str(tmp_path), "--language", "zh"]) == 0
    assert "00000.tar: 1 pictures, pairs: 0 en, 1 zh; refused: 1" in capsys.readouterr().out
    assert index_folder(tmp_path) == [], "what has an index is left alone"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"name": "read_gqa"},
            "no reader of pairs 'read_gqa'; there are zvl.data.readers.read_ai_challenger, ",
        ),
        ({"name": "os.system"}, "no reader of pairs 'os.system'"),
        ({"options": {"splits": 1}}, "read_cc3m has no option 'splits'; it has image_name, source, present"),
        ({"options": {"quarantine": 1}}, "has no option 'quarantine'"),
        ({"options": {"image_name": "md5"}}, "'md5' is not one of sha1_name, row_name"),
        ({"languages": ["de"]}, "'de' is not one of en, zh"),
        ({"languages": ["en", "zh", "en"]}, "3 languages for 1 annotation files"),
        ({"annotations": []}, "reads path; 0 annotation files are given"),
        ({"name": "read_sbu"}, "reads urls, captions; 1 annotation files are given"),
        ({"name": "read_coco_captions"}, "needs the language of the captions: en or zh"),
    ],
)
def test_a_wrong_request_names_what_is_allowed(changed, message):
    given = {"name": "read_cc3m", "annotations": ["a.tsv"], "images": "p"} | changed
    with pytest.raises(DataError, match="(?s).*" + message.replace("(", r"\(")):
        read_pairs(**given)
