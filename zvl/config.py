"""The two presets: every number that a run depends on, in one place.

`nano` is the tutorial's own; `full` is the paper's, each number beside its section. Both walk the same code. Nothing
heavy is imported here: `zvl run` holds no torch beside the kernels that it starts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from zvl.data.own import OwnData
from zvl.data.plan import FactoryConfig
from zvl.data.world import WorldConfig


@dataclass(frozen=True)
class LoopConfig:
    """How to train. Steps count optimizer updates, never seconds."""

    steps: int  # optimizer updates
    learning_rate: float  # peak, after warm-up
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW; the paper's beta2 is 0.9 (section 4)
    eps: float = 1e-8
    weight_decay: float = 0.05  # on matrices only, not on biases, norms and scalars
    clip: float = 1.0  # largest gradient norm; 0 for no clipping
    warmup: float = 0.05  # fraction of the steps with a linearly growing rate
    accumulation: int = 1  # micro-batches a step, in each process
    precision: str = "fp32"  # or "bf16": autocast; weights and AdamW stay fp32
    seed: int = 0
    save_every: int = 0  # steps between checkpoints; 0 for none
    log_every: int = 10  # steps averaged into one row of the history
    eval_every: int = 0  # steps between evaluations on held-out pairs, and after the last step; 0 for none
    min_lr_ratio: float = 0.0  # the cosine ends at this fraction of the peak
    rates: tuple[tuple[str, float], ...] = ()  # (pattern, peak rate): the first found in a parameter's name
    optimizer: str = "adamw"  # or "muon": for the matrices of the blocks, AdamW for all else

    def __post_init__(self):
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision {self.precision!r}: allowed are 'fp32' and 'bf16'")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"optimizer {self.optimizer!r}: allowed are 'adamw' and 'muon'")
        at_least_one = ("steps", "accumulation", "log_every")
        for name in (*at_least_one, "save_every", "eval_every", "clip"):
            if getattr(self, name) < (least := int(name in at_least_one)):
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("warmup", "min_lr_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a fraction from 0 to 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class PretrainingConfig:
    """Q-Former pre-training (paper section 3.3). Batches count image-text pairs in one micro-batch."""

    loop: LoopConfig
    batch_size: int
    uniform_share: float  # of the steps, from the first, whose ITM negatives are uniform; then they are hard
    held_out: int = 100  # pictures in no batch, for the evaluation in training; at most a tenth of all
    length_bins: int = 1  # a batch's captions come from one of so many bins of like lengths: less padding
    wrong_captions: float = 0.0  # of our pairs: ITM's foreign text is the caption with one thing swapped
    word_noise: float = 0.0  # of the captions: common words are exchanged, so that no wording is learned
    whole_batch_contrast: bool = False  # contrast over a step's micro-batches as one
    compile: bool = False  # by torch.compile: minutes at first, which a long run on a GPU earns back

    def __post_init__(self):
        if self.length_bins < 1:
            raise ValueError(f"length_bins must be at least 1, got {self.length_bins}")
        for name in ("wrong_captions", "word_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, got {getattr(self, name)}")
        if self.wrong_captions and self.whole_batch_contrast:
            raise ValueError("wrong_captions and whole_batch_contrast both choose ITM's negatives: give one")


@dataclass(frozen=True)
class SayingConfig:
    """Queries learn to say what lies around their places (`zvl.training.saying`). Batches count pictures."""

    loop: LoopConfig
    batch_size: int = 64
    pictures: int = 8000  # of the training split, from the first


@dataclass(frozen=True)
class TuningConfig:
    """One instruction-tuning stage of one model. Batches count images in one micro-batch."""

    loop: LoopConfig
    batch_size: int
    turns: int = 4  # questions on one image: one dialogue for Base, as many samples for Chat
    boxes: int = 0  # how many of them ask for boxes, where there are such; 0 for as many as chance draws
    source: str = (
        "vqa"  # "vqa": short questions and captions (Table 2); "dialogue": conversations too (Table 3)
    )
    bmmic_share: float = 1 / 40  # of the conversations: rows of the data factory; notebook 05 says why so few
    freeze_qformer: bool = False
    lora_rank: int = 8

    def __post_init__(self):
        if not 0 <= self.boxes <= self.turns:
            raise ValueError(f"boxes is a number of turns, from 0 to {self.turns}, got {self.boxes}")


@dataclass(frozen=True)
class PartsConfig:
    """What the model is made of and what it is fed (paper section 3.2); `zvl.model.parts` builds it.

    "nano" is the repository's own everywhere. A folder is one in transformers' format, or the name under which
    transformers keeps it on this machine; nothing is downloaded.
    """

    vision: str = "nano"  # or "eva-clip-g" (ViT-g/14), or the folder of any vision model
    qformer: str = "nano"  # or "bert-base" (768 x 12, cross-attention in every second layer)
    start: str = "text tower"  # of the Q-Former; or "aligned", "nothing", a file or folder of weights
    tokenizer: str = "nano"  # the Q-Former's: "nano", or a folder
    llm: str = "nano"  # or "ziya-llama-13b", or the folder of any causal language model
    weights: str = "shipped"  # of ViT and LLM: those of their names, "random", or a folder
    precision: str = "fp32"  # or "bf16": how frozen weights are held
    live: bool = False  # the frozen ViT sees the training pictures anew in every step
    data: str = "moji"  # training pairs: the Moji world, or a folder of `zvl shards`
    workers: int = 0  # processes that read and decode the pictures of shards
    layers: int = 0  # keep so many layers of ViT and Q-Former, to try a run; 0 for all
    seed: int = 0  # of the ViT's weights where they are random

    def __post_init__(self):
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"parts.precision {self.precision!r}: allowed are 'fp32' and 'bf16'")
        if self.qformer not in ("nano", "bert-base"):
            raise ValueError(f"parts.qformer {self.qformer!r}: allowed are 'nano' and 'bert-base'")


@dataclass(frozen=True)
class Preset:
    name: str
    parts: PartsConfig
    world: WorldConfig
    factory: FactoryConfig
    num_queries: int
    projection_dim: int
    pretraining: PretrainingConfig
    base: tuple[TuningConfig, TuningConfig]
    chat: tuple[TuningConfig, TuningConfig]
    text_only: TuningConfig
    eval_scenes: int  # test scenes asked about in the evaluation
    saying: SayingConfig | None = None  # between pre-training and tuning; None for the closed form alone
    own: OwnData = OwnData()  # noqa: RUF009 - frozen

    def with_own(self, pairs: str, conversations: str, images: str, share: float) -> Preset:
        """The same preset with one's own data in its trainings; the texts are empty where there is none."""
        return replace(self, own=OwnData(pairs, conversations, images, share))

    def with_steps(self, scale: float) -> Preset:
        """The same preset with every number of steps scaled: a smoke run, or a curve of quality against steps."""

        def scaled(loop: LoopConfig) -> LoopConfig:
            return replace(loop, steps=max(2, round(loop.steps * scale)))

        def stage(config: TuningConfig) -> TuningConfig:
            return replace(config, loop=scaled(config.loop))

        return replace(
            self,
            pretraining=replace(self.pretraining, loop=scaled(self.pretraining.loop)),
            saying=self.saying and replace(self.saying, loop=scaled(self.saying.loop)),
            base=tuple(stage(s) for s in self.base),
            chat=tuple(stage(s) for s in self.chat),
            text_only=stage(self.text_only),
        )

    def with_run(
        self,
        steps: int = 0,
        batch_size: int = 0,
        accumulation: int = 0,
        weights: str = "",
        data: str = "",
        start: str = "",
        tokenizer: str = "",
        features: str = "",
    ) -> Preset:
        """The same preset for one run of pre-training: what is not 0 or empty replaces the preset's own.

        batch_size: pairs in a micro-batch. accumulation: micro-batches a step, over all processes. With `steps` the
        Moji world is drawn no larger than they can see, with as many test scenes as one pool of a hundred needs.
        weights, data, start, tokenizer: see PartsConfig. Weights "random" start the Q-Former from nothing too, with the
        shipped tokenizer, unless these are given: no file is needed.
        features: "kept", looked at once and read from the disk in every step, or "live", looked at in every step.
        Raises ValueError for a negative number, and for other features.
        """
        for name, number in {"steps": steps, "batch_size": batch_size, "accumulation": accumulation}.items():
            if number < 0:
                raise ValueError(f"{name} is {number}; give 1 or more, or 0 for the preset's own")
        pretraining, world, parts = self.pretraining, self.world, self.parts
        loop = replace(
            pretraining.loop,
            steps=steps or pretraining.loop.steps,
            accumulation=accumulation or pretraining.loop.accumulation,
        )
        pretraining = replace(pretraining, loop=loop, batch_size=batch_size or pretraining.batch_size)
        if steps:
            pretraining = replace(pretraining, compile=False)  # a trial ends before it would pay
            seen = max(SHORT_TRAIN_SCENES, loop.steps * loop.accumulation * pretraining.batch_size)
            world = replace(
                world,
                train_scenes=min(world.train_scenes, seen),
                test_scenes=min(world.test_scenes, SHORT_TEST_SCENES),
            )
        if features not in ("", "live", "kept"):
            raise ValueError(
                f"features {features!r}: allowed are 'live' and 'kept', and '' for the preset's own"
            )
        if features:
            parts = replace(parts, live=features == "live")
        if weights == "random":
            parts = replace(parts, start="nothing", tokenizer="nano")
        given = {"weights": weights, "data": data, "start": start, "tokenizer": tokenizer}
        parts = replace(parts, **{name: absolute(value) for name, value in given.items() if value})
        return replace(self, pretraining=pretraining, world=world, parts=parts)


