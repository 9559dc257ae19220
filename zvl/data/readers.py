"""Raw formats of the field, read into `Pair` and `Sample`.

A row that cannot be used is put aside with its reason and counted, never fatal and never lost; a file that
cannot be used at all raises `DataError`, which names the file and what is wrong in it.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from zvl.data.boxes import box_text
from zvl.data.samples import Pair, Sample, Turn

_BOX = ("x", "y", "width", "height")


class DataError(ValueError):
    """A file that cannot be read as its format says."""


@dataclass
class Quarantine:
    """Rows put aside: (file, row, field, reason)."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(self, file: Path, row: object, name: str, reason: str) -> None:
        self.rows.append((Path(file).name, str(row), name, reason))

    def counts(self) -> dict[str, int]:
        """How many rows were put aside, by "field: reason"."""
        return dict(Counter(f"{name}: {reason}" for _, _, name, reason in self.rows))


def read_coco_captions(
    path: Path, images: Path, language: str, source: str = "coco", quarantine: Quarantine | None = None
) -> Iterator[Pair]:
    """COCO captions: `images[id, file_name]` and `annotations[image_id, caption]`.

    images: the folder of the pictures. Raises DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    data = _load(path, dict)
    known = _by_id(data, "images", path, "id", ("file_name",), quarantine)
    for row in _rows(data, "annotations", path, ("image_id", "caption"), quarantine):
        name = row.get("id", row["image_id"])
        if row["image_id"] not in known:
            quarantine.add(path, name, "image_id", "no such image")
        elif not _is_text(row["caption"]):
            quarantine.add(path, name, "caption", "empty or not text")
        elif (image := _inside(images, known[row["image_id"]]["file_name"])) is None:
            quarantine.add(path, name, "file_name", "leaves the image folder")
        else:
            yield Pair(str(row["image_id"]), image, row["caption"].strip(), language, source)


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
    for number, entry in enumerate(_load(path, list)):
        if not isinstance(entry, dict) or not isinstance(entry.get("regions"), list):
            quarantine.add(path, f"[{number}]", "regions", "not a list")
            continue
        for row in _rows(entry, "regions", path, ("region_id", "image_id", "phrase", *_BOX), quarantine):
            box = tuple(row[name] for name in _BOX)
            if not isinstance(row["image_id"], int):
                quarantine.add(path, row["region_id"], "image_id", "not a whole number")
            elif not _is_text(row["phrase"]):
                quarantine.add(path, row["region_id"], "phrase", "empty or not text")
            elif not all(isinstance(v, int | float) and 0 <= v < math.inf for v in box) or 0 in box[2:]:
                quarantine.add(path, row["region_id"], "width", "not a box of positive size")
            else:
                image = os.path.join(images, image_name.format(row["image_id"]))
                yield Pair(str(row["image_id"]), image, row["phrase"].strip(), language, source, box)


def read_vqav2(
    questions: Path,
    annotations: Path,
    images: Path,
    language: str,
    source: str = "vqav2",
    image_name: str = "COCO_train2014_{:012d}.jpg",
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """VQAv2: questions and annotations joined by `question_id`; the response is `multiple_choice_answer`.

    images: the folder of the pictures; image_name: how they are called there by image id. References are the
    answers of all annotators. Raises DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    fields = ("multiple_choice_answer", "answers")
    told = _by_id(_load(annotations, dict), "annotations", annotations, "question_id", fields, quarantine)
    asked = _by_id(
        _load(questions, dict), "questions", questions, "question_id", ("image_id", "question"), quarantine
    )
    for number, row in asked.items():
        answer = told.get(number)
        if answer is None:
            quarantine.add(questions, number, "question_id", "has no annotation")
        elif not _is_text(row["question"]):
            quarantine.add(questions, number, "question", "empty or not text")
        elif not _is_text(answer["multiple_choice_answer"]):
            quarantine.add(annotations, number, "multiple_choice_answer", "empty or not text")
        elif not isinstance(row["image_id"], int):
            quarantine.add(questions, number, "image_id", "not a whole number")
        elif (references := _answers(answer["answers"])) is None:
            quarantine.add(annotations, number, "answers", "not a list of answers")
        else:
            yield Sample(
                f"{source}-{language}-{number}",
                (os.path.join(images, image_name.format(row["image_id"])),),
                (Turn(row["question"].strip(), answer["multiple_choice_answer"].strip()),),
                references=references,
                task="vqa",
                question_type=str(answer.get("question_type", "")),
                language=language,
                source=source,
            )
    for number in told:
        if number not in asked:
            quarantine.add(annotations, number, "question_id", "has no question")


