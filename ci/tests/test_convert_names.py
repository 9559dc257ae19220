"""Every name of a layout is converted, or told with its reason: there and back, missing, unexpected, left out."""

import lavis_layout as lavis
import pytest
import torch

from zvl.cli import main
from zvl.model.convert import convert, layout_of, tile_queries
from zvl.model.names import HOLDS, LAYOUTS
from zvl.model.weights import read_weights, write_weights

pytestmark = pytest.mark.usefixtures("seed")
LLM = 32


def tiny_state(layout):
    """Names and tiny tensors of a whole checkpoint of each layout, through LAVIS's, which holds all parts."""
    return convert(lavis.random_state(language=LLM, layers=4, **lavis.TINY), "lavis", layout).state


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
