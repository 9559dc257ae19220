"""Q-Former pre-training: its start, its batches of pairs in both languages, and the training itself.

Paper: section 3.3, pre-training. Results lie below `<run folder>/stages/`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch import Tensor

from zvl.config import LoopConfig, Preset
from zvl.data.rows import Quarantine
from zvl.data.samples import LANGUAGES, Pair
from zvl.evaluation import retrieval
from zvl.model import backbones, chat, parts
from zvl.model.objectives import QFormerForPretraining, texts_of
from zvl.model.tokenizers import caption_ids
from zvl.training import (
    aligned,
    contrast,
    loop,
    material,
    own,
    sharded,
    sight,
    stages,
    starts,
    watch,
    word_noise,
)
from zvl.training.feature_store import Features
from zvl.training.material import Data, caption_limit, new_vision, read
from zvl.training.sight import LiveFeatures
from zvl.training.word_noise import Exchange


def new_qformer(preset: Preset, seed: int = 0, data: Data | None = None) -> QFormerForPretraining:
    """The Q-Former before pre-training. Nano's text side is the text tower and its query FFNs are copies of the text
    FFNs (as BLIP-2 starts from BERT); cross-attention and queries are new. See `starts.initialise` for other starts.

    data: training data for the start "aligned": what is said of its pictures tells where each query looks and what it
    takes in (`aligned.align_cross_attention`). Without data that start is "text tower".
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = parts.new_qformer(preset.parts, preset.num_queries, preset.projection_dim)
    if preset.parts.start in ("text tower", "aligned"):
        clip = backbones.load_clip()
        starts.initialise_from_bert(model.qformer, clip.text_model.state_dict())
        model.text_projection.weight.data.copy_(clip.text_projection.weight)
    else:
        starts.initialise(model, parts.start_path(preset.parts))
    if preset.parts.start == "aligned" and data is not None:
        words = model.qformer.embeddings.word_embeddings.weight.detach()
        tokenizer = parts.text_tokenizer(preset.parts)
        said, counts = material.said_of_pictures(data, words, aligned.PICTURES, tokenizer)
        aligned.align_cross_attention(model, data.features[: len(said)], said, counts)
    return model


