"""The schedule on a handful of scenes: every stage runs, is found again, and is the same the second time."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from zvl.config import nano
from zvl.data.boxes import boxes_in
from zvl.data.samples import LANGUAGES
from zvl.data.world import WorldConfig
from zvl.model import backbones, tokenizers
from zvl.training import loop, pretraining, schedule


def handful():
    """The nano preset on 24 scenes with batches of 4."""
    preset = nano().with_steps(1e-9)  # the fewest steps of every stage
    small = {"batch_size": 4}
    return replace(
        preset,
        world=WorldConfig(train_scenes=24, test_scenes=8, extra_scenes=8, seed=3),
        pretraining=replace(preset.pretraining, **small),
        base=tuple(replace(stage, **small) for stage in preset.base),
        chat=tuple(replace(stage, **small) for stage in preset.chat),
        text_only=replace(preset.text_only, **small),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


def test_a_world_is_read_split_by_split(run):
    """Its questions come from three formats, and splits share their pictures."""
    preset = handful()
    found = {split: schedule.read(preset, run, split) for split in ("composition", "paraphrase", "style")}
    for split, data in found.items():
        kinds = {sample.question_type for sample in data.questions}
        assert {"count", "background", "size", "frame", "ground", "refer"} <= kinds, split
        for sample in data.questions:
            if sample.question_type == "ground":
                (box,) = sample.boxes
                assert boxes_in(sample.turns[0].response, 96, 96)[0] == pytest.approx(box, abs=0.11)
        assert len(data.features) == len(data.images) == 8
    asked = {split: {s.turns[0].instruction for s in data.questions} for split, data in found.items()}
    assert found["composition"].images == found["paraphrase"].images != found["style"].images
    assert not asked["composition"] & asked["paraphrase"], "no question is asked in the same words"
    assert found["composition"].swapped and not found["style"].swapped
    with pytest.raises(ValueError, match="'test' is not one of train, composition"):
        schedule.read(preset, run, "test")


def test_read_gives_what_the_world_wrote(run):
    data = schedule.read(handful(), run, "train")
    assert len(data.images) == 24 and data.features.shape == (24, 65, backbones.WIDTH)
    assert len(data.pairs) == 24 * 5 * 2 and {pair.language for pair in data.pairs} == set(LANGUAGES)
    assert all(pair.box is None for pair in data.pairs) and all(pair.box for pair in data.regions)
    assert {pair.image for pair in data.regions} == set(data.images) == set(data.row)
    assert [data.images[number] for number in data.row.values()] == list(data.images)


def test_pair_batches_are_a_pure_function_of_the_step(run):
    preset, tokenizer = handful(), backbones.load_tokenizer()
    data = schedule.read(preset, run, "train")
    batches, again = (pretraining.pair_batches(preset, data, tokenizer) for _ in range(2))
    batches(0, 0)
    first, second, other = batches(5, 1), again(5, 1), batches(6, 1)
    assert first.pop("sample_ids") == second.pop("sample_ids")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["image_ids"], other["image_ids"])
    assert torch.equal(first["image_embeds"], data.features[first["image_ids"]].float())


def test_the_aligned_start_changes_nothing_but_where_queries_look_and_what_they_take_in(run):
    aligned = handful()
    preset = replace(aligned, parts=replace(aligned.parts, start="text tower"))
    data = schedule.read(preset, run, "train")
    plain = schedule.new_qformer(preset)
    before, after = schedule.new_qformer(aligned), schedule.new_qformer(aligned, 0, data)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), before.parameters(), strict=True))
    changed = {
        name
        for (name, old), new in zip(plain.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert all(
        (".crossattention." in name or ".output_query.dense." in name) and "LayerNorm" not in name
        for name in changed
    )
    silent = [value for name, value in after.named_parameters() if ".output_query.dense." in name]
    assert silent and not any(value.any() for value in silent), "feed-forwards of queries start silent"
    assert schedule.pretrain(aligned, run)[1] != schedule.pretrain(preset, run)[1]


def test_binned_batches_hold_captions_of_like_lengths_and_leave_none_out(run):
    preset, tokenizer = handful(), backbones.load_tokenizer()
    config = replace(preset.pretraining, batch_size=16, length_bins=4, wrong_captions=0.0, word_noise=0.0)
    preset = replace(preset, pretraining=config)
    data = schedule.read(preset, run, "train")
    binned = pretraining.pair_batches(preset, data, tokenizer)
    whole = replace(preset, pretraining=replace(preset.pretraining, length_bins=1))
    mixed = pretraining.pair_batches(whole, data, tokenizer)
    with pytest.raises(ValueError, match="length_bins must be at least 1, got 0"):
        replace(preset.pretraining, length_bins=0)
    seen, padding, spread = set(), {}, []
    for step in range(200):
        batch = binned(step, 0)
        seen |= set(batch["sample_ids"])
        lengths = batch["text_mask"].sum(1)
        for half in lengths.split(8):  # English, then Chinese
            spread.append(int(half.max() - half.min()))
        for name, batches in (("binned", binned), ("mixed", mixed)):
            padding.setdefault(name, []).append(1 - float(batches(step, 0)["text_mask"].float().mean()))
    assert np.median(spread) <= 8, "a quarter of the captions, sorted by length"
    kept_back = pretraining.held_out_images(preset, data)
    assert len(seen) == len([pair for pair in data.pairs if pair.image not in kept_back]), "none is left out"
    assert np.mean(padding["binned"]) < np.mean(padding["mixed"]) - 0.1


def test_wrong_captions_are_of_the_row_s_picture_and_come_as_often_as_the_preset_says(run):
    preset, tokenizer = handful(), backbones.load_tokenizer()
    data = schedule.read(preset, run, "train")
    assert len(data.swapped) == len(data.pairs), "five a picture, in each language"
    right = {(pair.image, pair.language): set() for pair in data.pairs}
    for pair in data.pairs:
        right[pair.image, pair.language].add(pair.caption)
    of_picture = {}
    for pair in data.swapped:
        assert pair.caption not in right[pair.image, pair.language]
        of_picture.setdefault(data.row[pair.image], set()).add(pair.caption)
    for share in (0.0, 0.5, 1.0):
        config = replace(preset.pretraining, wrong_captions=share, word_noise=0.0)
        batches = pretraining.pair_batches(replace(preset, pretraining=config), data, tokenizer)
        if not share:
            assert "wrong_texts" not in batches(0, 0)
            continue
        told = []
        for step in range(20):
            batch = batches(step, 0)
            texts = batch["wrong_texts"]
            assert texts.shape == batch["input_ids"].shape
            for row, image in zip(texts, batch["image_ids"].tolist(), strict=True):
                told.append(bool((row >= 0).any()))
                if told[-1]:
                    said = tokenizer.decode(row[row >= 0], skip_special_tokens=True).replace(" ", "")
                    assert said in {caption.replace(" ", "") for caption in of_picture[image]}
        assert np.mean(told) == pytest.approx(share, abs=0.2)
    with pytest.raises(ValueError, match=r"a share from 0 to 1, got 1\.5"):
        replace(preset.pretraining, wrong_captions=1.5)
    with pytest.raises(ValueError, match="both choose"):
        replace(preset.pretraining, wrong_captions=0.5, whole_batch_contrast=True)


def test_held_out_pictures_are_in_no_batch_and_samples_are_named(run):
    preset, tokenizer = handful(), backbones.load_tokenizer()
    data = schedule.read(preset, run, "train")
    kept_back = pretraining.held_out_images(preset, data)
    assert len(kept_back) == 2, "a tenth of 24 pictures"
    quiet = replace(preset, pretraining=replace(preset.pretraining, word_noise=0.0))
    batches, noisy = (pretraining.pair_batches(chosen, data, tokenizer) for chosen in (quiet, preset))
    first, second = batches(0, 0), noisy(0, 0)
    assert torch.equal(first["image_ids"], second["image_ids"])
    exchanged = (first["input_ids"] != second["input_ids"]).any(1).float().mean()
    assert 0.1 < float(exchanged) < 0.9, "word_noise is a share of the captions"
    captions = {(pair.image, pair.language): [] for pair in data.pairs}
    for pair in data.pairs:
        captions[pair.image, pair.language].append(pair.caption)
    seen = set()
    for step in range(60):
        batch = batches(step, 0)
        for row, name in enumerate(batch["sample_ids"]):
            image, language, _, number = name.rsplit(" ", 3)
            assert data.row[image] == batch["image_ids"][row]
            ids, mask = tokenizers.caption_ids(tokenizer, [captions[image, language][int(number)]])
            assert batch["input_ids"][row][batch["text_mask"][row]].tolist() == ids[mask].tolist()
            seen.add(image)
    assert seen == set(data.images) - set(kept_back)

    aside = pretraining.held_out(preset, data, tokenizer)
    rows = torch.tensor([data.row[image] for image in kept_back])
    assert torch.equal(aside.image_embeds, data.features[rows])
    assert {language: len(ids) for language, (ids, _) in aside.captions.items()} == {"en": 2, "zh": 2}


@pytest.mark.slow
def test_pretraining_is_the_same_with_and_without_evaluation(run):
    preset = handful()
    loop = replace(preset.pretraining.loop, steps=3, log_every=1)
    rows = {}
    for every in (0, 1):
        watched = replace(preset.pretraining, loop=replace(loop, eval_every=every))
        rows[every] = schedule.pretrain(replace(preset, pretraining=watched), run)[1]
    assert [{name: row[name] for name in rows[0][0]} for row in rows[1]] == rows[0]
    told = {f"eval/{language}/{name}" for language in LANGUAGES for name in ("tr1", "ir1", "itm")}
    assert set(rows[1][0]) - set(rows[0][0]) == told
    assert all(row["itm_alarm"] == 0.0 for row in rows[1])


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
    monkeypatch.setattr(loop, "train", lambda *args: pytest.fail("trained what was there"))
    again = weights(run)
    for stage, states in first.items():
        for other in (elsewhere, again):
            assert all(torch.equal(value, other[stage][name]) for name, value in states.items()), stage
    moved = [
        name for name, value in first["base", 2].items() if not torch.equal(value, first["base", 1][name])
    ]
    assert any(name.startswith("qformer.") for name in moved), "the second stage opens the Q-Former"


@pytest.mark.slow
def test_compiled_pretraining_is_the_same(tmp_path, monkeypatch):
    """Captured as graphs and run eagerly: what a compiler would make of them takes minutes here."""
    captured, compile_in_place = [], torch.nn.Module.compile

    def capture(module, **_):
        captured.append(type(module).__name__)
        compile_in_place(module, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", capture)
    preset, rows = handful(), {}
    for compiled in (False, True):
        config = replace(preset.pretraining, compile=compiled, uniform_share=0.5)
        config = replace(config, whole_batch_contrast=True, wrong_captions=0.0)
        config = replace(config, loop=replace(config.loop, accumulation=2))
        changed = replace(preset, pretraining=config, parts=replace(preset.parts, live=True))
        rows[compiled] = schedule.pretrain(changed, tmp_path / str(compiled))[1][-1]
    assert captured == ["InstructBlipVisionModel", "QFormerForPretraining"]
    assert rows[True] == pytest.approx(rows[False], rel=1e-2)


@pytest.mark.parametrize("kind", ["base", "chat"])
def test_so_many_turns_on_each_picture_ask_for_boxes(run, kind):
    preset, tokenizer = handful(), backbones.load_tokenizer()
    data = schedule.read(preset, run, "train")
    there = Counter((q.images[0], q.language) for q in data.questions if q.question_type == "ground")
    for boxes, turns in ((0, 4), (1, 4), (2, 2)):
        known = tuple(i for i in data.images if min(there[i, language] for language in LANGUAGES) >= boxes)
        assert known
        config = replace(getattr(preset, kind)[0], turns=turns, boxes=boxes, batch_size=6)
        draw = schedule.tuning_batches(
            config, kind, replace(data, images=known), tokenizer, preset.num_queries
        )
        said = "".join(tokenizer.decode(ids[ids >= 0]) for ids in draw(5, 0)["labels"])
        assert said.count("</s>") == 6 * turns
        assert said.count("),(") == 6 * boxes or boxes == 0, "no other answer of this stage holds a box"
    with pytest.raises(ValueError, match="boxes is a number of turns, from 0 to 2, got 3"):
        replace(config, turns=2, boxes=3)
