"""The Q-Former starts from BERT, a checkpoint or nothing."""

import pytest
import torch
from tiny_model import tiny_model
from transformers import BertConfig, BertForPreTraining, InstructBlipQFormerConfig

from zvl.model.convert import convert
from zvl.model.objectives import QFormerForPretraining
from zvl.model.weights import write_weights
from zvl.training import starts

WIDTH = {"narrow": 24, "full": 768}
both_sizes = pytest.mark.parametrize("size", ["narrow", pytest.param("full", marks=pytest.mark.slow)])


def stage1(size="narrow", queries=4, **config):
    """Our pre-training model with random weights: words 0 to 30, the last of which is `[DEC]`."""
    width = WIDTH[size]
    values = {
        "vocab_size": 31, "hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 12,
        "intermediate_size": 4 * width, "max_position_embeddings": 20, "encoder_hidden_size": 32,
    }  # fmt: skip
    return QFormerForPretraining(
        InstructBlipQFormerConfig(**values | config), queries, 8, decoder_start_id=30
    ).eval()


def bert_model(size="narrow", **config):
    """A whole BERT of transformers with random weights, none of them trivial."""
    width = WIDTH[size]
    values = {
        "vocab_size": 30, "hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 12,
        "intermediate_size": 4 * width, "max_position_embeddings": 20,
    }  # fmt: skip
    model = BertForPreTraining(BertConfig(**values | config)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model


def saved(state, path):
    write_weights(state, path)
    return path


@torch.no_grad()
@both_sizes
def test_from_bert_text_passes_as_through_bert(tmp_path, size):
    bert, model = bert_model(size), stage1(size)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    start = starts.initialise(model, saved(bert.state_dict(), tmp_path / "model.safetensors"))
    ids = torch.randint(30, (3, 7))
    mask = torch.arange(7) < torch.randint(1, 8, (3, 1))
    expected = bert(ids, mask.long())
    hidden = model.qformer(input_ids=ids, attention_mask=mask)
    theirs = bert.bert(ids, mask.long()).last_hidden_state
    torch.testing.assert_close(hidden, theirs, rtol=0, atol=1e-5)
    words = model.lm_head(hidden, model.qformer.embeddings.word_embeddings.weight)
    torch.testing.assert_close(
        words[..., :30], expected.prediction_logits, rtol=0, atol=1e-5 * size_of(words)
    )

    own = model.state_dict()
    for n in range(2):
        for leaf in ("intermediate{}.dense.weight", "output{}.dense.bias", "output{}.LayerNorm.weight"):
            name = f"qformer.encoder.layer.{n}.{leaf}"
            assert own[name.format("_query")].equal(own[name.format("")])
    stays = {n for n in own if "crossattention" in n or not n.startswith(("qformer.", "lm_head."))}
    rows = {"qformer.embeddings.word_embeddings.weight[30:]", "lm_head.bias[30:]"}
    assert set(start.new) == stays | rows and start.layout == "bert"
    assert all(own[name].equal(fresh[name]) for name in stays)
    words = "qformer.embeddings.word_embeddings.weight"
    assert own[words][30:].equal(fresh[words][30:])
    assert all(not own[name].equal(fresh[name]) for name in own if name not in stays)
    assert set(start.unused) == {
        "pooler.dense.weight", "pooler.dense.bias", "cls.seq_relationship.weight", "cls.seq_relationship.bias"
    }  # fmt: skip


def size_of(tensor):
    return max(1.0, tensor.abs().max().item())


@torch.no_grad()
def test_the_oldest_names_of_bert_and_its_bare_model_start_the_same(tmp_path):
    bert = bert_model()
    state = {n: v for n, v in bert.state_dict().items() if not n.endswith("decoder.bias")}
    old = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
           for n, v in state.items()}  # fmt: skip
    assert sum(name.endswith(("gamma", "beta")) for name in old) == 2 * 6
    torch.save(old, tmp_path / "pytorch_model.bin")
    models = [stage1() for _ in range(3)]
    models[1].load_state_dict(models[0].state_dict())
    models[2].load_state_dict(models[0].state_dict())
    starts.initialise(models[0], saved(state, tmp_path / "new.safetensors"))
    starts.initialise(models[1], tmp_path / "pytorch_model.bin")
    bare = starts.initialise(models[2], saved(bert.bert.state_dict(), tmp_path / "bare.safetensors"))
    first, second, third = (model.state_dict() for model in models)
    assert all(second[name].equal(value) for name, value in first.items())
    heads = {name for name in first if name.startswith("lm_head.")}
    assert {name for name in first if not third[name].equal(first[name])} == heads
    assert heads <= set(bare.new)  # a bare BERT has no language head to give


