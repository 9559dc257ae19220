"""One batch held by several processes: what they exchange, and gradients that the exchange neither loses nor scales.

Every process holds equally many rows; row i of process p is row p * rows + i of the joint batch. Gradients flow back
summed over the processes, so that after the average that DDP takes they are those of one process with the joint
batch, wherever each loss is a mean over the process's own rows. With one process, or no process group, everything
here is the identity and costs nothing.

What ITC and ITM exchange, at 8 processes of 128 pairs (N = 1,024 in all), 64 queries, ViT-g's 257 x 1,408 in bf16:
- texts' features, N x 256 fp32: 1 MB; then rows of logits, N x N fp32: 4 MB. Each process multiplies its own images'
  features, 64 a picture, with all texts; to gather the images' features would cost 67 MB.
- token numbers, N x 32: 0.3 MB. The image_embeds of drawn negatives only, one a row: 93 MB, where all of them would be
  741 MB and grow with the processes (LAVIS gathers them all, in fp32: 1.5 GB). Their keys and values are computed
  anew, 5% of the Q-Former's work: to send these instead would be 6.5 times as much, in both directions.
"""

import functools

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def processes() -> int:
    """How many processes share the batch: 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_rows(rows: int) -> slice:
    """Where this process's `rows` rows stand in the joint batch."""
    first = rows * dist.get_rank() if processes() > 1 else 0
    return slice(first, first + rows)


def all_gather(states: Tensor) -> Tensor:
    """The joint batch's states, (processes * rows, ...) from (rows, ...) in each; differentiable."""
    return _AllGather.apply(states) if processes() > 1 else states


def fetch(states: Tensor, index: Tensor) -> Tensor:
    """The rows `index` of the joint batch, whichever process holds them; only these are sent. Differentiable.

    states: (rows, ...) of this process. index: (wanted,) row numbers of the joint batch, equally many everywhere.
    With several processes the host waits once, to learn how many rows it sends to whom.
    """
    if processes() == 1:
        return states.index_select(0, index)
    rows, holder = len(states), index // len(states)
    order = holder.argsort(stable=True)
    wanted = (holder[:, None] == torch.arange(processes(), device=index.device)).sum(dim=0)
    asked = torch.empty_like(wanted)
    dist.all_to_all_single(asked, wanted)
    wanted, asked = torch.stack([wanted, asked]).tolist()
    requests = index.new_empty(sum(asked))
    dist.all_to_all_single(requests, index[order] % rows, asked, wanted)
    received = _AllToAll.apply(states.index_select(0, requests), wanted, asked)
    return received[order.argsort()]


def pad_alike(input_ids: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Texts padded to the longest of all processes; input_ids and text_mask are (rows, length).

    The processes tell each other their shapes through the host, so that the device does not wait.
    Raises ValueError, in every process, where they hold different numbers of rows.
    """
    if processes() == 1:
        return input_ids, text_mask
    shapes = torch.empty(processes(), 2, dtype=torch.long)
    dist.all_gather(list(shapes), torch.tensor(input_ids.shape), group=_host_group(dist.group.WORLD))
    rows, lengths = shapes.T.tolist()
    if len(set(rows)) > 1:
        raise ValueError(
            f"the processes hold {rows} pairs (by rank); a joint batch needs equally many in each: drop or "
            "fill the last, smaller batch"
        )
    missing = max(lengths) - input_ids.shape[1]
    return F.pad(input_ids, (0, missing)), F.pad(text_mask, (0, missing), value=False)


@functools.lru_cache(maxsize=1)
def _host_group(world) -> dist.ProcessGroup:
    """A group of all processes that talks between hosts; `world` is the group that it belongs to."""
    return dist.new_group(backend="gloo")


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states: Tensor) -> Tensor:
        ctx.rows = len(states)
        joint = states.new_empty((processes() * len(states), *states.shape[1:]))
        dist.all_gather(list(joint.split(len(states))), states.contiguous())
        return joint

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        # Every process has a gradient for every row; a row's own process needs their sum. What is gathered here with
        # a gradient is small, so all_reduce, which every backend has, is as good as reduce_scatter.
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[own_rows(ctx.rows)]


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states: Tensor, received: list[int], sent: list[int]) -> Tensor:
        ctx.received, ctx.sent = received, sent
        result = states.new_empty((sum(received), *states.shape[1:]))
        dist.all_to_all_single(result, states.contiguous(), received, sent)
        return result

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _AllToAll.apply(gradient, ctx.sent, ctx.received), None, None
