"""Micro-batches of one step are one batch: losses and gradients of the whole, with and without dropout."""

from dataclasses import replace

import pytest
import torch
from small_stage1 import (
    LENGTH,
    assert_gradients_agree,
    gradients,
    hardest_negatives,
    random_batch,
    random_model,
)  # fmt: skip
from test_schedule import handful
from torch.testing import assert_close

from zvl.config import LoopConfig, full
from zvl.model import objectives
from zvl.training import contrast, loop, schedule
from zvl.training.contrast import whole_batch

pytestmark = pytest.mark.usefixtures("seed")
IMAGES = (0, 1, 2, 1, 3, 0, 4, 1, 5)  # images 0 and 1 come back in other micro-batches
SIZE = 3
PARTS = ("itc", "itm", "itg", "loss")


def reseed(micro: int) -> None:
    torch.manual_seed(1000 + micro)


def micro_batches(batch: dict, shorten: bool = True) -> list[dict]:
    """The batch in threes; the last one's texts, where they allow it, padded to fewer positions."""
    found = [
        dict(zip(batch, parts, strict=True))
        for parts in zip(*(v.split(SIZE) for v in batch.values()), strict=True)
    ]
    if shorten:
        for name in ("input_ids", "text_mask"):
            found[-1][name] = found[-1][name][:, : LENGTH - 2]
    return found


def new_batch() -> dict:
    batch = random_batch(IMAGES)
    batch["text_mask"][-SIZE:, LENGTH - 2 :] = False
    batch["text_mask"][:SIZE, 1:] = True  # and more words in one micro-batch than in another
    return batch


