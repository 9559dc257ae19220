"""Weights in the names of LAVIS, BLIP-2 and InstructBLIP compute in our model what they compute in theirs."""

import lavis_layout as lavis
import pytest
import torch
from torch.testing import assert_close
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    InstructBlipVisionConfig,
    LlamaConfig,
)

from zvl.model.convert import convert
from zvl.model.qformer import causal_mask
from zvl.model.visual import ZiyaVisualConfig, ZiyaVisualForConditionalGeneration

pytestmark = pytest.mark.usefixtures("seed")
BATCH, QUERIES, LENGTH, WORDS, LLM = 3, 4, 7, 60, 32
CLOSE = {"rtol": 0, "atol": 1e-5}
# The full width with two layers; and a narrow one, for every day.
SIZES = {
    "narrow": {
        "width": 24, "heads": 4, "ffn": 40, "layers": 3, "vision": 32, "vision_ffn": 48, "vision_heads": 2, "space": 16,
    },
    "full": {
        "width": 768, "heads": 12, "ffn": 3072, "layers": 2, "vision": 1408, "vision_ffn": 2048, "vision_heads": 16,
        "space": 256,
    },
}  # fmt: skip
TEXT = {
    "model_type": "llama", "vocab_size": 50, "hidden_size": LLM, "intermediate_size": 40, "num_hidden_layers": 1,
    "num_attention_heads": 2,
}  # fmt: skip
both_sizes = pytest.mark.parametrize("size", ["narrow", pytest.param("full", marks=pytest.mark.slow)])


