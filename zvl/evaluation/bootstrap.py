"""95% intervals by resampling: how much of a figure is the luck of the test set."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it, all three in the unit of the values (here fractions)."""

    mean: float
    low: float
    high: float

    def above(self, other: Interval) -> bool:
        """True where this interval lies wholly over the other: better, and apart."""
        return self.low > other.high

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def macro_average(values: Sequence[float], groups: Sequence[Hashable]) -> float:
    """Mean over groups of the mean in each group, so that a frequent group weighs no more than a rare one."""
    values, groups, _ = _checked(values, groups, None)
    return float(np.mean([values[groups == g].mean() for g in range(groups.max() + 1)]))


def interval(
    values: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    n: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of a mean, or of the macro-average over groups.

    values: one number a test row, such as 1.0 for a right answer. groups: one name a row (the question's
    type); the estimate is then the mean of the group means, and rows are drawn within their group.
    clusters: one name a row (the scene); whole clusters are drawn, because questions about one picture fail
    together and rows drawn singly would give an interval that is too narrow. The same seed gives the same
    interval. Raises ValueError for no rows, values that are not finite, unequal lengths, or n or confidence
    out of range. Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and 13.
    """
    if n < 1 or not 0 < confidence < 1:
        raise ValueError(f"interval: n={n} must be at least 1 and confidence={confidence} between 0 and 1")
    values, groups, clusters = _checked(values, groups, clusters)
    rng = np.random.default_rng(seed)
    if clusters is None:
        estimates = np.zeros(n)
        members = [values[groups == g] for g in range(groups.max() + 1)]
        for member in members:
            drawn = rng.integers(0, len(member), (n, len(member)))
            estimates += member[drawn].mean(axis=1) / len(members)
    else:
        # Sums and counts by (cluster, group) turn a resample into weights on clusters: two matrix products.
        sums = np.zeros((clusters.max() + 1, groups.max() + 1))
        counts = np.zeros_like(sums)
        np.add.at(sums, (clusters, groups), values)
        np.add.at(counts, (clusters, groups), 1.0)
        weights = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=n)  # (n, clusters)
        drawn = weights @ counts  # (n, groups)
        means = np.divide(weights @ sums, drawn, out=np.full_like(drawn, np.nan), where=drawn > 0)
        estimates = np.nanmean(means, axis=1)  # a group that a resample misses has no mean to give
    low, high = np.quantile(estimates, [(1 - confidence) / 2, (1 + confidence) / 2])
    mean = float(np.mean([values[groups == g].mean() for g in range(groups.max() + 1)]))
    return Interval(mean, float(low), float(high))


def _checked(values, groups, clusters) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """values as floats; groups and clusters as numbers 0..k-1."""
    values = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(values):
        raise ValueError("interval: no values; at least one test row is needed")
    if not np.isfinite(values).all():
        raise ValueError(f"interval: value {int(np.argmin(np.isfinite(values)))} is not finite")
    coded = []
    for name, labels in (("groups", groups), ("clusters", clusters)):
        if labels is None:
            coded.append(None)
            continue
        if len(labels) != len(values):
            raise ValueError(
                f"interval: {len(values)} values but {len(labels)} {name}; one a value is needed"
            )
        numbers: dict[Hashable, int] = {}
        coded.append(np.array([numbers.setdefault(label, len(numbers)) for label in labels]))
    groups = np.zeros(len(values), dtype=int) if coded[0] is None else coded[0]
    return values, groups, coded[1]
