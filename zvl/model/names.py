"""One table of the weights' names in every layout that `zvl.model.convert` knows; `{n}` is a layer's number."""

from __future__ import annotations

from functools import cache

LAYOUTS = ("lavis", "blip2", "blip2-retrieval", "instructblip", "zvl")

PARTS = (
    "vision", "vision norm", "qformer", "text", "heads", "language head", "projection", "language model"
)  # fmt: skip

# text: what only text passes through. heads: of ITC and ITM. language head: of ITG.
HOLDS = {
    "lavis": PARTS,
    "blip2": ("vision", "vision norm", "qformer", "projection", "language model"),
    "blip2-retrieval": ("vision", "vision norm", "qformer", "text", "heads"),
    "instructblip": ("vision", "vision norm", "qformer", "text", "projection", "language model"),
    "zvl": PARTS,
}

# Parts without which a checkpoint is not whole. LAVIS saves what was trained, so a frozen ViT or language model is
# not there; ours may be of the Q-Former's pre-training, without ViT and language model.
ALWAYS = HOLDS | {"lavis": ("qformer",), "zvl": ("qformer", "text", "heads", "language head")}

# Saved by transformers of before summer 2023, InstructBLIP's first checkpoints among them.
BUFFERS = ("qformer.embeddings.position_ids", "embeddings.position_ids")


def _rows() -> list[tuple[str, str, str]]:
    """(part, our name, LAVIS's name) of every module or parameter; a module has a weight and a bias."""
    vision, lavis_vision = "vision_model.encoder.layers.{n}", "visual_encoder.blocks.{n}"
    layer, lavis_layer = "qformer.encoder.layer.{n}", "Qformer.bert.encoder.layer.{n}"
    rows = [
        ("vision", "vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
        ("vision", "vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
        ("vision", "vision_model.embeddings.patch_embedding.", "visual_encoder.patch_embed.proj."),
        ("vision", f"{vision}.layer_norm1.", f"{lavis_vision}.norm1."),
        ("vision", f"{vision}.layer_norm2.", f"{lavis_vision}.norm2."),
        ("vision", f"{vision}.self_attn.qkv.weight", f"{lavis_vision}.attn.qkv.weight"),
        (
            "vision",
            f"{vision}.self_attn.qkv.bias",
            f"{lavis_vision}.attn.q_bias+v_bias",
        ),  # see zvl.model.lavis
        ("vision", f"{vision}.self_attn.projection.", f"{lavis_vision}.attn.proj."),
        ("vision", f"{vision}.mlp.fc1.", f"{lavis_vision}.mlp.fc1."),
        ("vision", f"{vision}.mlp.fc2.", f"{lavis_vision}.mlp.fc2."),
        ("vision norm", "vision_model.post_layernorm.", "ln_vision."),
        ("qformer", "query_tokens", "query_tokens"),
        ("qformer", "qformer.embeddings.layernorm.", "Qformer.bert.embeddings.LayerNorm."),
    ]
    for kind in ("attention", "crossattention"):
        for leaf in ("query", "key", "value"):
            rows.append(
                ("qformer", f"{layer}.{kind}.attention.{leaf}.", f"{lavis_layer}.{kind}.self.{leaf}.")
            )
        for leaf in ("dense", "LayerNorm"):
            rows.append(("qformer", f"{layer}.{kind}.output.{leaf}.", f"{lavis_layer}.{kind}.output.{leaf}."))
    for part, suffix in (("qformer", "_query"), ("text", "")):
        for leaf in (f"intermediate{suffix}.dense", f"output{suffix}.dense", f"output{suffix}.LayerNorm"):
            rows.append((part, f"{layer}.{leaf}.", f"{lavis_layer}.{leaf}."))
    for kind in ("word", "position"):
        name = f"embeddings.{kind}_embeddings.weight"
        rows.append(("text", f"qformer.{name}", f"Qformer.bert.{name}"))
    return [
        *rows,
        ("heads", "vision_projection.", "vision_proj."),
        ("heads", "text_projection.", "text_proj."),
        ("heads", "itm_head.", "itm_head."),
        ("heads", "temperature", "temp"),
        ("language head", "lm_head.dense.", "Qformer.cls.predictions.transform.dense."),
        ("language head", "lm_head.layernorm.", "Qformer.cls.predictions.transform.LayerNorm."),
        ("language head", "lm_head.bias", "Qformer.cls.predictions.bias"),
        ("projection", "language_projection.", "{stem}_proj."),
        ("language model", "language_model.*", "{stem}_model.*"),
    ]


# Where transformers' BLIP-2 differs from ours, which are InstructBLIP's.
_BLIP2 = {
    "qformer.embeddings.layernorm.": "qformer.layernorm.",
    "qformer.embeddings.word_embeddings.weight": "embeddings.word_embeddings.weight",
    "qformer.embeddings.position_embeddings.weight": "embeddings.position_embeddings.weight",
}


@cache
def table(layout: str, stem: str = "llm") -> dict[str, tuple[str, str]]:
    """Name in the layout -> (our name, part), for all that the layout holds.

    stem: of LAVIS's names of projection and language model: llm, opt or t5. A name that ends in `*` stands for all
    names with this beginning.
    """
    names = {}
    for part, ours, lavis in _rows():
        if part not in HOLDS[layout] or (layout == "blip2-retrieval" and ours == "temperature"):
            continue
        name = ours
        if layout == "lavis":
            name = lavis.replace("{stem}", stem)
        elif layout.startswith("blip2"):
            name = _BLIP2.get(ours, ours)
        for leaf in ("weight", "bias") if name.endswith(".") else ("",):
            names[name + leaf] = (ours + leaf, part)
    return names