def randomise(model):
    """Biases and norms that are not trivial; none on the ViT's keys, as in every released checkpoint."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim < 2:
                p.add_(torch.randn_like(p) * 0.1)
            if name.endswith(("query_tokens", "class_embedding", "position_embedding")):
                p.normal_()  # of LAVIS's last layer norm the epsilon is another: not seen at such a variance
            if name.endswith("self_attn.qkv.bias"):
                p.view(3, -1)[1] = 0
    return model.eval()


def vision_values(size):
    size = SIZES[size]
    return {
        "hidden_size": size["vision"], "intermediate_size": size["vision_ffn"], "num_hidden_layers": 2,
        "num_attention_heads": size["vision_heads"], "image_size": 28, "patch_size": 14, "initializer_range": 0.03,
    }  # fmt: skip


def qformer_values(size):
    size = SIZES[size]
    return {
        "vocab_size": WORDS, "hidden_size": size["width"], "num_hidden_layers": size["layers"],
        "intermediate_size": size["ffn"],
        "num_attention_heads": size["heads"], "max_position_embeddings": 40, "cross_attention_frequency": 2,
        "encoder_hidden_size": size["vision"], "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip


def their_config(kind, size, **qformer):
    config = kind(
        vision_config=vision_values(size), qformer_config=qformer_values(size) | qformer, text_config=TEXT,
        num_query_tokens=QUERIES, image_text_hidden_size=SIZES[size]["space"],
    )  # fmt: skip
    config.image_token_index = None
    return config


def our_model(size, **options):
    config = ZiyaVisualConfig(
        vision_config=InstructBlipVisionConfig(**vision_values(size)),
        qformer_config=InstructBlipQFormerConfig(**qformer_values(size)),
        text_config=LlamaConfig(**{k: v for k, v in TEXT.items() if k != "model_type"}),
        num_query_tokens=QUERIES, projection_dim=SIZES[size]["space"], decoder_start_id=1, image_token_id=49,
        **options,
    )  # fmt: skip
    return ZiyaVisualForConditionalGeneration(config).eval()


def ours_with(state, size, **options):
    """Our whole model with these weights, and the names that they left as they were made."""
    model = our_model(size, **options)
    found = model.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    return model, set(found.missing_keys)


def inputs():
    """Pictures, and texts of any length padded on the right."""
    pixels = torch.randn(BATCH, 3, 28, 28)
    ids = torch.randint(1, WORDS, (BATCH, LENGTH))
    mask = (torch.arange(LENGTH) < torch.randint(1, LENGTH + 1, (BATCH, 1))).long()
    return pixels, ids, mask


def parts_of_lavis(size):
    """A stage-1 checkpoint in the names of LAVIS that has every part, ViT and language model too."""
    shape = {name: value for name, value in SIZES[size].items() if "heads" not in name}
    return lavis.random_state(language=LLM, words=WORDS, queries=QUERIES, **shape)


# What the weights compute


@torch.no_grad()
@both_sizes
def test_instructblip_computes_the_same_soft_tokens_in_our_model(size):
    theirs = randomise(InstructBlipForConditionalGeneration(their_config(InstructBlipConfig, size)))
    converted = convert(theirs.state_dict())
    assert (converted.source, converted.dropped) == ("instructblip", {})
    assert converted.absent == ("heads", "language head")
    ours, new = ours_with(converted.state, size, instruction_aware=True)
    assert {name.split(".")[0] for name in new} == {
        "vision_projection", "text_projection", "itm_head", "lm_head", "temperature"
    }  # fmt: skip

    pixels, ids, mask = inputs()
    image = theirs.vision_model(pixels).last_hidden_state
    queries = theirs.query_tokens.expand(BATCH, -1, -1)
    hidden = theirs.qformer(
        input_ids=ids, attention_mask=torch.cat([torch.ones(BATCH, QUERIES).long(), mask], 1),
        query_embeds=queries, encoder_hidden_states=image,
    ).last_hidden_state[:, :QUERIES]  # fmt: skip
    assert_close(ours.vision_features(pixels), image, **CLOSE)
    assert_close(ours.encode_queries(pixels, None, ids, mask), hidden, **CLOSE)
    assert_close(ours.encode_images(pixels, None, ids, mask), theirs.language_projection(hidden), **CLOSE)
    back = convert(ours.state_dict(), "zvl", "instructblip")
    theirs.load_state_dict(back.state, strict=True)  # not a name too many, not one too few


@torch.no_grad()
@both_sizes
def test_blip2_compares_and_matches_the_same_in_our_model(size):
    theirs = randomise(
        Blip2ForImageTextRetrieval(their_config(Blip2Config, size, use_qformer_text_input=True))
    )
    converted = convert(theirs.state_dict())
    assert (converted.source, converted.dropped) == ("blip2-retrieval", {})
    assert converted.absent == ("language head", "projection", "language model")
    ours, new = ours_with(converted.state, size)
    assert {name.split(".")[0] for name in new} == {
        "temperature", "lm_head", "language_projection", "language_model"
    }  # fmt: skip

    pixels, ids, mask = inputs()
    image = ours.vision_features(pixels)
    model = ours.qformer_model
    contrast = theirs(pixels, ids, mask).logits_per_image
    assert_close(
        model.similarity(model.image_features(image), model.text_features(ids, mask)), contrast, **CLOSE
    )
    matching = theirs(pixels, ids, mask, use_image_text_matching_head=True).logits_per_image
    assert_close(model.match(image, ids, mask), matching[:, 1] - matching[:, 0], **CLOSE)
    assert_close(model.itm_head(model.queries(image, ids, mask)).mean(1), matching, **CLOSE)
    back = convert(ours.state_dict(), "zvl", "blip2-retrieval")
    theirs.load_state_dict(back.state, strict=True)


@torch.no_grad()
@both_sizes
def test_blip2_generates_from_the_same_soft_tokens_in_our_model(size):
    theirs = randomise(Blip2ForConditionalGeneration(their_config(Blip2Config, size)))
    converted = convert(theirs.state_dict())
    assert converted.source == "blip2" and converted.absent == ("text", "heads", "language head")
    ours, new = ours_with(converted.state, size)
    assert "qformer.embeddings.word_embeddings.weight" in new  # BLIP-2's Q-Former reads no text there

    pixels, _, _ = inputs()
    image = theirs.vision_model(pixels).last_hidden_state
    hidden = theirs.qformer(
        query_embeds=theirs.query_tokens.expand(BATCH, -1, -1), encoder_hidden_states=image
    ).last_hidden_state
    assert_close(ours.encode_images(pixels), theirs.language_projection(hidden), **CLOSE)
    theirs.load_state_dict(convert(ours.state_dict(), "zvl", "blip2").state, strict=True)


@torch.no_grad()
@both_sizes
def test_lavis_computes_the_same_in_our_model(size):
    state = parts_of_lavis(size)
    del state["llm_model.model.layers.0.self_attn.q_proj.weight"]
    converted = convert(state)
    assert converted.source == "lavis" and converted.absent == ("language model",)
    assert set(converted.dropped) == {
        "Qformer.bert.embeddings.position_ids", "Qformer.cls.predictions.decoder.weight",
        "Qformer.cls.predictions.decoder.bias",
    }  # fmt: skip
    ours, new = ours_with(converted.state, size)
    assert {name.split(".")[0] for name in new} == {"language_model"}
    assert_same_as_lavis(ours, state, size)


@torch.no_grad()
@both_sizes
def test_our_model_computes_the_same_in_lavis(size):
    ours = randomise(our_model(size))
    ours.vision_model.encoder.layers[
        1
    ].self_attn.qkv.bias.normal_()  # on keys too, which changes no attention
    converted = convert(ours.state_dict(), "zvl", "lavis")
    assert list(converted.dropped) == ["visual_encoder.blocks.1.attn.qkv.bias (keys)"]
    expected = {n: v for n, v in parts_of_lavis(size).items() if not n.startswith("llm_model.")}
    theirs = {n: v for n, v in converted.state.items() if not n.startswith("llm_model.")}
    assert {n: v.shape for n, v in theirs.items()} == {
        n: (LLM, *v.shape[1:]) if n == "llm_proj.weight" else v.shape for n, v in expected.items()
    }
    assert theirs["Qformer.bert.embeddings.position_ids"].equal(
        expected["Qformer.bert.embeddings.position_ids"]
    )
    assert_same_as_lavis(ours, theirs, size)


def assert_same_as_lavis(ours, state, size):
    heads = SIZES[size]["heads"]
    pixels, ids, mask = inputs()
    model = ours.qformer_model
    image = ours.vision_features(pixels)
    theirs = lavis.vision(state, pixels, SIZES[size]["vision_heads"])
    assert_close(image, theirs, rtol=1e-5, atol=1e-5)  # of values up to some ten
    contrast = model.similarity(model.image_features(image), model.text_features(ids, mask))
    assert_close(contrast, lavis.similarity(state, theirs, ids, mask, heads), **CLOSE)
    matching = model.itm_head(model.queries(image, ids, mask)).mean(1)
    assert_close(matching, lavis.match(state, theirs, ids, mask, heads), **CLOSE)
    hidden = ours.qformer(
        ours.query_tokens.expand(BATCH, -1, -1), ids, causal_mask(mask, QUERIES), image_embeds=image
    )
    logits = model.lm_head(hidden[:, QUERIES:], ours.qformer.embeddings.word_embeddings.weight)
    assert_close(
        logits, lavis.words(state, theirs, ids, mask, heads), rtol=1e-5, atol=1e-5 * logits.abs().max().item()
    )
    assert_close(ours.temperature, state["temp"], rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("text", [False, True])
def test_a_q_former_saved_without_its_model_is_that_part(text):
    """Blip2QFormerModel and InstructBlipQFormerModel alone have names without `qformer.` and no queries."""
    if text:
        theirs = InstructBlipQFormerModel(InstructBlipQFormerConfig(**qformer_values("narrow")))
    else:
        theirs = Blip2QFormerModel(Blip2QFormerConfig(**qformer_values("narrow")))
    converted = convert(randomise(theirs).state_dict())
    assert converted.source == ("instructblip" if text else "blip2") and not converted.dropped
    ours, new = ours_with(converted.state, "narrow")
    assert any(name.startswith("qformer.") for name in new) != text
    queries, image = torch.randn(BATCH, QUERIES, 24), torch.randn(BATCH, 5, 32)
    instruction = {"input_ids": torch.randint(1, WORDS, (BATCH, LENGTH))} if text else {}
    expected = theirs(query_embeds=queries, encoder_hidden_states=image, **instruction).last_hidden_state
    hidden = ours.qformer(queries, instruction.get("input_ids"), image_embeds=image)
    assert_close(hidden, expected, **CLOSE)


def test_of_eva_clip_the_last_layer_is_left_out_by_name():
    state = lavis.random_state(**lavis.TINY, vision_layers=40)
    start = "visual_encoder."
    file = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
    extras = {"norm.weight": torch.ones(4), "norm.bias": torch.ones(4), "head.weight": torch.ones(4, 4)}
    converted = convert(file | extras)
    assert set(converted.dropped) == set(extras) | {n for n in file if n.startswith("blocks.39.")}
    kept = convert(lavis.random_state(**lavis.TINY, vision_layers=39)).state
    assert set(converted.state) == {n for n in kept if n.startswith("vision_model.") and "post_" not in n}


# Names
