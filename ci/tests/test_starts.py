"""The Q-Former starts from BERT, a checkpoint or nothing; the projection where its output resembles words."""

import math
from types import SimpleNamespace

import pytest
import torch
from tiny_model import tiny_model
from transformers import BertConfig, BertForPreTraining, InstructBlipQFormerConfig

from zvl.data.samples import Pair
from zvl.model import backbones
from zvl.model.convert import convert
from zvl.model.objectives import QFormerForPretraining
from zvl.model.weights import write_weights
from zvl.training import starts


def test_patch_shares_count_pixels():
    for _ in range(20):
        x, y = torch.randint(0, 60, (2,)).tolist()
        width, height = torch.randint(1, 36, (2,)).tolist()
        picture = torch.zeros(96, 96)
        picture[y : y + height, x : x + width] = 1
        expected = picture.unfold(0, 12, 12).unfold(1, 12, 12).mean((2, 3)).flatten()
        torch.testing.assert_close(starts.patch_shares([(x, y, width, height)], 64, 96)[0], expected)


def test_the_projection_says_of_each_query_what_stands_where_it_looks():
    tokenizer = backbones.load_tokenizer()
    names = ["tiger", "panda", "老虎", "熊猫", "boat", "apple"]
    grounds = ["red", "green", "blue", "white", "grey", "purple"]
    images = 240
    pick = torch.randint(0, 6, (images,))
    ground = torch.randperm(images) % 6  # even: a word in more than a fifth of the captions would not count
    left, right = (0, 0, 48, 96), (48, 0, 48, 96)  # a thing in the left half, bare ground in the right one
    regions = [Pair(str(i), f"{i}.png", names[pick[i]], "en", "x", left) for i in range(images)]
    pairs = [Pair(str(i), f"{i}.png", grounds[ground[i]], "en", "x") for i in range(images)]
    embedding = torch.nn.Embedding(len(tokenizer), 32)

    def word(text):
        return embedding.weight[
            tokenizer(" " * text.isascii() + text, add_special_tokens=False)["input_ids"]
        ].sum(0)

    # Query 0 looks at the left half, query 1 at the right one, query 2 with half its attention at no patch.
    look = torch.zeros(3, 65)
    look[:2, 1:] = starts.patch_shares([left, right], 64, 96) / 32
    look[2, 0], look[2, 1:] = 0.5, 0.5 / 64
    there, beside = (torch.stack([word(t[n]) for n in k]) for t, k in ((names, pick), (grounds, ground)))
    beside = beside - beside.mean(0)
    common = (
        torch.bincount(pick)[pick] / images
    )  # a name is the quieter the more phrases have it; the box is said too
    there = there * (common.log() / math.log(starts.RARE))[:, None]
    there = there + embedding.weight.pow(2).mean().sqrt() * starts.box_code(torch.tensor([0, 0, 0.5, 1]), 32)
    truth = torch.stack([there, beside, (there + beside) / 4], 1).detach()
    basis, shift = torch.randn(32, 32), torch.randn(32)
    mixed = truth @ basis + shift  # what the queries hold: the truth, in another basis
    model = SimpleNamespace(
        language_model=SimpleNamespace(get_input_embeddings=lambda: embedding),
        language_projection=torch.nn.Linear(32, 32),
        config=SimpleNamespace(vision_config=SimpleNamespace(image_size=96)),
        qformer_model=SimpleNamespace(
            queries=lambda features: mixed[features[:, 0, 0].long()],
            cross_attention=lambda features: look.expand(len(features), 1, 1, 3, 65),
        ),
    )
    features = torch.arange(images).float()[:, None, None].expand(images, 65, 1)
    row = {f"{i}.png": i for i in range(images)}
    said, counts = starts.said_of_patches(row, pairs, regions, tokenizer, embedding.weight, images, 64, 96)
    assert said.shape == (images, 64, 32)
    torch.testing.assert_close(said[5].view(8, 8, 32)[:, :4], there[5].expand(8, 4, 32))
    torch.testing.assert_close(said[5].view(8, 8, 32)[:, 4:], beside[5].expand(8, 4, 32))
    explained = starts.align_projection(model, features, said, counts, strength=2.0)
    assert explained > 0.999
    with torch.no_grad():
        tokens = model.language_projection(mixed)
        starts.align_projection(model, features, said, counts, strength=2.0, mark=embedding.weight[3])
        marked = model.language_projection(mixed)
    torch.testing.assert_close(marked, tokens + embedding.weight[3], msg="each token carries the mark")
    wanted = truth - truth.mean((0, 1))
    assert torch.cosine_similarity(tokens, wanted, dim=-1).min() > 0.99
    assert tokens.pow(2).mean().sqrt() == pytest.approx(
        2 * embedding.weight.pow(2).mean().sqrt().item(), rel=0.01
    )


