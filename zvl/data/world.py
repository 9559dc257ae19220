"""Write the Moji world to disk in the raw formats of real data sets, so that training goes through readers.

One folder a world:
    images/{train,test}/000012.png
    captions_{en,zh}_{train,test}.json           COCO captions, five references a scene
    captions_swapped_{en,zh}_test.json           the same with one thing swapped, to judge image-text matching
    instances_{train,test}.json                  COCO boxes (x, y, width, height)
    regions_{en,zh}_{train,test}.json            Visual Genome: a phrase for each box
    questions_*.json, annotations_*.json         VQAv2
    llava_{en,zh}_{train,test}.json              LLaVA conversations: several turns, some with two pictures
    world.json                                   how it was made; written last: where it stands, all is whole
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from zvl.data import moji, wordings
from zvl.data.samples import LANGUAGES

SPLITS = ("train", "test")


@dataclass(frozen=True)
class WorldConfig:
    """How large a world is. `dialogue_share` of the scenes start a LLaVA conversation in each language."""

    train_scenes: int = 8000
    test_scenes: int = 1600
    seed: int = 0
    art_sets: tuple[str, ...] = moji.ART_SETS
    dialogue_share: float = 0.5


def write_world(folder: Path, config: WorldConfig, progress=lambda items, label: items) -> Path:
    """Build the world in `folder` unless it stands there already, made from the same configuration.

    progress: wraps the loop over scenes, as tqdm does. Returns the folder.
    """
    folder = Path(folder)
    wanted = json.loads(json.dumps(asdict(config)))
    if (folder / "world.json").is_file() and json.loads((folder / "world.json").read_text("utf8")) == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    for split in SPLITS:
        count = config.train_scenes if split == "train" else config.test_scenes
        fewest = 1 if split == "train" else 2  # one piece makes no pair that training could lack
        scenes = moji.scenes(count, split, config.seed, fewest, art_sets=config.art_sets)
        _write_split(folder, split, scenes, config, progress)
    _dump(folder / "world.json", wanted)
    return folder


def _write_split(folder: Path, split: str, scenes: list[moji.Scene], config: WorldConfig, progress) -> None:
    images = folder / "images" / split
    images.mkdir(parents=True)
    rng = np.random.default_rng([config.seed, SPLITS.index(split), 5])
    records = [{"id": i, "file_name": f"{i:06d}.png", "height": moji.SCENE_SIZE, "width": moji.SCENE_SIZE}
               for i in range(len(scenes))]  # fmt: skip
    boxes = []
    for record, scene in progress(list(zip(records, scenes, strict=True)), f"{split} scenes"):
        moji.render(scene).save(images / record["file_name"], compress_level=1)
        boxes += [
            {"id": len(boxes) + k, "image_id": record["id"], "category_id": piece.concept,
             "bbox": [piece.x, piece.y, piece.side, piece.side], "area": piece.side**2, "iscrowd": 0}
            for k, piece in enumerate(scene.pieces)
        ]  # fmt: skip
    categories = [{"id": c.id, "name": c.names["en"], "name_zh": c.names["zh"], "supercategory": c.group}
                  for c in moji.concepts()]  # fmt: skip
    instances = {"images": records, "annotations": boxes, "categories": categories}
    _dump(folder / f"instances_{split}.json", instances)
    for language in LANGUAGES:
        _write_captions(folder, split, language, records, scenes, rng)
        _write_regions(folder, split, language, scenes)
        _write_questions(folder, split, language, scenes, rng)
        _write_dialogues(folder, split, language, scenes, config.dialogue_share, rng)


def _write_captions(folder, split, language, records, scenes, rng) -> None:
    rows, swapped = [], []
    for record, scene in zip(records, scenes, strict=True):
        for wording in range(len(wordings.CAPTIONS[language, split])):
            text = wordings.caption(scene, language, split, wording, rng)
            rows.append({"id": len(rows), "image_id": record["id"], "caption": text})
        if split == "test":
            present = [piece.concept for piece in scene.pieces]
            out = int(rng.choice(present))
            other = int(rng.choice([c.id for c in moji.concepts() if c.id not in present]))
            text = wordings.caption(scene, language, split, int(rng.integers(5)), rng, replace={out: other})
            swapped.append({"id": len(swapped), "image_id": record["id"], "caption": text})
    _dump(folder / f"captions_{language}_{split}.json", {"images": records, "annotations": rows})
    if swapped:
        wrong = {"images": records, "annotations": swapped}
        _dump(folder / f"captions_swapped_{language}_{split}.json", wrong)


def _write_regions(folder, split, language, scenes) -> None:
    rows, number = [], 0
    for image_id, scene in enumerate(scenes):
        regions = []
        for piece in scene.pieces:
            phrase = wordings.piece_phrase(piece, language)
            box = {"x": piece.x, "y": piece.y, "width": piece.side, "height": piece.side}
            regions.append({"region_id": number, "image_id": image_id, "phrase": phrase} | box)
            number += 1
        rows.append({"id": image_id, "regions": regions})
    _dump(folder / f"regions_{language}_{split}.json", rows)


def _write_questions(folder, split, language, scenes, rng) -> None:
    questions, annotations = [], []
    for image_id, scene in enumerate(scenes):
        for asked in wordings.questions(scene, language, split, rng):
            number = len(questions)
            questions.append({"question_id": number, "image_id": image_id, "question": asked.question})
            given = {"answer": asked.answer, "answer_confidence": "yes"}
            answers = [{**given, "answer_id": k + 1} for k in range(10)]
            annotations.append({
                "question_id": number, "image_id": image_id, "question_type": asked.kind,
                "answer_type": "other", "multiple_choice_answer": asked.answer, "answers": answers,
            })  # fmt: skip
    _dump(folder / f"questions_{language}_{split}.json", {"questions": questions})
    _dump(folder / f"annotations_{language}_{split}.json", {"annotations": annotations})


def _write_dialogues(folder, split, language, scenes, share, rng) -> None:
    rows = []
    for image_id in range(int(len(scenes) * share)):
        asked = wordings.questions(scenes[image_id], language, split, rng)
        asked = [asked[i] for i in rng.permutation(len(asked))[:3]]
        asked.append(wordings.describe(scenes[image_id], language, split, rng))
        images = [f"{image_id:06d}.png"]
        if image_id % 8 == 7:  # a second picture enters in a later turn, as in the paper's Figure 7
            other = int(rng.integers(len(scenes)))
            images.append(f"{other:06d}.png")
            later = wordings.questions(scenes[other], language, split, rng)
            asked.append(later[int(rng.integers(len(later)))])
        conversation = []
        for turn, question in enumerate(asked):
            marker = "<image>\n" if turn == 0 or (turn == 4 and len(images) == 2) else ""
            conversation += [{"from": "human", "value": marker + question.question},
                             {"from": "gpt", "value": question.answer}]  # fmt: skip
        image = images[0] if len(images) == 1 else images
        name = f"{language}-{split}-{image_id:06d}"
        rows.append({"id": name, "image": image, "conversations": conversation})
    _dump(folder / f"llava_{language}_{split}.json", rows)


def _dump(path: Path, value) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf8")
