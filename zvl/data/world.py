"""Write the Moji world to disk in the raw formats of real data sets, so that training goes through readers.

One folder a world:
    images/P/000012.png
    captions_{en,zh}_P.json                      COCO captions, five references a scene
    captions_swapped_{en,zh}_P.json              the same with one thing swapped: wrong captions to learn from (train,
                                                 five a scene) and to judge matching by (test, one a scene)
    instances_P.json                             COCO boxes (x, y, width, height)
    regions_{en,zh}_P.json                       Visual Genome: a phrase for each box
    questions_{en,zh}_S.json, annotations_...    VQAv2
    gqa_{en,zh}_S.json                           GQA: attributes, comparisons, above and below
    refs_{en,zh}_S.json                          RefCOCO's references, as JSON: expressions for the boxes of instances_P
    llava_{en,zh}_S.json                         LLaVA conversations: several turns, some with two or three pictures
    world.json                                   how it was made; written last: where it stands, all is whole
P are pictures: train; test, where no two things ever met in training; style, by another artist; concept, with things
that training never shows. S are questions: train; composition, style and concept, in training wordings; and paraphrase,
on the test pictures in wordings of their own.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from zvl.data import moji, questions, wordings
from zvl.data.samples import LANGUAGES

QUESTION_SPLITS = {  # split of questions -> its pictures, and the split of its wordings
    "train": ("train", "train"),
    "composition": ("test", "train"),
    "paraphrase": ("test", "test"),
    "style": ("style", "train"),
    "concept": ("concept", "train"),
}
GQA_TYPES = ("above_below", "size", "frame", "bigger", "more")
VQA_TYPES = tuple(kind for kind in questions.QUESTION_TYPES if kind not in GQA_TYPES)


@dataclass(frozen=True)
class WorldConfig:
    """How large a world is. `dialogue_share` of the scenes start a LLaVA conversation in each language.

    extra_scenes: how many its style and its concept split have.
    """

    train_scenes: int = 8000
    test_scenes: int = 1600
    seed: int = 0
    art_sets: tuple[str, ...] = moji.ART_SETS
    dialogue_share: float = 0.5
    extra_scenes: int = 600
    framed: float = moji.FRAMED
    signs: float = moji.SIGNS


def write_world(folder: Path, config: WorldConfig, progress=lambda items, label: items) -> Path:
    """Build the world in `folder` unless it stands there already, made from the same configuration.

    progress: wraps the loop over scenes, as tqdm does. Returns the folder.
    """
    folder = Path(folder)
    wanted = json.loads(json.dumps(asdict(config)))
    if (folder / "world.json").is_file() and json.loads((folder / "world.json").read_text("utf8")) == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    for pictures, scenes in draw_scenes(config).items():
        _write_split(folder, pictures, scenes, config, progress)
    _dump(folder / "world.json", wanted)
    return folder


def draw_scenes(config: WorldConfig) -> dict[str, list[moji.Scene]]:
    """The scenes of each folder of pictures."""

    def drawn(count: int, split: str, min_pieces: int) -> list[moji.Scene]:
        return moji.scenes(
            count,
            split,
            config.seed,
            min_pieces,
            art_sets=config.art_sets,
            framed=config.framed,
            signs=config.signs,
        )

    test = drawn(config.test_scenes, "test", 2)  # one piece makes no pair that training could lack
    return {
        "train": drawn(config.train_scenes, "train", 1),
        "test": test,
        "style": [moji.in_style(scene, "noto") for scene in test[: config.extra_scenes]],
        "concept": drawn(config.extra_scenes, "concept", 2),
    }


def _write_split(
    folder: Path, pictures: str, scenes: list[moji.Scene], config: WorldConfig, progress
) -> None:
    images = folder / "images" / pictures
    images.mkdir(parents=True)
    records = [{"id": i, "file_name": f"{i:06d}.png", "height": moji.SCENE_SIZE, "width": moji.SCENE_SIZE}
               for i in range(len(scenes))]  # fmt: skip
    boxes = []
    for record, scene in progress(list(zip(records, scenes, strict=True)), f"{pictures} scenes"):
        moji.render(scene).save(images / record["file_name"], compress_level=1)
        boxes += [
            {"id": len(boxes) + k, "image_id": record["id"], "category_id": piece.thing.id,
             "bbox": list(piece.box), "area": piece.side**2, "iscrowd": 0}
            for k, piece in enumerate(scene.pieces)
        ]  # fmt: skip
    categories = [{"id": c.id, "name": c.names["en"], "name_zh": c.names["zh"], "supercategory": c.group}
                  for c in (*moji.concepts(), moji.SIGN)]  # fmt: skip
    instances = {"images": records, "annotations": boxes, "categories": categories}
    _dump(folder / f"instances_{pictures}.json", instances)

    rng = np.random.default_rng([config.seed, ("train", "test", "style", "concept").index(pictures), 5])
    words = "train" if pictures == "train" else "test"
    for language in LANGUAGES:
        _write_captions(folder, pictures, words, language, records, scenes, config, rng)
        _write_regions(folder, pictures, language, scenes)
        for split, (shown, wording) in QUESTION_SPLITS.items():
            if shown != pictures:
                continue
            _write_questions(folder, split, wording, language, scenes, rng)
            _write_gqa(folder, split, wording, language, scenes, rng)
            _write_references(folder, split, language, records, boxes, scenes)
            _write_dialogues(folder, split, wording, language, scenes, config, rng)


def _write_captions(folder, pictures, words, language, records, scenes, config, rng) -> None:
    rows, swapped = [], []
    numbers = range(len(wordings.CAPTIONS[language, words]))
    own_rng = np.random.default_rng([config.seed, LANGUAGES.index(language), 6])
    for record, scene in zip(records, scenes, strict=True):
        texts, wrong = [wordings.caption(scene, language, words, n, rng) for n in numbers], []
        if pictures == "train":
            wrong = [_wrong_caption(scene, language, n, own_rng) for n in numbers]
        elif pictures == "test":
            present = [piece.concept for piece in scene.pieces]
            out = int(rng.choice(present))
            other = int(rng.choice([c.id for c in moji.concepts() if c.id not in present]))
            number = int(rng.integers(len(numbers)))
            wrong = [wordings.caption(scene, language, words, number, rng, replace={out: other})]
        for kept, found in ((rows, texts), (swapped, wrong)):
            kept += [
                {"id": len(kept) + n, "image_id": record["id"], "caption": text}
                for n, text in enumerate(found)
            ]
    _dump(folder / f"captions_{language}_{pictures}.json", {"images": records, "annotations": rows})
    if swapped:
        wrong = {"images": records, "annotations": swapped}
        _dump(folder / f"captions_swapped_{language}_{pictures}.json", wrong)


def _wrong_caption(scene: moji.Scene, language: str, wording: int, rng: np.random.Generator) -> str:
    """A caption in which another thing stands for one of the scene's, to learn from.

    It is one that training shows, beside things that it meets there, or what is kept for the test would be learned as
    wrong.
    """
    present = [piece.concept for piece in scene.pieces]
    out = int(rng.choice(present))
    others = moji.partners([number for number in present if number != out])
    other = int(rng.choice(others[others != out]))
    return wordings.caption(scene, language, "train", wording, rng, replace={out: other})


def _write_regions(folder, pictures, language, scenes) -> None:
    rows, number = [], 0
    for image_id, scene in enumerate(scenes):
        regions = []
        for piece in scene.pieces:
            phrase = wordings.piece_phrase(piece, language)
            box = dict(zip(("x", "y", "width", "height"), piece.box, strict=True))
            regions.append({"region_id": number, "image_id": image_id, "phrase": phrase} | box)
            number += 1
        rows.append({"id": image_id, "regions": regions})
    _dump(folder / f"regions_{language}_{pictures}.json", rows)


def _write_questions(folder, split, wording, language, scenes, rng) -> None:
    rows, annotations = [], []
    for image_id, scene in enumerate(scenes):
        for asked in questions.questions(scene, language, wording, rng, VQA_TYPES):
            number = len(rows)
            rows.append({"question_id": number, "image_id": image_id, "question": asked.question})
            given = {"answer": asked.answer, "answer_confidence": "yes"}
            answers = [{**given, "answer_id": k + 1} for k in range(10)]
            annotations.append({
                "question_id": number, "image_id": image_id, "question_type": asked.kind,
                "answer_type": "other", "multiple_choice_answer": asked.answer, "answers": answers,
            })  # fmt: skip
    _dump(folder / f"questions_{language}_{split}.json", {"questions": rows})
    _dump(folder / f"annotations_{language}_{split}.json", {"annotations": annotations})


def _write_gqa(folder, split, wording, language, scenes, rng) -> None:
    rows = {}
    for image_id, scene in enumerate(scenes):
        for asked in questions.questions(scene, language, wording, rng, GQA_TYPES):
            structural = "compare" if asked.kind in ("bigger", "more") else "query"
            semantic = "rel" if asked.kind == "above_below" else "attr"
            rows[f"{len(rows):08d}"] = {
                "question": asked.question, "imageId": f"{image_id:06d}", "answer": asked.answer,
                "fullAnswer": asked.answer, "isBalanced": True, "semantic": [],
                "types": {"structural": structural, "semantic": semantic, "detailed": asked.kind},
            }  # fmt: skip
    _dump(folder / f"gqa_{language}_{split}.json", rows)


def _write_references(folder, split, language, records, boxes, scenes) -> None:
    """RefCOCO's rows, one for each thing that has others beside it."""
    refs, number = [], 0
    at = iter(boxes)
    for record, scene in zip(records, scenes, strict=True):
        for piece in scene.pieces:
            box = next(at)
            if len(scene.pieces) < 2:
                continue
            sentences = []
            for text in questions.expressions(scene, piece, language):
                sentences.append({"raw": text, "sent": text, "tokens": text.split(), "sent_id": number})
                number += 1
            refs.append({
                "ref_id": len(refs), "ann_id": box["id"], "image_id": record["id"], "category_id": box["category_id"],
                "split": split, "file_name": record["file_name"], "sentences": sentences,
                "sent_ids": [sentence["sent_id"] for sentence in sentences],
            })  # fmt: skip
    _dump(folder / f"refs_{language}_{split}.json", refs)


def _write_dialogues(folder, split, wording, language, scenes, config, rng) -> None:
    rows = []
    for image_id in range(int(len(scenes) * config.dialogue_share)):
        images, turns = questions.dialogue(scenes, image_id, image_id % 8, language, wording, rng)
        conversation = []
        for marker, asked in turns:
            conversation += [{"from": "human", "value": "<image>\n" * marker + asked.question},
                             {"from": "gpt", "value": asked.answer}]  # fmt: skip
        files = [f"{number:06d}.png" for number in images]
        image = files[0] if len(files) == 1 else files
        name = f"{language}-{split}-{image_id:06d}"
        rows.append({"id": name, "image": image, "conversations": conversation})
    _dump(folder / f"llava_{language}_{split}.json", rows)


def _dump(path: Path, value) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf8")
