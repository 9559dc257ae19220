"""Training pairs from folders of `zvl shards` in the place of the Moji world's."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate import PartialState
from torch import Tensor, nn

import zvl.data
from zvl.config import Preset
from zvl.data import stream
from zvl.data.rows import Fault, Quarantine
from zvl.data.samples import LANGUAGES, Pair
from zvl.data.tars import Record, Shards, index_path, load_index
from zvl.model import parts, tokenizers
from zvl.training import feature_store, features, sight, stages, watch

WEIGHTS = "weights.yaml"
TEXT_LENGTH = 32  # tokens of a caption, as in BLIP-2


def folders(data: str) -> dict[str, Path]:
    """Data set -> its folder of tars: the folder `data` itself, or those below it that hold tars.

    Raises ValueError where there is none.
    """
    root = Path(data)
    found = (
        {root.name: root}
        if any(root.glob("*.tar"))
        else {t.parent.name: t.parent for t in root.glob("*/*.tar")}
    )
    if not found:
        raise ValueError(
            f"data {data!r}: allowed are 'moji', a folder that `zvl shards` made, or a folder of such folders"
        )
    return dict(sorted(found.items()))


def index_files(data: str) -> list[Path]:
    """The indices of all tars, which hold their hashes, and the weights: what a training on them depends on."""
    found = [index for folder in folders(data).values() for index in sorted(folder.glob("*.index.json"))]
    return found + [path for path in [Path(data) / WEIGHTS] if path.is_file()]


def mixture(data: str, seed: int) -> stream.Mixture:
    """All data sets by their numbers of pairs, and English and Chinese half and half where both occur.

    A file weights.yaml in the folder `data` changes that: `sets: {wukong: 2}` takes twice as many of a set as its
    number says, `languages: {en: 1, zh: 3}` sets the languages' weights. Raises ValueError for a name that is none.
    """
    sets = {name: Shards(folder) for name, folder in folders(data).items()}
    spoken = [language for language in LANGUAGES if any(shards.pairs(language) for shards in sets.values())]
    factors, languages = _weights(Path(data) / WEIGHTS, list(sets), spoken)
    sizes = {name: sum(shards.pairs(language) for language in LANGUAGES) for name, shards in sets.items()}
    weights = {name: (shards, factors[name] * sizes[name]) for name, shards in sets.items() if sizes[name]}
    if not weights:
        raise ValueError(f"data {data!r}: no pairs in {', '.join(sets)}; their quarantine.jsonl says why")
    return stream.Mixture(weights, languages, seed)


def _weights(path: Path, sets: list[str], languages: list[str]) -> tuple[dict[str, float], dict[str, float]]:
    told = yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.is_file() else {}
    found = []
    for field, known in (("sets", sets), ("languages", languages)):
        given = (told.get(field) or {}) if isinstance(told, dict) else told
        if not isinstance(given, dict) or not all(type(weight) in (int, float) for weight in given.values()):
            raise ValueError(f"{path}: {field}: needs lines of a name and a number")
        if odd := [name for name in given if name not in known]:
            raise ValueError(f"{path}: {field}: {odd[0]!r} is not one of {', '.join(known)}")
        found.append(dict.fromkeys(known, 1.0) | given)
    return found[0], found[1]


def kept_features(preset: Preset, run: Path, vision: nn.Module, depends: Mapping) -> dict[str, stream.Look]:
    """The frozen ViT's features of all records of each data set, computed once and kept in the run folder.

    depends: what the ViT is made of, for `stages.cached`. A million pictures take 724 GB at full size.
    """
    found = {}
    for name, (shards, _) in mixture(preset.parts.data, preset.pretraining.loop.seed).sets.items():
        indices = [index_path(tar) for tar in shards.tars]
        digest = hashlib.sha256(
            "".join(load_index(tar)["sha256"] for tar in shards.tars).encode()
        ).hexdigest()
        records = [str(number) for number in range(len(shards))]
        key = features.feature_key(vision, records, ids=[f"{digest} {record}" for record in records])
        inputs = {
            "tars": indices,
            "vit": depends,
            "code": stages.code_version(zvl.data, features, feature_store, sight),
        }
        folder = stages.cached(
            f"features-{name}", inputs, run / "stages",
            lambda path, records=records, key=key, shards=shards: features.write_features(
                path, records, vision, key, read=functools.partial(_image, shards), workers=preset.parts.workers
            ),
        )  # fmt: skip
        found[name] = functools.partial(_row, feature_store.open_features(folder, key, verify=False))
    return found


def _image(shards: Shards, record: str) -> bytes:
    return shards[int(record)].image


def _row(kept: feature_store.Features, record: int) -> Tensor:
    if record in kept.quarantine:
        raise Fault("image", kept.quarantine[record][1])
    return kept[[record]][0]


def batches(
    preset: Preset,
    own_accumulation: int,
    held_out: Set[int] = frozenset(),
    put_aside: Quarantine | None = None,
    kept: Mapping[str, stream.Look] | None = None,
) -> Callable[[int, int], dict]:
    """Batches as `pretraining.pair_batches` gives them, made ahead by the preset's worker processes: with pixels, or
    with kept features in half precision.

    own_accumulation: micro-batches of a step in this process, out of the preset's in all of them. held_out: numbers of
    pictures that stay away. put_aside: gets what cannot be read. kept: of `kept_features`.
    """
    config = preset.pretraining
    return stream.batches(
        mixture(preset.parts.data, config.loop.seed), _encode(preset), config.batch_size,
        parts.image_size(preset.parts), own_accumulation, config.loop.accumulation // own_accumulation,
        preset.parts.workers, put_aside, held_out, kept,
    )  # fmt: skip


def _encode(preset: Preset) -> stream.Encode:
    return functools.partial(
        tokenizers.caption_ids, parts.text_tokenizer(preset.parts), max_length=TEXT_LENGTH
    )


def held_out(preset: Preset, vision: nn.Module) -> tuple[list[watch.HeldOut], frozenset[int]]:
    """Pairs of each language for the evaluation in training, and the numbers of their pictures, for `batches`.

    At most `held_out` of the preset and a tenth of the pairs, evenly spaced over the data sets; no picture
    and no caption twice in a language.
    """
    sets = mixture(preset.parts.data, preset.pretraining.loop.seed).sets
    size, numbers, found = parts.image_size(preset.parts), set(), []
    for language in LANGUAGES:
        speaking = [shards for shards, _ in sets.values() if shards.pairs(language)]
        count = min(preset.pretraining.held_out, sum(shards.pairs(language) for shards in speaking) // 10)
        pictures: dict[int, tuple[Tensor, str]] = {}
        for shards in speaking:
            for record, caption in _spread(shards, language, -(-count // len(speaking))):
                number, told = stream.image_number(record.image), {said for _, said in pictures.values()}
                if number not in pictures and caption not in told and len(pictures) < count:
                    with contextlib.suppress(Fault):
                        pictures[number] = stream.decode(record, size), caption
        if len(pictures) >= 2:
            pixels, said = zip(*pictures.values(), strict=True)
            parted = torch.stack(pixels).split(sight.AT_ONCE)
            seen = [sight.see(vision, part.to(PartialState().device)).cpu() for part in parted]
            found.append(watch.HeldOut(torch.cat(seen), {language: _encode(preset)(list(said))}))
            numbers |= set(pictures)
    return found, frozenset(numbers)


def captions(data: str, count: int = 10_000) -> Iterator[Pair]:
    """At most so many pairs of each data set and language, evenly spaced; unreadable records are passed over.

    Raises ValueError where there is no pair at all.
    """
    for name, (shards, _) in mixture(data, 0).sets.items():
        for language in LANGUAGES:
            for record, caption in _spread(shards, language, count):
                yield Pair(record.image_id, record.key, caption, language, name)


def _spread(shards: Shards, language: str, count: int) -> Iterator[tuple[Record, str]]:
    """At most `count` records with a caption in this language each, evenly spaced; unreadable ones are passed over."""
    there = shards.pairs(language)
    for number in np.linspace(0, there - 1, min(count, there)).astype(int).tolist():
        row, place = shards.locate(language, number)
        with contextlib.suppress(Fault):
            record = shards[row]
            spoken = zip(record.captions, record.languages, strict=True)
            yield record, [caption for caption, said in spoken if said == language][place]
