"""Do the queries still differ? The sign of a collapse, cheap enough to be measured in every step."""

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def query_similarity(queries: Tensor) -> dict[str, Tensor]:
    """Mean cosine between different queries: near 1 they have collapsed into one, or say the same of any picture.

    queries: (batch, queries, width), the queries' last states. Returns scalars on the same device, without a host
    sync: query_similarity, between the queries of one picture; image_similarity, between one query's states for
    two rows of the batch.
    """
    unit = F.normalize(queries.float(), dim=-1)
    return {"query_similarity": _between(unit), "image_similarity": _between(unit.transpose(0, 1))}


def _between(unit: Tensor) -> Tensor:
    """Mean cosine over pairs of different vectors in each group: unit (groups, vectors, width) -> scalar."""
    number = unit.shape[1]
    # The square of a sum holds every pair twice and every vector with itself once.
    return (unit.sum(dim=1).square().sum(dim=-1) - number).mean() / max(1, number * (number - 1))
