"""One's own pictures as the trainings take them: with features, in two splits, and of a length that the models read."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zvl.data.pixels
from zvl.config import Preset
from zvl.data import own, plan
from zvl.data.own import OwnData
from zvl.data.pixels import decode_image
from zvl.data.rows import DataError, Fault
from zvl.data.samples import LANGUAGES, Pair, Sample, Turn
from zvl.data.wordings import DESCRIBE
from zvl.model import backbones, chat, parts
from zvl.training import material, sight, stages
from zvl.training.material import Data
from zvl.training.sight import LiveFeatures

FEW = 20  # pictures: of fewer none is held out
CAPTION_TOKENS = backbones.qformer_config(3).max_position_embeddings  # [CLS] and </s> among them
DIALOGUE_TOKENS = backbones.llm_config(3).max_position_embeddings
NO_ROOM = "conversations: no room for the first question and its pictures"


@dataclass(frozen=True)
class Own:
    """One's own data. pairs: captions; questions: the same captions, as answers to "describe"; dialogues.

    test: the tenth of the pictures that no training sees, first in the order of their hashes; empty where there are
    few. put_aside: for each file by name how many rows cannot be used, and why. cut: captions and conversations too
    long for the models, of which the beginning is used.
    """

    train: Data
    test: Data
    put_aside: dict[str, dict[str, int]]
    cut: int

    def __str__(self) -> str:
        lines = [f"to train on: {_counted(self.train)}", f"held out:    {_counted(self.test)}"]
        for file, reasons in self.put_aside.items():
            lines += [f"put aside, {file}: {number} x {reason}" for reason, number in reasons.items()]
        if self.cut:
            lines.append(f"cut: {self.cut} texts, longer than {CAPTION_TOKENS} tokens (captions) or "
                         f"{DIALOGUE_TOKENS} (conversations)")  # fmt: skip
        return "\n".join(lines)

    def counts(self) -> dict:
        """What `results.record` keeps of it."""
        return {"train": _counted(self.train), "held_out": _counted(self.test), "put_aside": self.put_aside,
                "cut": self.cut}  # fmt: skip

    def held_out_captions(self, language: str) -> tuple[Tensor, list[str]]:
        """Features and a caption of each held-out picture that has one, none of them said twice."""
        said = {pair.caption: pair.image for pair in self.test.pairs if pair.language == language}
        captions = {image: caption for caption, image in said.items()}
        return self.test.features[[self.test.row[image] for image in captions]], list(captions.values())


def read(
    data: OwnData,
    folder: Path,
    num_queries: int,
    vision: nn.Module,
    depends: Mapping,
    tokenizer,
    caption_tokens: int = CAPTION_TOKENS,
    live: bool = False,
) -> Own:
    """Read, check and split one's own data; features of its pictures are kept in `folder`, as a stage of the run.

    num_queries: tokens that a picture takes in a dialogue. vision, depends: the frozen ViT, and what it is made of (for
    `stages.cached`). live: it looks in every step, and nothing is kept. caption_tokens: the longest caption.
    Raises DataError where no row of a file can be used.
    """
    digests = own.pictures(data)
    first = {digest: path for path, digest in sorted(digests.items(), reverse=True) if digest}
    kept, faults, features = _features(first, folder, vision, depends, live)

    def faulty(path: str) -> str:
        return faults.get(digests[path], "") if digests[path] else "no such file"

    rows = own.rows(data, faulty)
    # A picture that lies there under several names is one picture, also to the contrast of ITC.
    pairs = [replace(pair, image=first[digests[pair.image]]) for pair in rows.pairs]
    whole = [
        replace(row, images=tuple(first[digests[path]] for path in row.images)) for row in rows.dialogues
    ]
    fitted = _fitted(whole, backbones.load_tokenizer(), num_queries)
    dialogues = [sample for sample, _ in fitted if sample is not None]
    put_aside = dict(rows.put_aside)
    if too_long := len(fitted) - len(dialogues):
        name = Path(data.conversations).name
        put_aside[name] = put_aside[name] | {NO_ROOM: too_long}
        if not dialogues:
            raise DataError(f"{data.conversations}: no row can be used ({put_aside[name]})")
    cut = sum(shorter for sample, shorter in fitted if sample is not None)
    cut += sum(len(ids) + 2 > caption_tokens for ids in chat.text_ids(tokenizer, [p.caption for p in pairs]))

    row = {first[digest]: number for number, digest in enumerate(kept)}  # in the order of the hashes
    used = sorted({pair.image for pair in pairs} | {i for s in dialogues for i in s.images}, key=row.get)
    away = set(used[: len(used) // 10 if len(used) >= FEW else 0])
    splits = []
    for test in (False, True):
        told = tuple(pair for pair in pairs if (pair.image in away) == test)
        # A conversation may show another picture beside one that is held out.
        talks = tuple(sample for sample in dialogues if any(i in away for i in sample.images) == test)
        shown = {pair.image for pair in told} | {image for sample in talks for image in sample.images}
        images = tuple(sorted(shown))
        if live:
            taken = LiveFeatures(vision, images)
        else:
            taken = features[[row[image] for image in images]] if images else torch.empty(0)
        splits.append(Data(told, (), (), tuple(map(_described, told)), talks, (), images, taken))
    return Own(*splits, put_aside, cut)


def read_own(preset: Preset, run: Path) -> Own | None:
    """One's own data as the preset names it, None where it names none."""
    if not preset.own:
        return None
    vision, tokenizer = material.new_vision(preset), parts.text_tokenizer(preset.parts)
    return read(
        preset.own, run / "stages", preset.num_queries, vision, material.vision_inputs(preset), tokenizer,
        material.caption_limit(preset), preset.parts.live,
    )  # fmt: skip


