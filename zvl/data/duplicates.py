"""Duplicates among pictures, and training pictures that stand in an evaluation set.

Three ways to be the same, from strict to loose: SHA-256 of the file, perceptual hash, cosine of embeddings. Of what is
the same the first stays by a fixed order, whatever order the rows come in: the picture with more pixels, then the
first by data set, id and file name. Each that goes has one that stays beside it: there is no chain from A over B to a C
unlike A.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

HASH_SIDE = 16  # the lowest 16 x 16 frequencies: 256 bits
DISTANCE = (
    36  # bits of 256; re-encoded, scaled and brightened Moji scenes differ by 24, other scenes by over 60
)
COSINE = 0.97
Found = dict[str, tuple[str, str]]  # picture -> (rule, the picture that it is the same as)
LOOK = 4 * HASH_SIDE  # pixels a side that a picture is shrunk to
_COSINES = np.cos(np.pi * np.outer(np.arange(HASH_SIDE), np.arange(LOOK) + 0.5) / LOOK)  # DCT-II, lowest rows


def perceptual_hash(image: Image.Image) -> str:
    """pHash of 256 bits as 64 hexadecimal digits: which low frequencies of the picture lie over their median.

    Equal to `imagehash.phash(image, hash_size=16)`; that package would bring SciPy and PyWavelets for these lines.
    """
    grey = image if image.mode == "L" else image.convert("L")
    pixels = np.asarray(grey.resize((LOOK, LOOK), Image.Resampling.LANCZOS), np.float64)
    low = _COSINES @ pixels @ _COSINES.T
    return np.packbits(low > np.median(low)).tobytes().hex()


def same(keys: Sequence[str | None], others: Sequence[str | None] | None = None) -> np.ndarray:
    """Pairs (i, j), (m, 2), of a key and the same one among the others, each j with its first i.

    others: those of other rows; without them i < j are rows of `keys`. None equals nothing.
    """
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    met = [
        (first.get(key, -1), j) for j, key in enumerate(keys if others is None else others) if key is not None
    ]
    return np.array([(i, j) for i, j in met if i >= 0 and (others is not None or i < j)], np.int64).reshape(
        -1, 2
    )


def near_hashes(
    hashes: Sequence[str | None],
    others: Sequence[str | None] | None = None,
    distance: int = DISTANCE,
    block: int = 1024,
) -> np.ndarray:
    """Pairs (i, j), (m, 2), of a hash and one among the others that differ in at most `distance` bits.

    others: those of other rows; without them i < j are rows of `hashes`. None is near to nothing. Compares all with
    all: time grows with the product of their numbers.
    """
    rows, left = _bits(hashes)
    columns, right = (rows, left) if others is None else _bits(others)
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(rows), block):
        first = 0 if others is not None else start
        apart = np.zeros((len(rows[start : start + block]), len(columns) - first), np.uint16)
        for a, b in zip(left, right, strict=True):
            apart += np.bitwise_count(a[start : start + block, None] ^ b[None, first:])
        i, j = np.nonzero(apart <= distance)
        pairs = np.stack([i + start, j + first], axis=1)
        pairs = pairs if others is not None else pairs[pairs[:, 0] < pairs[:, 1]]
        found.append(np.stack([rows[pairs[:, 0]], columns[pairs[:, 1]]], axis=1))
    return np.concatenate(found)


def _bits(hashes: Sequence[str | None]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Which rows have a hash, and these hashes as four columns of 64 bits."""
    rows = np.flatnonzero([value is not None for value in hashes])
    words = np.frombuffer(bytes.fromhex("".join(hashes[i] for i in rows)), np.uint64).reshape(len(rows), 4)
    return rows, [np.ascontiguousarray(column) for column in words.T]


def near_embeddings(
    embeddings: np.ndarray, others: np.ndarray | None = None, cosine: float = COSINE, block: int = 1024
) -> np.ndarray:
    """Pairs (i, j), (m, 2), of rows of (n, width) and of the others whose cosine is at least `cosine`; all with all.

    others: (k, width); without them i < j are rows of `embeddings`. A row that is zero or not finite is near to
    nothing.
    """
    left = _unit(embeddings)
    right = left if others is None else _unit(others)
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(left), block):
        first = 0 if others is not None else start
        near = np.argwhere(left[start : start + block] @ right[first:].T >= cosine)
        pairs = near + np.array([start, first])
        found.append(pairs if others is not None else pairs[pairs[:, 0] < pairs[:, 1]])
    return np.concatenate(found)


