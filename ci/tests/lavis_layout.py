"""LAVIS's stage-1 model as plain arithmetic on a checkpoint's names: the independent side of the converter's tests.

Written from LAVIS's eva_vit.py, Qformer.py and blip2_qformer.py; it knows nothing of zvl.
"""

import math

import torch
import torch.nn.functional as F

EPS = 1e-12  # of BERT's layer norms; the ViT's is 1e-6, ln_vision's 1e-5 by torch's default
# For `random_state`, where names alone count, and not what is computed.
TINY = {
    "width": 8,
    "ffn": 6,
    "vision": 4,
    "vision_ffn": 6,
    "words": 9,
    "positions": 5,
    "space": 4,
    "patch": 2,
}


def random_state(
    layers=2, vision_layers=2, width=768, heads=12, ffn=3072, vision=1408, vision_ffn=6144, words=60, positions=40,
    queries=4, space=256, patches=4, patch=14, every=2, language=None,
):  # fmt: skip
    """A Blip2Qformer's state dict with random weights, named as LAVIS names it."""
    state = {}

    def linear(name, rows, columns, bias=True):
        state[f"{name}.weight"] = torch.randn(rows, columns) / math.sqrt(columns)
        if bias:
            state[f"{name}.bias"] = torch.randn(rows) * 0.1

    def norm(name, size):
        state[f"{name}.weight"] = 1 + torch.randn(size) * 0.1
        state[f"{name}.bias"] = torch.randn(size) * 0.1

    state["query_tokens"] = torch.randn(1, queries, width)
    state["temp"] = torch.rand(()) + 0.01
    state["visual_encoder.cls_token"] = torch.randn(1, 1, vision)
    state["visual_encoder.pos_embed"] = torch.randn(1, patches + 1, vision)
    state["visual_encoder.patch_embed.proj.weight"] = torch.randn(vision, 3, patch, patch) * 0.05
    state["visual_encoder.patch_embed.proj.bias"] = torch.randn(vision) * 0.1
    for n in range(vision_layers):
        block = f"visual_encoder.blocks.{n}"
        norm(f"{block}.norm1", vision)
        norm(f"{block}.norm2", vision)
        linear(f"{block}.attn.qkv", 3 * vision, vision, bias=False)
        state[f"{block}.attn.q_bias"] = torch.randn(vision) * 0.1
        state[f"{block}.attn.v_bias"] = torch.randn(vision) * 0.1
        linear(f"{block}.attn.proj", vision, vision)
        linear(f"{block}.mlp.fc1", vision_ffn, vision)
        linear(f"{block}.mlp.fc2", vision, vision_ffn)
    norm("ln_vision", vision)

    bert = "Qformer.bert"
    state[f"{bert}.embeddings.word_embeddings.weight"] = torch.randn(words, width)
    state[f"{bert}.embeddings.position_embeddings.weight"] = torch.randn(positions, width)
    state[f"{bert}.embeddings.position_ids"] = torch.arange(positions)[None]
    norm(f"{bert}.embeddings.LayerNorm", width)
    for n in range(layers):
        layer = f"{bert}.encoder.layer.{n}"
        for kind, source in (("attention", width), ("crossattention", vision)):
            if kind == "crossattention" and n % every:
                continue
            linear(f"{layer}.{kind}.self.query", width, width)
            linear(f"{layer}.{kind}.self.key", width, source)
            linear(f"{layer}.{kind}.self.value", width, source)
            linear(f"{layer}.{kind}.output.dense", width, width)
            norm(f"{layer}.{kind}.output.LayerNorm", width)
        for suffix in ("", "_query"):
            linear(f"{layer}.intermediate{suffix}.dense", ffn, width)
            linear(f"{layer}.output{suffix}.dense", width, ffn)
            norm(f"{layer}.output{suffix}.LayerNorm", width)
    head = "Qformer.cls.predictions"
    linear(f"{head}.transform.dense", width, width)
    norm(f"{head}.transform.LayerNorm", width)
    state[f"{head}.bias"] = torch.randn(words) * 0.1
    state[f"{head}.decoder.weight"] = state[f"{bert}.embeddings.word_embeddings.weight"]
    state[f"{head}.decoder.bias"] = state[f"{head}.bias"]
    linear("vision_proj", space, width)
    linear("text_proj", space, width)
    linear("itm_head", 2, width)
    if language:
        linear("llm_proj", language, width)
        linear("llm_model.model.layers.0.self_attn.q_proj", language, language, bias=False)
    return state


