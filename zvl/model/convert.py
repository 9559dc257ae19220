"""Names of weights: LAVIS's, those of transformers' BLIP-2 and InstructBLIP, and ours, from any to any.

The layouts hold different parts of the same model; what one of them cannot hold is dropped by name, with the reason:

| layout | class | parts |
|---|---|---|
| lavis | Blip2Qformer, Blip2VicunaInstruct and their like | all, each only if it was trained |
| blip2 | Blip2ForConditionalGeneration, Blip2QFormerModel | ViT, Q-Former without text, projection, language model |
| blip2-retrieval | Blip2ForImageTextRetrieval | ViT, Q-Former, heads of ITC and ITM without the temperature |
| instructblip | InstructBlipForConditionalGeneration | ViT, Q-Former, projection, language model |
| zvl | QFormerForPretraining, ZiyaVisualForConditionalGeneration | all |

Source: LAVIS's Qformer.py, blip2_qformer.py, blip2_vicuna_instruct.py and eva_vit.py; transformers 5.23.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from zvl.model.lavis import from_lavis, lavis_names, to_lavis
from zvl.model.names import ALWAYS, BUFFERS, HOLDS, LAYOUTS, table
from zvl.model.weights import read_weights, write_weights


@dataclass(frozen=True)
class Converted:
    """What `convert` made of a checkpoint.

    state: the weights by the target's names, in their own dtypes.
    missing: names, in the source's layout, that a checkpoint with these parts must have and this one lacks.
    unexpected: names of the source that belong to nothing its layout knows.
    dropped: names of the source that were left out on purpose, with the reason.
    absent: parts that the target could hold and the source does not have at all.
    """

    source: str
    target: str
    state: dict[str, Tensor]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    dropped: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


def convert(
    state: Mapping[str, Tensor], source: str = "auto", target: str = "zvl", strict: bool = True
) -> Converted:
    """Give the weights of one layout the names of another; the values stay what they are.

    source: one of LAYOUTS, or "auto" (`layout_of`). EVA-CLIP's own file and a Q-Former without the names of the model
        around it (Blip2QFormerModel, InstructBlipQFormerModel) are taken as that part alone.
    target: one of LAYOUTS.
    strict: raise where the source has unexpected or missing names; otherwise they are reported and left out.

    Raises ValueError that lists every unexpected and every missing name; and for a LAVIS checkpoint whose decoder is
    not tied to its word embeddings, as no other layout can hold that.
    """
    source = layout_of(state) if source == "auto" else _known(source)
    _known(target)
    prefix = _bare_prefix(state, source)
    given = {prefix + name: value for name, value in state.items()}
    readable, dropped = from_lavis(given) if source == "lavis" else (given, {})
    stem = _lavis_stem(given)

    ours: dict[str, Tensor] = {}
    names: dict[str, str] = {}  # our name -> the source's
    unexpected = []
    for name, value in readable.items():
        if found := _translate(name, table(source, stem)):
            ours[found[0]], names[found[0]] = value, name
        elif name in BUFFERS:
            dropped[name] = "a buffer that counts 0, 1, 2, ..."
        else:
            unexpected.append(name)
    missing, parts = _missing(ours, source, stem, prefix)
    missing = [name for joint in missing for name in lavis_names(joint) if name not in given]

    result, left_out = _to_layout(ours, target)
    for name, reason in left_out.items():
        dropped[names.get(name, name)] = reason
    converted = Converted(
        source,
        target,
        result,
        tuple(name.removeprefix(prefix) for name in missing),
        tuple(name.removeprefix(prefix) for name in unexpected),
        {name.removeprefix(prefix): reason for name, reason in dropped.items()},
        tuple(part for part in HOLDS[target] if part not in parts),
    )
    if strict and (converted.missing or converted.unexpected):
        raise ValueError(_complaint(converted))
    return converted


def layout_of(state: Iterable[str]) -> str:
    """The layout that knows most of the names. Raises ValueError where none knows any, or the weights are BERT's."""
    names = list(state)
    if any(re.fullmatch(r"(bert\.)?embeddings\.token_type_embeddings\.weight", name) for name in names):
        raise ValueError(
            "these are BERT's weights, not a Q-Former's: start a Q-Former from them with "
            "zvl.training.starts.initialise"
        )
    counts = {}
    for layout in LAYOUTS:
        prefix, stem = _bare_prefix(names, layout), _lavis_stem(names)
        counts[layout] = sum(_translate(prefix + name, table(layout, stem)) is not None for name in names)
    best = max(counts, key=counts.get)  # of equals the first: a layout with fewer parts comes before zvl
    if not counts[best]:
        raise ValueError(
            f"none of the layouts {', '.join(LAYOUTS)} knows a name such as {', '.join(sorted(names)[:3])}"
        )
    return best


def tile_queries(
    query_tokens: Tensor, num_queries: int, noise: float = 0.02, generator: torch.Generator | None = None
) -> Tensor:
    """More queries from fewer: the old ones as they are, then copies of them in their order, with noise, until enough.

    query_tokens: (1, old, width). noise: standard deviation of what is added to the copies, or two equal queries
    would stay equal for ever; 0.02 is that of new queries. Returns (1, num_queries, width) in the same dtype, with a
    warning, as the result has to be trained. Raises ValueError for fewer queries than there are.
    """
    old = query_tokens.shape[1]
    if num_queries < old:
        raise ValueError(
            f"{old} queries cannot become {num_queries}: only more queries can be made by tiling"
        )
    if num_queries == old:
        return query_tokens
    warnings.warn(
        f"{num_queries - old} of {num_queries} queries are copies of the {old} of the checkpoint with noise "
        f"{noise}: they must be trained before they say something of their own",
        stacklevel=2,
    )
    copies = query_tokens.repeat(1, math.ceil(num_queries / old), 1)[:, old:num_queries]
    added = noise * torch.randn(copies.shape, generator=generator, device=copies.device)
    return torch.cat([query_tokens, (copies + added).to(query_tokens.dtype)], dim=1)


