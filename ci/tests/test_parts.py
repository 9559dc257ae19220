"""A preset's parts: the nano ones as shipped, the full ones by name, with random weights, or without any."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
)

from zvl import config
from zvl.model import backbones, parts
from zvl.training import schedule, stages

FULL = config.full().parts
UNCASED = replace(FULL, tokenizer="google-bert/bert-base-uncased")
SHORT = config.full().with_run(steps=2, weights="random").parts


def count(model):
    return sum(p.numel() for p in model.parameters())


def same(one, other):
    other = other.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())


@pytest.fixture
def small_vit(tmp_path):
    """A vision model that is none of ours, and its folder."""
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = CLIPVisionModel(CLIPVisionConfig(**size, image_size=8, patch_size=4)).eval()
    model.save_pretrained(tmp_path / "clip")
    return model, str(tmp_path / "clip")


@pytest.fixture
def small_blip2(tmp_path):
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=Blip2VisionConfig(**size, image_size=8, patch_size=4, initializer_range=0.02).to_dict(),
            qformer_config=Blip2QFormerConfig(**size, encoder_hidden_size=16, vocab_size=50).to_dict(),
            text_config=LlamaConfig(**size, vocab_size=50).to_dict(),
        )
    ).eval()  # fmt: skip
    model.save_pretrained(tmp_path / "blip2")
    return model, str(tmp_path / "blip2")


def test_the_full_parts_have_the_papers_sizes_and_no_weights_on_the_meta_device():
    vision, llm = parts.new_vision(FULL, "meta"), parts.new_llm(FULL, "meta")
    assert count(vision) == 985_952_256 and vision.dtype == torch.bfloat16, "EVA-CLIP-g"
    assert parts.image_size(FULL) == 224 and vision.config.hidden_size == 1408
    assert 13.0e9 < count(llm) < 13.2e9
    qformer = parts.new_qformer(UNCASED, 32, 256, "meta")
    assert round(count(qformer) / 1e6, 1) == 186.7, "what LAVIS trains at 32 queries"
    wide = parts.new_qformer(FULL, 64, 256, "meta")
    assert wide.query_tokens.shape == (1, 64, 768) and wide.query_tokens.dtype == torch.float32
    crossing = [layer.has_cross_attention for layer in wide.qformer.encoder.layer]
    assert crossing == [True, False] * 6
    for model in (vision, llm, qformer, wide):
        assert all(p.is_meta for p in model.parameters())


def test_the_nano_parts_are_the_shipped_ones():
    nano = config.nano().parts
    assert same(parts.new_vision(nano), backbones.load_clip().vision_model)
    assert same(parts.new_llm(nano), backbones.load_llm())
    assert parts.text_tokenizer(nano).get_vocab() == backbones.load_tokenizer().get_vocab()
    assert parts.image_size(nano) == backbones.IMAGE_SIZE
    assert parts.qformer_config(nano).to_dict() == backbones.qformer_config(3000).to_dict()


def test_the_vit_is_frozen():
    assert not any(p.requires_grad for p in parts.new_vision(config.nano().parts).parameters())
    assert not parts.new_vision(config.nano().parts).training


def test_random_weights_can_be_trained_from():
    one = replace(SHORT, layers=1)
    vision, qformer = parts.new_vision(one), parts.new_qformer(one, 64, 256)
    weight = vision.encoder.layers[0].mlp.fc1.weight.float()
    assert abs(float(weight.std()) - 0.02) < 1e-3, "transformers' default is 1e-10"
    pictures = torch.randn(2, 3, 224, 224)
    seen = vision(pixel_values=pictures.bfloat16()).last_hidden_state
    assert seen.shape == (2, 257, 1408) and (seen[0] - seen[1]).abs().mean() > 0.01
    assert abs(float(qformer.query_tokens.detach().std()) - 0.02) < 1e-3, (
        "queries of zeros would stay one query"
    )


@pytest.mark.slow
def test_random_weights_need_no_file_and_follow_the_seed():
    shortest = config.full(seed=3).with_run(steps=2, weights="random")
    shortest = replace(shortest, parts=replace(shortest.parts, layers=1))
    assert parts.weight_files(shortest.parts) == []
    first, again = schedule.new_vision(shortest), schedule.new_vision(shortest)
    other = schedule.new_vision(replace(shortest, parts=replace(shortest.parts, seed=4)))
    assert same(first, again) and not same(first, other)


def test_neither_places_nor_workers_make_another_training_but_contents_do(tmp_path):
    nano, keys = config.nano().parts, {}
    for place, text in (("here", "one"), ("there", "one"), ("elsewhere", "two")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "start.safetensors").write_text(text)
        (tmp_path / place / "tokenizer.json").write_text("{}")
        mine = replace(nano, start=str(tmp_path / place / "start.safetensors"), data=str(tmp_path / place),
                       tokenizer=str(tmp_path / place), workers=len(place))  # fmt: skip
        keys[place] = stages.cached("key", parts.made_of(mine), tmp_path / "stages", lambda path: None)
    assert keys["here"] == keys["there"] != keys["elsewhere"]


def test_any_vision_model_serves_by_its_folder(small_vit):
    model, folder = small_vit
    mine = replace(config.nano().parts, vision=folder)
    assert same(parts.new_vision(mine), model)
    assert not same(parts.new_vision(replace(mine, weights="random")), model)
    assert parts.image_size(mine) == 8 and parts.qformer_config(mine).encoder_hidden_size == 16
    assert any(file.name == "model.safetensors" for file in parts.weight_files(mine))


@pytest.mark.slow
def test_the_vit_comes_out_of_a_blip2_checkpoint(small_blip2):
    model, folder = small_blip2
    one = replace(FULL, precision="fp32", vision=folder)
    for mine in (one, replace(one, weights=folder)):
        assert same(parts.new_vision(mine), model.vision_model)


def test_a_checkpoint_without_the_vit_is_refused(tmp_path, small_vit):
    backbones.load_llm().save_pretrained(tmp_path / "llm")
    wrong = replace(config.nano().parts, vision=small_vit[1], weights=str(tmp_path / "llm"))
    with pytest.raises(ValueError, match=r"llm' lacks \d+ tensors of CLIPVisionModel"):
        parts.new_vision(wrong)


@pytest.mark.parametrize("build", [parts.new_vision, parts.new_llm, parts.weight_files])
def test_weights_that_nobody_ships_are_asked_for(build):
    if build is parts.weight_files or build is parts.new_vision:
        message = "ships none of vision 'eva-clip-g'; allowed are 'random', or the folder"
    else:
        message = "ships none of llm 'ziya-llama-13b'; allowed are 'random', or the folder"
    with pytest.raises(ValueError, match=message):
        build(FULL)


def test_a_name_that_is_nowhere_is_named(tmp_path):
    for field, broken in (
        ("weights", replace(FULL, weights=str(tmp_path))),
        ("vision", replace(FULL, vision=str(tmp_path))),
    ):
        with pytest.raises(ValueError, match=rf"parts\.{field} .*not in transformers' format"):
            parts.new_vision(broken)


def test_fields_with_few_values_say_them():
    with pytest.raises(ValueError, match="'fp32' and 'bf16'"):
        config.PartsConfig(precision="fp16")
    with pytest.raises(ValueError, match="'nano' and 'bert-base'"):
        config.PartsConfig(qformer="bert")