def _linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _norm(state, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def _attend(query, key, value, heads, allowed=None):
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -10000.0)
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def vision(state, pixels, heads=16):
    """ln_vision(visual_encoder(pixels)): (images, 1 + patches, vision width)."""
    weight = state["visual_encoder.patch_embed.proj.weight"]
    bias = state["visual_encoder.patch_embed.proj.bias"]
    x = F.conv2d(pixels, weight, bias, stride=weight.shape[-1]).flatten(2).mT
    x = torch.cat([state["visual_encoder.cls_token"].expand(len(x), -1, -1), x], dim=1)
    x = x + state["visual_encoder.pos_embed"]
    n = 0
    while f"visual_encoder.blocks.{n}.norm1.weight" in state:
        block = f"visual_encoder.blocks.{n}"
        y = _norm(state, f"{block}.norm1", x, 1e-6)
        query, key, value = (y @ state[f"{block}.attn.qkv.weight"].T).chunk(3, dim=-1)
        query, value = query + state[f"{block}.attn.q_bias"], value + state[f"{block}.attn.v_bias"]
        x = x + _linear(state, f"{block}.attn.proj", _attend(query, key, value, heads))
        y = _norm(state, f"{block}.norm2", x, 1e-6)
        x = x + _linear(state, f"{block}.mlp.fc2", F.gelu(_linear(state, f"{block}.mlp.fc1", y)))
        n += 1
    return _norm(state, "ln_vision", x, 1e-5)


def bert(state, allowed, image=None, ids=None, heads=12):
    """Qformer.bert of queries (where there is an image), then text; allowed: (batch, 1, total or 1, total)."""
    name, parts, queries = "Qformer.bert", [], 0
    if image is not None:
        parts.append(state["query_tokens"].expand(len(image), -1, -1))
        queries = parts[0].shape[1]
    if ids is not None:
        words = state[f"{name}.embeddings.word_embeddings.weight"][ids]
        parts.append(words + state[f"{name}.embeddings.position_embeddings.weight"][: ids.shape[1]])
    x = _norm(state, f"{name}.embeddings.LayerNorm", torch.cat(parts, dim=1), EPS)
    n = 0
    while f"{name}.encoder.layer.{n}.attention.self.query.weight" in state:
        layer = f"{name}.encoder.layer.{n}"
        x = _block(state, f"{layer}.attention", x, x, heads, allowed)
        q, text = x[:, :queries], x[:, queries:]
        if queries and f"{layer}.crossattention.self.query.weight" in state:
            q = _block(state, f"{layer}.crossattention", q, image, heads)
        x = torch.cat(
            [_ffn(state, layer, "_query", q) if queries else q, _ffn(state, layer, "", text)], dim=1
        )
        n += 1
    return x


def _block(state, name, x, source, heads, allowed=None):
    query, key = _linear(state, f"{name}.self.query", x), _linear(state, f"{name}.self.key", source)
    context = _attend(query, key, _linear(state, f"{name}.self.value", source), heads, allowed)
    return _norm(state, f"{name}.output.LayerNorm", _linear(state, f"{name}.output.dense", context) + x, EPS)


def _ffn(state, layer, suffix, x):
    if not x.shape[1]:
        return x
    y = F.gelu(_linear(state, f"{layer}.intermediate{suffix}.dense", x))
    return _norm(
        state,
        f"{layer}.output{suffix}.LayerNorm",
        _linear(state, f"{layer}.output{suffix}.dense", y) + x,
        EPS,
    )


def similarity(state, image, ids, mask, heads=12):
    """ITC's cosines (images, texts), the best query of each image."""
    features = F.normalize(_linear(state, "vision_proj", bert(state, None, image, heads=heads)), dim=-1)
    text = bert(state, mask[:, None, None, :].bool(), ids=ids, heads=heads)[:, 0]
    text = F.normalize(_linear(state, "text_proj", text), dim=-1)
    return (features @ text.T).amax(1)


def match(state, image, ids, mask, heads=12):
    """ITM's logits (rows, 2), averaged over the queries."""
    queries = state["query_tokens"].shape[1]
    allowed = F.pad(mask, (queries, 0), value=1)[:, None, None, :].bool()
    return _linear(state, "itm_head", bert(state, allowed, image, ids, heads)[:, :queries]).mean(1)


def words(state, image, ids, mask, heads=12):
    """ITG's logits of each position (rows, length, words): text is causal and sees the queries."""
    queries, length = state["query_tokens"].shape[1], ids.shape[1]
    allowed = torch.zeros(len(ids), 1, queries + length, queries + length, dtype=torch.bool)
    allowed[..., :queries] = True
    allowed[..., queries:, queries:] = (
        torch.ones(length, length).tril().bool() & mask[:, None, None, :].bool()
    )
    hidden = bert(state, allowed, image, ids, heads)[:, queries:]
    name = "Qformer.cls.predictions"
    hidden = F.gelu(_linear(state, f"{name}.transform.dense", hidden))
    return _linear(state, f"{name}.decoder", _norm(state, f"{name}.transform.LayerNorm", hidden, EPS))
