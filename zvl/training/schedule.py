"""The schedule from pictures to a chat model: each step as one function that finds its result or makes it.

world -> features of the frozen ViT -> pre-trained Q-Former -> Base 1, Base 2 and Chat 1, Chat 2, and a text-only
model tuned on the same questions. Results lie below `<run folder>/stages/`, each under the hash of all that it
depends on, so that any notebook can run first and nothing is trained twice. Paper: section 3.3, Figure 3.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import zvl.data
import zvl.model
from zvl.config import Preset, TuningConfig
from zvl.data import factory, plan
from zvl.data.own import OwnData
from zvl.data.pixels import read_image, to_pixels
from zvl.data.readers import read_coco_captions, read_llava, read_visual_genome_regions, read_vqav2
from zvl.data.samples import LANGUAGES, Sample
from zvl.data.server_teacher import ServerTeacher
from zvl.data.symbolic_teacher import SymbolicTeacher
from zvl.data.symbols import read_symbols
from zvl.data.teacher import Teacher
from zvl.data.wordings import DESCRIBE
from zvl.data.world import write_world
from zvl.model import backbones, chat
from zvl.model.objectives import QFormerForPretraining
from zvl.model.visual import ZiyaVisualForConditionalGeneration
from zvl.training import loop, material, own, stages, starts
from zvl.training.material import Data, bar, vision_features

KINDS = ("base", "chat")


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

    A notebook and all stages that it calls share one copy.
    """
    # How a preset trains makes no difference to what it reads, and must make no second copy.
    reads = replace(preset, pretraining=None, base=None, chat=None, text_only=None, own=OwnData())
    return _read(reads, run, split)


@functools.lru_cache(maxsize=2)
def _read(preset: Preset, run: Path, split: str) -> Data:
    folder = world(preset, run)
    images = folder / "images" / split
    pairs, regions, swapped, questions, dialogues = [], [], [], [], []
    for language in LANGUAGES:
        pairs += read_coco_captions(folder / f"captions_{language}_{split}.json", images, language)
        regions += read_visual_genome_regions(
            folder / f"regions_{language}_{split}.json", images, language, image_name="{:06d}.png"
        )
        if split == "test":
            swapped += read_coco_captions(
                folder / f"captions_swapped_{language}_{split}.json", images, language
            )
        questions += read_vqav2(
            folder / f"questions_{language}_{split}.json", folder / f"annotations_{language}_{split}.json", images,
            language, image_name="{:06d}.png",
        )  # fmt: skip
        dialogues += read_llava(folder / f"llava_{language}_{split}.json", images, language)
    kept = factory.samples(factory.load(bmmic(preset, run))[0], images) if split == "train" else []
    paths = tuple(sorted({pair.image for pair in pairs}))
    features = load_file(str(_features(preset, run, split, paths) / "features.safetensors"))["features"]
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


def read_own(preset: Preset, run: Path) -> own.Own | None:
    """One's own data as the preset names it, None where it names none."""
    return own.read(preset.own, run / "stages", preset.num_queries) if preset.own else None


def _features(preset: Preset, run: Path, split: str, paths: tuple[str, ...]) -> Path:
    def build(path: Path) -> None:
        features = vision_features(paths)
        save_file({"features": features}, str(path / "features.safetensors"))

    inputs = {"world": world(preset, run) / "world.json", "split": split, "count": len(paths),
              "code": stages.code_version(zvl.data), "vit": backbones.NANO / "clip" / "model.safetensors"}  # fmt: skip
    return stages.cached(f"features-{split}", inputs, run / "stages", build)


# --- pre-training -----------------------------------------------------------------------------------------------------


def new_qformer(preset: Preset, seed: int = 0) -> QFormerForPretraining:
    """The Q-Former before pre-training: its text side is the text tower, its query FFNs are copies of the text FFNs
    (as BLIP-2 starts from BERT), cross-attention and queries are new.
    """
    tokenizer = backbones.load_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = QFormerForPretraining(
            backbones.qformer_config(len(tokenizer)), preset.num_queries, preset.projection_dim,
            decoder_start_id=tokenizer.convert_tokens_to_ids("[DEC]"),
        )  # fmt: skip
    clip = backbones.load_clip()
    starts.initialise_from_bert(model.qformer, clip.text_model.state_dict())
    model.text_projection.weight.data.copy_(clip.text_projection.weight)
    return model


def said_of_pictures(data: Data, words: Tensor, images: int) -> Tensor:
    """`starts.said_of_patches` for the first `images` pictures of a split; words: (vocabulary, width)."""
    images, patches = min(images, len(data.images)), data.features.shape[1] - 1
    return starts.said_of_patches(
        data.row,
        data.pairs,
        data.regions,
        backbones.load_tokenizer(),
        words,
        images,
        patches,
        backbones.IMAGE_SIZE,
    )


