"""Which pair is the n-th of a training, by arithmetic alone: weights over languages and data sets, epochs, no state.

The n-th row of a training first finds its cell, a language of a data set, and then is that cell's k-th row. Of the t
rows that reach a cell's turn, floor(t * share + offset) are its own and the others go on to the next cell. That is a
pure function of t that grows by 0 or 1, so counts and members of any stretch of rows follow without walking there, and
a share is met to a few rows at any time, not just on average. Within its cell, row k is pair permutation(k mod n) of
epoch k div n: each pair once an epoch. The permutation is a keyed Feistel network, which needs no memory, where 30
million shuffled numbers would need 240 MB a cell and epoch. Resuming is thus arithmetic on (seed, step).
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from zvl.data.samples import LANGUAGES
from zvl.data.tars import Shards

UNIT = 1 << 30  # shares are fractions of it: whole numbers are the same on every machine
ROUNDS = 8


@dataclass(frozen=True)
class Cell:
    """The pairs of one language in one data set, and the share of all rows that it gets."""

    name: str
    language: str
    pairs: int
    share: float


@dataclass(frozen=True)
class Mixture:
    """Data sets with their weights, mixed.

    sets: name -> (shards, weight). languages: their weights, {"en": 1, "zh": 1} for half and half. They are met
    exactly; within a language each set counts with the part of its weight that its pairs in this language are of all
    its pairs, so that ten Chinese captions of a large English set do not fill half of the Chinese rows. None: the sets
    are met exactly, and each gives its languages as it has them. The order of rows depends on names, weights, numbers
    of pairs and seed, on nothing else.

    Raises ValueError for a weight that is not positive, an unknown language, one that no set has, a set that has none
    of the languages, and no sets.
    """

    sets: Mapping[str, tuple[Shards, float]]
    languages: Mapping[str, float] | None = None
    seed: int = 0

    def __post_init__(self):
        if not self.sets:
            raise ValueError("sets: a mixture needs at least one data set")
        weights = {f"sets: {name!r}": weight for name, (_, weight) in self.sets.items()}
        weights |= {f"languages: {name!r}": weight for name, weight in (self.languages or {}).items()}
        for name, weight in weights.items():
            if not 0 < weight < float("inf"):
                raise ValueError(
                    f"{name} has weight {weight}; a weight is above 0 (leave out what shall not occur)"
                )
        for language in self.languages or ():
            if language not in LANGUAGES:
                raise ValueError(f"languages: {language!r} is not one of {', '.join(LANGUAGES)}")
            if not any(shards.pairs(language) for shards, _ in self.sets.values()):
                raise ValueError(
                    f"languages: no data set has a caption in {language!r}; sets are {', '.join(self.sets)}"
                )
        if idle := [name for name in self.sets if not any(cell.name == name for cell in self.cells)]:
            raise ValueError(
                f"sets: {idle[0]!r} has no captions in {' or '.join(self.languages or LANGUAGES)}"
            )

    @functools.cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All (data set, language) that get rows, with their shares, which sum to 1."""
        counts = {
            (name, language): shards.pairs(language)
            for name, (shards, _) in self.sets.items()
            for language in self.languages or LANGUAGES
            if shards.pairs(language)
        }
        if self.languages is None:
            totals = {name: sum(n for (other, _), n in counts.items() if other == name) for name in self.sets}
            raw = {cell: self.sets[cell[0]][1] * n / totals[cell[0]] for cell, n in counts.items()}
        else:
            of_set = Counter()
            for (name, _), number in counts.items():
                of_set[name] += number
            heft = {cell: self.sets[cell[0]][1] * number / of_set[cell[0]] for cell, number in counts.items()}
            sums = Counter()
            for (_, language), weight in heft.items():
                sums[language] += weight
            raw = {cell: self.languages[cell[1]] * weight / sums[cell[1]] for cell, weight in heft.items()}
        whole = sum(raw.values())
        return tuple(Cell(*cell, counts[cell], weight / whole) for cell, weight in raw.items())

    def rows(self, first: int, count: int) -> list[tuple[str, str, int]]:
        """(data set, language, pair) of rows first ... first + count - 1 of the training; a pure function."""
        owned = self._owned(np.arange(first, first + count + 1, dtype=np.int64))
        which = np.diff(owned).argmax(0)  # each row is one cell's
        found: list = [None] * count
        for number, cell in enumerate(self.cells):
            places = np.flatnonzero(which == number)
            turns = owned[number, places]
            for epoch in np.unique(turns // cell.pairs):
                now = turns // cell.pairs == epoch
                key = f"{self.seed} {cell.name} {cell.language} {epoch}"
                for place, pair in zip(
                    places[now], permuted(turns[now] % cell.pairs, cell.pairs, key), strict=True
                ):
                    found[place] = (cell.name, cell.language, int(pair))
        return found

    def indices(self, step: int, micro: int, batch_size: int, micros: int = 1) -> list[tuple[str, str, int]]:
        """The rows of one micro-batch. micros: how many a step has, over all processes together.

        The micro-batches of a step are parts of the same rows, whoever takes them: a step's batch of
        micros * batch_size rows does not depend on how it is divided.
        """
        if not (0 <= micro < micros and step >= 0):
            raise ValueError(f"micro-batch {micro} of step {step}; a step has {micros}, counted from 0")
        return self.rows((step * micros + micro) * batch_size, batch_size)

    def epochs(self, rows: int) -> dict[tuple[str, str], float]:
        """How often each cell has been read when so many rows have been."""
        owned = self._owned(np.array([rows], np.int64))[:, 0]
        return {(c.name, c.language): int(n) / c.pairs for c, n in zip(self.cells, owned, strict=True)}

    def _owned(self, t: np.ndarray) -> np.ndarray:
        """How many of the first t rows are each cell's: (cells, len(t))."""
        owned, rest, left = [], t, 1.0
        for cell in self.cells[:-1]:
            share = round(UNIT * min(1.0, cell.share / left))
            offset = _number(f"{self.seed} {cell.name} {cell.language}") % UNIT
            owned.append((rest * share + offset) // UNIT)
            rest, left = rest - owned[-1], left - cell.share
        return np.stack([*owned, rest])


def permuted(positions: np.ndarray, n: int, key: str) -> np.ndarray:
    """Where a keyed permutation of 0 ... n - 1 takes these positions; no memory but theirs.

    A Feistel network permutes the numbers below 4 ** half, the first such power that is at least n; what leaves the
    range goes through it again until it is back (fewer than four times on average).
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    keys = [np.uint64(_number(f"{key} {number}")) for number in range(ROUNDS)]
    low, shift = np.uint64((1 << half) - 1), np.uint64(half)

    def through(values: np.ndarray) -> np.ndarray:
        left, right = values >> shift, values & low
        for one in keys:
            left, right = right, left ^ (_mixed(right ^ one) & low)
        return left << shift | right

    found = through(positions.astype(np.uint64))
    while (outside := np.flatnonzero(found >= n)).size:
        found[outside] = through(found[outside])
    return found.astype(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: every bit of the input changes half of the output's."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
