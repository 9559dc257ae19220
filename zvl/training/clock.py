"""How fast a training goes, and what part of its time it waits for data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Clock:
    """Seconds of training steps, the part of them spent in waiting for batches, and the samples of these."""

    seconds: float = 0.0
    waited: float = 0.0
    samples: int = 0

    def read(self, processes: int = 1) -> dict[str, float]:
        """Samples a second over all processes and the share of time spent waiting; starts again from zero."""
        seconds = max(self.seconds, 1e-9)
        told = {
            "time/samples_per_second": processes * self.samples / seconds,
            "time/data_wait_share": self.waited / seconds,
        }
        self.seconds, self.waited, self.samples = 0.0, 0.0, 0
        return told


def rows_of(batch: Mapping | Sequence) -> int:
    """Samples in a batch, a mapping or a sequence: the rows of its first tensor, 0 where it has none."""
    values = batch.values() if isinstance(batch, Mapping) else batch
    return next((len(value) for value in values if isinstance(value, Tensor) and value.dim()), 0)
