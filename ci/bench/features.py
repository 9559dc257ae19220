"""How fast features are kept and read back, beside the disk's own speed: `python ci/bench/features.py`.

Writes features of pictures as ViT-g/14 gives them, (257, 1408) in half precision, into a temporary folder, and reads
random batches of 128 back: with the pages in memory, and dropped from it where the system allows. The ViT itself is
left out: a stand-in gives fixed numbers, so that what is timed is decoding, hashing and the disk. "raw" are the same
bytes in one plain file. Variants alternate; medians and the range over the rounds. Prints a table and JSON; by default
it takes under a minute, `--pictures 4096 --shard-images 1024` hides less behind the cache of a large machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import InstructBlipVisionConfig
from transformers.modeling_outputs import BaseModelOutput

from zvl.training.feature_store import open_features
from zvl.training.features import bytes_needed, feature_key, write_features

PATCHES, WIDTH, BATCH = 257, 1408, 128


class StandIn(nn.Module):
    """In ViT-g/14's place: one fixed (257, 1408) block for every picture."""

    def __init__(self):
        super().__init__()
        self.config = InstructBlipVisionConfig()
        self.dtype = torch.bfloat16
        self.block = nn.Parameter(torch.randn(1, PATCHES, WIDTH).bfloat16(), requires_grad=False)

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.block.expand(len(pixel_values), -1, -1))


def draw(folder: Path, count: int) -> list[str]:
    """JPEGs of 256 x 256, about 15 kB each."""
    rng, folder = np.random.default_rng(0), folder / "pictures"
    folder.mkdir()
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{number:06d}.jpg")
    return [str(path) for path in sorted(folder.iterdir())]


def forget(*files: Path) -> bool:
    """Drop the files' pages from memory, so that the next read comes from the disk."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True


def raw_write(file: Path, total: int) -> None:
    block = os.urandom(1 << 24)
    with open(file, "wb") as out:
        for start in range(0, total, len(block)):
            out.write(block[: total - start])
        out.flush()
        os.fsync(out.fileno())


def raw_read(file: Path, rows: list[int], into: np.ndarray) -> None:
    size = bytes_needed(1, PATCHES, WIDTH)
    with open(file, "rb", buffering=0) as source:
        for place, row in enumerate(rows):
            source.seek(row * size)
            source.readinto(into[place])


def seconds(work, *arguments, **options) -> float:
    start = time.perf_counter()
    work(*arguments, **options)
    return time.perf_counter() - start


def measure(folder: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Images a second of each variant, one number a round (a batch, for reading)."""
    count, total = options.pictures, bytes_needed(options.pictures, PATCHES, WIDTH)
    images, vit, raw = draw(folder, count), StandIn().eval(), folder / "raw"
    key = feature_key(vit, images)
    speed: dict[str, list[float]] = {}

    def add(name: str, number: int, taken: float) -> None:
        speed.setdefault(name, []).append(number / taken)

    for number in range(options.rounds):
        kept = folder / f"kept-{number}"
        add("write: raw bytes", count, seconds(raw_write, raw, total))
        write = {"shard_images": options.shard_images, "workers": options.workers}
        add("write: features", count, seconds(write_features, kept, images, vit, key, **write))
        add("verify", count, seconds(open_features, kept, key))
        features = open_features(kept, key, verify=False)
        shards = sorted(kept.glob("*.safetensors"))
        into = np.empty((BATCH, bytes_needed(1, PATCHES, WIDTH)), np.uint8)
        rng = np.random.default_rng(number)
        for cold in (True, False):
            rows = [rng.choice(count, BATCH, replace=count < BATCH).tolist() for _ in range(options.batches)]
            for batch in rows:
                if cold and not forget(raw, *shards):
                    break
                name = "cold" if cold else "warm"
                add(f"read, {name}: raw bytes", BATCH, seconds(raw_read, raw, batch, into))
                add(f"read, {name}: features", BATCH, seconds(features.__getitem__, batch))
        for file in [*kept.iterdir(), raw]:
            file.unlink()
    return speed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=256, help="724 kB of disk each, twice")
    parser.add_argument("--shard-images", type=int, default=64)
    parser.add_argument("--batches", type=int, default=2, help="batches of 128 read in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument(
        "--folder", type=Path, help="where to write; the system's temporary folder by default"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        speed = measure(Path(folder), options)
    each = bytes_needed(1, PATCHES, WIDTH)
    rows = {
        name: {
            "images/s": round(statistics.median(found), 1),
            "range": [round(min(found), 1), round(max(found), 1)],
            "GB/s": round(statistics.median(found) * each / 1e9, 3),
        }
        for name, found in speed.items()
    }
    print(f"{'':24}{'images/s':>10}{'range':>20}{'GB/s':>8}")
    for name, row in rows.items():
        low, high = row["range"]
        print(f"{name:24}{row['images/s']:>10}{f'{low} to {high}':>20}{row['GB/s']:>8}")
    machine = {"machine": platform.platform(), "cores": os.cpu_count(), "torch": torch.__version__}
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()
    }
    print(json.dumps({"bytes an image": each, **machine, **settings, "speed": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
