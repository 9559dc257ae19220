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


def test_an_unknown_preset_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"'big'.*nano, full"):
        config.preset("big")
