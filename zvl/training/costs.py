"""What pre-training will cost, before a weight is loaded: parameters, memory, operations, hours and disk.

All of it is arithmetic on configurations. A multiply-add counts as two operations and training as three forward passes
(the backward pass is two), the custom of the field, which counts matrix products alone. Estimates say that they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import InstructBlipQFormerConfig, PreTrainedConfig

from zvl.config import Preset
from zvl.model import parts
from zvl.training import stages

BATCHES = (32, 64, 128, 256)
TEXT_LENGTH = 32  # tokens of a caption, as in BLIP-2
LAYOUTS = ("ours", "lavis")
WORKSPACE = 1.0e9  # bytes: CUDA's own, and its libraries' (assumed)
PAIR_BYTES = 25_000  # a picture of 256 pixels as JPEG and its caption (img2dataset on LAION-400M: 10 TB)
PAPER_PICTURES = 30_000_000  # Ziya-Visual, section 3.3
MATRIX_SHARE = 0.81  # of the peak: a measured bf16 matrix product on an H100, 798 of 989 TFLOP/s
ASSUMED_SHARE = 0.36  # of the peak: 450 images/s on an H100 at the paper's size


@dataclass(frozen=True)
class Gpu:
    """peak: dense bf16 FLOP/s of the data sheet. memory: bytes."""

    peak: float
    memory: float


GPUS = {"a100": Gpu(312e12, 80e9), "h100": Gpu(989e12, 80e9), "h200": Gpu(989e12, 141e9)}


def image_tokens(vision: PreTrainedConfig) -> int:
    """Vectors that the ViT makes of a picture: its patches and the class vector."""
    return 1 + (vision.image_size // vision.patch_size) ** 2


def vision_flops(vision: PreTrainedConfig) -> float:
    """Operations of the ViT on one picture, forward."""
    tokens, d = image_tokens(vision), vision.hidden_size
    layer = tokens * (8 * d**2 + 4 * d * vision.intermediate_size) + 4 * tokens**2 * d
    return vision.num_hidden_layers * layer + 2 * (tokens - 1) * 3 * vision.patch_size**2 * d


def qformer_flops(
    config: InstructBlipQFormerConfig,
    num_queries: int,
    patches: int,
    length: int = TEXT_LENGTH,
    layout: str = "ours",
) -> float:
    """Operations of the Q-Former on one pair for ITC, ITM and ITG, forward; ITM sees three rows.

    layout: "ours": one pass for ITC and ITG, keys and values of the image once, no text in ITM's last layer. "lavis":
        queries, text, ITM, and ITG behind the queries' kept states, each with keys and values of its own.
    Raises ValueError for another layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r}: allowed are {', '.join(LAYOUTS)}")
    d, layers, both = config.hidden_size, config.num_hidden_layers, num_queries + length
    token = 8 * d**2 + 4 * d * config.intermediate_size  # the linear layers of one token in one layer
    crossing = _crossing(config)
    image_kv = crossing * patches * 4 * config.encoder_hidden_size * d
    cross = crossing * 4 * num_queries * (4 * d**2 + 4 * d * patches)  # one for ITC and ITG, three for ITM
    words = length * (2 * d * config.vocab_size + 2 * d**2)
    if layout == "lavis":
        tokens = num_queries + length + 3 * both + length
        seen = num_queries**2 + length**2 + 3 * both**2 + length * both  # pairs of tokens in self-attention
        return layers * (tokens * token + 4 * d * seen) + 4 * image_kv + cross + words
    packed = num_queries + 2 * length
    own = layers * ((packed + 3 * both) * token + 4 * d * (packed**2 + 3 * both**2))
    # The last layer needs keys and values of ITM's text alone.
    spared = 3 * length * (token - 4 * d**2 + 4 * d * both)
    return own - spared + image_kv + cross + words


def contrast_flops(
    config: InstructBlipQFormerConfig, num_queries: int, patches: int, length: int = TEXT_LENGTH
) -> float:
    """What contrast over a whole step in micro-batches costs beside training, on one pair: `zvl.training.contrast`.

    ITC's and ITG's pass once before, without gradient, and keys and values of ITM's drawn pictures once more: forward
    and for the gradient of their weights, as the frozen ViT's outputs need none.
    """
    d, crossing = config.hidden_size, _crossing(config)
    image_kv = crossing * patches * 4 * config.encoder_hidden_size * d
    cross = crossing * num_queries * (4 * d**2 + 4 * d * patches)
    packed = num_queries + 2 * length
    token = 8 * d**2 + 4 * d * config.intermediate_size
    first = config.num_hidden_layers * (packed * token + 4 * d * packed**2)
    return first + image_kv + cross + 2 * image_kv


