"""Weights in the names of LAVIS, BLIP-2 and InstructBLIP compute in our model what they compute in theirs."""

import os
import secrets

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

from zvl.cli import main
from zvl.model.convert import convert, layout_of, tile_queries
from zvl.model.names import HOLDS, LAYOUTS
from zvl.model.qformer import causal_mask
from zvl.model.visual import ZiyaVisualConfig, ZiyaVisualForConditionalGeneration
from zvl.model.weights import read_weights, write_weights

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
# A model of each layout that is tiny: where names alone count, and not what is computed.
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


@pytest.fixture(autouse=True)
def seed() -> int:
    """Fresh inputs each time; set ZVL_TEST_SEED to the printed number to see a failure again."""
    value = int(os.environ.get("ZVL_TEST_SEED") or secrets.randbelow(2**31))
    print(f"ZVL_TEST_SEED={value}")
    torch.manual_seed(value)
    return value


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


def tiny_state(layout):
    """Names and tiny tensors of a whole checkpoint of each layout, through LAVIS's, which holds all parts."""
    return convert(lavis.random_state(language=LLM, layers=4, **TINY), "lavis", layout).state


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
    state = lavis.random_state(**TINY, vision_layers=40)
    start = "visual_encoder."
    file = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
    extras = {"norm.weight": torch.ones(4), "norm.bias": torch.ones(4), "head.weight": torch.ones(4, 4)}
    converted = convert(file | extras)
    assert set(converted.dropped) == set(extras) | {n for n in file if n.startswith("blocks.39.")}
    kept = convert(lavis.random_state(**TINY, vision_layers=39)).state
    assert set(converted.state) == {n for n in kept if n.startswith("vision_model.") and "post_" not in n}


# Names


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_is_the_identity(layout):
    state = tiny_state("zvl")
    there = convert(state, "zvl", layout)
    back = convert(there.state, layout, "zvl")
    assert back.state.keys() == state.keys() - there.dropped.keys()
    for name, value in back.state.items():
        assert value.equal(state[name]) and value.dtype == state[name].dtype, name
    assert layout_of(there.state) == layout
    again = convert(back.state, "zvl", layout, strict=False).state
    assert again.keys() == there.state.keys() and all(again[n].equal(v) for n, v in there.state.items())


def test_what_a_layout_cannot_hold_is_named_with_the_reason():
    state = tiny_state("zvl")
    lost = {
        "lavis": set(),
        "zvl": set(),
        "instructblip": {"vision_projection", "text_projection", "itm_head", "temperature", "lm_head"},
        "blip2-retrieval": {"temperature", "lm_head", "language_projection", "language_model"},
    }
    for layout, parts in lost.items():
        dropped = convert(state, "zvl", layout).dropped
        assert set(dropped) == {name for name in state if name.split(".")[0] in parts}
        assert all(layout in reason for reason in dropped.values())
    text = {f"{kind}_embeddings.weight" for kind in ("word", "position")}
    dropped = convert(state, "zvl", "blip2").dropped
    ffn = {
        n for n in state if ".intermediate.dense" in n or (n.startswith("qformer.") and ".output.dense" in n)
    }
    assert {f"qformer.embeddings.{name}" for name in text} <= set(dropped)
    assert {n for n in ffn if "attention" not in n} <= set(dropped)
    assert not any("_query." in name or "attention" in name for name in dropped)