def pretraining_batches(
    preset: Preset, data: Data, tokenizer, mine: Data | None = None
) -> Callable[[int, int], dict]:
    """Pairs of both languages, half and half; which ones is a pure function of (seed, step, micro).

    mine: one's own data. Its share of a batch is drawn from its pairs as they are, whatever their languages.
    """
    by_language = {lang: [pair for pair in data.pairs if pair.language == lang] for lang in LANGUAGES}
    row, _, features = own.joined(data, mine)
    half = preset.pretraining.batch_size // 2  # of the pictures of a batch, in each language
    mine_of_half = round(preset.own.share * half) if mine is not None and mine.pairs else 0

    def batches(step: int, micro: int) -> dict:
        rng = np.random.default_rng([preset.pretraining.loop.seed, step, micro, 1])
        chosen = [
            by_language[lang][i]
            for lang in LANGUAGES
            for i in rng.integers(len(by_language[lang]), size=half - mine_of_half)
        ]
        if mine_of_half:
            chosen += [mine.pairs[i] for i in rng.integers(len(mine.pairs), size=2 * mine_of_half)]
        ids, mask = caption_ids(tokenizer, [pair.caption for pair in chosen])
        rows = torch.tensor([row[pair.image] for pair in chosen])
        return {
            "image_embeds": features[rows].float(),
            "input_ids": ids,
            "text_mask": mask,
            "image_ids": rows,
        }

    return batches


