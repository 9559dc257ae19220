"""One's own pictures with captions or conversations: which files are meant, which of their rows can be used.

Nothing heavy is imported: `zvl run` asks here whether the files are there and whether they have changed.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from zvl.data.caption_rules import spoken
from zvl.data.conversations import read_llava
from zvl.data.rows import DataError, Quarantine, readable
from zvl.data.samples import Pair, Sample
from zvl.data.webpairs import read_own_pairs


@dataclass(frozen=True)
class OwnData:
    """Files of one's own to train on; none by default.

    pairs: a csv or tsv file with the columns image, caption and perhaps language. conversations: a JSON file as
    LLaVA's. images: the folder of the pictures; "" for the folder that a file lies in. share: of the pictures of a
    batch, how many are one's own. The rest are the Moji world's: what is not trained on any more is forgotten, and a
    few hundred pictures teach no language. 1.0 is one's own alone.
    """

    pairs: str = ""
    conversations: str = ""
    images: str = ""
    share: float = 0.5

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(
                f"own_share is {self.share}: a fraction over 0, up to 1 for one's own data alone"
            )
        if self.images and not self:
            raise ValueError("own_images is a folder for own_pairs or own_conversations: give one of them")

    def __bool__(self) -> bool:
        return bool(self.pairs or self.conversations)

    def folder(self, file: str) -> Path:
        return Path(self.images) if self.images else Path(file).parent


@dataclass(frozen=True)
class OwnRows:
    """The rows that can be used, and for each file by name how many were put aside and why."""

    pairs: tuple[Pair, ...]
    dialogues: tuple[Sample, ...]
    put_aside: dict[str, dict[str, int]]


def rows(own: OwnData, faulty: Callable[[str], str]) -> OwnRows:
    """Read both files. faulty: of a picture's path, why it cannot be used, "" where it can.

    Languages are those of the column, and of the script where it says none. Raises DataError for a file that cannot be
    read, and for one without a single row that can be used, with the reasons.
    """
    pairs, dialogues, put_aside = [], [], {}
    for file, read, found in ((own.pairs, _pairs, pairs), (own.conversations, _dialogues, dialogues)):
        if file:
            quarantine = Quarantine()
            found += read(Path(file), own.folder(file), faulty, quarantine)
            put_aside[Path(file).name] = quarantine.counts()
            if not found:
                reasons = "; ".join(f"{n} x {reason}" for reason, n in quarantine.counts().items())
                raise DataError(f"{file}: no row can be used ({reasons or 'there is none'})")
    return OwnRows(tuple(pairs), tuple(dialogues), put_aside)


def pictures(own: OwnData) -> dict[str, str]:
    """SHA-256 of each picture that the rows name, by its path; "" where there is no such file."""
    named: dict[str, None] = {}

    def take(path: str) -> str:
        named[path] = None
        return ""

    rows(own, take)
    return {path: _sha256(path) for path in named}


def content(own: OwnData) -> str:
    """A hash of all that the files and their pictures hold, wherever they lie."""
    digest = hashlib.sha256(repr(own.share).encode())
    for kind in ("pairs", "conversations"):
        if file := getattr(own, kind):
            with readable(Path(file)):
                digest.update(f"\0{kind}\0".encode() + Path(file).read_bytes())
            for path, sha256 in pictures(OwnData(**{kind: file}, images=own.images)).items():
                digest.update(f"\0{os.path.relpath(path, own.folder(file))}\0{sha256}".encode())
    return digest.hexdigest()


def _pairs(file: Path, images: Path, faulty, quarantine: Quarantine) -> list[Pair]:
    return list(read_own_pairs(file, images, None, quarantine=quarantine, faulty=faulty))


def _dialogues(file: Path, images: Path, faulty, quarantine: Quarantine) -> list[Sample]:
    found = []
    for sample in read_llava(file, images, "en", "own", quarantine):
        if not sample.images:
            quarantine.add(file, sample.id, "image", "none, and what trains is how pictures are read")
        elif reasons := [reason for reason in map(faulty, sample.images) if reason]:
            quarantine.add(file, sample.id, "image", reasons[0])
        else:
            found.append(replace(sample, language=spoken(" ".join(turn.response for turn in sample.turns))))
    return found


def _sha256(path: str) -> str:
    try:
        status = os.stat(path)
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError:
        return ""


@functools.lru_cache(maxsize=1 << 20)  # a run asks several times, and photographs are large
def _digest(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
