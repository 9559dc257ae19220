"""How fast stage 1 is, beside LAVIS's way of computing it and the machine's own limit: `python ci/bench/stage1.py`.

Random weights, pictures and texts; one training step each of
    reference, LAVIS   four calls of the Q-Former, eager attention, fp16 autocast (fp32 on a CPU), the ViT as well
    reference, best    the same calls with torch's fused attention and the precision that ours has
    ours               one packed pass, keys and values once an image, frozen ViT in bf16
    ours, compiled     the same under torch.compile
    ours, cached       features given, as from `zvl.training.features`; and "cached, compiled"
The variants alternate in one run and share their weights. A table and JSON give medians, spread, the operations a
second by the model of zvl.training.costs, their share of the largest matrix product measured between the rounds, and
the peak of the GPU's memory. On a CPU the full size runs with given features alone (the ViT would take minutes a
step), and the exit status is 1 where ours is less than 1.15 times as fast as the best reference.

    OMP_NUM_THREADS=1 python ci/bench/stage1.py --size full --precision fp32      # a CPU: Q-Former at full width
    PYTHONPATH=. python ci/bench/stage1.py --size full --batch 128                # a GPU: live ViT-g/14 and all
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from reference_stage1 import ReferenceStage1

from zvl import config
from zvl.model import parts
from zvl.model.objectives import QFormerForPretraining
from zvl.training import costs, sight

NEEDED = 1.15  # of the best reference, on a CPU at full width
DTYPES = {"fp32": None, "bf16": torch.bfloat16}
LENGTH = 32  # tokens of a caption


@dataclass(frozen=True)
class Variant:
    """step: one forward and backward pass. layout: whose operations it carries out; live: the ViT's too."""

    step: Callable[[], Tensor]
    layout: str
    live: bool


class Stage1:
    """The model of a preset with random weights, a batch, and the ways to compute a step on it."""

    def __init__(
        self,
        size: str,
        device: str,
        batch: int,
        queries: int,
        layers: int,
        precision: str,
        live: bool,
        words: int,
    ):
        preset = config.preset(size)
        chosen = replace(preset.parts, weights="random", tokenizer="nano", layers=layers)
        self.queries, self.device, self.dtype = queries or preset.num_queries, device, DTYPES[precision]
        self.vision_config, self.qformer_config = parts.vision_config(chosen), parts.qformer_config(chosen)
        # Tokens are drawn at random, so no tokenizer's files are needed, only how many words it has.
        own = parts.VOCABULARIES.get(preset.parts.tokenizer, self.qformer_config.vocab_size)
        self.qformer_config.vocab_size = words or own
        self.model = QFormerForPretraining(
            self.qformer_config, self.queries, preset.projection_dim, decoder_start_id=4
        ).to(device)
        self.patches = costs.image_tokens(self.vision_config)
        self.images = batch or (preset.pretraining.batch_size if device != "cpu" or size == "nano" else 16)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, fused=True)
        ids = torch.randint(10, self.qformer_config.vocab_size, (self.images, LENGTH))
        long = torch.randint(LENGTH // 2, LENGTH + 1, (self.images, 1))
        self.batch = {
            "input_ids": ids.to(device),
            "text_mask": (torch.arange(LENGTH) < long).to(device),
            "image_ids": torch.arange(self.images, device=device),
        }
        self.features = torch.randn(self.images, self.patches, self.vision_config.hidden_size, device=device)
        self.vision, self.pixels = None, None
        if live:
            side = self.vision_config.image_size
            self.pixels = torch.randn(self.images, 3, side, side, device=device)
            self.vision = parts.new_vision(chosen, device)

    def variants(self, compiled: bool) -> dict[str, Variant]:
        ours, found = self._ours(self.model, self.vision), {}
        cuda = self.device != "cpu"
        if self.vision is not None:
            old = torch.float16 if cuda else None
            found["reference, LAVIS"] = self._reference("eager", old, live=True)
            found["reference, best"] = self._reference("sdpa", self.dtype, live=True)
            found["ours"] = Variant(lambda: ours(live=True), "ours", True)
        else:
            found["reference, LAVIS, cached"] = self._reference("eager", self.dtype, live=False)
            found["reference, best, cached"] = self._reference("sdpa", self.dtype, live=False)
        found["ours, cached"] = Variant(lambda: ours(live=False), "ours", False)
        if compiled:
            vision = None if self.vision is None else torch.compile(self.vision)
            fast = self._ours(torch.compile(self.model), vision)
            if self.vision is not None:
                found["ours, compiled"] = Variant(lambda: fast(live=True), "ours", True)
            found["ours, cached, compiled"] = Variant(lambda: fast(live=False), "ours", False)
        return found

    def _ours(self, model: Callable, vision: Callable | None) -> Callable[..., Tensor]:
        def step(live: bool) -> Tensor:
            features = self._seen(vision) if live else self.features
            with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
                return self._trained(model(image_embeds=features, **self.batch)["loss"])

        return step

    def _seen(self, vision) -> Tensor:
        if isinstance(vision, torch.nn.Module) and not hasattr(vision, "_orig_mod"):
            return sight.see(vision, self.pixels)
        with torch.no_grad():  # compiled: `see` would move it, and its dtype stands on the module below
            return vision(pixel_values=self.pixels.to(self.vision.dtype)).last_hidden_state

    def _reference(self, attention: str, dtype: torch.dtype | None, live: bool) -> Variant:
        reference = ReferenceStage1(self.model, attention, dtype)

        def step() -> Tensor:
            features = self.features
            if live:
                self.vision.set_attn_implementation(attention)
                with torch.no_grad(), torch.autocast(self.device, dtype, enabled=dtype is not None):
                    features = self.vision(pixel_values=self.pixels.to(self.vision.dtype)).last_hidden_state
                self.vision.set_attn_implementation("sdpa")
            return self._trained(reference.losses(features.float(), **self.batch)["loss"])

        return Variant(step, "lavis", live)

    def _trained(self, loss: Tensor) -> Tensor:
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def flops(self, layout: str, live: bool) -> float:
        """Operations of one image in a training step: backward takes twice as many as forward; the ViT has none."""
        qformer = costs.qformer_flops(self.qformer_config, self.queries, self.patches, LENGTH, layout)
        return 3 * qformer + live * costs.vision_flops(self.vision_config)


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def ceiling(device: str, dtype: torch.dtype | None) -> float:
    """Operations a second of a large matrix product: what this machine can do at best."""
    side = 8192 if device != "cpu" else 2048
    a = torch.randn(side, side, device=device, dtype=dtype or torch.float32)
    best = 0.0
    for _ in range(4):
        wait(device)
        start = time.perf_counter()
        a @ a
        wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("nano", "full"), default="nano")
    parser.add_argument(
        "--batch", type=int, default=0, help="images a step; 0: the preset's, 16 at full size on a CPU"
    )
    parser.add_argument("--queries", type=int, default=0, help="0: the preset's, 64 at full size")
    parser.add_argument(
        "--words", type=int, default=0, help="in the vocabulary; 0: as the preset's tokenizer has"
    )
    parser.add_argument("--layers", type=int, default=0, help="of Q-Former and ViT; 0 for all")
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--only", nargs="*", help="variants by name")
    options = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    live = device != "cpu" or options.size == "nano"
    stage = Stage1(
        options.size,
        device,
        options.batch,
        options.queries,
        options.layers,
        options.precision,
        live,
        options.words,
    )
    variants = stage.variants(compiled=not options.no_compile)
    if options.only:
        if unknown := set(options.only) - set(variants):
            parser.error(f"no variant {sorted(unknown)[0]!r}; there are {', '.join(variants)}")
        variants = {name: variants[name] for name in options.only}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    peaks: dict[str, float | None] = {}
    limits: list[float] = []
    for number in range(options.rounds + 1):
        limits.append(ceiling(device, stage.dtype))
        for name in list(variants)[:: 1 if number % 2 else -1]:  # who goes first alternates, too
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            wait(device)
            start = time.perf_counter()
            loss = variants[name].step()
            wait(device)
            if not torch.isfinite(loss):
                print(f"{name}: the loss is {float(loss)}", file=sys.stderr)
            if number:  # the first round warms up and compiles
                seconds[name].append(time.perf_counter() - start)
                peaks[name] = torch.cuda.max_memory_allocated() / 1e9 if device != "cpu" else None
    return show(options, stage, variants, seconds, peaks, max(limits), device)