def inputs(data: OwnData) -> dict:
    """What a training depends on of one's own data, for `stages.cached`.

    Both files count wherever one does, since they decide together which pictures are held out.
    """
    return {"own": own.content(data)} if data else {}


def _features(
    first: dict[str, str], folder: Path, vision: nn.Module, depends: Mapping, live: bool
) -> tuple[list[str], dict[str, str], Tensor]:
    """The hashes of the pictures that can be read, in order; why the others cannot; and features of the former.

    first: a path for each hash of a file. live: no features.
    """

    def build(path: Path) -> None:
        kept, faults = [], {}
        for digest in material.bar(sorted(first), "own pictures"):
            try:
                decode_image(Path(first[digest]).read_bytes())
                kept.append(digest)
            except Fault as fault:
                faults[digest] = fault.reason
        features = torch.empty(0)
        if kept and not live:
            features = sight.look(vision, [first[digest] for digest in kept], material.bar)
        save_file({"features": features}, str(path / "features.safetensors"))
        (path / "pictures.json").write_text(json.dumps({"kept": kept, "faults": faults}), encoding="utf8")

    every = hashlib.sha256(" ".join(sorted(first)).encode()).hexdigest()
    inputs = {
        "pictures": every,
        "vit": depends,
        "live": live,
        "code": stages.code_version(zvl.data.pixels, sight),
    }
    path = stages.cached("own-features", inputs, folder, build)
    found = json.loads((path / "pictures.json").read_text(encoding="utf8"))
    return found["kept"], found["faults"], load_file(str(path / "features.safetensors"))["features"]


def _described(pair: Pair) -> Sample:
    """A caption as an instruction by templates, as the paper does it "using manually devised rules" (3.3)."""
    asked = DESCRIBE[pair.language, "train"]
    turn = Turn(str(asked[plan.draw(0, pair.caption) % len(asked)]), pair.caption)
    return Sample(
        pair.image_id, (pair.image,), (turn,), task="caption", language=pair.language, source=pair.source
    )


def _fitted(samples: list[Sample], tokenizer, num_queries: int) -> list[tuple[Sample | None, bool]]:
    """Each dialogue with as many of its turns as the language model reads, and whether it is too long as a whole.

    None where the first question has no room. An answer to it that has none stays here and is cut in the batch.
    """
    turns, shown = [sample.turns for sample in samples], [len(sample.images) for sample in samples]
    lengths = [len(row["input_ids"]) for row in chat.encode_all(turns, tokenizer, shown, num_queries)]
    return [
        (_shortened(sample, tokenizer, num_queries), True) if length > DIALOGUE_TOKENS else (sample, False)
        for sample, length in zip(samples, lengths, strict=True)
    ]


def _shortened(sample: Sample, tokenizer, num_queries: int) -> Sample | None:
    marks = [turn.instruction.count(chat.IMAGE) for turn in sample.turns]
    for count in range(len(sample.turns), 0, -1):
        images = sample.images[: sum(marks[:count])] if any(marks) else sample.images
        shorter = replace(sample, turns=sample.turns[:count], images=images)
        longest = DIALOGUE_TOKENS if count == 1 else None
        try:
            ids = chat.encode(shorter.turns, tokenizer, len(images), num_queries, longest)["input_ids"]
        except ValueError:
            return None
        if len(ids) <= DIALOGUE_TOKENS:
            return shorter if images else None
    return None


def _counted(data: Data) -> str:
    names = {"en": "English", "zh": "Chinese"}
    by_language = Counter(pair.language for pair in data.pairs)
    captions = ", ".join(f"{by_language[language]} {names[language]}" for language in LANGUAGES)
    return (
        f"{len(data.images)} pictures, {len(data.pairs)} captions ({captions}), "
        f"{len(data.dialogues)} conversations"
    )


def joined(data: Data, own: Data | None) -> tuple[dict[str, int], Sequence[str], Tensor | LiveFeatures]:
    """Rows by path, paths and features of both the world's pictures and one's own, which follow."""
    if own is None:
        return data.row, data.images, data.features
    images = (*data.images, *own.images)
    if isinstance(data.features, LiveFeatures):
        features = LiveFeatures(data.features.vision, images)
    else:
        features = torch.cat([data.features[:], own.features])
    return {image: n for n, image in enumerate(images)}, images, features