def absolute(value: str) -> str:
    """A path that exists as an absolute one, so that a file is the same from any folder; other words as they are."""
    path = Path(value).expanduser()
    return str(path.absolute()) if value not in WORDS and path.exists() else value


# Where PartsConfig takes folders too.
WORDS = ("moji", "nothing", "text tower", "aligned", "nano", "random", "shipped")
SHORT_TRAIN_SCENES = 32  # the least that all kinds of questions and the notebook's own examples need
SHORT_TEST_SCENES = 120  # a pool of a hundred without a caption twice


def nano(seed: int = 0) -> Preset:
    """Minutes on two CPU cores. Chosen so that each claim shows; nothing here is a number of the paper.

    The Q-Former starts with queries that each look at a place of their own; Muon trains what trains longest.
    """

    def loop(steps: int, learning_rate: float, **options) -> LoopConfig:
        return LoopConfig(steps, learning_rate, betas=(0.9, 0.98), precision="bf16", seed=seed, **options)

    def muon(steps: int, learning_rate: float = 2e-3, **options) -> LoopConfig:
        return loop(steps, learning_rate, optimizer="muon", **options)

    near = (("crossattention", 6e-4), ("query_tokens", 6e-4))  # they start near where they should be

    return Preset(
        name="nano",
        parts=PartsConfig(start="aligned", seed=seed),
        world=WorldConfig(train_scenes=8000, test_scenes=1600, seed=seed),
        factory=FactoryConfig(seed=seed),
        num_queries=16,
        projection_dim=128,
        pretraining=PretrainingConfig(
            muon(800, eval_every=40, rates=near),
            batch_size=48,
            uniform_share=0.3,
            length_bins=6,
            wrong_captions=0.5,
            word_noise=0.5,
        ),
        saying=SayingConfig(muon(400)),
        base=(
            TuningConfig(loop(60, 2e-3), batch_size=32, turns=6, boxes=1),
            TuningConfig(muon(150, 3e-4), batch_size=24, turns=6, boxes=1, source="dialogue"),
        ),
        chat=(
            TuningConfig(muon(200, 1e-3), batch_size=24, turns=4, boxes=1),
            TuningConfig(loop(50, 3e-4, accumulation=2), batch_size=16, turns=4, boxes=1, source="dialogue"),
        ),
        text_only=TuningConfig(loop(60, 1e-3), batch_size=32, turns=6, source="dialogue"),
        eval_scenes=600,
    )


