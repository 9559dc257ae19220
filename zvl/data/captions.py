"""Captions that people wrote, read into `Pair`: COCO and what came after it, in English and Chinese.

JSON files are loaded whole; files of lines are streamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zvl.data.rows import (
    Fault,
    Quarantine,
    by_id,
    checked,
    id_of,
    image_of,
    inside,
    is_text,
    lines,
    list_of,
    load_json,
    named,
    one_of,
    rows,
    text_of,
)
from zvl.data.samples import Pair

KARPATHY = ("train", "restval", "val", "test")
DOMAINS = ("in-domain", "near-domain", "out-domain")


def read_coco_captions(
    path: Path, images: Path, language: str, source: str = "coco", quarantine: Quarantine | None = None
) -> Iterator[Pair]:
    """COCO captions: `images[id, file_name]` and `annotations[image_id, caption]`.

    images: the folder of the pictures. Raises DataError for a file that is not such a JSON file.
    """
    return _coco(path, images, language, source, None, quarantine)


def read_nocaps(
    path: Path,
    images: Path,
    language: str = "en",
    source: str = "nocaps",
    domain: str | None = None,
    quarantine: Quarantine | None = None,
) -> Iterator[Pair]:
    """nocaps: COCO captions whose images have a `domain`: "in-domain", "near-domain" or "out-domain".

    domain: the one to read, None for all three. Raises DataError for a file that is not such a JSON file.
    """
    return _coco(path, images, language, source, domain, quarantine)


def _coco(path, images, language, source, domain, quarantine) -> Iterator[Pair]:
    quarantine = Quarantine() if quarantine is None else quarantine
    data = load_json(path, dict)
    known = by_id(data, "images", path, "id", ("file_name",), quarantine)
    for row in rows(data, "annotations", path, ("image_id", "caption"), quarantine):
        name, picture = row.get("id", row["image_id"]), known.get(row["image_id"])
        if picture is None:
            quarantine.add(path, name, "image_id", "no such image")
        elif domain is not None and picture.get("domain") not in DOMAINS:
            quarantine.add(path, name, "domain", f"not one of {', '.join(DOMAINS)}")
        elif domain is not None and picture["domain"] != domain:
            continue
        elif not is_text(row["caption"]):
            quarantine.add(path, name, "caption", "empty or not text")
        elif (image := inside(images, picture["file_name"])) is None:
            quarantine.add(path, name, "file_name", "leaves the image folder")
        else:
            yield Pair(str(row["image_id"]), image, row["caption"].strip(), language, source)


def read_karpathy(
    path: Path,
    images: Path,
    language: str = "en",
    source: str = "coco",
    splits: tuple[str, ...] = ("train", "restval"),
    quarantine: Quarantine | None = None,
) -> Iterator[Pair]:
    """Karpathy's splits of COCO and Flickr30k: `images[filepath, filename, cocoid or imgid, split, sentences[{raw}]]`.

    splits: those to read; what COCO calls restval is trained on by custom. Flickr30k has no `filepath`. A picture has
    several pairs, and each caption is a row. Raises DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine

    def picture(_, row) -> tuple | None:
        if one_of(row, "split", KARPATHY) not in splits:
            return None
        image_id = id_of(row, "cocoid" if "cocoid" in row else "imgid")
        folder = text_of(row, "filepath") + "/" if "filepath" in row else ""
        image = image_of(images, folder + text_of(row, "filename"), "filename")
        return image_id, image, list_of(row, "sentences")

    found = checked(named(load_json(path, dict), "images", path), picture, path, quarantine)
    yield from _pairs(found, "raw", path, language, source, quarantine)


def read_textcaps(
    path: Path,
    images: Path,
    language: str = "en",
    source: str = "textcaps",
    image_name: str = "{}.jpg",
    quarantine: Quarantine | None = None,
) -> Iterator[Pair]:
    """TextCaps: `data[image_id, caption_str]`, a caption a row.

    images: the folder of the pictures; image_name: how they are called there by image id. Raises DataError for a file
    that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine

    def pair(_, row) -> Pair:
        image_id = str(id_of(row, "image_id"))
        image = image_of(images, image_name.format(image_id), "image_id")
        return Pair(image_id, image, text_of(row, "caption_str"), language, source)

    yield from checked(named(load_json(path, dict), "data", path), pair, path, quarantine)


def read_ai_challenger(
    path: Path,
    images: Path,
    language: str = "zh",
    source: str = "ai_challenger",
    quarantine: Quarantine | None = None,
) -> Iterator[Pair]:
    """AI Challenger 2017: `[{url, image_id, caption[]}]`, where `image_id` is the file's name; a row a caption.

    Raises DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine

    def picture(_, row) -> tuple:
        name = text_of(row, "image_id")
        return name.removesuffix(".jpg"), image_of(images, name, "image_id"), list_of(row, "caption")

    found = checked(enumerate(load_json(path, list)), picture, path, quarantine)
    yield from _pairs(found, None, path, language, source, quarantine)


def _pairs(pictures, key, path, language, source, quarantine) -> Iterator[Pair]:
    """A pair for each caption of (image id, image, captions); a caption is a text, or an object with it under `key`."""
    for image_id, image, captions in pictures:

        def pair(_, caption, image_id=image_id, image=image) -> Pair:
            said = caption if key else {"caption": caption}
            return Pair(str(image_id), image, text_of(said, key or "caption"), language, source)

        found = ((f"{image_id}.{number}", caption) for number, caption in enumerate(captions))
        yield from checked(found, pair, path, quarantine)


def read_flickr30k(
    path: Path,
    images: Path,
    language: str = "en",
    source: str = "flickr30k",
    image_name: str = "{}",
    split: Path | None = None,
    quarantine: Quarantine | None = None,
) -> Iterator[Pair]:
    """Flickr30k's lines, `1000092795.jpg#0<TAB>caption`.

    image_name: how the file of a picture is called by what stands before the #; split: a file with one such name a
    line, to read these pictures only. Raises DataError for a file that cannot be read.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    wanted = None if split is None else {line.strip() for _, line in lines(split, quarantine)}

    def pair(_, line: str) -> Pair | None:
        if len(cells := line.split("\t")) != 2:
            raise Fault("row", "not two columns, name and caption")
        image_id, _, number = cells[0].rpartition("#")
        if not (image_id and number.isdecimal()):
            raise Fault("image", "not a name, # and the number of a caption")
        if wanted is not None and image_id not in wanted:
            return None
        image = image_of(images, image_name.format(image_id), "image")
        return Pair(
            image_id.removesuffix(".jpg"), image, text_of({"caption": cells[1]}, "caption"), language, source
        )

    yield from checked(lines(path, quarantine), pair, path, quarantine)


def read_flickr30k_cna(
    path: Path,
    images: Path,
    language: str = "zh",
    source: str = "flickr30k_cna",
    quarantine: Quarantine | None = None,
) -> Iterator[Pair]:
    """Flickr30k-CNA's lines, `1000092795#0<TAB>caption`: Flickr30k's pictures with Chinese captions."""
    return read_flickr30k(path, images, language, source, "{}.jpg", None, quarantine)


def read_coco_cn(
    path: Path,
    images: Path,
    language: str = "zh",
    source: str = "coco_cn",
    split: Path | None = None,
    quarantine: Quarantine | None = None,
) -> Iterator[Pair]:
    """COCO-CN's lines, `COCO_train2014_000000000009#0<TAB>caption`; split: one of its lists, `coco-cn_test.txt`."""
    return read_flickr30k(path, images, language, source, "{}.jpg", split, quarantine)