def show(options, stage: Stage1, variants, seconds, peaks, limit: float, device: str) -> int:
    name_of = torch.cuda.get_device_name() if device != "cpu" else platform.processor() or platform.machine()
    rows = {}
    for name, variant in variants.items():
        median = statistics.median(seconds[name])
        rate = stage.images / median
        done = rate * stage.flops(variant.layout, variant.live)
        rows[name] = {
            "seconds": median, "least": min(seconds[name]), "most": max(seconds[name]), "images_per_second": rate,
            "tflops": done / 1e12, "share_of_ceiling": done / limit, "peak_gb": peaks[name],
        }  # fmt: skip
    print(f"{options.size}, {name_of}, {torch.get_num_threads()} threads, torch {torch.__version__}, transformers "
          f"{transformers.__version__}; {stage.images} images a step, {stage.queries} queries, "
          f"{stage.qformer_config.vocab_size:,} words, {options.precision}; "
          f"largest matrix product {limit / 1e12:.2f} TFLOP/s")  # fmt: skip
    print(
        f"{'':26}{'s a step':>10}{'(least, most)':>18}{'images/s':>10}{'TFLOP/s':>9}{'of limit':>10}{'GB':>7}"
    )
    for name, row in rows.items():
        spread = f"({row['least']:.3f}, {row['most']:.3f})"
        peak = "-" if row["peak_gb"] is None else f"{row['peak_gb']:.1f}"
        print(f"{name:26}{row['seconds']:10.3f}{spread:>18}{row['images_per_second']:10.1f}{row['tflops']:9.2f}"
              f"{row['share_of_ceiling']:10.1%}{peak:>7}")  # fmt: skip
    ratios = {}
    for mine in rows:
        for theirs in ("reference, LAVIS", "reference, best"):
            theirs += "" if variants[mine].live or theirs in rows else ", cached"
            if mine.startswith("ours") and theirs in rows and variants[mine].live == variants[theirs].live:
                ratios[f"{mine} / {theirs}"] = rows[theirs]["seconds"] / rows[mine]["seconds"]
    for pair, ratio in ratios.items():
        print(f"{pair:60} {ratio:5.2f} times as fast")
    told = vars(options) | {"device": name_of, "torch": torch.__version__, "transformers": transformers.__version__,
                            "threads": torch.get_num_threads(), "images": stage.images, "queries": stage.queries,
                            "words": stage.qformer_config.vocab_size,
                            "ceiling_tflops": limit / 1e12, "variants": rows, "ratios": ratios}  # fmt: skip
    print(json.dumps(told))
    checked = ratios.get("ours, cached / reference, best, cached")
    return 1 if device == "cpu" and options.size == "full" and checked is not None and checked < NEEDED else 0


if __name__ == "__main__":
    sys.exit(main())
