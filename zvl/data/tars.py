"""Tars of image-text pairs (WebDataset's layout) with an index, so that any record is one read away.

Beside `shard-000000.tar` lies `shard-000000.index.json`: where each record's picture and text stand in the tar, how
many captions it has by language, what was refused, and the tar's SHA-256. A tar is whole where its index is, because
the index is written last. The index is made from the tar alone, so tars of other makers (img2dataset) get one too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zvl.data.rows import DataError, Fault, is_text, load_json, readable
from zvl.data.samples import LANGUAGES

FORMAT = 1
BLOCK = 512  # bytes: whatever stands in a tar begins at a multiple of it
EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
MANIFEST = "shards.json"
LONGEST_TEXT = 1 << 20  # bytes of one record's json or txt
OPEN = 256  # files that one process keeps open
_COLUMNS = {  # of an index, and how they are held in memory; places in blocks
    "image_at": np.uint32, "image_bytes": np.uint32, "text_at": np.uint32, "text_bytes": np.uint32,
    **dict.fromkeys(LANGUAGES, np.uint16),
}  # fmt: skip
_KEY = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)")  # WebDataset's rule: the extension begins at the first dot


@dataclass(frozen=True, slots=True)
class Record:
    """One picture, as the bytes of its file, with its captions; languages: one for each caption."""

    key: str
    image: bytes
    captions: tuple[str, ...]
    languages: tuple[str, ...]
    image_id: str
    source: str


# --- the index of one tar ---


def index_path(tar: Path) -> Path:
    return Path(tar).with_suffix(".index.json")


def index_tar(
    tar: Path,
    language: str = "en",
    source: str = "",
    made_from: str | None = None,
    refused: Sequence[Sequence[str]] = (),
) -> dict:
    """Make the index of a tar, write it beside the tar, whole or not at all, and return it.

    language, source: of records that do not say it. made_from: the hash of what our own writer made it from, None for
    tars of others. refused: (picture, id, field, reason) of what the writer put aside; records of the tar that have no
    picture or no caption are added. Raises DataError for a file that is no plain tar or is cut off.
    """
    tar = Path(tar)
    columns: dict[str, list[int]] = {name: [] for name in _COLUMNS}
    refused = [list(entry) for entry in refused]
    with readable(tar), open(tar, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        for key, members in _records(tar, file):
            try:
                image, text, languages = _usable(key, members, file, size, language, source)
            except Fault as fault:
                refused.append([tar.name, key, fault.name, fault.reason])
                continue
            counts = [languages.count(name) for name in LANGUAGES]
            for name, value in zip(_COLUMNS, (*image, *text, *counts), strict=True):
                columns[name].append(value)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    index = {
        "format": FORMAT, "tar": tar.name, "bytes": size, "sha256": digest, "made_from": made_from,
        "language": language, "source": source, "records": len(columns["image_at"]),
        "pairs": {name: sum(columns[name]) for name in LANGUAGES}, "refused": refused, "columns": columns,
    }  # fmt: skip
    write_json(index_path(tar), index)
    return index


def index_folder(folder: Path, language: str = "en", source: str = "") -> list[dict]:
    """Index the tars of a folder that have no index yet, in order; see `index_tar`. Returns the new indices."""
    tars = sorted(Path(folder).glob("*.tar"))
    if not tars or (Path(folder) / MANIFEST).is_file():
        raise DataError(
            f"{folder}: {'made by `zvl shards`, run that again' if tars else 'no tars (*.tar) there'}"
        )
    if language not in LANGUAGES:
        raise DataError(f"language: {language!r} is not one of {', '.join(LANGUAGES)}")
    return [index_tar(tar, language, source) for tar in tars if not index_path(tar).is_file()]


def load_index(tar: Path) -> dict:
    """The index of a tar. Raises DataError where there is none, it is none of ours, or the tar's size has changed."""
    path = index_path(tar)
    if not path.is_file():
        raise DataError(
            f"{tar}: no index {path.name}: the tar is half written (run `zvl shards` again), or was made by another "
            "program (run `zvl index` on its folder)"
        )
    index = load_json(path, dict)
    columns = index.get("columns")
    if index.get("format") != FORMAT or not isinstance(columns, dict) or set(columns) != set(_COLUMNS):
        raise DataError(
            f"{path}: not an index of format {FORMAT}; delete it and run `zvl index` on its folder"
        )
    with readable(tar):
        size = os.stat(tar).st_size
    if size != index["bytes"]:
        raise DataError(f"{tar}: {size} bytes, its index says {index['bytes']}; make it or its index anew")
    return index


