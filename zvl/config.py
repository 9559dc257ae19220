"""The two presets: every number that a run depends on, in one place.

`nano` is the tutorial's own; `full` is the paper's, each number beside its section. Both walk the same code. Nothing
heavy is imported here: `zvl run` holds no torch beside the kernels that it starts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    min_lr_ratio: float = 0.0  # the cosine ends at this fraction of the peak
    rates: tuple[tuple[str, float], ...] = ()  # (pattern, peak rate): the first found in a parameter's name

    def __post_init__(self):
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision {self.precision!r}: allowed are 'fp32' and 'bf16'")
        least_values = {"steps": 1, "accumulation": 1, "log_every": 1, "save_every": 0, "clip": 0}
        for name, least in least_values.items():
            if getattr(self, name) < least:
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


@dataclass(frozen=True)
class TuningConfig:
    """One instruction-tuning stage of one model. Batches count images in one micro-batch."""

    loop: LoopConfig
    batch_size: int
    turns: int = 4  # questions on one image: one dialogue for Base, as many samples for Chat
    source: str = (
        "vqa"  # "vqa": short questions and captions (Table 2); "dialogue": conversations too (Table 3)
    )
    bmmic_share: float = 1 / 40  # of the conversations: rows of the data factory; notebook 05 says why so few
    freeze_qformer: bool = False
    lora_rank: int = 8


@dataclass(frozen=True)
class Preset:
    name: str
    world: WorldConfig
    factory: FactoryConfig
    num_queries: int
    projection_dim: int
    pretraining: PretrainingConfig
    base: tuple[TuningConfig, TuningConfig]
    chat: tuple[TuningConfig, TuningConfig]
    text_only: TuningConfig
    eval_scenes: int  # test scenes asked about in the evaluation
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
            base=tuple(stage(s) for s in self.base),
            chat=tuple(stage(s) for s in self.chat),
            text_only=stage(self.text_only),
        )


def nano(seed: int = 0) -> Preset:
    """Minutes on two CPU cores. Chosen so that each claim shows; nothing here is a number of the paper."""

    def loop(steps: int, learning_rate: float, accumulation: int = 1, **options) -> LoopConfig:
        return LoopConfig(
            steps,
            learning_rate,
            betas=(0.9, 0.98),
            precision="bf16",
            seed=seed,
            accumulation=accumulation,
            **options,
        )

    return Preset(
        name="nano",
        world=WorldConfig(train_scenes=8000, test_scenes=1600, seed=seed),
        factory=FactoryConfig(seed=seed),
        num_queries=16,
        projection_dim=128,
        pretraining=PretrainingConfig(loop(150, 1e-3), batch_size=96, uniform_share=0.6),
        base=(
            TuningConfig(loop(60, 2e-3), batch_size=32, turns=6),
            TuningConfig(loop(140, 1e-3), batch_size=24, turns=6, source="dialogue"),
        ),
        chat=(
            TuningConfig(loop(100, 1e-3), batch_size=24, turns=4),
            TuningConfig(loop(50, 1e-3, accumulation=2), batch_size=16, turns=4, source="dialogue"),
        ),
        text_only=TuningConfig(loop(60, 1e-3), batch_size=32, turns=6, source="dialogue"),
        eval_scenes=600,
    )


def full(seed: int = 0) -> Preset:
    """The paper's sizes: 64 queries (3.2); AdamW with rate 1e-5, betas 0.9 and 0.9, eps 1e-8, decay 0.05, clipping 2.0;
    90,000 steps of 2,048 pairs (3.3). Schedule and tuning rates are silent there: linear warm-up and cosine are ours.
    """

    def loop(steps: int, **options) -> LoopConfig:
        return LoopConfig(
            steps, 1e-5, betas=(0.9, 0.9), eps=1e-8, weight_decay=0.05, clip=2.0, precision="bf16", seed=seed,
            save_every=1000, **options,
        )  # fmt: skip

    tuning = TuningConfig(loop(20000), batch_size=32)
    return Preset(
        name="full",
        world=WorldConfig(),
        factory=FactoryConfig(seed=seed),
        num_queries=64,
        projection_dim=256,
        pretraining=PretrainingConfig(loop(90000, accumulation=16), batch_size=128, uniform_share=0.0),
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