def full(seed: int = 0) -> Preset:
    """The paper's sizes: 64 queries (3.2); AdamW with rate 1e-5, betas 0.9 and 0.9, eps 1e-8, decay 0.05, clipping 2.0;
    90,000 steps of 2,048 pairs (3.3). Schedule and tuning rates are silent there: linear warm-up and cosine are ours.
    ViT-G/14 is EVA-CLIP-g by the released checkpoints' sizes; the Q-Former's vocabulary is not stated (3.2).
    """

    def loop(steps: int, **options) -> LoopConfig:
        return LoopConfig(
            steps, 1e-5, betas=(0.9, 0.9), eps=1e-8, weight_decay=0.05, clip=2.0, precision="bf16", seed=seed,
            save_every=1000, **options,
        )  # fmt: skip

    tuning = TuningConfig(loop(20000), batch_size=32, boxes=2)  # of 4 turns: half of Table 2's rows
    return Preset(
        name="full",
        parts=PartsConfig(
            vision="eva-clip-g",
            qformer="bert-base",
            start="google-bert/bert-base-multilingual-cased",
            tokenizer="google-bert/bert-base-multilingual-cased",
            llm="ziya-llama-13b",
            precision="bf16",
            live=True,
            workers=8,
            seed=seed,
        ),
        world=WorldConfig(),
        factory=FactoryConfig(seed=seed),
        num_queries=64,
        projection_dim=256,
        pretraining=PretrainingConfig(
            loop(90000, accumulation=16, eval_every=500),
            batch_size=128,
            uniform_share=0.0,
            whole_batch_contrast=True,
            compile=True,
        ),
        base=(tuning, replace(tuning, source="dialogue")),
        chat=(tuning, replace(tuning, source="dialogue")),
        text_only=tuning,
        eval_scenes=5000,
    )


PRESETS = {"nano": nano, "full": full}


def preset(name: str, seed: int = 0) -> Preset:
    """Raises ValueError that lists the presets for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is not one of {', '.join(PRESETS)}")
    return PRESETS[name](seed)
