"""Parts of pictures and what they are called, read into `Pair` and `Sample`. The files are loaded whole."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from zvl.data.boxes import box_text
from zvl.data.plain_pickle import load_plain_pickle
from zvl.data.rows import (
    Quarantine,
    by_id,
    inside,
    is_text,
    load_json,
    rows,
)
from zvl.data.samples import Pair, Sample, Turn

_BOX = ("x", "y", "width", "height")
SPLITS = ("train", "val", "test", "testA", "testB")  # of RefCOCO, + and g


def read_visual_genome_regions(
    path: Path,
    images: Path,
    language: str,
    source: str = "visual_genome",
    image_name: str = "{}.jpg",
    quarantine: Quarantine | None = None,
) -> Iterator[Pair]:
    """Visual Genome's region descriptions: `[{id, regions[{region_id, image_id, x, y, width, height, phrase}]}]`.

    images: the folder of the pictures; image_name: how they are called there by image id. Each pair has a box.
    Raises DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    for row in _regions(path, quarantine):
        image = os.path.join(images, image_name.format(row["image_id"]))
        box = tuple(row[name] for name in _BOX)
        yield Pair(str(row["image_id"]), image, row["phrase"].strip(), language, source, box)


def read_visual_genome_references(
    path: Path,
    image_data: Path,
    images: Path,
    language: str = "en",
    source: str = "visual_genome",
    image_name: str = "{}.jpg",
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """Visual Genome's region descriptions as references like RefCOCO's: the phrase, answered by its box as text.

    image_data: `image_data.json`, `[{image_id, width, height}]`. Raises DataError for a file that is not such a file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    data = {"images": load_json(image_data, list)}
    sizes = by_id(data, "images", image_data, "image_id", ("width", "height"), quarantine)
    for row in _regions(path, quarantine):
        box = tuple(row[name] for name in _BOX)
        if (size := sizes.get(row["image_id"])) is None:
            quarantine.add(path, row["region_id"], "image_id", "no such image")
        elif (text := _written(box, size)) is None:
            quarantine.add(path, row["region_id"], "width", "not a box within its image")
        else:
            image = os.path.join(images, image_name.format(row["image_id"]))
            yield _reference(source, language, row["region_id"], image, row["phrase"].strip(), text, box)


def read_refcoco(
    refs: Path,
    instances: Path,
    images: Path,
    language: str,
    source: str = "refcoco",
    quarantine: Quarantine | None = None,
    splits: tuple[str, ...] | None = None,
) -> Iterator[Sample]:
    """RefCOCO's references, `[{ref_id, ann_id, image_id, split, sentences[{raw}]}]`, with COCO's instances.

    refs: the published pickle (`refs(unc).p`: nothing but plain values is taken from it), or the same as JSON, by its
    ending; splits: some of `SPLITS`, None for all. One sample for each sentence: its instruction is
    the bare expression, its response the box as text (`zvl.data.boxes`), `boxes` the same in pixels. The picture
    is called as in the instances: what the references name (COCO_train2014_000000581857_16.jpg) is no file of COCO.
    Raises DataError for a file that is not of the format.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    data = load_json(instances, dict)
    sizes = by_id(data, "images", instances, "id", ("width", "height", "file_name"), quarantine)
    found = by_id(data, "annotations", instances, "id", ("image_id", "bbox"), quarantine)
    fields = ("ref_id", "ann_id", "image_id", "sentences")
    load = load_json if Path(refs).suffix == ".json" else load_plain_pickle
    for row in rows({"refs": load(refs, list)}, "refs", refs, fields, quarantine):
        number, annotation = row["ref_id"], found.get(row["ann_id"])
        if splits is not None and row.get("split") not in SPLITS:
            quarantine.add(refs, number, "split", f"not one of {', '.join(SPLITS)}")
        elif splits is not None and row["split"] not in splits:
            continue
        elif annotation is None or annotation["image_id"] != row["image_id"]:
            quarantine.add(refs, number, "ann_id", "no such annotation of this image")
        elif row["image_id"] not in sizes:
            quarantine.add(refs, number, "image_id", "no such image")
        elif (text := _written(annotation["bbox"], sizes[row["image_id"]])) is None:
            quarantine.add(refs, number, "bbox", "not a box within its image")
        elif (image := inside(images, sizes[row["image_id"]]["file_name"])) is None:
            quarantine.add(refs, number, "file_name", "leaves the image folder")
        elif not isinstance(row["sentences"], list) or not row["sentences"]:
            quarantine.add(refs, number, "sentences", "not a list, or an empty one")
        else:
            for k, sentence in enumerate(row["sentences"]):
                raw = sentence.get("raw") if isinstance(sentence, dict) else None
                if not is_text(raw):
                    quarantine.add(refs, f"{number}.{k}", "raw", "empty or not text")
                    continue
                box = tuple(annotation["bbox"])
                yield _reference(source, language, f"{number}-{k}", image, raw.strip(), text, box)


def captions_of_boxes(references: Iterable[Sample]) -> Iterator[Sample]:
    """References the other way round, for grounded captioning: the bare box, answered by what stands in it."""
    for sample in references:
        (turn,) = sample.turns
        turns = (Turn(turn.response, turn.instruction),)
        yield replace(sample, id=f"{sample.id}-caption", turns=turns, question_type="refer")


def _regions(path: Path, quarantine: Quarantine) -> Iterator[dict]:
    """The regions whose fields are of the right kind."""
    for number, entry in enumerate(load_json(path, list)):
        if not isinstance(entry, dict) or not isinstance(entry.get("regions"), list):
            quarantine.add(path, f"[{number}]", "regions", "not a list")
            continue
        for row in rows(entry, "regions", path, ("region_id", "image_id", "phrase", *_BOX), quarantine):
            box = tuple(row[name] for name in _BOX)
            if not isinstance(row["image_id"], int):
                quarantine.add(path, row["region_id"], "image_id", "not a whole number")
            elif not is_text(row["phrase"]):
                quarantine.add(path, row["region_id"], "phrase", "empty or not text")
            elif not all(isinstance(v, int | float) and 0 <= v < math.inf for v in box) or 0 in box[2:]:
                quarantine.add(path, row["region_id"], "width", "not a box of positive size")
            else:
                yield row


def _reference(source, language, number, image, expression, text, box) -> Sample:
    return Sample(
        f"{source}-{language}-{number}",
        (image,),
        (Turn(expression, text),),
        task="grounding",
        question_type="ground",
        language=language,
        boxes=(box,),
        source=source,
    )


def _written(box, size: dict) -> str | None:
    """COCO's box as text, None where it is no box within the picture."""
    try:
        return box_text(tuple(box), size["width"], size["height"])
    except (TypeError, ValueError, ArithmeticError):
        return None
