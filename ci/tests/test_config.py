"""Presets: the paper's numbers where the paper gives them, and the same shape for both."""

import pytest

from zvl import config


def test_full_holds_the_papers_numbers():
    full = config.full()
    loop = full.pretraining.loop
    assert (loop.learning_rate, loop.betas, loop.eps, loop.weight_decay, loop.clip, loop.steps) == (
        1e-5, (0.9, 0.9), 1e-8, 5e-2, 2.0, 90_000,
    )  # fmt: skip
    assert full.num_queries == 64
    assert full.pretraining.batch_size * loop.accumulation == 2048


def test_nano_walks_accumulation_and_padding_on_purpose():
    nano = config.nano()
    assert any(stage.loop.accumulation > 1 for stage in (*nano.base, *nano.chat))
    assert any(stage.source == "dialogue" for stage in (*nano.base, *nano.chat))


def test_scaled_presets_change_steps_only():
    nano, half = config.nano(3), config.nano(3).with_steps(0.5)
    assert half.pretraining.loop.steps == round(nano.pretraining.loop.steps / 2)
    assert half.world == nano.world and half.base[0].batch_size == nano.base[0].batch_size


def test_a_short_run_changes_what_it_says_and_draws_no_more_than_it_sees():
    full = config.full()
    assert full.with_run() == full
    short = full.with_run(steps=20, batch_size=4, accumulation=2, weights="random", data="some/shards")
    loop = short.pretraining.loop
    assert (loop.steps, loop.accumulation, short.pretraining.batch_size) == (20, 2, 4)
    assert short.world.train_scenes == 160 and 100 <= short.world.test_scenes < full.world.test_scenes
    assert short.parts.data == "some/shards" and short.base == full.base
    assert (short.parts.weights, short.parts.start, short.parts.tokenizer) == ("random", "nothing", "nano")
    assert full.pretraining.compile and not short.pretraining.compile, "a trial ends before compiling pays"
    assert full.with_run(weights="random", tokenizer="mine").parts.tokenizer == "mine"
    assert full.with_run(start="bert").parts.start == "bert"
    with pytest.raises(ValueError, match="accumulation is -1"):
        full.with_run(accumulation=-1)


def test_an_unknown_preset_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"'big'.*nano, full"):
        config.preset("big")
