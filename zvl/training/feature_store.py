"""A folder of a ViT's features, read row by row like a tensor; `zvl.training.features` writes it.

It holds `manifest.json` with the key, and shards of safetensors, each with a JSON file of the same name that is
written last and says that the shard is complete. `features` in a shard is (pictures, patches, width) float16; row i of
the folder is picture i of the list that was written.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zvl.training.checkpoint import sha256

MANIFEST = "manifest.json"
FORMAT = 1
HALF = 2  # bytes of a number


class FeatureError(RuntimeError):
    """A folder of features is damaged, incomplete or of something else; the message names the file and the part."""


@dataclass(frozen=True)
class FeatureKey:
    """What features depend on. vit: SHA-256 of configuration and weights. transform: in words, with a fingerprint of
    what it makes of a test picture. pictures: SHA-256 over what stands for their contents, in order; count of them.

    Not part of it is what changes features in their last bit alone: batch size, compiling, the attention's kernel.
    """

    vit: str
    transform: str
    pictures: str
    count: int


class Features:
    """Features on disk that are read like a tensor (pictures, patches, width) of float16; `open_features` makes it.

    `quarantine` says of each row without features which picture it is and why. Processes may share it.
    """

    def __init__(self, folder: Path, key: FeatureKey, shard_images: int):
        self.folder, self.key, self.shard_images = folder, key, shard_images
        self.quarantine: dict[int, tuple[str, str]] = {}
        self._offsets: list[int] = []  # of the numbers in each shard, bytes
        shape: tuple[int, ...] = (0, 0)
        for number in range(math.ceil(key.count / shard_images)):
            shard = shard_file(folder, number)
            record = read_record(shard)
            shape = tuple(record["shape"][1:])
            # The one tensor of a shard ends its file.
            self._offsets.append(record["bytes"] - math.prod(record["shape"]) * HALF)
            for place, told in record["quarantine"].items():
                self.quarantine[number * shard_images + int(place)] = tuple(told)
        self.shape = (key.count, *shape)

    def __len__(self) -> int:
        return self.key.count

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Tensor:
        """rows: a slice, numbers from 0, or a long tensor (n,). Returns (n, patches, width).

        Plain reads at a place, not a memory map: from a cold disk they are several times as fast, and a file that was
        cut off raises FeatureError where a map would end the process. Raises KeyError for a picture in quarantine.
        """
        rows = torch.as_tensor(list(range(len(self))[rows]) if isinstance(rows, slice) else rows)
        if rows.ndim != 1 or (len(rows) and rows.dtype in (torch.bool, torch.float32, torch.float64)):
            raise TypeError(
                f"rows are a slice or whole numbers (n,), not {tuple(rows.shape)} of {rows.dtype}"
            )
        by_shard: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for place, row in enumerate(rows.tolist()):
            if not 0 <= row < len(self):
                raise IndexError(f"row {row}: {self.folder} has rows 0 to {len(self) - 1}")
            if row in self.quarantine:
                picture, reason = self.quarantine[row]
                raise KeyError(f"row {row} ({picture}) has no features: {reason}")
            by_shard[row // self.shard_images].append((place, row % self.shard_images))
        out = torch.empty(len(rows), *self.shape[1:], dtype=torch.float16)
        numbers, size = out.flatten(1).numpy(), math.prod(self.shape[1:]) * HALF
        for number, places in by_shard.items():
            shard = shard_file(self.folder, number)
            with open(shard, "rb", buffering=0) as file:
                for place, row in places:
                    file.seek(self._offsets[number] + row * size)
                    if file.readinto(numbers[place].view(np.uint8)) != size:
                        raise FeatureError(f"{shard}: cut off; write_features makes it anew")
        return out


def open_features(folder: str | Path, key: FeatureKey, verify: bool = True) -> Features:
    """The features of `key` in a folder, for reading row by row.

    verify: read all shards once and compare their SHA-256; else only sizes are compared, for folders of terabytes.
    Raises FeatureError that says which part of the key differs, or which files are missing or damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise FeatureError(f"{folder / MANIFEST}: missing; write_features makes it")
    check_key(folder, manifest, key)
    shard_images = manifest["shard_images"]
    shards = [shard_file(folder, number) for number in range(math.ceil(key.count / shard_images))]
    faults = [
        fault or f"{shard}: missing"
        for shard, fault in zip(shards, shard_faults(shards, key, verify), strict=True)
        if fault is not None
    ]
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise FeatureError(f"{shown}. write_features makes them anew and keeps the others")
    return Features(folder, key, shard_images)


def shard_file(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def read_manifest(folder: Path) -> dict | None:
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf8"))
        FeatureKey(**manifest["key"]), int(manifest["shard_images"]), manifest["format"]
    except (ValueError, KeyError, TypeError):
        raise FeatureError(f"{file}: no manifest of features; delete the folder to write it anew") from None
    if manifest["format"] != FORMAT:
        raise FeatureError(f"{file}: format {manifest['format']!r}, this version reads {FORMAT}")
    return manifest


def check_key(folder: Path, manifest: dict, key: FeatureKey) -> None:
    there, here = manifest["key"], asdict(key)
    differing = [name for name in here if there[name] != here[name]]
    if differing:
        parts = [f"{name} is {there[name]!r} there and {here[name]!r} here" for name in differing]
        raise FeatureError(
            f"{folder}: holds other features: {'; '.join(parts)}. Use another folder, or delete this one"
        )


def shard_faults(shards: list[Path], key: FeatureKey, verify: bool, workers: int = 0) -> list[str | None]:
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(lambda shard: _fault(shard, key, verify), shards))


def _fault(shard: Path, key: FeatureKey, verify: bool) -> str | None:
    """None for a complete shard, "" for one that is not there (yet), else what is wrong with it."""
    if not shard.with_suffix(".json").is_file():
        return ""
    try:
        record = read_record(shard)
    except FeatureError as error:
        return str(error)
    if record["key"] != key_digest(key):
        return f"{shard}: belongs to another folder"
    if not shard.is_file():
        return f"{shard}: missing"
    if shard.stat().st_size != record["bytes"]:
        return f"{shard}: {shard.stat().st_size} bytes, {record['bytes']} were written"
    if verify and sha256(shard) != record["sha256"]:
        return f"{shard}: SHA-256 differs from what was written"
    return None


def read_record(shard: Path) -> dict:
    file = shard.with_suffix(".json")
    try:
        record = json.loads(file.read_text(encoding="utf8"))
        named = {name: record[name] for name in ("key", "sha256", "quarantine", "bytes", "shape")}
        named["quarantine"].items(), named["bytes"] - math.prod(named["shape"])
        return named
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise FeatureError(f"{file}: no record of a shard") from None


def key_digest(key: FeatureKey) -> str:
    return hashlib.sha256(json.dumps(asdict(key), sort_keys=True).encode()).hexdigest()
