"""Where a LLaMA that learns to read soft slots should look: a part of the loss, thrown away with the training.

Whether a thing is big, or left of another, is told in the slots that show it. Answering takes two looks: from the word
in the question to these slots, and from the answer to the word. Left alone, a tiny model had found neither after
6,000 steps of mixed questions; told where to look it finds both within a hundred. Describing takes two as well: at what
has been named, and at what is named next; left alone, it named the same things again. Large models bring them along.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from zvl.training.aligned import BOX_EDGES, rotation

GUIDE_WEIGHT = 0.3
ANSWER, DESCRIPTION = 1, 2  # what a label belongs to, in `reading.collate_text`
GUIDED = 3  # layers
HEADS = 2  # guided heads of each layer; the second layer's look at the first and the last thing that a question names


@contextmanager
def looks(model) -> Iterator[list[Tensor]]:
    """Collects the first layers' attention (batch, heads, length, length) to what is run within; eager only."""
    found: list[Tensor] = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda _, __, output: found.append(output[1]))
        for layer in model.model.layers[:GUIDED]
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def guidance(matching: Tensor, asking: Tensor, naming: Tensor, batch: dict[str, Tensor]) -> Tensor | None:
    """How far guided heads look past what they should look at, as a mean negative logarithm for each of the looks;
    None where nothing in slots is spoken of.

    matching, asking, naming: attention of the first three layers, (batch, heads, length, length). The first, at a word
    that names one thing alone, should look at the slots that show it, the purer the better. The second, at the states
    that say an answer, should look at the words of the first and of the last thing named in their question; one head of
    it, at a state that begins a name in a description, at all that has been named there before. There the third should
    look at the slots that show what is named next.
    batch: of `reading.collate_text`.
    """
    soft, start = batch["soft"], int(batch["start"])
    mixing = batch["mixing"][soft].transpose(1, 2)  # (rows, facts, slots)
    end = start + mixing.shape[2]
    words, turn, kind = (batch[name][soft][:, end:] for name in ("input_ids", "turn", "answer"))
    names = (words[:, :, None, None] == batch["called"][soft][:, None]).any(-1)  # (rows, length, facts)
    names = names & (names.sum(-1, keepdim=True) == 1)
    named = names.any(-1)
    if not bool(named.any()):
        return None
    purity = mixing / mixing.amax(-1, keepdim=True).clamp(min=1e-6)

    def at_slots(attention: Tensor, facts: Tensor) -> Tensor:
        """How far they miss the slots of what `facts` (rows, length, facts) say, where they say any."""
        states = facts.any(-1)
        wanted = torch.einsum("rlf,rfs->rls", facts.to(purity), purity)[states]  # (states, slots)
        seen = attention[soft][:, :HEADS, end:, start:end].transpose(1, 2)[states]  # (states, heads, slots)
        return _missed(seen, wanted[:, None])

    def among_words(attention: Tensor, heads: int, states: Tensor) -> Tensor:
        return attention[soft][:, :heads, end:, end:].transpose(1, 2)[states]  # (states, heads, length)

    loss = at_slots(matching, names)
    same = turn[:, :, None] == turn[:, None]  # (rows, length, length)
    says = torch.zeros_like(named)  # the state before a token is the one that says it
    says[:, :-1] = (kind[:, 1:] == ANSWER) & (turn[:, 1:] == turn[:, :-1])
    asked = same[..., None] & (names & (kind == 0)[..., None])[:, None]  # (rows, length, length, facts)
    says &= asked.any((2, 3))
    if bool(says.any()):
        asked = asked[says].to(purity)  # (states, length, facts)
        order = torch.arange(1.0, asked.shape[1] + 1, device=asked.device)
        there = asked.amax(2)
        ends = [(there * weight).argmax(1) for weight in (order.flip(0), order)]
        wanted = [(asked * asked[torch.arange(len(asked)), at][:, None]).amax(2) for at in ends]
        loss = loss + _missed(among_words(asking, HEADS, says), torch.stack(wanted, 1))
    whose = F.one_hot(batch["about"][soft][:, end + 1 :], names.shape[2] + 1)[..., 1:].bool()
    if bool(whose.any()):
        loss = loss + at_slots(naming, F.pad(whose, (0, 0, 0, 1)))
    told = names & (kind == DESCRIPTION)[..., None]
    begins = torch.zeros_like(told)
    begins[:, :-1] = told[:, 1:] & ~told[:, :-1]  # states that say the first token of a name
    if bool(begins.any()):
        loss = loss + at_slots(naming, begins)
        before = (same & told.any(-1)[:, None]).tril()  # what was named up to here
        states = begins.any(-1) & before.any(-1)
        if bool(states.any()):
            loss = loss + _missed(among_words(asking, 1, states), before[states].to(purity)[:, None])
    return loss


def _missed(seen: Tensor, wanted: Tensor) -> Tensor:
    return -(seen.float() * wanted).sum(-1).clamp(min=1e-6).log().mean()


@torch.no_grad()
def carry_boxes(model, states: tuple[Tensor, ...]) -> None:
    """Start the guided heads' values where they carry the code of a box: from slots to words in the same directions,
    and from words to answers in directions of their own for the first and the last thing.

    states: the hidden states of `model` on some batch, before and behind each layer; what the heads write gets their
    root mean square, to be heard beside all else.
    """
    width = model.config.hidden_size
    code = rotation(BOX_EDGES, width)
    for layer, head, written in ((0, 0, 0), (1, 0, 1), (1, 1, 2)):
        block = model.model.layers[layer]
        attention, size = block.self_attn, block.self_attn.head_dim
        if size < BOX_EDGES:
            raise ValueError(f"carry_boxes: heads of {BOX_EDGES} numbers or more hold a box, not {size}")
        rows = slice(head * size, head * size + BOX_EDGES)
        to = rotation(BOX_EDGES, width, written) * states[layer + 1].float().pow(2).mean().sqrt()
        attention.v_proj.weight[rows] = code / block.input_layernorm.weight.clamp(min=0.05)
        attention.o_proj.weight[:, rows] = to.T
