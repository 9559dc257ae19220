"""How fast pairs come from shards: `python ci/bench/loader.py`.

Shards of photo-sized JPEGs (smooth noise with Moji scenes in it), then in one run: reading alone, with decoding, with
the transform to 224 pixels, with tokenising (each on one core, in images a second of processor time), batches of 1 and
2 workers beside webdataset's own sequential pipeline on the same tars (by the clock, in turns, medians), and from that
the cores that keep one H100 busy in stage 1: 450 images/s with the ViT live, 2,000 with its features cached (then
nothing is decoded). Prints a table and JSON.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image

from zvl.data import moji
from zvl.data.pixels import decode_image, to_pixels
from zvl.data.samples import LANGUAGES, Pair
from zvl.data.shards import write_shards
from zvl.data.stream import Mixture, Shards, batches, decode
from zvl.model import backbones
from zvl.model.tokenizers import caption_ids

NEEDED = {"ViT live": 450, "features cached": 2000}  # images/s of one H100 in stage 1, the benchmark's goals
SIZE = (500, 375)


def write_pictures(folder: Path, count: int) -> Iterator[Pair]:
    """JPEGs of a photograph's size and of about its bytes, with a caption a language."""
    rng = np.random.default_rng(0)
    for number, scene in enumerate(moji.scenes(count, "train", 0)):
        rough = Image.fromarray(rng.integers(0, 256, (47, 63, 3), np.uint8)).resize(
            SIZE, Image.Resampling.BICUBIC
        )
        rough.paste(moji.render(scene).convert("RGB").resize((200, 200)), (150, 90))
        path = folder / f"{number}.jpg"
        rough.save(path, quality=90)
        for language, caption in zip(
            LANGUAGES, (f"photograph number {number}", f"第{number}张照片"), strict=True
        ):
            yield Pair(str(number), str(path), caption, language, "bench")


def encode(captions: list[str]):
    return caption_ids(tokenizer(), captions)


@functools.lru_cache(maxsize=1)
def tokenizer():
    return backbones.load_tokenizer()


def stages(shards: Shards) -> dict[str, Callable[[np.ndarray], object]]:
    """Each does what the one before does, and more; from record numbers to what they make."""

    def read(rows):
        return [shards[row] for row in rows]

    def whole(rows):
        found = read(rows)
        return torch.stack([decode(record, 224) for record in found]), encode(
            [record.captions[0] for record in found]
        )

    return {
        "reading": read,
        "+ decoding": lambda rows: [decode_image(record.image) for record in read(rows)],
        "+ to 224 pixels": lambda rows: torch.stack([decode(record, 224) for record in read(rows)]),
        "+ tokenising": whole,
    }


def ours(shards: Shards, batch: int, workers: int) -> Iterator:
    """Our batches in random order, for ever."""
    get = batches(
        Mixture({"bench": (shards, 1)}, dict.fromkeys(LANGUAGES, 1)), encode, batch, 224, workers=workers
    )
    return (get(step, 0) for step in itertools.count())


def theirs(tars: list[Path], batch: int, workers: int) -> Iterator:
    """webdataset's own way: tars one after another, a shuffle buffer, the same decoding and tokenising."""

    def collate(samples):
        pixels, captions = zip(*samples, strict=True)
        return (torch.stack(pixels), *encode(list(captions)))

    def make(sample):
        return to_pixels([decode_image(sample["jpg"])], 224)[0], json.loads(sample["json"])["caption"]

    data = (
        webdataset.WebDataset(list(map(str, tars)), shardshuffle=100, empty_check=False).repeat().shuffle(500)
    )
    data = data.map(make).batched(batch, collation_fn=collate)
    return iter(webdataset.WebLoader(data, batch_size=None, num_workers=workers))


def clocked(source: Iterator, batch: int, count: int, ready: int) -> float:
    """Images a second of so many batches, after the `ready` ones that the workers had made while they waited."""
    for _ in range(ready):
        next(source)
    start = time.perf_counter()
    for _ in range(count):
        next(source)
    return count * batch / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=240)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=4, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "pictures").mkdir()
        pairs = list(write_pictures(root / "pictures", chosen.pictures))
        start = time.process_time()
        write_shards(pairs, root / "shards", {}, pairs_per_shard=len(pairs) // 8)
        built = chosen.pictures / (time.process_time() - start)
        shards = Shards(root / "shards")
        write_shards(pairs, root / "small", {}, size=224)
        every = stages(shards)
        every["all, of shards with --size 224"] = stages(Shards(root / "small"))["+ tokenising"]
        mean = sum(tar.stat().st_size for tar in shards.tars) / len(shards)
        rng, rates = np.random.default_rng(1), {}
        for _ in range(chosen.rounds):
            for name, work in every.items():
                rows = rng.permutation(len(shards))
                start = time.process_time()
                for part in np.array_split(rows, max(1, len(rows) // chosen.batch)):
                    work(part)
                rates.setdefault(name, []).append(len(rows) / (time.process_time() - start))
        core = {name: statistics.median(values) for name, values in rates.items()}
        loaders: dict[int, dict[str, list[float]]] = {}
        for workers in chosen.workers:
            # Both run all the time and are asked in turns, so each is measured while the other waits with full hands.
            pair = {
                "ours": ours(shards, chosen.batch, workers),
                "webdataset": theirs(shards.tars, chosen.batch, workers),
            }
            for _ in range(chosen.rounds):
                for name, source in pair.items():
                    loaders.setdefault(workers, {}).setdefault(name, []).append(
                        clocked(source, chosen.batch, chosen.batches, ready=3 * workers)
                    )
            del pair, source

    print(
        f"{chosen.pictures} JPEGs of {SIZE[0]} x {SIZE[1]}, {mean / 1000:.0f} kB a record; {platform.processor()}"
    )
    print(f"{'on one core':34s} images/s of processor time")
    print(f"{'building shards':34s} {built:8.0f}")
    for name, value in core.items():
        print(f"{name:34s} {value:8.0f}")
    print(
        f"{'batches, by the clock':34s} {'ours':>8s} {'webdataset':>11s} {'ratio':>6s}   (ours: least and most)"
    )
    found = {}
    for workers, both in loaders.items():
        medians = {name: statistics.median(values) for name, values in both.items()}
        ratio = medians["ours"] / medians["webdataset"]
        found[workers] = medians | {"ratio": ratio, "all": both}
        spread = f"{min(both['ours']):.0f} to {max(both['ours']):.0f}"
        print(
            f"{f'{workers} workers':34s} {medians['ours']:8.0f} {medians['webdataset']:11.0f} {ratio:6.2f}   {spread}"
        )
    cores = {
        "ViT live": NEEDED["ViT live"] / core["+ tokenising"],
        "ViT live, --size 224": NEEDED["ViT live"] / core["all, of shards with --size 224"],
        "features cached": NEEDED["features cached"] / core["reading"],
    }
    for name, needed in cores.items():
        print(f"cores for {NEEDED[name.split(',')[0]]} images/s, {name}: {math.ceil(needed)} ({needed:.2f})")
    print(json.dumps({
        "versions": {"torch": torch.__version__, "webdataset": webdataset.__version__}, "pictures": chosen.pictures,
        "bytes": mean, "machine": platform.machine(), "cpus": os.cpu_count(), "load": os.getloadavg()[0],
        "building": built, "core": core, "loaders": found, "needed": NEEDED, "cores": cores,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