def caption_ids(tokenizer, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Captions for the Q-Former's text side: ids and mask (batch, length), [CLS] first and </s> last.

    A caption with more tokens than the Q-Former has positions, 80, is cut and so has no end.
    """
    rows = chat.text_ids(tokenizer, captions)
    rows = [[tokenizer.cls_token_id, *ids, tokenizer.eos_token_id][: own.CAPTION_TOKENS] for ids in rows]
    length = -(-max(map(len, rows)) // 8) * 8  # few different shapes keep the memory of a long training small
    ids = torch.tensor([line + [tokenizer.pad_token_id] * (length - len(line)) for line in rows])
    return ids, ids != tokenizer.pad_token_id


def pretrain(preset: Preset, run: Path) -> tuple[QFormerForPretraining, list[dict]]:
    """The pre-trained Q-Former and the history of its training (paper section 3.3, pre-training)."""
    config = preset.pretraining
    uniform = round(config.uniform_share * config.loop.steps)

    def loss(model, batch, step):
        found = model(**batch, hard_negatives=step >= uniform)
        return found["loss"], {name: value.detach() for name, value in found.items() if name != "loss"}

    def build(path: Path) -> None:
        data = read(preset, run, "train")
        model = new_qformer(preset, config.loop.seed)
        mine = read_own(preset, run) if preset.own.pairs else None
        batches = pretraining_batches(preset, data, backbones.load_tokenizer(), mine and mine.train)
        history = loop.train(model, loss, batches, config.loop, path, "Q-Former pre-training")
        _save(model, history, path)

    inputs = _inputs(preset, run) | {"config": config, "queries": preset.num_queries}
    inputs |= own.inputs(preset.own) if preset.own.pairs else {}
    path = stages.cached("pretraining", inputs, run / "stages", build)
    model = new_qformer(preset, config.loop.seed)
    model.load_state_dict(load_file(str(path / "model.safetensors")))
    return model.eval(), _history(path)


# --- instruction tuning -----------------------------------------------------------------------------------------------


def assemble(preset: Preset, run: Path, kind: str) -> ZiyaVisualForConditionalGeneration:
    """ViT, pre-trained Q-Former, a projection that starts aligned, and the language model, before any tuning."""
    tokenizer = backbones.load_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.pretraining.loop.seed)
        model = ZiyaVisualForConditionalGeneration.from_parts(
            backbones.load_clip().vision_model, pretrain(preset, run)[0], backbones.load_llm(),
            image_token_id=tokenizer.convert_tokens_to_ids(chat.IMAGE), instruction_aware=kind == "chat",
        )  # fmt: skip

    def build(path: Path) -> None:
        data = read(preset, run, "train")
        words = model.language_model.get_input_embeddings().weight.detach()
        said = said_of_pictures(data, words, 2048)
        explained = starts.align_projection(model, data.features[: len(said)], said)
        save_file(dict(model.language_projection.state_dict()), str(path / "projection.safetensors"))
        (path / "explained.json").write_text(json.dumps(explained), encoding="utf8")

    inputs = _inputs(preset, run, "llm") | {"earlier": preset.pretraining, "queries": preset.num_queries}
    inputs |= own.inputs(preset.own) if preset.own.pairs else {}
    path = stages.cached("aligned-projection", inputs, run / "stages", build)
    model.language_projection.load_state_dict(load_file(str(path / "projection.safetensors")))
    return model.eval()


def tuning_batches(
    config: TuningConfig,
    kind: str,
    data: Data,
    tokenizer,
    num_queries: int,
    live: bool = False,
    mine: Data | None = None,
    share: float = 0.0,
):
    """Questions, captions and (second stage) conversations on drawn images, as a pure function of (seed, step, micro).

    Base reads an image once for any question, so that several questions on one image make one dialogue. Chat reads it
    anew for each instruction, so that each question is a sample of its own; `image_index` shares the ViT's features.

    mine, share: one's own data, and for how many of a batch's pictures it stands: its conversations, and its captions
    as answers to "describe", half and half where there are both.
    """
    asked: dict[tuple[str, str], list] = defaultdict(list)
    for sample in data.questions:
        asked[sample.images[0], sample.language].append(sample.turns[0])
    captions: dict[tuple[str, str], list[str]] = defaultdict(list)
    for pair in data.pairs:
        captions[pair.image, pair.language].append(pair.caption)
    row, paths, features = own.joined(data, mine)
    told_of_mine = [rows for rows in (mine.dialogues, mine.questions) if rows] if mine is not None else []
    mine_in_batch = round(share * config.batch_size) if told_of_mine else 0

    def vqa(rng, image: str, language: str) -> list:
        turns = [(t.instruction, t.response) for t in asked[image, language]]
        told = captions[image, language]
        # Captions become instructions by templates, as the paper does it "using manually devised rules" (3.3).
        turns.append((str(rng.choice(DESCRIBE[language, "train"])), str(rng.choice(told))))
        return [turns[i] for i in rng.permutation(len(turns))[: config.turns]]

    def batches(step: int, micro: int) -> dict:
        rng = np.random.default_rng([config.loop.seed, step, micro, 2])
        dialogues, images = [], []
        for number in range(config.batch_size):
            is_mine = number < mine_in_batch
            if is_mine or (config.source == "dialogue" and number % 3 == 0 and data.dialogues):
                if is_mine:
                    source = told_of_mine[rng.integers(len(told_of_mine))]
                else:
                    of_factory = bool(data.bmmic) and rng.random() < config.bmmic_share
                    source = data.bmmic if of_factory else data.dialogues
                sample = source[rng.integers(len(source))]
                turns = [(t.instruction, t.response) for t in sample.turns]
                dialogues.append(turns if kind == "base" else turns[: int(rng.integers(1, len(turns) + 1))])
                shown = sum(q.count(chat.IMAGE) for q, _ in dialogues[-1]) or len(sample.images)
                images.append([row[image] for image in sample.images[:shown]])
                continue
            image, language = data.images[rng.integers(len(data.images))], LANGUAGES[rng.integers(2)]
            turns = vqa(rng, image, language)
            for group in [turns] if kind != "chat" else [[turn] for turn in turns]:
                dialogues.append(group)
                images.append([row[image]])
        if kind == "text_only":
            images = [[] for _ in images]
            dialogues = [[(q.replace(chat.IMAGE, "").strip(), a) for q, a in turns] for turns in dialogues]
        encoded = chat.encode_all(
            dialogues, tokenizer, [len(rows) for rows in images], num_queries, own.DIALOGUE_TOKENS,
            qformer_tokenizer=tokenizer if kind == "chat" else None,
        )  # fmt: skip
        batch = chat.collate(encoded, tokenizer.pad_token_id, multiple=8)
        flat = [number for rows in images for number in rows]
        if flat:
            distinct, index = np.unique(flat, return_inverse=True)
            if live:
                batch["pixel_values"] = to_pixels([read_image(paths[i]) for i in distinct])
            else:
                batch["image_embeds"] = features[torch.from_numpy(distinct)].float()
            batch["image_index"] = torch.from_numpy(index)
        return batch

    return batches


@torch.no_grad()
def answer_loss(
    model: ZiyaVisualForConditionalGeneration,
    kind: str,
    samples: Sequence[Sample],
    preset: Preset,
    batch_size: int = 32,
) -> float:
    """The mean loss of a Base or Chat on the words of the samples' answers."""
    tokenizer, total, words = backbones.load_tokenizer(), 0.0, 0
    for start in bar(range(0, len(samples), batch_size), "answers"):
        part = samples[start : start + batch_size]
        encoded = chat.encode_all(
            [[(t.instruction, t.response) for t in sample.turns] for sample in part],
            tokenizer,
            [len(sample.images) for sample in part],
            preset.num_queries,
            own.DIALOGUE_TOKENS,
            qformer_tokenizer=tokenizer if kind == "chat" else None,
        )
        batch = chat.collate(encoded, tokenizer.pad_token_id, multiple=8)
        pictures = [read_image(image) for sample in part for image in sample.images]
        batch["pixel_values"], batch["image_index"] = to_pixels(pictures), torch.arange(len(pictures))
        number = int((batch["labels"] != chat.IGNORED).sum())
        total, words = total + float(model(**batch).loss) * number, words + number
    return total / words


def _tuning_loss(model, batch, step):
    return model(**batch).loss, {}


def tune(
    preset: Preset, run: Path, kind: str, stage: int
) -> tuple[ZiyaVisualForConditionalGeneration, list[dict]]:
    """Base or Chat after stage 1 (multi-task) or 2 (scene-aware), with the history of that stage's training."""
    if kind not in KINDS or stage not in (1, 2):
        raise ValueError(f"no stage {kind!r} {stage!r}: kinds are {', '.join(KINDS)}, stages 1 and 2")
    config = getattr(preset, kind)[stage - 1]
    tokenizer = backbones.load_tokenizer()

    def start() -> ZiyaVisualForConditionalGeneration:
        model = assemble(preset, run, kind) if stage == 1 else tune(preset, run, kind, 1)[0]
        return stages.configure_stage(
            model, kind, stage, config.freeze_qformer, config.lora_rank, seed=config.loop.seed
        )

    def build(path: Path) -> None:
        model = start()
        live = any(
            p.requires_grad for p in model.vision_model.parameters()
        )  # LoRA in the ViT: features change
        data = read(preset, run, "train")
        mine = read_own(preset, run)
        batches = tuning_batches(
            config, kind, data, tokenizer, preset.num_queries, live, mine and mine.train, preset.own.share
        )
        history = loop.train(model, _tuning_loss, batches, config.loop, path, f"{kind} stage {stage}")
        _save(model, history, path)

    earlier = {
        "earlier": asdict(preset.pretraining),
        "stages": [asdict(c) for c in getattr(preset, kind)[:stage]],
    }
    inputs = _inputs(preset, run, "llm") | earlier | {"queries": preset.num_queries, "kind": kind}
    inputs |= own.inputs(preset.own)
    path = stages.cached(f"{kind}-{stage}", inputs, run / "stages", build)
    model = start()
    model.load_state_dict(load_file(str(path / "model.safetensors")), strict=False)
    return model.eval(), _history(path)


def tune_text_only(preset: Preset, run: Path) -> tuple[ZiyaVisualForConditionalGeneration, list[dict]]:
    """The baseline that never sees a picture: the language model with LoRA, tuned on the same questions."""
    config = preset.text_only
    tokenizer = backbones.load_tokenizer()

    def start():
        model = assemble(preset, run, "base")
        stages._inject_lora(model, config.lora_rank, ("q_proj", "v_proj"), config.loop.seed)
        for name, p in model.named_parameters():
            p.requires_grad_(name.startswith("language_model.") and ".lora_" in name)
        return model

    def build(path: Path) -> None:
        model = start()
        data = read(preset, run, "train")
        mine = read_own(preset, run)
        batches = tuning_batches(
            config,
            "text_only",
            data,
            tokenizer,
            preset.num_queries,
            False,
            mine and mine.train,
            preset.own.share,
        )
        _save(model, loop.train(model, _tuning_loss, batches, config.loop, path, "text-only baseline"), path)

    inputs = _inputs(preset, run, "llm") | {"earlier": preset.pretraining, "config": config}
    inputs |= own.inputs(preset.own)
    path = stages.cached("text-only", inputs, run / "stages", build)
    model = start()
    model.load_state_dict(load_file(str(path / "model.safetensors")), strict=False)
    return model.eval(), _history(path)


def _inputs(preset: Preset, run: Path, *parts: str) -> dict:
    """What every training depends on: world, code, and the shipped backbones that it uses."""
    return {
        "world": world(preset, run) / "world.json",
        "backbones": [backbones.NANO / part / "model.safetensors" for part in ("clip", *parts)],
        "tokenizer": backbones.NANO / "tokenizer" / "tokenizer.json",
        "code": stages.code_version(zvl.data, zvl.model, loop, stages, starts, material, own),
        "schedule": Path(__file__),
    }


def _save(model: torch.nn.Module, history: list[dict], path: Path) -> None:
    """What this stage has trained (the whole Q-Former for pre-training), and how it went."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    weights = {
        name: value.detach().contiguous() for name, value in model.state_dict().items() if name in trained
    }
    save_file(weights, str(path / "model.safetensors"))
    (path / "history.json").write_text(json.dumps(history), encoding="utf8")


def _history(path: Path) -> list[dict]:
    return json.loads((path / "history.json").read_text(encoding="utf8"))
