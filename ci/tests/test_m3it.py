"""M3IT: pictures in base64 become files that are named by their bytes; what is no picture is put aside."""

import base64
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zvl.data.m3it import read_m3it
from zvl.data.readers import DataError, Quarantine
from zvl.data.samples import Turn

rng = np.random.default_rng(11)


def picture(kind="PNG", size=(9, 7)):
    buffer = io.BytesIO()
    noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def encoded(data):
    return base64.b64encode(data).decode()


def row(*pictures, **more):
    return {
        "instruction": " Answer. ",
        "inputs": "",
        "image_base64_str": list(pictures),
        "outputs": " red ",
    } | more


def written(folder, *rows):
    path = folder / "m3it.jsonl"
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows), "utf8")
    return path


@pytest.mark.parametrize(
    "kind, suffix", [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("GIF", ".gif")]
)
def test_a_picture_is_written_as_it_is_and_named_by_its_bytes(tmp_path, kind, suffix):
    data = picture(kind)
    path = written(tmp_path, row(encoded(data)))
    (sample,) = read_m3it(path, tmp_path / "pictures", "en")
    (file,) = map(Path, sample.images)
    assert file == tmp_path / "pictures" / (hashlib.sha256(data).hexdigest() + suffix)
    assert file.read_bytes() == data
    assert (
        sample.turns == (Turn("Answer.", "red"),)
        and sample.id == "m3it-en-1"
        and sample.task == "conversation"
    )


def test_inputs_follow_the_instruction_and_pictures_keep_their_order(tmp_path):
    first, second = picture(), picture("JPEG")
    wrapped = "\n".join(encoded(second)[i : i + 76] for i in range(0, len(encoded(second)), 76))
    path = written(tmp_path, "\n", row(encoded(first), wrapped, inputs="图里有什么？"), row(instruction="Hi"))
    several, none = read_m3it(path, tmp_path, "zh", source="m")
    assert several.turns[0].instruction == "Answer.\n图里有什么？" and several.id == "m-zh-2"
    assert [Path(name).read_bytes() for name in several.images] == [first, second]
    assert none.images == ()


def test_a_second_reading_writes_nothing(tmp_path):
    path, folder = written(tmp_path, row(encoded(picture()))), tmp_path / "pictures"
    before = list(read_m3it(path, folder, "en"))
    (file,) = folder.iterdir()
    stamp = file.stat().st_mtime_ns
    assert list(read_m3it(path, folder, "en")) == before
    assert [f.stat().st_mtime_ns for f in folder.iterdir()] == [stamp]


BAD = [
    (row("!!!"), "image_base64_str: not base64"),
    (row("é"), "image_base64_str: not base64"),
    (row(encoded(b"<svg onload=alert(1)>")), "image_base64_str: not a picture, or too large a one"),
    (row(encoded(picture("JPEG", (90, 90))[:-900])), "image_base64_str: not a picture, or too large a one"),
    (row(encoded(picture("TIFF"))), "image_base64_str: not a picture, or too large a one"),
    (row(""), "image_base64_str: not a picture, or too large a one"),
    (row(5), "image_base64_str: not a list of texts"),
    (row() | {"image_base64_str": encoded(picture())}, "image_base64_str: not a list of texts"),
    (row(outputs="  "), "outputs: empty or not text"),
    (row(instruction=None), "instruction: empty or not text"),
    (row(inputs=None), "inputs: not text"),
    (row(encoded(picture()), instruction="<image> and <image>"),
     "instruction: as many <image> marks as images are needed"),
    ("{oops\n", "row: not JSON"),
    ("[" * 100_000 + "\n", "row: not JSON"),
    ("[]\n", "row: not an object"),
]  # fmt: skip


@pytest.mark.parametrize("bad, reason", BAD)
def test_a_bad_row_is_put_aside_and_its_neighbours_stay(tmp_path, bad, reason):
    path, quarantine = written(tmp_path, row(encoded(picture())), bad, row()), Quarantine()
    found = list(read_m3it(path, tmp_path / "p", "en", quarantine=quarantine))
    assert [sample.id for sample in found] == ["m3it-en-1", "m3it-en-3"]
    assert quarantine.counts() == {reason: 1} and quarantine.rows[0][:2] == ("m3it.jsonl", "2")
    assert not list(tmp_path.glob("p/*.part"))


def test_a_picture_that_would_fill_the_memory_is_put_aside(tmp_path):
    """A PNG of 9,000 by 9,000 in one colour has few bytes and many pixels."""
    buffer = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(buffer, "PNG")
    quarantine = Quarantine()
    assert not list(
        read_m3it(written(tmp_path, row(encoded(buffer.getvalue()))), tmp_path, "en", quarantine=quarantine)
    )
    assert sum(quarantine.counts().values()) == 1


def test_a_bad_file_is_named(tmp_path):
    with pytest.raises(DataError, match="missing"):
        list(read_m3it(tmp_path / "missing.jsonl", tmp_path / "p", "en"))


def test_a_line_that_is_not_utf8_is_put_aside_and_its_neighbours_stay(tmp_path):
    path, quarantine = written(tmp_path, row(), row()), Quarantine()
    path.write_bytes('{"é": 1}\n'.encode("latin1") + path.read_bytes())
    assert len(list(read_m3it(path, tmp_path / "p", "en", quarantine=quarantine))) == 2
    assert quarantine.rows == [("m3it.jsonl", "1", "row", "not UTF-8")]