# One name of each part that a checkpoint may lack as a whole: with it left in place, the part is there.
KEPT = {
    "visual_encoder.cls_token", "ln_vision.weight", "vision_model.post_layernorm.weight", "itm_head.weight",
    "vision_model.embeddings.class_embedding", "llm_proj.weight", "language_projection.weight",
    "Qformer.bert.embeddings.word_embeddings.weight", "Qformer.cls.predictions.transform.dense.weight",
}  # fmt: skip
# What follows from the rest, or is any language model's own.
FREE = (
    "language_model.",
    "llm_model.",
    "Qformer.cls.predictions.decoder.",
    "Qformer.bert.embeddings.position_ids",
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whatever_is_removed_or_added_is_named_exactly(layout, seed):
    whole = tiny_state(layout)
    whole.pop("Qformer.cls.predictions.decoder.bias", None)  # it could stand for the other bias
    names = [name for name in whole if name not in KEPT and not name.startswith(FREE)]
    for _ in range(25):
        removed = {names[i] for i in torch.randperm(len(names))[: torch.randint(0, 7, ())].tolist()}
        added = set()
        for i in torch.randperm(len(names))[: torch.randint(0, 5, ())].tolist():
            cut = int(torch.randint(1, len(names[i]), ()))
            added |= {names[i][:cut] + "x" + names[i][cut:], f"extra.{names[i]}", f"{names[i]}.more"}
        added -= set(whole)
        state = {n: v for n, v in whole.items() if n not in removed} | dict.fromkeys(added, torch.ones(3))
        if not removed and not added:
            continue
        assert layout_of(state) == layout
        target = LAYOUTS[int(torch.randint(len(LAYOUTS), ()))]
        converted = convert(state, layout, target, strict=False)
        assert (set(converted.missing), set(converted.unexpected)) == (removed, added), target
        with pytest.raises(ValueError) as caught:
            convert(state, layout)
        listed = {word.strip(",;") for word in str(caught.value).split()}
        assert removed | added <= listed
        assert not (set(whole) - removed - added) & listed


def test_a_part_that_is_not_there_at_all_is_named():
    state = tiny_state("lavis")
    heads = ("vision_proj", "text_proj", "itm_head", "temp")
    state = {name: value for name, value in state.items() if not name.startswith(("visual_encoder", *heads))}
    assert convert(state, "lavis").absent == (
        "vision",
        "heads",
    )  # as the released files: a frozen ViT is not saved
    state = {n: v for n, v in tiny_state("instructblip").items() if not n.startswith("language_")}
    with pytest.raises(ValueError, match=r"language_projection\.weight, language_projection\.bias"):
        convert(state, "instructblip")


def test_layers_of_which_there_is_only_a_piece_are_missing():
    state = tiny_state("zvl") | {"qformer.encoder.layer.5.attention.output.dense.weight": torch.ones(8, 8)}
    missing = set(convert(state, "zvl", strict=False).missing)
    assert {n for n in missing if ".layer.5." not in n} == {
        n.replace("layer.0", "layer.4") for n in state if "layer.0." in n and n.startswith("qformer")
    }
    assert not any("layer.5.crossattention" in name for name in missing)  # only every other layer looks
    state = tiny_state("zvl") | {
        "qformer.encoder.layer.99999999.attention.output.dense.weight": torch.ones(1)
    }
    assert len(convert(state, "zvl", strict=False).unexpected) == 1  # no layer is numbered so
    odd = {
        f"qformer.encoder.layer.{number}.attention.output.dense.bias" for number in ("01", "{n}", "-1", "")
    }
    state = tiny_state("zvl") | dict.fromkeys(odd, torch.ones(8))
    assert set(convert(state, "zvl", strict=False).unexpected) == odd


@pytest.mark.parametrize("layout, name", [("lavis", "ln_vision"), ("zvl", "vision_model.post_layernorm")])
def test_a_vit_without_its_last_norm_lacks_it(layout, name):
    state = {n: v for n, v in tiny_state(layout).items() if not n.startswith(name)}
    assert convert(state, layout, strict=False).missing == (f"{name}.weight", f"{name}.bias")


def test_lavis_may_call_the_language_model_opt_or_t5():
    state = tiny_state("lavis")
    plain = convert(state).state
    for stem in ("opt", "t5"):
        named = {name.replace("llm_", f"{stem}_"): value for name, value in state.items()}
        assert convert(named).state.keys() == plain.keys()
        del named[f"{stem}_proj.bias"]
        assert convert(named, strict=False).missing == (f"{stem}_proj.bias",)


@pytest.mark.parametrize(
    "layout, name", [("instructblip", "qformer.embeddings"), ("blip2-retrieval", "embeddings")]
)
def test_a_buffer_of_old_checkpoints_is_left_out_by_name(layout, name):
    state = tiny_state(layout)
    old = convert(state | {f"{name}.position_ids": torch.arange(5)[None]})
    assert list(old.dropped) == [f"{name}.position_ids"] and old.state.keys() == convert(state).state.keys()


def test_a_decoder_that_is_not_tied_is_refused():
    state = tiny_state("lavis")
    state["Qformer.cls.predictions.decoder.weight"] = state["Qformer.cls.predictions.decoder.weight"] + 1
    with pytest.raises(ValueError, match="must be tied to the word embeddings"):
        convert(state)


def test_of_two_biases_the_one_counts_that_lavis_computes_with():
    state = tiny_state("lavis")
    state["Qformer.cls.predictions.decoder.bias"] = torch.randn(9)
    converted = convert(state)
    assert converted.state["lm_head.bias"].equal(state["Qformer.cls.predictions.decoder.bias"])
    assert "Qformer.cls.predictions.bias" in converted.dropped


def test_an_unknown_layout_and_weights_of_something_else_are_refused():
    with pytest.raises(ValueError, match="'llava' is not one of lavis, blip2"):
        convert(tiny_state("zvl"), "zvl", "llava")
    with pytest.raises(ValueError, match=r"knows a name such as conv1\.weight"):
        layout_of({"conv1.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="BERT's weights"):
        layout_of(["bert.embeddings.token_type_embeddings.weight", "bert.embeddings.word_embeddings.weight"])
    assert {layout: layout_of(tiny_state(layout)) for layout in LAYOUTS} == {name: name for name in LAYOUTS}
    assert set(HOLDS) == set(LAYOUTS)


# More queries


def test_old_queries_stay_and_new_ones_are_noisy_copies(seed):
    old = torch.randn(1, 32, 768)
    with pytest.warns(UserWarning, match="32 of 64 queries are copies"):
        new = tile_queries(old, 64, generator=torch.Generator().manual_seed(seed))
    assert new[:, :32].equal(old) and new.shape == (1, 64, 768)
    noise = new[:, 32:] - old
    assert noise.std() == pytest.approx(0.02, rel=0.05) and noise.mean().abs() < 0.001
    with pytest.warns(UserWarning):
        assert tile_queries(old, 64, generator=torch.Generator().manual_seed(seed)).equal(new)
    with pytest.warns(UserWarning):
        odd = tile_queries(old.half(), 80, noise=0.0)
    assert odd.dtype == torch.half and odd[:, 64:].equal(old[:, :16].half())
    with pytest.raises(ValueError, match="32 queries cannot become 16"):
        tile_queries(old, 16)


# The command


def test_the_command_converts_reports_and_tiles(tmp_path, capsys):
    source, target = tmp_path / "stage1.pth", tmp_path / "ours" / "stage1.safetensors"
    state = tiny_state("lavis")
    torch.save({"model": state, "epoch": 3}, source)
    assert main(["convert", str(source), str(target)]) == 0
    out = capsys.readouterr().out
    assert "from lavis to zvl" in out
    assert "left out: Qformer.bert.embeddings.position_ids (a buffer" in out
    whole = convert(state).state
    written = read_weights(target)
    assert written.keys() == whole.keys() and all(written[name].equal(whole[name]) for name in whole)

    with pytest.warns(UserWarning, match="4 of 8 queries"):
        assert (
            main(["convert", str(target), str(tmp_path / "back.pth"), "--to", "lavis", "--queries", "8"]) == 0
        )
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]  # as LAVIS reads it
    assert back.keys() == state.keys() and back["query_tokens"].shape == (1, 8, 8)


def test_the_command_says_in_one_line_what_is_wrong(tmp_path, capsys):
    state = tiny_state("zvl")
    del state["itm_head.bias"]
    source = tmp_path / "model.safetensors"
    write_weights(state | {"odd.name": torch.ones(1)}, source)
    target = str(tmp_path / "out.safetensors")
    for arguments, message in (
        ([str(source), target], "unexpected, 1: odd.name; missing, 1: itm_head.bias;"),
        ([str(source), target, "--to", "llava"], "'llava' is not one of"),
        ([str(source), str(source), "--partial"], "exists"),
        ([str(source), target, "--partial", "--queries", "2"], "4 queries cannot become 2"),
        ([str(tmp_path / "none.pth"), target], "no such file"),
    ):
        assert main(["convert", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error
    assert not (tmp_path / "out.safetensors").exists()
    assert main(["convert", str(source), target, "--partial"]) == 0
    out = capsys.readouterr().out
    assert "unexpected: odd.name" in out and "missing: itm_head.bias" in out