def activation_bytes(
    config: InstructBlipQFormerConfig,
    num_queries: int,
    patches: int,
    length: int = TEXT_LENGTH,
    precision: str = "bf16",
) -> float:
    """What the Q-Former keeps of one pair for its backward pass, in bytes: an estimate (ours, fused attention).

    Under autocast each linear layer keeps its own bf16 copy of its input; norms keep theirs in fp32.
    """
    size, copies = (2, 3) if precision == "bf16" else (4, 1)
    d, ff, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    # inputs of query, key, value; these three; what attention gives; input of a norm; then the feed-forward's
    token = copies * size * d + 3 * size * d + size * d + 4 * d + size * d + 2 * size * ff + 4 * d
    tokens = layers * (num_queries + 2 * length + 3 * (num_queries + length))
    crossing = _crossing(config)
    cross = crossing * 4 * num_queries * (3 * size * d + 4 * d)
    image_kv = crossing * 4 * 2 * size * d  # once, and as ITM's rows
    image = patches * (size * config.encoder_hidden_size + image_kv)
    words = length * 4 * config.vocab_size  # log-probabilities
    return tokens * token + cross + image + words


def _crossing(config: InstructBlipQFormerConfig) -> int:
    return -(-config.num_hidden_layers // config.cross_attention_frequency)


def plan(preset: Preset, gpus: int = 1, gpu: str = "h100", share: float = ASSUMED_SHARE) -> dict:
    """The costs of the preset's pre-training as plain numbers: bytes, operations, hours. No weight is touched.

    share: of the peak that training is assumed to reach. Raises ValueError for an unknown GPU, for less than one, and
    for a share outside 0 to 1.
    """
    if gpu not in GPUS:
        raise ValueError(f"gpu {gpu!r}: allowed are {', '.join(GPUS)}")
    if gpus < 1:
        raise ValueError(f"gpus is {gpus}; at least 1 is needed")
    if not 0 < share <= 1:
        raise ValueError(f"share {share}: a fraction of the peak, above 0 and at most 1")
    config, machine = preset.pretraining, GPUS[gpu]
    vision, qformer = parts.vision_config(preset.parts), parts.qformer_config(preset.parts)
    patches, size = image_tokens(vision), {"fp32": 4, "bf16": 2}[preset.parts.precision]
    table = parameters(preset)
    trainable, frozen = sum(row["trainable"] for row in table), sum(row["frozen"] for row in table)

    memory = {
        "ViT, frozen": frozen * size,
        "Q-Former, fp32": 4 * trainable,
        "its gradients": 4 * trainable,
        "AdamW's two moments": 8 * trainable,
        "its bf16 copies under autocast": 2 * trainable * (config.loop.precision == "bf16"),
        "CUDA and libraries (assumed)": WORKSPACE,
    }
    kept = activation_bytes(qformer, preset.num_queries, patches, TEXT_LENGTH, config.loop.precision)
    features = patches * vision.hidden_size * 2
    # Of words' logits the bf16 result, its fp32 copy and the gradient stand beside what is kept.
    passing = TEXT_LENGTH * qformer.vocab_size * 10
    seeing = patches * size * (2 * vision.intermediate_size + 6 * vision.hidden_size)  # one layer of the ViT
    pixels = 3 * vision.image_size**2 * 4
    # Micro-batches of a process that are seen as one.
    whole = -(-config.loop.accumulation // gpus) if config.whole_batch_contrast else 1

    def peak(batch: int) -> dict:
        similarities = 8 * (batch * whole) ** 2 * preset.num_queries / whole
        step = batch * whole * features  # the pictures of a whole step stay for its second pass
        working = batch * max(kept + passing, pixels + seeing)
        total = sum(memory.values()) + step + working + similarities
        return {"batch": batch, "bytes": total, "fits": total < machine.memory}

    see = vision_flops(vision)
    contrast = contrast_flops(qformer, preset.num_queries, patches) if config.whole_batch_contrast else 0.0
    learn = {
        layout: 3 * qformer_flops(qformer, preset.num_queries, patches, TEXT_LENGTH, layout)
        for layout in LAYOUTS
    }
    step_pairs = config.batch_size * config.loop.accumulation
    pairs = config.loop.steps * step_pairs

    def hours(each: float, once: float = 0.0) -> dict:
        total = each * pairs + once
        ideal, assumed = machine.peak * MATRIX_SHARE, machine.peak * share
        return {
            "flops_a_pair": each, "flops": total, "ideal_gpu_hours": total / ideal / 3600,
            "ideal_pairs_a_second_a_gpu": ideal / each, "gpu_hours": total / assumed / 3600,
            "hours": total / assumed / 3600 / gpus,
        }  # fmt: skip

    pictures = preset.world.train_scenes if preset.parts.data == "moji" else PAPER_PICTURES
    return {
        "preset": preset.name,
        "parts": table,
        "memory_bytes": memory,
        "activations_bytes_a_pair": kept,
        "features_bytes_a_picture": features,
        "peak": [peak(batch) for batch in BATCHES],
        "flops": {
            "vision_forward": see,
            "whole_batch_contrast": contrast,
            **{f"qformer_training_{layout}": n for layout, n in learn.items()},
        },
        "run": {"steps": config.loop.steps, "pairs_a_step": step_pairs, "pairs": pairs, "pictures": pictures},
        "machine": {"gpu": gpu, "gpus": gpus, "peak_flops": machine.peak, "matrix_share": MATRIX_SHARE, "share": share},
        "ways": {
            "live ViT": hours(see + learn["ours"] + contrast),
            "live ViT, LAVIS's layout": hours(see + learn["lavis"]),
            **{
                f"kept features of {count:,} pictures": hours(learn["ours"] + contrast, see * count)
                for count in dict.fromkeys((pictures, PAPER_PICTURES))
            },
        },
        "disk_bytes": {
            name: {"pictures": count, "shards": count * PAIR_BYTES, "features": count * features}
            for name, count in (("this run", pictures), ("a million", 10**6), ("the paper's", PAPER_PICTURES))
        },
    }  # fmt: skip


def parameters(preset: Preset) -> list[dict]:
    """Rows part, trainable, frozen of the pre-training's model, counted on the meta device."""
    model = nn.Module()
    model.vision_model = parts.new_vision(preset.parts, "meta")
    qformer = parts.new_qformer(preset.parts, preset.num_queries, preset.projection_dim, "meta")
    rows = stages.parameter_table(model) + stages.parameter_table(qformer)
    return [
        {"part": part, "trainable": trainable, "frozen": frozen}
        for part, trainable, frozen in rows
        if trainable + frozen
    ]


def tables(found: dict) -> dict[str, list[list[str]]]:
    """The plan for reading: title -> rows, the header first, for `results.markdown_table`."""
    return {
        title: [list(rows[0]), *(list(row.values()) for row in rows)] for title, rows in _rows(found).items()
    }


def _rows(found: dict) -> dict[str, list[dict[str, str]]]:
    machine, run = found["machine"], found["run"]
    parts_rows = [
        {"part": row["part"]} | {kind: f"{row[kind] / 1e6:,.2f} M" for kind in ("trainable", "frozen")}
        for row in found["parts"]
    ]
    name = f"{machine['gpus']} x {machine['gpu'].upper()}"
    return {
        "Parameters": parts_rows,
        "Memory of a GPU whatever the batch": [
            {"part": part, "GB": f"{size / 1e9:.2f}"} for part, size in found["memory_bytes"].items()
        ],
        "Memory of a GPU at its peak, estimated; batch: pairs in a micro-batch": [
            {
                "batch": str(row["batch"]),
                "features GB": f"{row['batch'] * found['features_bytes_a_picture'] / 1e9:.2f}",
                "activations GB": f"{row['batch'] * found['activations_bytes_a_pair'] / 1e9:.1f}",
                "peak GB": f"{row['bytes'] / 1e9:.1f}",
                "fits": "yes" if row["fits"] else "no",
            }
            for row in found["peak"]
        ],
        "Operations on a pair, GFLOP": [
            {"part": "ViT, forward", "GFLOP": f"{found['flops']['vision_forward'] / 1e9:,.1f}"},
            {
                "part": "Q-Former, training, ours",
                "GFLOP": f"{found['flops']['qformer_training_ours'] / 1e9:,.1f}",
            },
            {
                "part": "contrast over the whole step",
                "GFLOP": f"{found['flops']['whole_batch_contrast'] / 1e9:,.1f}",
            },
            {
                "part": "Q-Former in LAVIS's layout",
                "GFLOP": f"{found['flops']['qformer_training_lavis'] / 1e9:,.1f}",
            },
        ],
        f"The run: {run['steps']:,} steps of {run['pairs_a_step']:,} pairs; {machine['peak_flops'] / 1e12:.0f} TFLOP/s "
        f"peak, ideal {machine['matrix_share']:.0%} of it (a matrix product), assumed {machine['share']:.0%}": [
            {
                "way": way,
                "FLOP a step": f"{row['flops_a_pair'] * run['pairs_a_step']:.2e}",
                "FLOP": f"{row['flops']:.2e}",
                "ideal GPU-hours": f"{row['ideal_gpu_hours']:,.1f}",
                "assumed GPU-hours": f"{row['gpu_hours']:,.1f}",
                f"hours on {name}": f"{row['hours']:,.1f}",
            }
            for way, row in found["ways"].items()
        ],
        "Disk": [
            {
                "pictures": f"{row['pictures']:,} ({which})",
                "shards (assumed 25 kB a pair)": f"{row['shards'] / 1e9:,.1f} GB",
                "kept features": f"{row['features'] / 1e9:,.1f} GB",
            }
            for which, row in found["disk_bytes"].items()
        ],
    }
