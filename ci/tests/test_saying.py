"""Queries that learn to say what lies around their places: targets, loss and training."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import InstructBlipQFormerConfig

from zvl import config
from zvl.config import LoopConfig, SayingConfig
from zvl.data.samples import Pair
from zvl.model import backbones
from zvl.model.objectives import QFormerForPretraining
from zvl.training import aligned, saying

NAMES = "tiger panda owl fox bus kite bell rose crab deer".split()


@pytest.fixture(scope="module")
def data():
    """Two hundred pictures with one thing each, of ten, in one of the four quarters; each quarter is 48 pixels wide."""
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    things = torch.arange(200) % 10
    quarters = torch.randint(0, 4, (200,), generator=generator)
    regions = [
        Pair(str(i), f"{i}.png", NAMES[things[i]], "en", "x", (48 * int(q % 2), 48 * int(q // 2), 48, 48))
        for i, q in enumerate(quarters)
    ]
    images = tuple(f"{i}.png" for i in range(200))
    return SimpleNamespace(
        pairs=(), regions=tuple(regions), images=images, row={image: i for i, image in enumerate(images)},
        features=torch.zeros(200, 65, 8), things=things, quarters=quarters,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return backbones.load_tokenizer()


def test_a_query_should_say_the_thing_that_covers_its_place_and_no_other(data, tokenizer, monkeypatch):
    monkeypatch.setattr(saying, "NAMES", 0.2)  # with ten things each is said by a tenth of the texts
    words = torch.randn(len(tokenizer), 32)
    said = saying.sayings(data, words, 16, 150, tokenizer)
    assert said.wanted.shape == (150, 16, 32) and said.shares.shape == (150, 16, len(said.directions))
    torch.testing.assert_close(said.directions.norm(dim=-1), torch.ones(len(said.directions)))
    mean = (said.wanted * said.counts[..., None]).sum((0, 1)) / said.counts.sum()
    torch.testing.assert_close(mean, torch.zeros(32), atol=1e-3, rtol=0)
    assert float(said.wanted.pow(2).mean()) == pytest.approx(1, rel=1e-3)
    corner = torch.tensor([0, 3, 12, 15])[data.quarters[:150]]  # the cell in the picture's corner
    for i in range(150):
        (token,) = tokenizer(" " + NAMES[data.things[i]], add_special_tokens=False)["input_ids"][-1:]
        direction = torch.cosine_similarity(said.directions, words[token][None])
        column = int(direction.argmax())
        assert direction[column] > 0.999
        row, cell = torch.arange(16) // 4, torch.arange(16) % 4
        inside = (row // 2 == data.quarters[i] // 2) & (cell // 2 == data.quarters[i] % 2)
        expected = inside / (1 + saying.GROUND)  # a thing that fills the cell, beside the ground
        torch.testing.assert_close(said.shares[i].sum(-1).float(), expected, atol=2e-3, rtol=0)
        assert int(said.shares[i, corner[i]].argmax()) == column
        assert said.wanted[i, corner[i]] @ words[token] > said.wanted[i, 15 - corner[i]] @ words[token]


def test_the_loss_is_what_loops_over_queries_say():
    heard, wanted, directions = torch.randn(3, 4, 40), torch.randn(3, 4, 40), torch.randn(5, 40)
    counts, shares = torch.rand(3, 4) + 0.5, torch.rand(3, 4, 5) * (torch.rand(3, 4, 1) < 0.7)
    loss, found = saying.saying_loss(heard, wanted, counts, shares, directions, torch.tensor(2.0))
    squares = boxes = names = weights = 0.0
    told = aligned.rotation(aligned.BOX_EDGES, 40)  # the directions in which boxes are told
    for i in range(3):
        for q in range(4):
            squares += float(counts[i, q] * ((heard[i, q] - wanted[i, q]) ** 2).mean())
            boxes += float(counts[i, q] * (told @ (heard[i, q] - wanted[i, q])).pow(2).mean())
            logits = [2 * float(heard[i, q] @ word) / math.sqrt(40) for word in directions]
            total = math.log(sum(map(math.exp, logits)))
            there = float(shares[i, q].sum())
            if there == 0:
                continue
            weight = min(there, 1.0) * float(counts[i, q])
            surprise = sum(
                float(s) / there * (total - one) for s, one in zip(shares[i, q], logits, strict=True)
            )
            names, weights = names + weight * surprise, weights + weight
    squares, boxes, names = squares / float(counts.sum()), boxes / float(counts.sum()), names / weights
    assert float(found["boxes"]) == pytest.approx(boxes, rel=1e-4)
    assert float(found["squares"]) == pytest.approx(squares, rel=1e-4)
    assert float(found["names"]) == pytest.approx(names, rel=1e-4)
    assert float(loss) == pytest.approx(
        squares + saying.BOX_WEIGHT * boxes + saying.NAMES_WEIGHT * names, rel=1e-4
    )
    silent = saying.saying_loss(heard, wanted, counts, 0 * shares, directions, torch.tensor(2.0))
    assert float(silent[0]) == pytest.approx(squares + saying.BOX_WEIGHT * boxes, rel=1e-4), (
        "queries without names have squares alone"
    )


def test_training_finds_what_the_closed_form_cannot_and_leaves_the_text_side_alone():
    """What is to be said is a size without its sign: no linear layer on an untrained model's queries finds it."""
    width = InstructBlipQFormerConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=20, cross_attention_frequency=1, encoder_hidden_size=8, initializer_range=0.1,
    )  # fmt: skip
    model = QFormerForPretraining(width, 4, 16, decoder_start_id=1)
    features = torch.randn(512, 1, 8).repeat(1, 5, 1)
    sizes = features[:, 0, 0].abs()
    wanted = (sizes - sizes.mean())[:, None, None] * torch.randn(4, 6)
    wanted /= wanted.pow(2).mean().sqrt()
    said = saying.Sayings(wanted, torch.ones(512, 4), torch.zeros(512, 4, 3).half(), torch.eye(3, 6))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        speaker = saying.Speaker(model, features, said)
        closed = float(speaker(features, wanted=wanted, counts=said.counts, shares=said.shares)[0])
    asked = SayingConfig(LoopConfig(150, 1e-2, log_every=20), batch_size=64)
    history = saying.learn_to_say(model, features, said, asked, None)
    assert closed > 0.7 and history[-1]["squares"] < 0.5 * closed, (closed, history[-1])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "query_tokens" in changed and any("crossattention" in name for name in changed)
    text = (
        "word_embeddings",
        "position_embeddings",
        ".intermediate.",
        ".output.",
        "text_projection",
        "itm_head",
    )
    assert not [
        name for name in changed if any(f"{part}" in name for part in text) and "attention" not in name
    ]


def test_without_the_step_queries_stay_as_they_were_pre_trained(monkeypatch):
    trained = object()
    monkeypatch.setattr(saying.pretraining, "pretrain", lambda preset, run: (trained, [{"loss": 1.0}]))
    assert saying.say(replace(config.nano(), saying=None), None) == (trained, [])


def test_the_step_scales_with_the_others():
    assert config.nano().with_steps(0.5).saying.loop.steps == config.nano().saying.loop.steps // 2
    assert config.full().with_steps(0.5).saying is None
