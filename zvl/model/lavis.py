"""Where LAVIS's checkpoints differ from the other layouts in more than names.

The ViT has a bias on queries and one on values, none on keys; the language head's decoder is saved beside the word
embeddings to which it is tied; a buffer counts the positions. No weight tells that the epsilon of `ln_vision` is 1e-5
there and 1e-6 in transformers: of features with variance 1, a difference of 5e-6. Source: LAVIS's eva_vit.py, blip2.py
and Qformer.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# EVA-CLIP-g has 40 layers; BLIP-2 reads the last but one, so LAVIS builds 39 and passes over the rest of the file.
VISION_LAYERS = 39

_EVA_EXTRAS = ("visual_encoder.norm.", "visual_encoder.fc_norm.", "visual_encoder.head.")
_WORDS, _POSITIONS = (f"Qformer.bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position"))
_POSITION_IDS = "Qformer.bert.embeddings.position_ids"
_HEAD_BIAS = "Qformer.cls.predictions.bias"
_DECODER, _DECODER_BIAS = (f"Qformer.cls.predictions.decoder.{leaf}" for leaf in ("weight", "bias"))
_JOINT = "q_bias+v_bias"  # in the table of names, what the other layouts' `qkv.bias` is here


def lavis_names(name: str) -> list[str]:
    """The names that a checkpoint has in place of one of the table."""
    base = name.removesuffix(_JOINT)
    return [name] if base == name else [f"{base}q_bias", f"{base}v_bias"]


def from_lavis(given: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A checkpoint's weights by the table's names, and what is left out with the reason.

    Raises ValueError where the decoder is not tied to the word embeddings.
    """
    state, dropped = dict(given), {}
    for name in given:
        block = re.match(r"visual_encoder\.blocks\.(\d+)\.", name)
        if name.startswith(_EVA_EXTRAS) or (block and int(block[1]) >= VISION_LAYERS):
            dropped[name] = f"BLIP-2 reads what EVA-CLIP's layer {VISION_LAYERS} of 40 gives"
        elif name == _POSITION_IDS:
            dropped[name] = "a buffer that counts 0, 1, 2, ..."
    if _DECODER in given:
        if _WORDS in given and not torch.equal(given[_DECODER], given[_WORDS]):
            raise ValueError(
                f"{_DECODER} differs from {_WORDS}: the language head's decoder must be tied to the word "
                "embeddings, as in BLIP-2; copy one over the other before converting"
            )
        dropped[_DECODER] = "tied to the word embeddings"
    if _DECODER_BIAS in given:
        same = _HEAD_BIAS not in given or torch.equal(given[_HEAD_BIAS], given[_DECODER_BIAS])
        if same:
            dropped[_DECODER_BIAS] = f"the same as {_HEAD_BIAS}"
        else:
            dropped[_HEAD_BIAS] = f"LAVIS computes with {_DECODER_BIAS}, which differs and takes its place"
        state[_HEAD_BIAS] = state.pop(_DECODER_BIAS)
    for name in dropped.keys() - {_HEAD_BIAS, _DECODER_BIAS}:
        del state[name]
    for name in list(state):
        if found := re.fullmatch(r"(visual_encoder\.blocks\.\d+\.attn\.)([qv])_bias", name):
            both = [f"{found[1]}q_bias", f"{found[1]}v_bias"]
            if all(bias in state for bias in both):
                query, value = (state.pop(bias) for bias in both)
                state[found[1] + _JOINT] = torch.cat([query, torch.zeros_like(value), value])
            elif name in state:
                del state[name]
                dropped[name] = (
                    f"without {both[found[2] == 'q']} there is no bias of queries, keys and values"
                )
    return state, dropped


def to_lavis(state: dict[str, Tensor]) -> dict[str, str]:
    """Turn the table's names into those of a checkpoint, in place; returns what is lost, with the reason."""
    dropped = {}
    for name in [name for name in state if name.endswith(_JOINT)]:
        query, key, value = state.pop(name).chunk(3)
        for bias_name, bias in zip(lavis_names(name), (query, value), strict=True):
            state[bias_name] = bias.clone()
        if key.any():
            dropped[f"{name.removesuffix(_JOINT)}qkv.bias (keys)"] = (
                "LAVIS has no bias on keys; nothing is lost, it moves all scores of a query alike"
            )
    if _HEAD_BIAS in state and _WORDS in state:
        state[_DECODER], state[_DECODER_BIAS] = state[_WORDS], state[_HEAD_BIAS]
    if _POSITIONS in state:
        positions = state[_POSITIONS]
        state[_POSITION_IDS] = torch.arange(len(positions), device=positions.device)[None]
    return dropped