def _unit(embeddings: np.ndarray) -> np.ndarray:
    vectors = np.asarray(embeddings, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    known = np.isfinite(length) & (length > 0)
    return np.where(known, vectors, 0) / np.where(known, length, 1)


def survivors(count: int, pairs: np.ndarray) -> np.ndarray:
    """For each of `count` rows, first to last in the order of preference, the row that stays in its stead; (count,).

    A row that stays has its own number. pairs: (m, 2), which are the same.
    """
    stays = np.arange(count)
    later = np.sort(np.asarray(pairs).reshape(-1, 2), axis=1)
    later = later[np.argsort(later[:, 0], kind="stable")]
    for first, second in later.tolist():
        if stays[first] == first and stays[second] == second:
            stays[second] = first
    return stays


@dataclass(frozen=True)
class Pictures:
    """Pictures as they are compared, one entry each: file name, SHA-256, perceptual hash, (n, width) or None."""

    names: tuple[str, ...]
    sha256: tuple[str | None, ...]
    phash: tuple[str | None, ...]
    embeddings: np.ndarray | None = None

    def without(self, names: Container[str]) -> Pictures:
        kept = [i for i, name in enumerate(self.names) if name not in names]
        columns = (tuple(column[i] for i in kept) for column in (self.names, self.sha256, self.phash))
        return Pictures(*columns, None if self.embeddings is None else self.embeddings[kept])


def pictures_of(batch: Mapping[str, list], language: str | None = None) -> Pictures:
    """The distinct pictures of the rows without faults, in the order in which they are preferred.

    batch: columns image_id, image, source, language, width, height, sha256, phash, faults, and `embedding` where there
    is one for every picture.
    language: of these rows only.
    """
    rows: dict[str, int] = {}
    looked_at = batch["sha256"]  # None where only captions were judged
    for row, (name, faults) in enumerate(zip(batch["image"], batch["faults"], strict=True)):
        if not faults and looked_at[row] is not None and language in (None, batch["language"][row]):
            rows.setdefault(name, row)
    order = sorted(rows.values(), key=lambda row: _preference(batch, row))
    vectors = [batch["embedding"][row] for row in order] if "embedding" in batch else [None]
    return Pictures(
        tuple(batch["image"][row] for row in order),
        tuple(batch["sha256"][row] for row in order),
        tuple(batch["phash"][row] for row in order),
        None if any(vector is None for vector in vectors) else np.array(vectors, np.float32),
    )


def _preference(batch: Mapping[str, list], row: int) -> tuple:
    """Nothing of it depends on the order of the rows, or on where the pictures lie."""
    pixels, name = batch["width"][row] * batch["height"][row], os.path.basename(batch["image"][row])
    return -pixels, batch["source"][row], batch["image_id"][row], name


def find(pictures: Pictures, distance: int = DISTANCE, cosine: float | None = COSINE) -> Found:
    """Pictures that go: name -> (rule, name of the one that stays). Rules: same_file, near_picture, near_embedding.

    pictures: in the order in which they are preferred. Each rule looks at what the stricter ones left. cosine: None
    leaves embeddings out.
    """
    gone: Found = {}
    for rule, alike in _ways(distance, cosine).items():
        left = pictures.without(gone)
        for i, first in enumerate(survivors(len(left.names), alike(left, None))):
            if first != i:
                gone[left.names[i]] = (rule, left.names[first])
    return gone


def contaminated(
    pictures: Pictures, evaluation: Pictures, distance: int = DISTANCE, cosine: float | None = COSINE
) -> Found:
    """Training pictures that stand in an evaluation set: name -> (rule, name of the evaluation picture)."""
    gone: Found = {}
    for rule, alike in _ways(distance, cosine).items():
        left = pictures.without(gone)
        for test, train in alike(evaluation, left).tolist():
            gone.setdefault(left.names[train], (rule, evaluation.names[test]))
    return gone


def mark_duplicates(
    batch: Mapping[str, list],
    evaluation: Pictures | None = None,
    distance: int = DISTANCE,
    cosine: float | None = COSINE,
) -> dict[str, list]:
    """The rows with faults for what stands in an evaluation set, for duplicates, and for a pair given twice.

    batch: all rows at once, with the columns of `pictures_of`, and caption, reasons. A picture goes only in
    favour of one with captions in the same language: COCO and COCO-CN share pictures, and neither replaces the other.
    """
    batch = dict(batch)
    gone: dict[str, Found] = {}
    for language in sorted(
        {name for name, faults in zip(batch["language"], batch["faults"], strict=True) if not faults}
    ):
        pictures = pictures_of(batch, language)
        seen = {} if evaluation is None else contaminated(pictures, evaluation, distance, cosine)
        found = find(pictures.without(seen), distance, cosine)
        gone[language] = {name: (f"evaluation: {rule}", test) for name, (rule, test) in seen.items()} | found
    faults, reasons, pairs = [], [], set()
    boxes = batch.get("box") or [None] * len(batch["image"])
    rows = zip(batch["image"], batch["language"], batch["caption"], boxes, strict=True)
    for (name, language, caption, box), known, why in zip(
        rows, batch["faults"], batch["reasons"], strict=True
    ):
        fault = None if known else gone[language].get(name)
        if fault is None and not known:
            told = repr((name, language, caption.casefold(), None if box is None else tuple(box)))
            pair = hashlib.blake2b(told.encode("utf8", "surrogatepass"), digest_size=16).digest()
            fault = ("same_pair", caption) if pair in pairs else None
            pairs.add(pair)
        faults.append([*known, fault[0]] if fault else known)
        reasons.append([*why, f"as {os.path.basename(fault[1])}"] if fault else why)
    return batch | {"faults": faults, "reasons": reasons}


def _ways(
    distance: int, cosine: float | None
) -> dict[str, Callable[[Pictures, Pictures | None], np.ndarray]]:
    """Rule -> which pictures of the second are the same as one of the first, or within the first where it is None."""

    def embeddings(pictures: Pictures, others: Pictures | None) -> np.ndarray:
        given = [pictures.embeddings, pictures.embeddings if others is None else others.embeddings]
        if cosine is None or any(vectors is None for vectors in given):
            return np.empty((0, 2), np.int64)
        return near_embeddings(given[0], None if others is None else given[1], cosine)

    return {
        "same_file": lambda pictures, others: same(pictures.sha256, others and others.sha256),
        "near_picture": lambda pictures, others: near_hashes(
            pictures.phash, others and others.phash, distance
        ),
        "near_embedding": embeddings,
    }
