"""Image-text pairs of any reader into WebDataset tars that a kill cannot hurt and any WebDataset tool reads.

shard-000000.tar         000000012.jpg (the picture, byte for byte) and 000000012.json (captions, languages, source)
shard-000000.index.json  where each record stands (`zvl.data.tars`); written last, so a tar with one is whole
shards.json              how the folder was made; the totals under "complete" when all is done
quarantine.jsonl         rows and pictures that could not be used, each with its reason
The same pairs and settings give the same bytes, with any number of processes.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import multiprocessing
import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import astuple
from pathlib import Path

from webdataset import TarWriter

from zvl.data.picture_rules import open_picture
from zvl.data.pixels import decode_image
from zvl.data.rows import DataError, Fault, Quarantine, load_json
from zvl.data.samples import LANGUAGES, Pair
from zvl.data.tars import FORMAT, MANIFEST, index_path, index_tar, parse_text, write_json

LARGEST = 1 << 28  # bytes of a picture's file
MISSING = "cannot be read: FileNotFoundError"
QUALITY = 95  # of a JPEG that is written because the picture was made smaller
NAMES = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


def write_shards(
    pairs: Iterable[Pair],
    folder: Path,
    made_by: dict,
    size: int | None = None,
    pairs_per_shard: int = 10_000,
    grouped: bool = False,
    workers: int = 1,
    quarantine: Quarantine | None = None,
    progress: Callable = lambda items, label: items,
) -> dict:
    """Write pairs as tars into `folder`; shards that an earlier run left whole are checked and kept.

    made_by: what the pairs are, as JSON; a folder that holds anything else is refused. size: make pictures whose
    shorter side is longer than this smaller, to this many pixels. grouped: gather the captions of one picture from the
    whole set (all pairs are held in memory); else only neighbours share a record. workers: processes, a shard each.
    quarantine: gets what cannot be used, best the one that the reader has; its log starts anew. progress: wraps the
    loop over shards, as tqdm does.

    Returns the totals: shards, records, pairs by language, refused pairs. Raises DataError for a folder that was made
    in another way; and ValueError for a size or number that is not positive.
    """
    for name, value in (("size", size), ("pairs_per_shard", pairs_per_shard), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    folder, quarantine = Path(folder), Quarantine() if quarantine is None else quarantine
    made_by = json.loads(
        json.dumps(made_by | {"size": size, "pairs_per_shard": pairs_per_shard, "grouped": grouped})
    )
    _begin(folder, made_by)
    if quarantine.log is not None:
        quarantine.log.unlink(missing_ok=True)
    groups = _grouped(pairs) if grouped else _neighbours(pairs)
    totals = {"shards": 0, "records": 0, "pairs": Counter(dict.fromkeys(LANGUAGES, 0)), "refused": 0}
    for index in progress(_shards(folder, groups, size, pairs_per_shard, workers), "shards"):
        totals["shards"] += 1
        totals["records"] += index["records"]
        totals["pairs"].update(index["pairs"])
        totals["refused"] += len(index["refused"])
        for picture, image_id, name, reason in index["refused"]:
            quarantine.add(Path(picture), image_id, name, reason)
    for tar in folder.glob("shard-*.tar"):  # of an earlier run over more pairs
        if int(tar.stem.removeprefix("shard-")) >= totals["shards"]:
            index_path(tar).unlink(missing_ok=True)
            tar.unlink()
    write_json(folder / MANIFEST, {"format": FORMAT, "made_by": made_by, "complete": totals})
    return totals


def make_shard(folder: Path, number: int, groups: list[list[Pair]], size: int | None, first_key: int) -> dict:
    """Write one shard, unless it stands there whole, and return its index. A pure function of what goes in."""
    told = json.dumps(
        [FORMAT, size, QUALITY, first_key, [[astuple(pair) for pair in group] for group in groups]]
    )
    made_from = hashlib.sha256(told.encode()).hexdigest()
    tar = folder / f"shard-{number:06d}.tar"
    if (index := _whole(tar, made_from)) is not None and not _arrived(index):
        return index
    index_path(tar).unlink(missing_ok=True)
    refused = []
    half = tar.with_name(f".{tar.name}.{os.getpid()}")
    with open(half, "wb") as file:
        # Time, owner and order of the members are fixed: nothing but the pairs decides the bytes.
        with TarWriter(file, encoder=False, compress=False, mtime=0, user="", group="") as writer:
            for row, group in enumerate(groups):
                try:
                    writer.write(_record(f"{first_key + row:09d}", group, size))
                except Fault as fault:
                    refused += [[pair.image, pair.image_id, fault.name, fault.reason] for pair in group]
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, tar)
    return index_tar(tar, made_from=made_from, refused=refused)


def _whole(tar: Path, made_from: str) -> dict | None:
    """The index of a shard that was made from the same, and whose bytes are still those that were written."""
    try:
        index = load_json(index_path(tar), dict)
        if index.get("made_from") != made_from:
            return None
        with open(tar, "rb") as file:
            return index if hashlib.file_digest(file, "sha256").hexdigest() == index.get("sha256") else None
    except (DataError, OSError):
        return None


def _arrived(index: dict) -> bool:
    """Whether a picture that was missing when the shard was made is there by now: downloads take days."""
    return any(reason == MISSING and Path(picture).is_file() for picture, _, _, reason in index["refused"])


def _record(key: str, group: list[Pair], size: int | None) -> dict:
    """What TarWriter takes for one picture and its captions. Raises Fault for what cannot be used."""
    data = _file(group[0].image)
    image = decode_image(data)  # the whole of it: what is written can be read
    with open_picture(data) as header:
        name = NAMES[header.format]
    original = image.size
    if size is not None and min(original) > size:
        image = image.resize([max(size, round(side * size / min(original))) for side in original])  # bicubic
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=QUALITY)
        data, name = buffer.getvalue(), "jpg"
    told = {
        "key": key,
        "caption": group[0].caption,  # the first one again, where img2dataset has it
        "captions": [pair.caption for pair in group],
        "languages": [pair.language for pair in group],
        "image_id": group[0].image_id, "source": group[0].source,
        "width": image.width, "height": image.height,
        "original_width": original[0], "original_height": original[1],
        "sha256": hashlib.sha256(data).hexdigest(),  # of the picture as it stands here
    }  # fmt: skip
    if any(pair.box for pair in group):
        scale = image.width / original[0]
        told["boxes"] = [pair.box and [side * scale for side in pair.box] for pair in group]
    text = json.dumps(told, ensure_ascii=False).encode()
    parse_text(text, key, "", "")  # as the index will do
    return {"__key__": key, name: data, "json": text}


def _file(path: str) -> bytes:
    """The bytes of a plain file that is not too large. Raises Fault; a pipe would wait for ever."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            raise Fault("image", f"no plain file, or over {LARGEST} bytes")
        with open(path, "rb") as file:
            return file.read()
    except OSError as err:
        raise Fault("image", f"cannot be read: {type(err).__name__}") from err