@torch.no_grad()
def test_a_bert_that_does_not_fit_changes_nothing(tmp_path):
    model = stage1()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for number, (changes, message) in enumerate((
        ({"vocab_size": 40}, r"cls\.predictions\.bias has shape \(40,\), the model's bias \(31,\): .* at least"),
        ({"hidden_size": 48}, r"transform\.dense\.weight has shape \(48, 48\), .* \(24, 24\)"),
        ({"intermediate_size": 50}, r"intermediate\.dense\.weight has shape \(50, 24\)"),
    )):  # fmt: skip
        file = saved(bert_model(**changes).state_dict(), tmp_path / f"{number}.safetensors")
        with pytest.raises(ValueError, match=message):
            starts.initialise(model, file)
    state = bert_model().state_dict()
    del state["bert.encoder.layer.1.output.dense.bias"], state["bert.embeddings.word_embeddings.weight"]
    with pytest.raises(ValueError) as caught:
        starts.initialise(model, saved(state, tmp_path / "broken.safetensors"))
    for name in ("encoder.layer.1.output.dense.bias", "embeddings.word_embeddings.weight"):
        assert str(caught.value).count(name) == 1
    head = bert_model().state_dict()
    head["cls.predictions.transform.dense.weight"] = torch.ones(3, 3)
    with pytest.raises(ValueError, match=r"cls\.predictions\.transform\.dense\.weight has shape \(3, 3\)"):
        starts.initialise(model, saved(head, tmp_path / "head.safetensors"))
    bare = bert_model(vocab_size=40).bert.state_dict()
    with pytest.raises(ValueError, match=r"BERT's embeddings\.word_embeddings\.weight has shape \(40, 24\)"):
        starts.initialise(model, saved(bare, tmp_path / "bare.safetensors"))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_a_bert_of_other_length_and_depth_says_what_stays_new(tmp_path):
    model = stage1(num_hidden_layers=3, max_position_embeddings=25)
    start = starts.initialise(model, saved(bert_model().state_dict(), tmp_path / "x.safetensors"))
    assert "qformer.embeddings.position_embeddings.weight[20:]" in start.new
    assert {n for n in start.new if "layer.2." in n} == {n for n in model.state_dict() if "layer.2." in n}
    model = stage1(num_hidden_layers=1, max_position_embeddings=9)
    start = starts.initialise(model, tmp_path / "x.safetensors")
    assert not any("position" in name for name in start.new)
    assert "encoder.layer.1.output.dense.bias" in start.unused


@torch.no_grad()
def test_from_nothing_everything_is_new():
    model = stage1()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for nothing in (None, "nothing"):
        start = starts.initialise(model, nothing)
        assert start.new == tuple(before) and start.layout == "nothing"
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("layout", ["lavis", "blip2-retrieval", "instructblip", "zvl"])
def test_from_a_q_former_of_any_layout_all_that_it_has_is_taken(tmp_path, layout):
    whole = tiny_model()
    given = convert(whole.state_dict(), "zvl", layout)
    file = saved(given.state, tmp_path / "given.safetensors")
    config = whole.config.qformer_config
    model = QFormerForPretraining(config, 4, 8, decoder_start_id=4)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    start = starts.initialise(model, file)
    own = model.state_dict()
    lost = {name for name in given.dropped if name in own}
    assert start.layout == layout and set(start.new) == lost
    for name, value in own.items():
        assert value.equal(fresh[name] if name in lost else whole.state_dict()[name]), name
    parts = ("vision_model.", "language_projection.", "language_model.")
    expected = {n for n in convert(given.state, layout).state if n.startswith(parts)}
    assert {n for n, reason in start.unused.items() if reason == "the model has no such weight"} == expected

    other = tiny_model(seed=1)
    start = starts.initialise(other, file)
    own = other.state_dict()
    taken = own.keys() - set(start.new)
    assert all(own[name].equal(whole.state_dict()[name]) for name in taken) and taken >= set(
        given.state
    ) & set(own)


@torch.no_grad()
def test_32_queries_serve_64_only_when_asked(tmp_path):
    old, model = stage1(queries=32), stage1(queries=64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    file = saved(old.state_dict(), tmp_path / "old.safetensors")
    with pytest.raises(ValueError, match=r"32 queries serve 64 only when asked: tile=True"):
        starts.initialise(model, file)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    with pytest.warns(UserWarning, match="32 of 64 queries are copies"):
        start = starts.initialise(model, file, tile=True, generator=torch.Generator().manual_seed(1))
    assert not start.new and model.query_tokens[:, :32].equal(old.query_tokens)
    apart = (model.query_tokens[:, 32:] - old.query_tokens).std()
    assert 0.015 < apart < 0.025
    with pytest.raises(ValueError, match="64 queries cannot become 32"):
        starts.initialise(old, saved(model.state_dict(), tmp_path / "new.safetensors"), tile=True)


@torch.no_grad()
def test_another_vocabulary_or_a_broken_checkpoint_is_refused_with_advice(tmp_path):
    file = saved(stage1(vocab_size=35).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"\(35, 24\), the model's \(31, 24\).*take its tokenizer"):
        starts.initialise(stage1(), file)
    state = stage1().state_dict()
    del state["itm_head.bias"]
    file = saved(state | {"odd": torch.ones(1)}, tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match=r"odd;\nmissing, 1: itm_head\.bias"):
        starts.initialise(stage1(), file)
    start = starts.initialise(stage1(), file, strict=False)
    assert start.new == ("itm_head.bias",) and start.unused == {"odd": "unexpected"}
