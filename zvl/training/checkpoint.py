"""Checkpoints that survive a kill at any moment, and name what is damaged.

A checkpoint is a folder `step-00000100` with safetensors and JSON files and a manifest of their SHA-256 sums.
It is written under a temporary name, flushed to disk, renamed, and only then are older ones removed, so at
every moment at least one complete checkpoint exists. Nothing is ever pickled: loading runs no code.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

MANIFEST = "manifest.json"
RECORDS = "records.json"
_FORMAT = 1
_FOLDER = re.compile(r"step-(\d{8,})")
_TEMPORARY = ".writing-"


class CheckpointError(RuntimeError):
    """A checkpoint is damaged or does not belong to this training; the message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """What `save` was given: tensors by group ("model", "optimizer", ...) and JSON records."""

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    records: dict[str, Any]


def save(
    folder: str | Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    records: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write the checkpoint of `step` into `folder` and prune older ones to the newest `keep`.

    tensors: {group: {name: tensor}}; each group becomes one safetensors file (copied to the CPU).
    records: anything JSON can hold; floats come back bit-exact, NaN and infinity are refused.
    Returns the checkpoint's folder. Raises ValueError for keep < 1 or an unusable group name.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    for group in tensors:
        if not re.fullmatch(r"[a-z_]+", group):
            raise ValueError(f"tensor group {group!r}: a group names a file, use lower-case letters and _")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{_TEMPORARY}*"):  # from a run that was killed while writing
        shutil.rmtree(leftover)
    final = folder / f"step-{step:08d}"
    temporary = folder / f"{_TEMPORARY}{final.name}"
    temporary.mkdir()

    for group, named in tensors.items():
        # A fresh contiguous copy: safetensors refuses tensors that share memory.
        copies = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in named.items()}
        save_file(copies, temporary / f"{group}.safetensors")
    _write_json(temporary / RECORDS, dict(records))
    files = {f.name: {"sha256": sha256(f), "bytes": f.stat().st_size} for f in sorted(temporary.iterdir())}
    _write_json(temporary / MANIFEST, {"format": _FORMAT, "step": step, "files": files})
    for file in temporary.iterdir():
        _flush(file)
    _flush(temporary)

    if final.exists():  # the same step again, after falling back from a damaged one
        old = folder / f"{_TEMPORARY}replaced-{final.name}"
        final.rename(old)
        temporary.rename(final)
        shutil.rmtree(old)
    else:
        temporary.rename(final)
    _flush(folder)  # the rename must be on disk before anything older goes
    for _, path in _present(folder)[:-keep]:
        shutil.rmtree(path)
    return final


def load(path: str | Path) -> Checkpoint:
    """Read one checkpoint folder after checking every file against its manifest.

    Raises CheckpointError that names the first missing, truncated or altered file.
    """
    path = Path(path)
    named = _FOLDER.fullmatch(path.name)
    manifest = _read_json(path / MANIFEST)
    try:
        step, files = manifest["step"], manifest["files"]
        sums = {name: (entry["sha256"], entry["bytes"]) for name, entry in files.items()}
        version = manifest["format"]
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path / MANIFEST}: not a manifest of this project") from None
    if version != _FORMAT:
        raise CheckpointError(f"{path / MANIFEST}: format {version!r}, this version reads {_FORMAT}")
    if named is None or step != int(named[1]):
        raise CheckpointError(f"{path / MANIFEST}: step {step!r} does not match the folder's name")
    for name, (expected, size) in sums.items():
        file = path / name
        if Path(name).name != name:
            raise CheckpointError(f"{path / MANIFEST}: {name!r} is not a plain file name")
        if not file.is_file():
            raise CheckpointError(f"{file}: missing")
        if file.stat().st_size != size:
            raise CheckpointError(f"{file}: {file.stat().st_size} bytes, the manifest says {size}")
        if sha256(file) != expected:
            raise CheckpointError(f"{file}: SHA-256 differs from the manifest")
    if RECORDS not in sums:
        raise CheckpointError(f"{path / MANIFEST}: does not list {RECORDS}")
    tensors = {Path(n).stem: load_file(path / n) for n in sums if n.endswith(".safetensors")}
    return Checkpoint(path, step, tensors, _read_json(path / RECORDS))


def load_latest(folder: str | Path) -> Checkpoint | None:
    """The newest checkpoint of `folder` that passes its manifest, or None where there is none at all.

    A damaged one is named in a warning and the one before it is tried. Raises CheckpointError when every
    checkpoint is damaged: starting again from nothing is a decision for a person.
    """
    damaged = []
    for _, path in reversed(_present(Path(folder))):
        try:
            return load(path)
        except CheckpointError as error:
            damaged.append(str(error))
            warnings.warn(f"damaged checkpoint, trying the one before it: {error}", stacklevel=2)
    if damaged:
        raise CheckpointError(
            f"{folder}: every checkpoint is damaged ({'; '.join(damaged)}); delete the folder to start again"
        )
    return None


def sha256(file: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _present(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every finished checkpoint folder, oldest first; temporary ones are not counted."""
    if not folder.is_dir():
        return []
    return sorted((int(m[1]), p) for p in folder.iterdir() if p.is_dir() and (m := _FOLDER.fullmatch(p.name)))


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing") from None
    except ValueError as error:  # also bad UTF-8
        raise CheckpointError(f"{file}: not JSON ({error})") from None


def _flush(path: Path) -> None:
    """Force a file's or a folder's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