def _begin(folder: Path, made_by: dict) -> None:
    """Mark the folder as unfinished, and take away what a killed run left half written."""
    folder.mkdir(parents=True, exist_ok=True)
    known = load_json(folder / MANIFEST, dict) if (folder / MANIFEST).is_file() else None
    if known is None and any(folder.glob("*.tar")):
        raise DataError(f"{folder}: holds tars that `zvl shards` did not make; use another folder")
    if known is not None and known.get("made_by") != made_by:
        other = known.get("made_by") or {}
        name = next(name for name in {**made_by, **other} if made_by.get(name) != other.get(name))
        raise DataError(
            f"{folder}: holds shards made with {name} = {other.get(name)!r}, now {made_by.get(name)!r}; use another "
            "folder, or delete this one"
        )
    for half in folder.glob(".sha*.[0-9]*"):
        half.unlink()
    write_json(folder / MANIFEST, {"format": FORMAT, "made_by": made_by})


def _neighbours(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    for _, group in itertools.groupby(pairs, key=_picture):
        yield list(group)


def _grouped(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    groups: dict[tuple, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(_picture(pair), []).append(pair)
    yield from groups.values()


def _picture(pair: Pair) -> tuple[str, str, str]:
    return pair.image, pair.image_id, pair.source


def _chunks(groups: Iterator[list[Pair]], pairs: int) -> Iterator[list[list[Pair]]]:
    """Groups in chunks of at least so many pairs: what goes into one shard."""
    chunk, count = [], 0
    for group in groups:
        chunk.append(group)
        count += len(group)
        if count >= pairs:
            yield chunk
            chunk, count = [], 0
    if chunk:
        yield chunk


def _shards(
    folder: Path, groups: Iterator[list[Pair]], size, pairs_per_shard: int, workers: int
) -> Iterator[dict]:
    """The indices of the shards in order. At most two shards a process wait in memory."""
    # spawn: a forked process inherits the locks of libraries, but not the threads that would free them
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) if workers > 1 else None
    waiting: deque[Future] = deque()
    try:
        for number, chunk in enumerate(_chunks(groups, pairs_per_shard)):
            task = make_shard, folder, number, chunk, size, number * pairs_per_shard
            if pool is None:
                yield task[0](*task[1:])
                continue
            waiting.append(pool.submit(*task))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
