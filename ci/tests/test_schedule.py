"""The schedule on a handful of scenes: every stage runs, is found again, and is the same the second time."""

from dataclasses import replace

import pytest
import torch

from zvl.config import nano
from zvl.data.samples import LANGUAGES
from zvl.data.world import WorldConfig
from zvl.model import backbones
from zvl.training import schedule


def handful():
    """The nano preset on 24 scenes with batches of 4."""
    preset = nano().with_steps(1e-9)  # the fewest steps of every stage
    small = {"batch_size": 4}
    return replace(
        preset,
        world=WorldConfig(train_scenes=24, test_scenes=8, seed=3),
        pretraining=replace(preset.pretraining, **small),
        base=tuple(replace(stage, **small) for stage in preset.base),
        chat=tuple(replace(stage, **small) for stage in preset.chat),
        text_only=replace(preset.text_only, **small),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


def test_read_gives_what_the_world_wrote(run):
    data = schedule.read(handful(), run, "train")
    assert len(data.images) == 24 and data.features.shape == (24, 65, backbones.WIDTH)
    assert len(data.pairs) == 24 * 5 * 2 and {pair.language for pair in data.pairs} == set(LANGUAGES)
    assert all(pair.box is None for pair in data.pairs) and all(pair.box for pair in data.regions)
    assert {pair.image for pair in data.regions} == set(data.images) == set(data.row)
    assert [data.images[number] for number in data.row.values()] == list(data.images)


def test_pretraining_batches_are_a_pure_function_of_the_step(run):
    preset, tokenizer = handful(), backbones.load_tokenizer()
    data = schedule.read(preset, run, "train")
    batches, again = (schedule.pretraining_batches(preset, data, tokenizer) for _ in range(2))
    batches(0, 0)
    first, second, other = batches(5, 1), again(5, 1), batches(6, 1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["image_ids"], other["image_ids"])
    assert torch.equal(first["image_embeds"], data.features[first["image_ids"]].float())


@pytest.mark.parametrize("kind", ["base", "chat", "text_only"])
def test_tuning_batches_show_each_dialogue_its_own_pictures(run, kind):
    preset, tokenizer = handful(), backbones.load_tokenizer()
    data = schedule.read(preset, run, "train")
    config = preset.text_only if kind == "text_only" else getattr(preset, kind)[1]
    batch = schedule.tuning_batches(config, kind, data, tokenizer, preset.num_queries)(3, 0)
    marks = int((batch["input_ids"] == tokenizer.convert_tokens_to_ids("<image>")).sum())
    if kind == "text_only":
        assert marks == 0 and "image_index" not in batch
    else:
        assert marks == len(batch["image_index"]) * preset.num_queries
        assert int(batch["image_index"].max()) == len(batch["image_embeds"]) - 1, "each picture is read once"
    assert ("qformer_input_ids" in batch) == (kind == "chat")


@pytest.mark.slow
def test_every_stage_runs_is_found_again_and_repeats(run, tmp_path, monkeypatch):
    preset = handful()

    def weights(folder):
        found = {"pretraining": schedule.pretrain(preset, folder)[0].state_dict()}
        for kind in schedule.KINDS:
            for stage in (1, 2):
                found[kind, stage] = schedule.tune(preset, folder, kind, stage)[0].state_dict()
        found["text_only"] = schedule.tune_text_only(preset, folder)[0].state_dict()
        return found

    first, elsewhere = weights(run), weights(tmp_path)
    monkeypatch.setattr(schedule.loop, "train", lambda *args: pytest.fail("trained what was there"))
    again = weights(run)
    for stage, states in first.items():
        for other in (elsewhere, again):
            assert all(torch.equal(value, other[stage][name]) for name, value in states.items()), stage
    moved = [
        name for name, value in first["base", 2].items() if not torch.equal(value, first["base", 1][name])
    ]
    assert any(name.startswith("qformer.") for name in moved), "the second stage opens the Q-Former"