def write_json(path: Path, value: object) -> None:
    """Whole or not at all, and on the disk before this returns."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    with open(half, "w", encoding="utf8") as file:
        json.dump(value, file, ensure_ascii=False, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, path)


def _records(path: Path, file) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """(key, members by extension) of each record: neighbours in the tar whose names share a key."""

    def members():
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    tar.members = []  # tarfile would keep them all
                    if member.isreg() and (found := _KEY.fullmatch(member.name)):
                        yield found[1], found[2].lower(), member
                end = tar.offset
        except tarfile.TarError as err:
            raise DataError(f"{path}: no tar, compressed, or cut off ({err})") from err
        # tarfile takes a damaged header, or no more bytes where one should stand, for the end.
        file.seek(end)
        rest = file.read(BLOCK)
        while len(rest) >= BLOCK and not any(rest):
            if not (rest := file.read(1 << 20)):
                return
        raise DataError(f"{path}: cut off, damaged or joined of several, at byte {end}; get it again")

    for key, group in itertools.groupby(members(), key=lambda found: found[0]):
        yield key, {extension: member for _, extension, member in group}


def _usable(key, members, file, size, language, source) -> tuple[tuple, tuple, tuple]:
    """((offset, bytes) of the picture, the same of the text, languages of the captions). Raises Fault."""
    picture = next((members[e] for e in EXTENSIONS if e in members), None)
    if picture is None:
        raise Fault("image", "none in the record")
    reason = Fault("caption", "neither json nor txt in the record")
    for extension in ("json", "txt"):
        if extension in members:
            text, here = members[extension], file.tell()
            file.seek(text.offset_data)
            raw = file.read(min(text.size, LONGEST_TEXT + 1))
            file.seek(here)
            try:
                if extension == "json" and not isinstance(_json(raw), dict):
                    raise Fault("text", "json that is no object")
                languages = parse_text(raw, key, language, source)[1]
                break
            except Fault as fault:
                if fault.name in (
                    "language",
                    "languages",
                ):  # its txt holds the same caption, and not its language
                    raise
                reason = fault
    else:
        raise reason
    for member in (picture, text):
        if member.sparse is not None or member.size >= 1 << 32 or member.offset_data + member.size > size:
            raise Fault("tar", "a sparse, huge or cut off member")
    if max(languages.count(name) for name in LANGUAGES) >= 1 << 16:
        raise Fault("caption", "more than 65535 in one record")
    return (picture.offset_data, picture.size), (text.offset_data, text.size), languages


def _json(raw: bytes) -> object:
    """What the bytes hold as JSON, None where they are none."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def parse_text(raw: bytes, key: str, language: str, source: str) -> tuple[tuple, tuple, str, str, str | None]:
    """(captions, their languages, image id, source, SHA-256 of the picture) of a record's json or txt. Raises Fault."""
    if len(raw) > LONGEST_TEXT:
        raise Fault("text", f"longer than {LONGEST_TEXT} bytes")
    try:
        text = raw.decode("utf8")
    except UnicodeDecodeError:
        raise Fault("text", "not UTF-8") from None
    row = _json(raw) if text.lstrip().startswith("{") else None
    if not isinstance(row, dict):
        row = {"caption": text}  # a caption may begin with a brace
    captions = row.get("captions", [row.get("caption")])
    if not isinstance(captions, list) or not captions or not all(map(is_text, captions)):
        raise Fault("caption", "empty or not text")
    said = row.get("language", row.get("LANGUAGE", language))  # LAION's column, as img2dataset passes it on
    languages = row.get("languages", [said] * len(captions))
    if not isinstance(languages, list) or len(languages) != len(captions):
        raise Fault("languages", "not one for each caption")
    if not all(name in LANGUAGES for name in languages):
        raise Fault("language", f"not one of {', '.join(LANGUAGES)}")
    captions = tuple(caption.strip() for caption in captions)
    names = str(row.get("image_id", key)), str(row.get("source", source))
    return captions, tuple(languages), *names, row.get("sha256")


# --- random access ---


