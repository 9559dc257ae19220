"""What readers gave, with the frozen ViT's features of its pictures: the form in which data reaches the trainings.

World, what the factory makes of it, and features lie below `<run folder>/stages/`, as everything that `stages.cached`
makes.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

import zvl.data
import zvl.model
from zvl.config import Preset
from zvl.data import factory, plan
from zvl.data.own import OwnData
from zvl.data.readers import (
    read_coco_captions,
    read_gqa,
    read_llava,
    read_refcoco,
    read_visual_genome_regions,
    read_vqav2,
)
from zvl.data.samples import LANGUAGES, Pair, Sample
from zvl.data.server_teacher import ServerTeacher
from zvl.data.symbolic_teacher import SymbolicTeacher
from zvl.data.symbols import read_symbols
from zvl.data.teacher import Teacher
from zvl.data.wordings import QUESTIONS
from zvl.data.world import QUESTION_SPLITS, write_world
from zvl.model import backbones, parts
from zvl.training import aligned, feature_store, loop, sight, stages, starts
from zvl.training import features as feature_writer
from zvl.training.feature_store import Features, open_features
from zvl.training.sight import LiveFeatures

HELD_IN_MEMORY = 4 << 30  # bytes of features; larger ones are read from disk row by row


def bar(items, label):
    return tqdm(items, desc=label, disable=not loop._show_progress(None), leave=False)


@dataclass(frozen=True)
class Data:
    """What the readers gave for one split, with the frozen ViT's features of its images.

    features: (images, patches, width) in half precision, nano (images, 65, 192): a tensor, `Features` on disk where
        they are large, or `LiveFeatures` where the preset's ViT runs in every step. row: image path -> row of
        `features`.
    """

    pairs: tuple[Pair, ...]
    regions: tuple[Pair, ...]
    swapped: tuple[Pair, ...]
    questions: tuple[Sample, ...]
    dialogues: tuple[Sample, ...]
    bmmic: tuple[Sample, ...]
    images: tuple[str, ...]
    features: Tensor | Features | LiveFeatures

    @functools.cached_property
    def row(self) -> dict[str, int]:
        return {image: number for number, image in enumerate(self.images)}

    @functools.cached_property
    def captions(self) -> dict[tuple[str, str], list[str]]:
        """Path and language -> the captions of a picture."""
        captions: dict[tuple[str, str], list[str]] = defaultdict(list)
        for pair in self.pairs:
            captions[pair.image, pair.language].append(pair.caption)
        return captions


def world(preset: Preset, run: Path) -> Path:
    """The folder of the Moji world of this preset."""
    inputs = {"world": preset.world, "code": stages.code_version(zvl.data)}
    return (
        stages.cached(
            "world", inputs, run / "stages", lambda path: write_world(path / "moji", preset.world, bar)
        )
        / "moji"
    )


def teacher(config: plan.FactoryConfig) -> Teacher:
    """The symbolic teacher, unless the configuration names a server."""
    if config.teacher_url:
        return ServerTeacher(config.teacher_model, config.teacher_url)
    return SymbolicTeacher(config.seed, config.mistakes)


def bmmic(preset: Preset, run: Path, split: str = "train") -> Path:
    """The folder of what the data factory makes of the pictures of a split."""
    config, source = preset.factory, world(preset, run)

    def build(path: Path) -> None:
        images = source / "images" / split
        symbols = [
            told
            for language in LANGUAGES
            for told in read_symbols(
                source / f"captions_{language}_{split}.json",
                source / f"instances_{split}.json",
                images,
                language,
            )
        ]
        factory.run(path, plan.plan(symbols, config), teacher(config), config, bar)

    inputs = {"world": source / "world.json", "config": config, "split": split,
              "code": stages.code_version(zvl.data)}  # fmt: skip
    return stages.cached(f"bmmic-{split}", inputs, run / "stages", build)


def read(preset: Preset, run: Path, split: str) -> Data:
    """Read one split back from its raw files, and its ViT features (computed once: the ViT is frozen).

    split: one of `world.QUESTION_SPLITS`. Raises ValueError for another.
    A notebook and all stages that it calls share one copy.
    """
    if split not in QUESTION_SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(QUESTION_SPLITS)}")
    # How a preset trains makes no difference to what it reads, and must make no second copy.
    reads = replace(preset, pretraining=None, base=None, chat=None, text_only=None, own=OwnData())
    return _read(reads, run, split)


@functools.lru_cache(maxsize=3)
def _read(preset: Preset, run: Path, split: str) -> Data:
    folder = world(preset, run)
    pictures, wording = QUESTION_SPLITS[split]
    images = folder / "images" / pictures
    pairs, regions, swapped, questions, dialogues = [], [], [], [], []
    for language in LANGUAGES:
        pairs += read_coco_captions(folder / f"captions_{language}_{pictures}.json", images, language)
        regions += read_visual_genome_regions(
            folder / f"regions_{language}_{pictures}.json", images, language, image_name="{:06d}.png"
        )
        if pictures in ("train", "test"):
            swapped += read_coco_captions(
                folder / f"captions_swapped_{language}_{pictures}.json", images, language
            )
        questions += read_vqav2(
            folder / f"questions_{language}_{split}.json", folder / f"annotations_{language}_{split}.json", images,
            language, image_name="{:06d}.png",
        )  # fmt: skip
        questions += read_gqa(folder / f"gqa_{language}_{split}.json", images, language, image_name="{}.png")
        questions += _located(
            read_refcoco(
                folder / f"refs_{language}_{split}.json",
                folder / f"instances_{pictures}.json",
                images,
                language,
            ),
            QUESTIONS["ground", language, wording],
        )
        dialogues += read_llava(folder / f"llava_{language}_{split}.json", images, language)
    kept = factory.samples(factory.load(bmmic(preset, run))[0], images) if split == "train" else []
    paths = tuple(sorted({pair.image for pair in pairs}))
    if preset.parts.live and split == "train":
        features = LiveFeatures(new_vision(preset), paths)
    else:
        features = _features(preset, run, pictures, paths)
    return Data(
        tuple(pairs),
        tuple(regions),
        tuple(swapped),
        tuple(questions),
        tuple(dialogues),
        tuple(kept),
        paths,
        features,
    )


def _located(samples: Iterable[Sample], wordings: Sequence[str]) -> Iterator[Sample]:
    """References as questions for a box, one wording after the other ("using manually devised rules", section 3.3)."""
    for number, sample in enumerate(samples):
        (turn,) = sample.turns
        asked = wordings[number % len(wordings)].format(ref=turn.instruction)
        yield replace(sample, turns=(replace(turn, instruction=asked),), question_type="ground")


def told_of_pictures(
    data: Data, words: Tensor, images: int, tokenizer=None, **options
) -> tuple[list[aligned.Told], dict[int, float]]:
    """`aligned.told_of_pictures` for the first `images` pictures of a split; words: (vocabulary, width) of the
    tokenizer, by default the tutorial's; options go there.
    """
    return aligned.told_of_pictures(
        data.row,
        data.pairs,
        data.regions,
        backbones.load_tokenizer() if tokenizer is None else tokenizer,
        words,
        min(images, len(data.images)),
        backbones.IMAGE_SIZE,
        **options,
    )


def said_of_pictures(data: Data, words: Tensor, images: int, tokenizer=None) -> tuple[Tensor, Tensor]:
    """`aligned.said_of_patches` for the first `images` pictures of a split; arguments as in `told_of_pictures`."""
    told, _ = told_of_pictures(data, words, images, tokenizer)
    return aligned.said_of_patches(told, data.features.shape[1] - 1, backbones.IMAGE_SIZE)


def caption_limit(preset: Preset) -> int:
    """Tokens of a caption that the Q-Former has positions for, `[CLS]` and the end token among them."""
    return parts.qformer_config(preset.parts).max_position_embeddings


def _features(preset: Preset, run: Path, split: str, paths: tuple[str, ...]) -> Tensor | Features:
    """The frozen ViT's features of picture files, computed once; in memory unless they are large."""
    vision = new_vision(preset).to(PartialState().device)
    key = feature_writer.feature_key(vision, paths)
    inputs = {"world": world(preset, run) / "world.json", "split": split, "count": len(paths),
              "code": stages.code_version(zvl.data, parts, sight, feature_writer, feature_store),
              "vit": vision_inputs(preset)}  # fmt: skip
    folder = stages.cached(
        f"features-{split}", inputs, run / "stages",
        lambda path: feature_writer.write_features(path, paths, vision, key),
    )  # fmt: skip
    kept = open_features(folder, key)
    return kept[:] if feature_writer.bytes_needed(*kept.shape) < HELD_IN_MEMORY else kept


def new_vision(preset: Preset) -> torch.nn.Module:
    """The preset's frozen ViT; random weights are the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.parts.seed)
        return parts.new_vision(preset.parts)


def vision_inputs(preset: Preset) -> dict:
    """What the features of the frozen ViT depend on, for `stages.cached`."""
    made_of = parts.made_of(preset.parts)
    names = ("vision", "weights", "precision", "layers", "seed")
    return {name: getattr(made_of["parts"], name) for name in names} | {"files": made_of["vit"]}


def inputs(preset: Preset, run: Path, *parts: str) -> dict:
    """What every training depends on: world, code, and the shipped backbones that it uses, for `stages.cached`."""
    folder = backbones.NANO
    return {
        "world": world(preset, run) / "world.json",
        "backbones": [folder / part / "model.safetensors" for part in ("clip", *parts)],
        "tokenizer": folder / "tokenizer" / "tokenizer.json",
        "code": stages.code_version(zvl.data, zvl.model, loop, stages, starts, aligned),
        "material": Path(__file__),
    }