def read_gqa(
    path: Path,
    images: Path,
    language: str,
    source: str = "gqa",
    image_name: str = "{}.jpg",
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """GQA: `{qid: {question, imageId, answer, types{structural, semantic, detailed}}}`; the type is the detailed one.

    images: the folder of the pictures; image_name: how they are called there by image id. Raises DataError for a file
    that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    for number, row in _load(path, dict).items():
        if not isinstance(row, dict):
            quarantine.add(path, number, "row", "not an object")
        elif missing := [name for name in ("question", "imageId", "answer") if name not in row]:
            quarantine.add(path, number, missing[0], "missing")
        elif wrong := [name for name in ("question", "answer") if not _is_text(row[name])]:
            quarantine.add(path, number, wrong[0], "empty or not text")
        elif not _is_text(row["imageId"]):
            quarantine.add(path, number, "imageId", "empty or not text")
        elif (image := _inside(images, image_name.format(row["imageId"]))) is None:
            quarantine.add(path, number, "imageId", "leaves the image folder")
        else:
            types = row.get("types")
            yield Sample(
                f"{source}-{language}-{number}",
                (image,),
                (Turn(row["question"].strip(), row["answer"].strip()),),
                task="vqa",
                question_type=str(types.get("detailed", "")) if isinstance(types, dict) else "",
                language=language,
                source=source,
            )


def read_refcoco(
    refs: Path,
    instances: Path,
    images: Path,
    language: str,
    source: str = "refcoco",
    quarantine: Quarantine | None = None,
) -> Iterator[Sample]:
    """RefCOCO's references as JSON, `[{ref_id, ann_id, image_id, file_name, sentences[{raw}]}]`, with COCO's instances.

    One sample for each sentence: its instruction is the bare expression, its response the box as text
    (`zvl.data.boxes`), `boxes` the same in pixels. The published files are pickles, which are never loaded here.
    Raises DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    data = _load(instances, dict)
    sizes = _by_id(data, "images", instances, "id", ("width", "height"), quarantine)
    found = _by_id(data, "annotations", instances, "id", ("image_id", "bbox"), quarantine)
    fields = ("ref_id", "ann_id", "image_id", "file_name", "sentences")
    for row in _rows({"refs": _load(refs, list)}, "refs", refs, fields, quarantine):
        number, annotation = row["ref_id"], found.get(row["ann_id"])
        if annotation is None or annotation["image_id"] != row["image_id"]:
            quarantine.add(refs, number, "ann_id", "no such annotation of this image")
        elif row["image_id"] not in sizes:
            quarantine.add(refs, number, "image_id", "no such image")
        elif (text := _written(annotation["bbox"], sizes[row["image_id"]])) is None:
            quarantine.add(refs, number, "bbox", "not a box within its image")
        elif (image := _inside(images, row["file_name"])) is None:
            quarantine.add(refs, number, "file_name", "leaves the image folder")
        elif not isinstance(row["sentences"], list):
            quarantine.add(refs, number, "sentences", "not a list")
        else:
            for k, sentence in enumerate(row["sentences"]):
                raw = sentence.get("raw") if isinstance(sentence, dict) else None
                if not _is_text(raw):
                    quarantine.add(refs, f"{number}.{k}", "raw", "empty or not text")
                    continue
                yield Sample(
                    f"{source}-{language}-{number}-{k}",
                    (image,),
                    (Turn(raw.strip(), text),),
                    task="grounding",
                    question_type="ground",
                    language=language,
                    boxes=(tuple(annotation["bbox"]),),
                    source=source,
                )


def read_llava(
    path: Path, images: Path, language: str, source: str = "llava", quarantine: Quarantine | None = None
) -> Iterator[Sample]:
    """LLaVA conversations: `[{id, image, conversations[{from, value}]}]`; `image` may be a list or absent.

    `<image>` in a human turn says where a picture enters, and stays in the instruction; without any, all
    pictures enter in the first turn. Raises DataError for a file that is not such a JSON file.
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    for number, row in enumerate(_load(path, list)):
        name = row.get("id", number) if isinstance(row, dict) else number
        reason = _llava_fault(row)
        if reason:
            quarantine.add(path, name, *reason)
            continue
        files = row.get("image") or []
        files = [files] if isinstance(files, str) else files
        paths = [_inside(images, file) for file in files]
        said = row["conversations"]
        if None in paths:
            quarantine.add(path, name, "image", "leaves the image folder")
        elif sum(turn["value"].count("<image>") for turn in said[::2]) not in (0, len(files)):
            quarantine.add(path, name, "conversations", "as many <image> marks as images are needed")
        else:
            pairs = zip(said[::2], said[1::2], strict=True)
            turns = tuple(Turn(human["value"], gpt["value"].strip()) for human, gpt in pairs)
            yield Sample(
                str(name), tuple(paths), turns, task="conversation", language=language, source=source
            )


def _llava_fault(row) -> tuple[str, str] | None:
    if not isinstance(row, dict):
        return "row", "not an object"
    files = row.get("image") or []
    if not isinstance(files, str) and not (isinstance(files, list) and all(map(_is_text, files))):
        return "image", "not a file name or a list of them"
    said = row.get("conversations")
    if not isinstance(said, list) or not said or len(said) % 2:
        return "conversations", "needs pairs of human and gpt turns"
    for index, turn in enumerate(said):
        if not isinstance(turn, dict) or not _is_text(turn.get("value")):
            return f"conversations[{index}].value", "empty or not text"
        if turn.get("from") != ("human", "gpt")[index % 2]:
            return f"conversations[{index}].from", "turns must go human, gpt, human, gpt"
    return None


def _written(box, size: dict) -> str | None:
    """COCO's box as text, None where it is no box within the picture."""
    try:
        return box_text(tuple(box), size["width"], size["height"])
    except (TypeError, ValueError):
        return None


def _answers(given) -> tuple[str, ...] | None:
    """The distinct answers of all annotators in order, None where the field is not a list of answers."""
    if not isinstance(given, list) or not all(isinstance(answer, dict) for answer in given):
        return None
    return tuple(dict.fromkeys(a["answer"] for a in given if _is_text(a.get("answer"))))


def _is_text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _load(path: Path, kind: type):
    try:
        value = json.loads(Path(path).read_text(encoding="utf8"))
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file") from err
    except OSError as err:
        raise DataError(f"{path}: cannot be read ({err.strerror})") from err
    except (ValueError, RecursionError) as err:
        raise DataError(f"{path}: not JSON ({err})") from err
    if not isinstance(value, kind):
        raise DataError(f"{path}: the top level must be a {'list' if kind is list else 'JSON object'}")
    return value


def _rows(
    data: dict, name: str, path: Path, fields: tuple[str, ...], quarantine: Quarantine
) -> Iterator[dict]:
    """The rows of one list that have all fields, and ids that are numbers or texts."""
    if not isinstance(data.get(name), list):
        raise DataError(f"{path}: field {name!r} must be a list")
    for number, row in enumerate(data[name]):
        where = f"{name}[{number}]"
        if not isinstance(row, dict):
            quarantine.add(path, where, "row", "not an object")
        elif missing := [f for f in fields if f not in row]:
            quarantine.add(path, where, missing[0], "missing")
        elif wrong := [f for f in fields if f.endswith("id") and not isinstance(row[f], int | str)]:
            quarantine.add(path, where, wrong[0], "not a number or text")
        else:
            yield row


def _by_id(
    data: dict, name: str, path: Path, key: str, fields: tuple[str, ...], quarantine: Quarantine
) -> dict[int | str, dict]:
    """The rows of one list by their id; of two rows with one id the first stays."""
    found: dict[int | str, dict] = {}
    for row in _rows(data, name, path, (key, *fields), quarantine):
        if row[key] in found:
            quarantine.add(path, row[key], key, "given twice")
        else:
            found[row[key]] = row
    return found


def _inside(folder: Path, name: object) -> str | None:
    """The path of a file below `folder`, None where the name leaves it: data must not choose paths."""
    return _below(os.fspath(folder), name) if _is_text(name) else None


@functools.lru_cache(maxsize=1 << 16)  # many rows share a picture
def _below(folder: str, name: str) -> str | None:
    if "\0" in name or os.path.isabs(name) or ".." in name.split("/"):
        return None
    return os.path.join(folder, os.path.normpath(name))
