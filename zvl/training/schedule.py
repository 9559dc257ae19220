"""The schedule from pictures to a chat model: each step as one function that finds its result or makes it.

world -> features of the frozen ViT -> pre-trained Q-Former -> queries that say what they see -> Base 1, Base 2 and
Chat 1, Chat 2, and a text-only model tuned on the same questions. Results lie below `<run folder>/stages/`, each under
the hash of all that it depends on, so that any notebook can run first and nothing is trained twice.
Paper: section 3.3, Figure 3.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from zvl.config import Preset, TuningConfig
from zvl.data.pixels import read_image, to_pixels
from zvl.data.samples import LANGUAGES, Sample
from zvl.data.wordings import DESCRIBE
from zvl.model import backbones, chat, parts
from zvl.model.visual import ZiyaVisualForConditionalGeneration
from zvl.training import aligned, loop, own, saying, stages
from zvl.training.material import Data, bar, bmmic, new_vision, read, said_of_pictures, teacher, world
from zvl.training.own import read_own
from zvl.training.pretraining import new_qformer, pretrain
from zvl.training.saying import say, sayings

__all__ = [  # the steps in their order, whichever file makes them
    "KINDS",
    "align",
    "answer_loss",
    "assemble",
    "bmmic",
    "new_qformer",
    "new_vision",
    "pretrain",
    "read",
    "read_own",
    "said_of_pictures",
    "say",
    "sayings",
    "teacher",
    "tune",
    "tune_text_only",
    "tuning_batches",
    "world",
]  # fmt: skip

KINDS = ("base", "chat")


def assemble(preset: Preset, run: Path, kind: str) -> ZiyaVisualForConditionalGeneration:
    """ViT, Q-Former whose queries say what they see, a projection that starts aligned, and the language model, before
    any tuning.
    """
    tokenizer = backbones.load_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.pretraining.loop.seed)
        model = ZiyaVisualForConditionalGeneration.from_parts(
            new_vision(preset), say(preset, run)[0], parts.new_llm(preset.parts),
            image_token_id=tokenizer.convert_tokens_to_ids(chat.IMAGE), instruction_aware=kind == "chat",
        )  # fmt: skip

    def build(path: Path) -> None:
        data = read(preset, run, "train")
        words = model.language_model.get_input_embeddings().weight.detach()
        explained = align(model, data, words, tokenizer, preset.saying is not None)
        save_file(dict(model.language_projection.state_dict()), str(path / "projection.safetensors"))
        (path / "explained.json").write_text(json.dumps(explained), encoding="utf8")

    path = stages.cached("aligned-projection", _inputs(preset, run), run / "stages", build)
    model.language_projection.load_state_dict(load_file(str(path / "projection.safetensors")))
    return model.eval()


def align(
    model: ZiyaVisualForConditionalGeneration, data: Data, words: Tensor, tokenizer, by_place: bool
) -> float:
    """Start the projection where it says what the queries should, see `aligned.align_projection`; returns its share.

    words: (vocabulary, width) of the language model. by_place: what lies around each query's place, which it has
    learned to say; otherwise what stands where it looks.
    """
    features, mark = data.features[: aligned.PICTURES], words[model.config.image_token_id]
    if by_place:
        said = sayings(data, words, model.qformer_model.query_tokens.shape[1], aligned.PICTURES, tokenizer)
        wanted, counts = said.wanted, said.counts
    else:
        said, counts = said_of_pictures(data, words, aligned.PICTURES, tokenizer)
        wanted, counts = aligned.said_where_queries_look(model.qformer_model, features, said, counts)
    return aligned.align_projection(model, features, wanted, counts, mark=mark)


def tuning_batches(
    config: TuningConfig,
    kind: str,
    data: Data,
    tokenizer,
    num_queries: int,
    live: bool = False,
    mine: Data | None = None,
    share: float = 0.0,
    image_size: int = backbones.IMAGE_SIZE,
):
    """Questions, captions and (second stage) conversations on drawn images, as a pure function of (seed, step, micro).

    Base reads an image once for any question, so that several questions on one image make one dialogue. Chat reads it
    anew for each instruction, so that each question is a sample of its own; `image_index` shares the ViT's features.

    mine, share: one's own data, and for how many of a batch's pictures it stands: its conversations, and its captions
    as answers to "describe", half and half where there are both.
    live: pictures as pixels of image_size a side, not as features.
    """
    asked: dict[tuple[str, str], dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for sample in data.questions:
        asked[sample.images[0], sample.language][sample.question_type].append(sample.turns[0])
    captions = data.captions
    row, paths, features = own.joined(data, mine)
    told_of_mine = [rows for rows in (mine.dialogues, mine.questions) if rows] if mine is not None else []
    mine_in_batch = round(share * config.batch_size) if told_of_mine else 0

    def vqa(rng, image: str, language: str) -> list:
        of_types = dict(asked[image, language])
        boxes = of_types.pop("ground", []) if config.boxes else []
        # One of each type: a picture has many expressions to find, and one count.
        others = [of_type[rng.integers(len(of_type))] for of_type in of_types.values()]
        turns = [(t.instruction, t.response) for t in others]
        told = captions[image, language]
        # Captions become instructions by templates, as the paper does it "using manually devised rules" (3.3).
        turns.append((str(rng.choice(DESCRIBE[language, "train"])), str(rng.choice(told))))
        drawn = [boxes[i] for i in rng.permutation(len(boxes))[: config.boxes]]
        turns = [turns[i] for i in rng.permutation(len(turns))[: config.turns - len(drawn)]]
        turns += [(t.instruction, t.response) for t in drawn]
        return [turns[i] for i in rng.permutation(len(turns))]

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
                batch["pixel_values"] = to_pixels([read_image(paths[i]) for i in distinct], image_size)
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
        batch["pixel_values"] = to_pixels(pictures, model.config.vision_config.image_size)
        batch["image_index"] = torch.arange(len(pictures))
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
        # With LoRA in the ViT its features change.
        live = any(p.requires_grad for p in model.vision_model.parameters())
        data = read(preset, run, "train")
        mine = read_own(preset, run)
        batches = tuning_batches(
            config, kind, data, tokenizer, preset.num_queries, live, mine and mine.train, preset.own.share,
            parts.image_size(preset.parts),
        )  # fmt: skip
        history = loop.train(model, _tuning_loss, batches, config.loop, path, f"{kind} stage {stage}")
        stages.save_trained(model, history, path)

    inputs = _inputs(preset, run) | {"kind": kind, "stages": getattr(preset, kind)[:stage]}
    inputs |= own.inputs(preset.own)
    path = stages.cached(f"{kind}-{stage}", inputs, run / "stages", build)
    model = start()
    model.load_state_dict(load_file(str(path / "model.safetensors")), strict=False)
    return model.eval(), stages.read_history(path)


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
        stages.save_trained(
            model, loop.train(model, _tuning_loss, batches, config.loop, path, "text-only baseline"), path
        )

    inputs = _inputs(preset, run) | {"config": config}
    inputs |= own.inputs(preset.own)
    path = stages.cached("text-only", inputs, run / "stages", build)
    model = start()
    model.load_state_dict(load_file(str(path / "model.safetensors")), strict=False)
    return model.eval(), stages.read_history(path)


def _inputs(preset: Preset, run: Path) -> dict:
    """What every training after the pre-training depends on."""
    return saying.inputs(preset, run) | {"schedule": Path(__file__)}
