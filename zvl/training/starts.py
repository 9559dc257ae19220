"""Starts from weights: the Q-Former from a checkpoint in any layout, or its text side from a text model, as BLIP-2's
does from BERT. `zvl.training.aligned` holds the start that needs training data and no weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zvl.model.convert import convert, tile_queries
from zvl.model.weights import read_weights


@dataclass(frozen=True)
class Start:
    """Where a model started.

    layout: "nothing", "bert", or one of zvl.model.names.LAYOUTS.
    new: names of the model's weights that keep what they were made with; `name[30522:]` for the rows from there on.
    unused: names in the file that went nowhere, with the reason.
    """

    layout: str
    new: tuple[str, ...]
    unused: dict[str, str]


@torch.no_grad()
def initialise(
    model: torch.nn.Module,
    start: str | Path | None,
    tile: bool = False,
    strict: bool = True,
    generator: torch.Generator | None = None,
) -> Start:
    """Start a new QFormerForPretraining or ZiyaVisualForConditionalGeneration from given weights, in place.

    start: None or "nothing" leaves the model as it was made. Otherwise a file or folder for
        zvl.model.weights.read_weights, with BERT's weights (English, Chinese or multilingual: `initialise_from_bert`,
        the language head from `cls.predictions`), or with a model of any layout of zvl.model.convert, of which all
        that the model has is taken.
    tile: let a checkpoint with fewer queries serve; the further ones become copies with noise, and a warning.
    strict: refuse checkpoints with unexpected or missing names, as `convert` does.
    generator: of the noise; on the CPU.

    Raises ValueError, before anything is changed, that names each weight whose shape does not fit; it says what to do
    about other numbers of queries and other vocabularies.
    """
    if start is None or start == "nothing":
        return Start("nothing", tuple(model.state_dict()), {})
    weights = read_weights(start)
    if (bert := bert_names(weights)) is not None:
        return _start_from_bert(model, bert)
    converted = convert(weights, strict=strict)
    own = model.state_dict()
    state = {name: value for name, value in converted.state.items() if name in own}
    if tile and "query_tokens" in state:
        state["query_tokens"] = tile_queries(
            state["query_tokens"], own["query_tokens"].shape[1], generator=generator
        )
    if wrong := [name for name, value in state.items() if value.shape != own[name].shape]:
        raise ValueError(_misfit(start, wrong, state, own))
    for name, value in state.items():
        own[name].copy_(value)
    filled = {own[name].data_ptr() for name in state}  # of tied weights a file has one
    unused = {name: "the model has no such weight" for name in converted.state.keys() - own.keys()}
    unused |= {name: "unexpected" for name in converted.unexpected}
    return Start(
        converted.source,
        tuple(name for name, value in own.items() if name not in state and value.data_ptr() not in filled),
        converted.dropped | unused,
    )


def bert_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """BERT's weights by the names of transformers' BertModel, None where these are no BERT.

    The names of its whole models begin with `bert.`; the oldest files call a layer norm's weight and bias gamma and
    beta. Heads keep their names, such as `cls.predictions.bias`.
    """
    named = {name.removeprefix("bert."): value for name, value in weights.items()}
    if "embeddings.token_type_embeddings.weight" not in named:
        return None
    return {
        re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name)): value
        for name, value in named.items()
    }


@torch.no_grad()
def initialise_from_bert(qformer: torch.nn.Module, bert: Mapping[str, Tensor]) -> list[str]:
    """Copy BERT's weights into a Q-Former; its query FFNs become copies of the text FFNs. Returns what stays new.

    bert: names of BertModel. The Q-Former may have more words (LAVIS adds `[DEC]`), other numbers of layers and
    positions; cross-attention stays new (LAVIS, init_Qformer). Raises ValueError, before anything is changed, for
    other widths, and for a BERT with more words, as its tokenizer cannot be the Q-Former's.
    """
    own = qformer.state_dict()
    found, left, lacking = {}, [], []
    layers = {name.split(".")[2] for name in bert if name.startswith("encoder.layer.")}
    for name in own:
        source = _bert_name(name)
        if "crossattention" in name or (
            name.startswith("encoder.layer.") and name.split(".")[2] not in layers
        ):
            left.append(name)
        elif source in bert:
            found[name] = bert[source]
        elif source not in lacking:
            lacking.append(source)
    if lacking:
        raise ValueError(f"BERT's weights are not whole, missing are: {', '.join(lacking)}")
    _check_rows(own, found, {name: _bert_name(name) for name in found})
    left += _copy_rows(own, found)
    # The sum of BERT's word, position and first type embeddings: the Q-Former has no type embedding.
    positions = own["embeddings.position_embeddings.weight"]
    positions[: len(bert["embeddings.position_embeddings.weight"])] += bert[
        "embeddings.token_type_embeddings.weight"
    ][0].to(positions)
    return left


def _start_from_bert(model: torch.nn.Module, bert: dict[str, Tensor]) -> Start:
    names = {
        "dense.weight": "transform.dense.weight", "dense.bias": "transform.dense.bias",
        "layernorm.weight": "transform.LayerNorm.weight", "layernorm.bias": "transform.LayerNorm.bias",
        "bias": "bias",
    }  # fmt: skip
    head = {ours: f"cls.predictions.{name}" for ours, name in names.items()}
    found = {ours: bert[name] for ours, name in head.items() if name in bert}
    own = model.lm_head.state_dict()
    _check_rows(own, found, head)
    left = [f"qformer.{name}" for name in initialise_from_bert(model.qformer, bert)]
    left += [f"lm_head.{name}" for name in _copy_rows(own, found)]
    left += [f"lm_head.{name}" for name in head if name not in found]
    left += [n for n in model.state_dict() if not n.startswith(("qformer.", "lm_head."))]
    used = {_bert_name(name) for name in model.qformer.state_dict()} | {
        "embeddings.token_type_embeddings.weight"
    }
    used |= {
        *head.values(),
        "cls.predictions.decoder.weight",
        "cls.predictions.decoder.bias",
    }  # the last two are tied
    unused = {name: "a Q-Former has no such weight" for name in bert if name not in used}
    return Start("bert", tuple(left), unused)


def _bert_name(name: str) -> str:
    """What BERT calls a weight of the Q-Former; queries start from what text has."""
    for ours, theirs in (
        ("attention.attention.", "attention.self."), ("embeddings.layernorm", "embeddings.LayerNorm"),
        ("intermediate_query", "intermediate"), ("output_query", "output"),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return name


def _check_rows(own: Mapping[str, Tensor], found: Mapping[str, Tensor], theirs: Mapping[str, str]) -> None:
    # The vocabulary may have more rows in own, `[DEC]` for example, and positions any number.
    for name, value in found.items():
        same = value.shape == own[name].shape
        words = name in ("embeddings.word_embeddings.weight", "bias") and len(value) < len(own[name])
        positions = name == "embeddings.position_embeddings.weight"
        if not same and (value.shape[1:] != own[name].shape[1:] or not (words or positions)):
            raise ValueError(
                f"BERT's {theirs[name]} has shape {tuple(value.shape)}, the model's {name} "
                f"{tuple(own[name].shape)}: take the Q-Former's widths, and at least its words, from this BERT"
            )


def _copy_rows(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Copy what was found into own, and return what of it stays new."""
    left = []
    for name, value in found.items():
        rows = min(len(value), len(own[name]))
        own[name][:rows].copy_(value[:rows])
        left += [f"{name}[{rows}:]"] if rows < len(own[name]) else []
    return left


def _misfit(
    start: str | Path, wrong: list[str], state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> str:
    shapes = "; ".join(f"{n} is {tuple(state[n].shape)}, the model's {tuple(own[n].shape)}" for n in wrong)
    advice = []
    if "query_tokens" in wrong:
        old, wanted = state["query_tokens"].shape[1], own["query_tokens"].shape[1]
        advice.append(
            f"{old} queries serve {wanted} only when asked: tile=True, or `zvl convert --queries {wanted}`"
        )
    if any("word_embeddings" in name for name in wrong):
        advice.append("the vocabulary must be that of the checkpoint: take its tokenizer for the Q-Former")
    return f"{start}: weights do not fit the model: {shapes}. " + "; ".join(
        advice or ["take its configuration"]
    )
