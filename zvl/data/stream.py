"""Batches of pre-training from shards: read, decoded and tokenised by worker processes, in an order fixed beforehand.

What stands in batch (step, micro) is decided by `Mixture` before any worker looks, so batches are equal with any number
of workers, and a run that resumes at any step asks for that step.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zvl.data.mixture import Mixture
from zvl.data.pixels import decode_image, to_pixels
from zvl.data.rows import DataError, Fault, Quarantine
from zvl.data.tars import Record, Shards

__all__ = ["Mixture", "Shards", "batches", "decode", "image_number", "prefetched", "stride"]

TRIES = 1000  # pairs that are tried in the place of a broken one; where all are broken, the set is

Encode = Callable[[list[str]], tuple[Tensor, Tensor]]
Look = Callable[
    [int], Tensor
]  # a record's number -> what is kept of its picture; raises Fault where nothing is


def decode(record: Record, size: int) -> Tensor:
    """A record's picture as pixel_values (3, size, size) float32. Raises Fault for one that cannot be decoded."""
    return to_pixels([decode_image(record.image)], size)[0]


def image_number(image: bytes) -> int:
    """The same for the same picture in whatever data set and record, for ITC's soft targets: 63 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256(image).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class _Batches:
    """What a worker does: (step, micro) -> (batch, what was put aside)."""

    mixture: Mixture
    encode: Encode
    batch_size: int
    size: int
    micros: int
    held_out: frozenset[int]
    kept: Mapping[str, Look] | None

    def __getitem__(self, place: tuple[int, int]) -> tuple[dict, list[tuple]]:
        pixels, captions, numbers, told, refused = [], [], [], [], []
        for name, language, pair in self.mixture.indices(*place, self.batch_size, self.micros):
            picture, caption, number, where = self._usable(name, language, pair, refused)
            pixels.append(picture)
            captions.append(caption)
            numbers.append(number)
            told.append(where)
        ids, mask = self.encode(captions)
        # Without workers this runs under the training's autocast, which refuses half precision.
        with torch.autocast("cpu", enabled=False):
            seen = torch.stack(pixels)
        batch = {
            "pixel_values" if self.kept is None else "image_embeds": seen,
            "input_ids": ids,
            "text_mask": mask,
            "image_ids": torch.tensor(numbers),
            "sample_ids": told,
        }
        return batch, refused

    def _usable(self, name: str, language: str, pair: int, refused: list) -> tuple[Tensor, str, int, str]:
        """The pair, or where it is broken or held out another of its data set and language.

        Others are `stride` apart, so that no single tar has to be whole.
        """
        shards = self.mixture.sets[name][0]
        count = shards.pairs(language)
        for attempt in range(min(TRIES, count)):
            row, nth = shards.locate(language, (pair + attempt * stride(count)) % count)
            try:
                record = shards[row]
                said = [
                    c
                    for c, spoken in zip(record.captions, record.languages, strict=True)
                    if spoken == language
                ]
                if nth >= len(said):
                    raise Fault("caption", "fewer than the index says")
                if (number := image_number(record.image)) in self.held_out:
                    continue
                tar, place = shards.name(row)
                where = f"{name} {language}: {tar.name}, record {place}, caption {nth}"
                seen = decode(record, self.size) if self.kept is None else self.kept[name](row)
                return seen, said[nth], number, where
            except Fault as fault:
                refused.append((*shards.name(row), fault.name, fault.reason))
        raise DataError(
            f"data set {name!r}: {min(TRIES, count)} pairs are broken or held out, the last in {shards.name(row)[0]}"
        )


def batches(
    mixture: Mixture,
    encode: Encode,
    batch_size: int,
    size: int = 224,
    accumulation: int = 1,
    processes: int = 1,
    workers: int = 0,
    quarantine: Quarantine | None = None,
    held_out: Set[int] = frozenset(),
    kept: Mapping[str, Look] | None = None,
) -> Callable[[int, int], dict]:
    """`batches(step, micro)` as `loop.train` wants it, made ahead by worker processes.

    encode: captions -> (ids, mask), both (batch, length). batch_size: pairs in a micro-batch; size: pixels a side.
    accumulation: micro-batches of a step in one process; processes: how many train together, so that process p takes
    micro = p * accumulation ... (p + 1) * accumulation - 1. workers: 0 makes batches where they are asked for.
    quarantine: gets each broken record once (tar, number there, field, reason). held_out: `image_number` of pictures
    that no batch shall hold. kept: data set -> features of its records, which come as image_embeds in the place of
    pixel_values.

    A batch: pixel_values (batch, 3, size, size) float32, input_ids and text_mask (batch, length), image_ids (batch,)
    int64, equal where the pictures are, and sample_ids, "coco en: shard-000003.tar, record 17, caption 2" for each row.
    A pair that is held out, or whose picture or record is broken, is replaced by another of the same data set and
    language. Raises DataError where 1,000 of them are.
    """
    made = _Batches(mixture, encode, batch_size, size, accumulation * processes, frozenset(held_out), kept)
    quarantine, known = Quarantine() if quarantine is None else quarantine, set()
    ahead = prefetched(made, accumulation, workers)

    def batch(step: int, micro: int) -> dict[str, Tensor]:
        found, refused = ahead(step, micro)
        for entry in refused:
            if entry[:2] not in known:
                known.add(entry[:2])
                quarantine.add(*entry)
        return found

    return batch


def stride(count: int) -> int:
    """A step that visits all of `count` pairs, each far from the one before."""
    step = max(1, round(count * 0.618))
    while math.gcd(step, count) > 1:
        step += 1
    return step


def prefetched(
    make, accumulation: int = 1, workers: int = 0, prefetch: int = 2
) -> Callable[[int, int], object]:
    """`make[step, micro]` as a function that worker processes run ahead of, as long as it is asked in training's order.

    make: an object with __getitem__, a pure function of (step, micro) that forked or pickled workers can run. A request
    out of order starts the workers anew from there. prefetch: results a worker has ready. An error in a worker is
    raised where its result is asked for.
    """
    if workers == 0:
        return lambda step, micro: make[step, micro]
    running: Iterator | None = None
    expected: Iterator | None = None

    def get(step: int, micro: int):
        nonlocal running, expected
        if running is None or next(expected) != (step, micro):
            running = None  # its workers end here
            loader = DataLoader(
                make, batch_size=None, sampler=_places(step, micro, accumulation), num_workers=workers,
                prefetch_factor=prefetch, collate_fn=_same,
                worker_init_fn=_alone, pin_memory=torch.cuda.is_available(),
                generator=torch.Generator(),  # or its start would draw from the training's own
            )  # fmt: skip
            running, expected = iter(loader), _places(step, micro, accumulation)
            next(expected)
        return next(running)

    return get


def _places(step: int, micro: int, accumulation: int) -> Iterator[tuple[int, int]]:
    """The (step, micro) of one process from a place on, for ever."""
    first = micro - micro % accumulation
    for m in range(micro, first + accumulation):
        yield step, m
    for s in itertools.count(step + 1):
        for m in range(first, first + accumulation):
            yield s, m


def _same(item):
    return item


def _alone(worker: int) -> None:
    """A tokenizer's threads would fight over the cores of the other workers, and it warns where it was forked."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