class Shards:
    """Records of several tars as one list: `len(shards)`, `shards[i]`, in any order and from any process.

    where: a folder of tars, or tars in order. Each needs its index. Held in memory: 20 bytes a record (600 MB for 30
    million), which forked workers share; pictures are read from the tar at their offset. Raises DataError for a folder
    that is unfinished or has no tars, and for a tar without an index or of another size than its index says.
    """

    def __init__(self, where: str | Path | Sequence[str | Path]):
        if isinstance(where, str | Path):
            folder = Path(where)
            self.tars = sorted(folder.glob("*.tar"))
            if not self.tars:
                raise DataError(f"{folder}: no folder with tars (*.tar)")
            if (folder / MANIFEST).is_file() and not load_json(folder / MANIFEST, dict).get("complete"):
                raise DataError(f"{folder}: not all shards are made yet; run the same `zvl shards` again")
        else:
            self.tars = [Path(tar) for tar in where]
        self._defaults = []
        ends: dict[str, list[int]] = {name: [0] for name in ("records", *LANGUAGES)}
        parts: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
        for tar in self.tars:
            index = load_index(tar)
            self._defaults.append((index["language"], index["source"], index["made_from"] is not None))
            for name, count in (("records", index["records"]), *index["pairs"].items()):
                ends[name].append(ends[name][-1] + count)
            for name, kind in _COLUMNS.items():  # now, because Python's numbers take ten times as much
                values = np.asarray(index["columns"][name], np.int64)
                parts[name].append((values // BLOCK if name.endswith("_at") else values).astype(kind))
        none = {name: np.zeros(0, kind) for name, kind in _COLUMNS.items()}
        columns = {name: np.concatenate([none[name], *found]) for name, found in parts.items()}
        self._at, self._bytes = (
            [columns[f"{part}_{what}"] for part in ("image", "text")] for what in ("at", "bytes")
        )
        self._captions = {name: columns[name] for name in LANGUAGES}
        self._first = np.array(ends["records"])  # of each tar, among all records
        # The same among all pairs of a language.
        self._pairs = {name: np.array(ends[name]) for name in LANGUAGES}
        self._open: dict[int, int] = {}

    def __len__(self) -> int:
        return int(self._first[-1])

    def pairs(self, language: str) -> int:
        """How many captions in a language there are: so many (picture, caption) pairs."""
        return int(self._pairs[language][-1])

    def locate(self, language: str, pair: int) -> tuple[int, int]:
        """The record of a pair, and which of its captions in that language. Pairs count from 0 in the tars' order."""
        if not 0 <= pair < self.pairs(language):
            raise IndexError(f"pair {pair} of {self.pairs(language)} in {language}")
        tar = int(np.searchsorted(self._pairs[language], pair, "right")) - 1
        rest = pair - int(self._pairs[language][tar])
        ends = np.cumsum(self._captions[language][self._first[tar] : self._first[tar + 1]], dtype=np.int64)
        row = int(np.searchsorted(ends, rest, "right"))
        return int(self._first[tar]) + row, rest - (int(ends[row - 1]) if row else 0)

    def name(self, record: int) -> tuple[Path, int]:
        """The tar of a record and its number there."""
        tar = int(np.searchsorted(self._first, record, "right")) - 1
        return self.tars[tar], record - int(self._first[tar])

    def __getitem__(self, record: int) -> Record:
        """Raises Fault for a record that is not what the index says, or not what our writer wrote, by its SHA-256."""
        if not 0 <= record < len(self):
            raise IndexError(f"record {record} of {len(self)}")
        tar = int(np.searchsorted(self._first, record, "right")) - 1
        starts = [int(at[record]) * BLOCK for at in self._at]
        ends = [start + int(size[record]) for start, size in zip(starts, self._bytes, strict=True)]
        first = min(starts) - BLOCK  # with the header, which has the key
        try:
            data = os.pread(self._descriptor(tar), max(ends) - first, first)
        except OSError as err:
            raise Fault("tar", f"cannot be read: {err.strerror}") from err
        if len(data) != max(ends) - first:
            raise Fault("tar", "shorter than its index says")
        name = data[:100].split(b"\0")[0].decode("utf8", "replace")
        key = found[1] if (found := _KEY.fullmatch(name)) else name
        image, text = (data[start - first : end - first] for start, end in zip(starts, ends, strict=True))
        language, source, ours = self._defaults[tar]
        captions, languages, image_id, source, digest = parse_text(text, key, language, source)
        if ours and hashlib.sha256(image).hexdigest() != digest:
            raise Fault("image", "differs from its SHA-256")
        return Record(key, image, captions, languages, image_id, source)

    def _descriptor(self, tar: int) -> int:
        """Opened once in each process; `pread` has no position that forked processes could disturb."""
        if tar not in self._open:
            if len(self._open) >= OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[tar] = os.open(self.tars[tar], os.O_RDONLY)
        return self._open[tar]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": {}}  # another process opens its own

    def __del__(self):
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)