def test_rare_words_of_a_region_are_heard_above_common_ones_and_their_patches_count_more():
    """Each of ten things is said by a tenth of the phrases, but the fox by one alone; "left" by half of them."""
    tokenizer = backbones.load_tokenizer()
    names = "tiger panda owl fox bus kite bell rose crab deer".split() * 10
    names = [name if name != "fox" or i == 3 else "owl" for i, name in enumerate(names)]
    sides = ["left", "right"] * 50
    box = (0, 0, 96, 48)
    regions = [
        Pair(str(i), f"{i}.png", f"{name} {side}", "en", "x", box)
        for i, (name, side) in enumerate(zip(names, sides, strict=True))
    ]
    row = {f"{i}.png": i for i in range(100)}
    words = torch.nn.functional.one_hot(torch.arange(len(tokenizer)), len(tokenizer)).float()
    told, counts = starts.said_of_patches(row, (), regions, tokenizer, words, 100, 64, 96)
    (fox,), (tiger,), (right,) = (
        tokenizer(word, add_special_tokens=False)["input_ids"][-1:] for word in (" fox", " tiger", " right")
    )
    code = words.pow(2).mean().sqrt() * starts.box_code(torch.tensor([0.0, 0, 1, 0.5]), len(tokenizer))
    loud = told[3, 0] - code
    assert float((told[10, 0] - code)[tiger]) == pytest.approx(math.log(0.1) / math.log(0.01), rel=1e-3)
    assert float(loud[fox]) == pytest.approx(1, rel=1e-3), (
        "a word in a hundredth of the phrases is as loud as any"
    )
    assert float(loud[right]) == pytest.approx(math.log(0.5) / math.log(0.01), rel=1e-3)
    assert counts[3, 0] == pytest.approx(starts.COUNTS / 0.01) and counts[0, 0] == 1, "rare things count more"
    assert (counts[:, 32:] == 1).all(), "bare ground counts once"


def test_a_row_that_counts_twice_is_a_row_that_is_there_twice():
    inputs, targets = torch.randn(30, 5), torch.randn(30, 3)
    counts = torch.randint(1, 4, (30,))
    weight, _ = starts.ridge_regression(inputs, targets, counts.float(), ridge=0)
    again, _ = starts.ridge_regression(
        inputs.repeat_interleave(counts, 0), targets.repeat_interleave(counts, 0), ridge=0
    )
    torch.testing.assert_close(weight, again, atol=1e-4, rtol=1e-3)


def test_aligned_queries_look_at_their_own_cell_and_take_in_what_is_said_there():
    """A ViT whose patches hold their place and a few of sixty things, mixed and with a little noise."""
    queries, images, width = 16, 200, 48
    config = InstructBlipQFormerConfig(
        vocab_size=60, hidden_size=width, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        cross_attention_frequency=1, encoder_hidden_size=96, max_position_embeddings=20, initializer_range=0.1,
    )  # fmt: skip
    model = QFormerForPretraining(config, queries, 8, decoder_start_id=30).eval()
    words = model.qformer.embeddings.word_embeddings.weight.detach()
    things = torch.randint(60, (images, 64))
    said = words[things]
    places = starts.box_code(starts.grid_centres(64).repeat(1, 2), 32)
    hidden = torch.cat([said, places.expand(images, -1, -1)], -1) @ torch.randn(80, 96)
    features = torch.cat([torch.randn(images, 1, 96), hidden + 0.01 * torch.randn(images, 64, 96)], 1)
    explained = starts.align_cross_attention(model, features, said, torch.ones(images, 64), reach=0.08)
    assert min(explained) > 0.95
    with torch.no_grad():
        maps = model.cross_attention(features[:50])[..., 1:]  # without the class vector
    grid = maps[:, 0].mean((0, 1)).view(16, 8, 8)
    for query, centre in enumerate(starts.grid_centres(16)):
        looked = torch.stack([grid[query].sum(0), grid[query].sum(1)]) / grid[query].sum()
        line = (torch.arange(8) + 0.5) / 8
        assert ((looked * line).sum(1) - centre).abs().max() < 0.1, "on average it looks at its cell's centre"
        row, column = query // 4, query % 4
        cell = grid[query, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].sum() / grid[query].sum()
        assert cell > 0.4, "a cell is a sixteenth of the picture"
    with torch.no_grad():
        taken = model.queries(features)
    looks = model.cross_attention(features).mean((1, 2))[..., 1:]
    target = (looks @ said).flatten(0, 1)
    taken = taken.flatten(0, 1)
    _, predicted = starts.ridge_regression(taken - taken.mean(0), target - target.mean(0))
    assert (
        1 - (predicted - target + target.mean(0)).pow(2).sum() / (target - target.mean(0)).pow(2).sum() > 0.5
    )
    with pytest.raises(ValueError, match="5 queries make no square grid"):
        starts.align_cross_attention(stage1(queries=5), features, said, torch.ones(images, 64))


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
