"""The frozen ViT's features of a fixed set of pictures, computed once and kept on disk.

Kept features make stage 1 some 2.6 times as fast as a ViT that runs in every step, where crops are fixed. They are
large: a picture at full size takes 257 x 1408 x 2 bytes = 724 kB, so the paper's 30 million take 21.7 TB
(`bytes_needed`); a million, 724 GB.

A kill at any moment costs the shard in work. `zvl.training.feature_store` says how a folder is laid out, and reads it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import PreTrainedConfig

from zvl.data.pixels import MEAN, STD, decode_image, to_pixels
from zvl.training import loop
from zvl.training.checkpoint import _flush, sha256
from zvl.training.feature_store import (
    FORMAT,
    HALF,
    MANIFEST,
    FeatureError,
    FeatureKey,
    check_key,
    key_digest,
    read_manifest,
    read_record,
    shard_faults,
    shard_file,
)
from zvl.training.sight import see


@dataclass(frozen=True)
class Written:
    """What `write_features` did, in shards; damaged: what was wrong with those that it made anew. In pictures:
    quarantined, those without features.
    """

    built: int
    kept: int
    damaged: tuple[str, ...]
    quarantined: int


def bytes_needed(pictures: int, patches: int = 257, width: int = 1408) -> int:
    """Disk for the features of so many pictures; by default of ViT-g/14 at 224 pixels."""
    return pictures * patches * width * HALF


# --- what features depend on ------------------------------------------------------------------------------------------


def read_bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def feature_key(
    vit: nn.Module,
    images: Sequence[str],
    *,
    read: Callable[[str], bytes] = read_bytes,
    ids: Sequence[str] | None = None,
    workers: int = 4,
) -> FeatureKey:
    """The key of these pictures' features under this ViT.

    images: what `read` takes, by default paths of files. ids: what stands for each picture's content; by default the
    SHA-256 of its bytes, for which all are read once, by `workers` threads. Give names instead where a name means the
    same bytes for ever, such as those in a tar that never changes.
    """
    if ids is None:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            ids = list(pool.map(lambda image: _content_id(image, read), images))
    if len(ids) != len(images):
        raise ValueError(f"feature_key: {len(ids)} ids for {len(images)} images")
    digest = hashlib.sha256()
    for name in ids:
        digest.update(f"{name}\n".encode("utf-8", "surrogateescape"))
    return FeatureKey(_vit_digest(vit), _transform(vit.config.image_size), digest.hexdigest(), len(images))


def _content_id(image: str, read: Callable[[str], bytes]) -> str:
    try:
        return hashlib.sha256(read(image)).hexdigest()
    except (OSError, ValueError):
        return "unreadable"


def _vit_digest(vit: nn.Module) -> str:
    # Settings that every configuration has (dtype, version, output options) differ between versions of transformers.
    common = PreTrainedConfig().to_dict()
    own = {name: value for name, value in vit.config.to_dict().items() if name not in common}
    own["model_type"] = vit.config.model_type
    digest = hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode())
    for name, tensor in sorted(vit.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _transform(size: int) -> str:
    pattern = np.arange(61 * 97 * 4, dtype=np.uint32).reshape(61, 97, 4) * 2654435761 >> 24
    file = io.BytesIO()
    Image.fromarray(pattern.astype(np.uint8), "RGBA").save(file, "PNG")
    pixels = to_pixels([decode_image(file.getvalue())], size)
    fingerprint = hashlib.sha256(pixels.mul(1000).round().to(torch.int16).numpy().tobytes()).hexdigest()[:12]
    return (
        f"RGB, bicubic to {size} x {size}, mean {MEAN}, std {STD}, kept as float16; fingerprint {fingerprint}"
    )


# --- writing ----------------------------------------------------------------------------------------------------------


def write_features(
    folder: str | Path,
    images: Sequence[str],
    vit: nn.Module,
    key: FeatureKey,
    *,
    read: Callable[[str], bytes] = read_bytes,
    shard_images: int = 4096,
    batch_size: int = 128,
    workers: int = 0,
    compile: bool | None = None,
    part: tuple[int, int] = (0, 1),
    verify: bool = True,
) -> Written:
    """Make what is missing in a folder of features; after a kill, call it again.

    vit: a frozen vision model of transformers, in evaluation mode, on the device where it shall run. key: of the same
        images and ViT. read: the bytes of an image, by default of a file.
    workers: processes that read, decode and resize; 0 for none beside this one.
    compile: torch.compile the ViT; by default on a GPU alone, where a run is long enough for it to pay.
    part: (number, of how many) for several processes that share the shards; each writes only its own.
    verify: read complete shards and compare their SHA-256; a damaged one is made anew. Else their sizes must do.

    A picture that cannot be read, or whose features exceed half precision, is put into quarantine with its reason and
    costs nothing else; delete the JSON of its shard to have it tried again. Batches never cross shards, so that a
    folder is the same, byte for byte, however often the writing was broken off.
    Raises FeatureError for a folder with another key or other shards, and where the disk has too little room.
    """
    folder = Path(folder)
    if vit.training:
        raise ValueError("write_features: the vision model is in training mode; call its eval()")
    if len(images) != key.count:
        raise ValueError(f"write_features: {len(images)} images, but the key is of {key.count}")
    if not 0 <= part[0] < part[1] or min(shard_images, batch_size) < 1:
        raise ValueError(f"write_features: part {part}, shard_images {shard_images}, batch_size {batch_size}")
    folder.mkdir(parents=True, exist_ok=True)
    _begin(folder, key, shard_images)
    own = range(part[0], math.ceil(len(images) / shard_images), part[1])
    faults = dict(
        zip(own, shard_faults([shard_file(folder, n) for n in own], key, verify, workers), strict=True)
    )
    missing = [number for number, fault in faults.items() if fault is not None]
    damaged = tuple(fault for fault in faults.values() if fault)
    spans = {n: (n * shard_images, min((n + 1) * shard_images, len(images))) for n in missing}
    batches = [
        (a, min(a + batch_size, stop))
        for start, stop in spans.values()
        for a in range(start, stop, batch_size)
    ]

    if batches:
        _fill(folder, images, vit, key, read, spans, batches, workers, compile)
    quarantined = sum(len(read_record(shard_file(folder, number))["quarantine"]) for number in own)
    return Written(len(missing), len(own) - len(missing), damaged, quarantined)


def _fill(folder, images, vit, key, read, spans, batches, workers, compile) -> None:
    """Run the pictures of the shards `spans` through the ViT; a thread writes a shard while the next is computed."""
    device, size = next(vit.parameters()).device, vit.config.image_size
    if compile or (compile is None and device.type == "cuda"):
        vit = torch.compile(vit, dynamic=False)
    loader = DataLoader(
        _Pictures(images, read, size, batches), batch_size=None, num_workers=workers,
        pin_memory=device.type == "cuda", generator=torch.Generator(),  # leaves the caller's random state alone
    )  # fmt: skip
    found = zip(batches, _one_behind(vit, loader, device), strict=True)
    hidden, total = not loop._show_progress(None), sum(last - first for first, last in spans.values())
    with (
        tqdm(desc="ViT features", total=total, disable=hidden, leave=False) as bar,
        ThreadPoolExecutor(1) as disk,
    ):
        writing: Future | None = None
        for number, (first, last) in spans.items():
            features, quarantine, stop = None, {}, first
            while stop < last:
                (start, stop), (batch, faults) = next(found)
                if features is None:
                    features = torch.empty(last - first, *batch.shape[1:], dtype=torch.float16)
                    if writing is None:  # the first shard tells the size of all
                        _check_room(folder, features[0].nbytes * total)
                features[start - first : stop - first] = batch
                quarantine |= {str(start - first + i): [images[start + i], why] for i, why in faults.items()}
                bar.update(stop - start)
            if writing is not None:
                writing.result()  # no more than two shards are held
            writing = disk.submit(_write_shard, shard_file(folder, number), features, quarantine, key)
        writing.result()


class _Pictures(Dataset):
    """Batch number -> pixels (batch, 3, size, size), zeros for what cannot be read, and the reasons {place: text}."""

    def __init__(self, images, read, size, batches):
        self.images, self.read, self.size, self.batches = images, read, size, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[Tensor, dict[int, str]]:
        start, stop = self.batches[number]
        pixels, faults = torch.zeros(stop - start, 3, self.size, self.size), {}
        for place in range(stop - start):
            try:
                picture = decode_image(self.read(self.images[start + place]))
                pixels[place] = to_pixels([picture], self.size)[0]
            except (OSError, ValueError) as error:
                faults[place] = getattr(error, "reason", None) or f"{type(error).__name__}: {error}"
        return pixels, faults


def _one_behind(vit, loader, device) -> Iterator[tuple[Tensor, dict[int, str]]]:
    """(features on the CPU, reasons) for each batch, while the device is at work on the next one."""
    waiting = None
    for pixels, faults in loader:
        features = see(vit, pixels.to(device, non_blocking=True)).half()
        finite = features.isfinite().flatten(1).all(1)
        copies = features.to("cpu", non_blocking=True), finite.to("cpu", non_blocking=True)
        copied = torch.cuda.Event() if device.type == "cuda" else None
        if copied is not None:
            copied.record()
        if waiting is not None:
            yield _told(*waiting)
        waiting = copies, faults, copied
    if waiting is not None:
        yield _told(*waiting)


def _told(copies, faults, copied) -> tuple[Tensor, dict[int, str]]:
    if copied is not None:
        copied.synchronize()
    features, finite = copies
    for place in (~finite).nonzero()[:, 0].tolist():
        faults.setdefault(place, "features beyond half precision: not finite, or over 65504")
    features[list(faults)] = 0
    return features, faults


def _write_shard(shard: Path, features: Tensor, quarantine: dict, key: FeatureKey) -> None:
    record = shard.with_suffix(".json")
    record.unlink(missing_ok=True)  # of a damaged shard: it must not vouch for the new one
    temporary = shard.with_name(f".writing-{shard.name}")
    save_file({"features": features}, temporary)
    content = {
        "key": key_digest(key), "shape": list(features.shape), "bytes": temporary.stat().st_size,
        "sha256": sha256(temporary), "quarantine": quarantine,
    }  # fmt: skip
    _commit(temporary, shard)
    _write_json(record, content)


def _write_json(file: Path, content: dict) -> None:
    temporary = file.with_name(f".writing-{os.getpid()}-{file.name}")
    temporary.write_text(json.dumps(content, indent=1), encoding="ascii")  # names may be no UTF-8
    _commit(temporary, file)


def _commit(temporary: Path, final: Path) -> None:
    _flush(temporary)
    os.replace(temporary, final)
    _flush(final.parent)


def _check_room(folder: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(folder).free):
        raise FeatureError(
            f"{folder}: the features still to be written take {needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free"
        )


def _begin(folder: Path, key: FeatureKey, shard_images: int) -> None:
    manifest = read_manifest(folder)
    if manifest is None:
        _write_json(folder / MANIFEST, {"format": FORMAT, "shard_images": shard_images, "key": asdict(key)})
        return
    check_key(folder, manifest, key)
    if manifest["shard_images"] != shard_images:
        raise FeatureError(
            f"{folder}: has shards of {manifest['shard_images']} pictures, not of {shard_images}"
        )