def mean_gradients(model, losses: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return gradients(model, torch.stack(losses).mean())


@pytest.fixture
def hardest(monkeypatch):
    monkeypatch.setattr(objectives, "sample_negatives", hardest_negatives)


def test_micro_batches_equal_the_big_batch(hardest):
    model, batch = random_model(), new_batch()
    big = model(**batch)
    prepared = whole_batch(model, micro_batches(batch), reseed)
    small = [model(**micro) for micro in prepared]
    for part in PARTS:
        losses = [found[part] for found in small]
        assert_close(torch.stack(losses).mean(), big[part], rtol=1e-6, atol=1e-6)
        assert_gradients_agree(mean_gradients(model, losses), gradients(model, big[part]), 2e-5)
    assert gradients(model, big["itc"])["temperature"] != 0
    for name in ("itc_accuracy", "itm_accuracy"):
        assert_close(torch.stack([found[name] for found in small]).mean(), big[name])


def test_plain_accumulation_is_not_the_big_batch(hardest):
    model, batch = random_model(), new_batch()
    big = gradients(model, model(**batch)["itc"])
    small = mean_gradients(model, [model(**micro)["itc"] for micro in micro_batches(batch)])
    with pytest.raises(AssertionError):
        assert_gradients_agree(small, big, 1e-2)


def test_both_passes_have_the_same_dropout():
    model, batch = random_model(dropout=0.3).train(), new_batch()
    prepared = whole_batch(model, micro_batches(batch), reseed)
    small, features = [], []
    for micro, part in enumerate(prepared):
        reseed(micro)
        small.append(model(**part)["itc"])
        reseed(micro)
        features.append(model.contrast_features(part["image_embeds"], part["input_ids"], part["text_mask"]))
    # The same masks in one graph, which only memory forbids.
    logits = model.joint_logits(*(torch.cat(parts) for parts in zip(*features, strict=True)))
    big = objectives.itc_loss(logits, batch["image_ids"])
    assert_close(torch.stack(small).mean(), big, rtol=1e-6, atol=1e-6)
    assert_gradients_agree(mean_gradients(model, small), gradients(model, big), 2e-5)


def test_negatives_come_from_the_whole_batch_and_never_from_the_same_image():
    model, batch = random_model(), new_batch()
    for hard in (True, False):
        for _ in range(20):
            prepared = whole_batch(
                model, micro_batches(batch), reseed, hard, torch.Generator().manual_seed(torch.seed())
            )
            for name in ("negative_images", "negative_texts"):
                drawn = torch.cat([getattr(micro["whole"], name) for micro in prepared])
                assert (batch["image_ids"][drawn] != batch["image_ids"]).all()
        assert (drawn // SIZE != torch.arange(len(IMAGES)) // SIZE).any()


def test_pictures_are_held_once():
    prepared = whole_batch(random_model(), micro_batches(new_batch()), reseed)
    storages = {micro["image_embeds"].untyped_storage().data_ptr() for micro in prepared}
    storages |= {micro["whole"].image_embeds.untyped_storage().data_ptr() for micro in prepared}
    assert len(storages) == 1


def test_a_step_of_one_image_trains_without_matching():
    model, batch = random_model(), random_batch((0,) * 6)
    small = [model(**micro) for micro in whole_batch(model, micro_batches(batch, shorten=False), reseed)]
    assert all(found["itm"] == 0 for found in small)
    found = mean_gradients(model, [found["loss"] for found in small])
    assert all(value.isfinite().all() for value in found.values())


def test_the_first_pass_leaves_autocast_no_weights_without_gradient():
    model, batch = random_model(spread=0.05), new_batch()
    with torch.autocast("cpu", torch.bfloat16):
        small = [model(**micro)["loss"] for micro in whole_batch(model, micro_batches(batch), reseed)]
    never = [name for name, value in mean_gradients(model, small).items() if not value.any()]
    assert never == []


def test_unequal_micro_batches_are_refused():
    parts = micro_batches(new_batch())
    parts[1] = {name: value[:2] for name, value in parts[1].items()}
    with pytest.raises(ValueError, match=r"have \[3, 2, 3\] pairs"):
        whole_batch(random_model(), parts, reseed)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_loop_trains_on_the_whole_step(hardest, dropout):
    def loss(model, batch, step):
        found = model(**batch)
        return found["loss"], {name: found[name].detach() for name in PARTS[:3]}

    def prepare(model, batches, step, reseed):
        return whole_batch(model, batches, reseed)

    batch = new_batch()
    config = LoopConfig(steps=2, learning_rate=1e-3, accumulation=3, log_every=1)
    model = random_model(dropout=dropout)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    history = loop.train(model, loss, lambda _, micro: micro_batches(batch)[micro], config, prepare=prepare)
    other = random_model(dropout=dropout)
    other.load_state_dict(weights)
    if dropout:  # no big batch has the same masks: the same training, then, to the bit
        again = loop.train(other, loss, lambda _, micro: micro_batches(batch)[micro], config, prepare=prepare)
        assert again == history
    else:
        big = loop.train(other, loss, lambda *_: batch, replace(config, accumulation=1))
        for mine, expected in zip(history, big, strict=True):
            assert mine == pytest.approx(expected, rel=1e-4)


def test_the_loop_gives_both_passes_the_same_random_state():
    first, second = [], []

    def prepare(model, batches, step, reseed):
        batches = list(batches)
        for micro in range(len(batches)):
            reseed(micro)
            first.append(torch.rand(()).item())
        return batches

    def loss(model, batch, step):
        second.append(torch.rand(()).item())
        return model(**batch)["loss"], {}

    parts = micro_batches(new_batch())
    config = LoopConfig(steps=2, learning_rate=1e-3, accumulation=3)
    loop.train(random_model(), loss, lambda _, micro: parts[micro], config, prepare=prepare)
    assert first == second and len(set(first)) == 6


def test_the_paper_s_batch_is_one_batch():
    config = full().pretraining
    assert config.whole_batch_contrast and config.batch_size * config.loop.accumulation == 2048


@pytest.mark.slow
@pytest.mark.parametrize("live", [False, True], ids=["features", "pixels"])
def test_pretraining_takes_the_switch(live, tmp_path, monkeypatch):
    preset, calls = handful(), []

    def spy(*arguments, **keywords):
        calls.append(keywords["hard_negatives"])
        return whole_batch(*arguments, **keywords)

    monkeypatch.setattr(contrast, "whole_batch", spy)
    training = replace(preset.pretraining, loop=replace(preset.pretraining.loop, accumulation=2))
    training = replace(training, whole_batch_contrast=True, uniform_share=0.5, wrong_captions=0.0)
    _, history = schedule.pretrain(
        replace(preset, pretraining=training, parts=replace(preset.parts, live=live)), tmp_path
    )
    assert calls == [False, True], "two steps: uniform negatives, then hard ones"
    assert history[-1]["step"] == 2