def held_out_images(preset: Preset, data: Data) -> list[str]:
    """Training pictures that stay out of the batches, for the evaluation during training; fixed by the seed."""
    count = min(preset.pretraining.held_out, len(data.images) // 10)
    rng = np.random.default_rng([preset.pretraining.loop.seed, 6])
    return [data.images[i] for i in rng.permutation(len(data.images))[:count]]


def held_out(preset: Preset, data: Data, tokenizer) -> watch.HeldOut | None:
    """The held-out pictures with one caption in each language, no two alike; None where there are no two pictures."""
    captions = data.captions
    images, told = [], {language: [] for language in LANGUAGES}
    for image in held_out_images(preset, data):
        own = {}
        for language in LANGUAGES:
            own[language] = next((c for c in captions[image, language] if c not in told[language]), None)
        if None in own.values():  # all that is said of it is said of another picture too
            continue
        images.append(image)
        for language, caption in own.items():
            told[language].append(caption)
    if len(images) < 2:
        return None
    rows = torch.tensor([data.row[image] for image in images])
    return watch.HeldOut(
        data.features[rows], {lang: caption_ids(tokenizer, texts) for lang, texts in told.items()}
    )


def _seen(features: Tensor | Features | LiveFeatures, rows: Tensor) -> dict[str, Tensor]:
    """What the model gets of the pictures `rows`: features, or pixels where the ViT runs in the step."""
    if isinstance(features, LiveFeatures):
        return {"pixel_values": features.pixels(rows.tolist())}
    return {"image_embeds": features[rows].float()}


def _numbered(pairs: Sequence[Pair]) -> list[tuple[Pair, int]]:
    """Each pair with its number, from 0, among those of its picture and language."""
    seen: dict[tuple[str, str], int] = defaultdict(int)
    numbered = []
    for pair in pairs:
        numbered.append((pair, seen[pair.image, pair.language]))
        seen[pair.image, pair.language] += 1
    return numbered


def pair_batches(
    preset: Preset, data: Data, tokenizer, mine: Data | None = None
) -> Callable[[int, int], dict]:
    """Pairs of both languages, half and half; which ones is a pure function of (seed, step, micro).

    With the preset's length_bins, a batch's pairs come from one bin of captions of like lengths, drawn evenly, in both
    languages the same: each pair is as likely as ever, but nothing is spent on padding, and negatives are as long.
    mine: one's own data. Its share of a batch is drawn from its pairs as they are, whatever their languages.
    A batch is what the Q-Former takes, and `sample_ids`: picture, language and number of each caption (from 0). With
    the preset's wrong_captions, that share of our pairs comes with a caption of its picture that is wrong; with its
    word_noise, that share of our captions has words exchanged (`word_noise.Exchange`).
    """
    kept_back = set(held_out_images(preset, data))
    by_language: dict[str, list[tuple[Pair, int]]] = {language: [] for language in LANGUAGES}
    for pair, number in _numbered(data.pairs):
        if pair.image not in kept_back:
            by_language[pair.language].append((pair, number))
    bins = preset.pretraining.length_bins
    if bins > 1:
        for language, pairs in by_language.items():
            lengths = [len(ids) for ids in chat.text_ids(tokenizer, [pair.caption for pair, _ in pairs])]
            by_language[language] = [pairs[i] for i in np.argsort(lengths, kind="stable")]
    row, _, features = own.joined(data, mine)
    longest = caption_limit(preset)
    half = preset.pretraining.batch_size // 2  # of the pictures of a batch, in each language
    wrong: dict[tuple[str, str], list[str]] = defaultdict(list)
    for pair in data.swapped if preset.pretraining.wrong_captions else ():
        wrong[pair.image, pair.language].append(pair.caption)
    noise = preset.pretraining.word_noise
    exchange = Exchange(tokenizer, data.pairs) if noise else None
    ours = _numbered(mine.pairs) if mine is not None else []
    mine_of_half = round(preset.own.share * half) if ours else 0

    def batches(step: int, micro: int) -> dict:
        rng = np.random.default_rng([preset.pretraining.loop.seed, step, micro, 1])
        drawn = int(rng.integers(bins)) if bins > 1 else 0
        chosen = []
        for pairs in by_language.values():
            first, end = (len(pairs) * edge // bins for edge in (drawn, drawn + 1))
            chosen += [pairs[i] for i in rng.integers(first, end, size=half - mine_of_half)]
        if mine_of_half:
            chosen += [ours[i] for i in rng.integers(len(ours), size=2 * mine_of_half)]
        captions, told = [pair.caption for pair, _ in chosen], {}
        for i, (pair, number) in enumerate(chosen):
            known = wrong.get((pair.image, pair.language))
            if known and rng.random() < preset.pretraining.wrong_captions:
                told[i] = known[number % len(known)]  # in the same wording
        ids, mask = caption_ids(tokenizer, captions + list(told.values()), longest)
        if exchange is not None:
            noisy = torch.from_numpy(rng.random(len(ids)) < noise)
            noisy[len(chosen) - 2 * mine_of_half : len(chosen)] = False  # their wordings are nobody's to know
            ids = torch.where(noisy[:, None] & mask, exchange(ids, rng), ids)
        rows = torch.tensor([row[pair.image] for pair, _ in chosen])
        batch = {
            **_seen(features, rows),
            "input_ids": ids[: len(chosen)],
            "text_mask": mask[: len(chosen)],
            "image_ids": rows,
            "sample_ids": [f"{pair.image} {pair.language} caption {number}" for pair, number in chosen],
        }
        if wrong:
            batch["wrong_texts"] = torch.full_like(batch["input_ids"], -1)
            batch["wrong_texts"][list(told)] = texts_of(ids, mask)[len(chosen) :]
        return batch

    return batches


def pretrain(preset: Preset, run: Path) -> tuple[QFormerForPretraining, list[dict]]:
    """The pre-trained Q-Former and the history of its training (paper section 3.3, pre-training)."""
    config = preset.pretraining
    uniform = round(config.uniform_share * config.loop.steps)
    sharded_data = preset.parts.data != "moji"
    if sharded_data and preset.own.pairs:
        raise ValueError(
            f"own_pairs mix with the Moji world only; data is {preset.parts.data!r}: make shards of both"
        )

    def loss(model, batch, step):
        if step < uniform:
            batch.pop("wrong_texts", None)
        found = model(**batch, hard_negatives=step >= uniform)
        return found["loss"], {name: value.detach() for name, value in found.items() if name != "loss"}

    def build(path: Path) -> None:
        shared = own_share(config.loop)
        put_aside = Quarantine(log=path / f"put_aside-{PartialState().process_index}.jsonl")
        if sharded_data:
            model, features = new_qformer(preset, config.loop.seed), LiveFeatures(new_vision(preset), ())
            aside, away = sharded.held_out(preset, features.vision)
            kept = None
            if not preset.parts.live:
                with PartialState().main_process_first():
                    kept = sharded.kept_features(preset, run, features.vision, material.vision_inputs(preset))
            batches = sharded.batches(preset, shared.accumulation, away, put_aside, kept)
        else:
            with PartialState().main_process_first():
                data = read(preset, run, "train")
                mine = own.read_own(preset, run) if preset.own.pairs else None
            model = new_qformer(preset, config.loop.seed, data)
            tokenizer = parts.text_tokenizer(preset.parts)
            batches = pair_batches(preset, data, tokenizer, mine and mine.train)
            features = own.joined(data, mine and mine.train)[2]
            aside = [kept] if (kept := held_out(preset, data, tokenizer)) else []
        if config.compile:  # in place: names of weights and checkpoints stay as they are
            if isinstance(features, LiveFeatures):
                features.vision.compile()
            # What several processes fetch from each other changes size in every step.
            if PartialState().num_processes == 1:
                model.compile()
        history = loop.train(
            model, _looking(loss, features), batches, shared, path, "Q-Former pre-training",
            evaluate=(lambda model: watch.evaluate(model, aside)) if aside else None,
            alarm=lambda history: watch.itm_alarm(history, config.loop.log_every),
            prepare=_whole_batch(features, uniform) if config.whole_batch_contrast else None,
        )  # fmt: skip
        stages.save_trained(model, history, path)
        for reason, count in put_aside.counts().items():
            print(f"put aside while training: {count} records, {reason}; {path.name}/{put_aside.log.name}")

    # The ViT first: where it has no weights, nothing should have been drawn before.
    inputs = {"made of": parts.made_of(preset.parts), "queries": preset.num_queries}
    # How often it is saved, and whether it is compiled, makes no other training of it.
    inputs["config"] = replace(config, compile=False, loop=replace(config.loop, save_every=0))
    if sharded_data:
        inputs["shards"] = sharded.index_files(preset.parts.data)
    with PartialState().main_process_first():  # the others find the world that it writes
        inputs |= material.inputs(preset, run)
    # Evaluation and watching too: they write into the history.
    inputs["pretraining"] = Path(__file__)
    inputs["its code"] = stages.code_version(contrast, own, retrieval, sharded, sight, watch, word_noise)
    inputs |= own.inputs(preset.own) if preset.own.pairs else {}
    path = stages.cached("pretraining", inputs, run / "stages", build)
    model = new_qformer(preset, config.loop.seed)
    model.load_state_dict(load_file(str(path / "model.safetensors")))
    return model.eval(), stages.read_history(path)


def _looking(loss: loop.LossFunction, features: Tensor | Features | LiveFeatures) -> loop.LossFunction:
    """`loss` for batches of pixels too: the frozen ViT sees them first, on the device and within the step."""
    return lambda model, batch, step: loss(model, _looked_at(batch, features), step)


def _looked_at(batch: dict, features: Tensor | Features | LiveFeatures) -> dict:
    if "pixel_values" not in batch:
        return batch | {"image_embeds": batch["image_embeds"].float()}  # kept ones come in half precision
    batch = dict(batch)
    return batch | {"image_embeds": sight.see(features.vision, batch.pop("pixel_values"))}


def _whole_batch(features: Tensor | Features | LiveFeatures, uniform: int) -> loop.Prepare:
    """`contrast.whole_batch` for a training whose negatives are uniform before step `uniform`; the ViT sees once."""

    def prepare(model, micro_batches, step, reseed):
        seen = (_looked_at(batch, features) for batch in micro_batches)
        return contrast.whole_batch(model, seen, reseed, hard_negatives=step >= uniform)

    return prepare


def own_share(config: LoopConfig) -> LoopConfig:
    """The micro-batches of each process when several share the steps of `config`: together they see the same pairs.

    Raises ValueError where they cannot be shared equally.
    """
    processes = PartialState().num_processes
    if config.accumulation % processes:
        raise ValueError(
            f"accumulation {config.accumulation}: {processes} processes cannot share so many micro-batches equally; "
            f"give a multiple of {processes}"
        )
    return replace(config, accumulation=config.accumulation // processes)