def convert_file(
    source: str | Path,
    target: str | Path,
    from_layout: str = "auto",
    to_layout: str = "zvl",
    num_queries: int | None = None,
    strict: bool = True,
    seed: int = 0,
) -> Converted:
    """Read weights, convert them, write them: the body of `zvl convert`.

    target: ends in .safetensors, or in .pth where LAVIS shall read it. num_queries: tile the queries to as many, with
    noise drawn from `seed`. Raises as `read_weights`, `convert`, `tile_queries` and `write_weights` do.
    """
    converted = convert(read_weights(source), from_layout, to_layout, strict)
    if num_queries is not None:
        if "query_tokens" not in converted.state:
            raise ValueError(f"{source}: has no query_tokens that could become {num_queries}")
        tiled = tile_queries(
            converted.state["query_tokens"], num_queries, generator=torch.Generator().manual_seed(seed)
        )
        converted.state["query_tokens"] = tiled
    write_weights(converted.state, target)
    return converted


def _known(layout: str) -> str:
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    return layout


def _bare_prefix(names: Iterable[str], layout: str) -> str:
    """What the names of a part lack that was saved without the model around it."""
    start = {"lavis": "blocks."}.get(layout, "encoder.layer.")
    prefix = {"lavis": "visual_encoder."}.get(layout, "qformer.")
    return prefix if any(name.startswith(start) for name in names) else ""


def _lavis_stem(names: Iterable[str]) -> str:
    """How LAVIS calls the language model: llm_proj, opt_proj or t5_proj are the same projection."""
    return next(
        (found[1] for name in names if (found := re.match(r"(llm|opt|t5)_(proj|model)\.", name))), "llm"
    )


def _translate(name: str, to_ours: Mapping[str, tuple[str, str]]) -> tuple[str, str] | None:
    """(our name, part) of a name, None for one that the layout does not know."""
    if name in to_ours and "{n}" not in name:
        return to_ours[name]
    stem = name.split(".", 1)[0] + ".*"
    if stem in to_ours:  # a language model keeps its own names
        return to_ours[stem][0].removesuffix("*") + name.removeprefix(stem[:-1]), to_ours[stem][1]
    layer = _layer(name)
    found = layer and to_ours.get(f"{name[: layer.start()]}.{{n}}.{name[layer.end() :]}")
    return (found[0].replace("{n}", layer[1]), found[1]) if found else None


def _layer(name: str) -> re.Match | None:
    return re.search(r"\.(0|[1-9]\d{0,2})\.", name)


def _missing(ours: Mapping[str, Tensor], source: str, stem: str, prefix: str) -> tuple[list[str], set[str]]:
    """The names in the source's layout without which its parts are not whole, and the parts that it has."""
    part_of = {name: found[1] for name in ours if (found := _translate(name, table("zvl")))}
    parts = set(part_of.values())
    required = parts | (set() if prefix else set(ALWAYS[source]))
    if "vision" in parts and not prefix:
        required.add("vision norm")
    layers: dict[str, set[int]] = {"vision": {0}, "qformer": {0}, "cross": {0}}
    for name in ours:
        if (found := _layer(name)) and part_of[name] != "language model":
            layers["vision" if part_of[name] == "vision" else "qformer"].add(int(found[1]))
            if "crossattention" in name:
                layers["cross"].add(int(found[1]))
    count = {part: max(found) + 1 for part, found in layers.items()}
    every = math.gcd(*layers["cross"]) or count["qformer"]  # layers 0, 2, 4, ... in BLIP-2
    expected = []
    for name, (our, part) in table(source, stem).items():
        if part not in required or not name.startswith(prefix):
            continue
        if "{n}" not in name:
            held = any(part_of[n] == part for n in ours) if name.endswith("*") else our in ours
            expected += [] if held else [name]
            continue
        numbers = range(count["vision" if part == "vision" else "qformer"])
        numbers = numbers[::every] if "crossattention" in name else numbers
        expected += [name.replace("{n}", str(n)) for n in numbers if our.replace("{n}", str(n)) not in ours]
    return expected, parts


@cache
def _from_ours(layout: str) -> dict[str, tuple[str, str]]:
    return {ours: (name, part) for name, (ours, part) in table(layout).items()}


def _to_layout(ours: Mapping[str, Tensor], target: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state with the target's names, and by our names what it cannot hold."""
    state, dropped = {}, {}
    for name, value in ours.items():
        if found := _translate(name, _from_ours(target)):
            state[found[0]] = value
        else:
            _, part = _translate(name, table("zvl"))
            dropped[name] = f"{target} has no place for it" + (
                "" if part in HOLDS[target] else f": no {part}"
            )
    if target == "lavis":
        dropped |= to_lavis(state)
    return state, dropped


def _complaint(converted: Converted) -> str:
    lines = [
        f"{converted.source} to {converted.target}: the source does not hold what {converted.source} has"
    ]
    for kind, names in (("unexpected", converted.unexpected), ("missing", converted.missing)):
        lines += [f"{kind}, {len(names)}: {', '.join(names)};"] if names else []
    if converted.unexpected:
        lines.append("remove the unexpected names, or say which layout it is;")
    if converted.missing:
        lines.append("get the whole file where names are missing;")
    return "\n".join([*lines, "or convert what is there (strict=False, `zvl convert --partial`)"])
