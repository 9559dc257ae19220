"""The visual language model: where images go, what the loss sees, padding, generation, checkpoints."""

import json

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_model import PATCHES, QUERIES, tiny_config, tiny_model, tiny_tokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
)

from zvl.model import chat
from zvl.model.objectives import QFormerForPretraining
from zvl.model.visual import ZiyaVisualConfig, ZiyaVisualForConditionalGeneration

IMAGE_ID = 5
DIALOGUES = [
    [("What is this?", "A red apple."), ("几只？", "两只")],  # one image
    [("How many cats are there?", "two")],  # none
    [("图中有几只猫？", "红苹果")],  # two images
]
NUM_IMAGES = [1, 0, 2]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module", params=[False, True], ids=["base", "chat"])
def model(request):
    return tiny_model(instruction_aware=request.param)


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def batch_of(tokenizer, side="right", rows=slice(None)):
    examples = chat.encode_all(
        DIALOGUES[rows], tokenizer, NUM_IMAGES[rows], QUERIES, qformer_tokenizer=tokenizer
    )
    return chat.collate(examples, tokenizer.pad_token_id, side)


def test_mixed_image_counts_equal_each_dialogue_alone(model, tokenizer, pixels):
    together = model(**batch_of(tokenizer), pixel_values=pixels)
    parts = [
        model(**batch_of(tokenizer, rows=slice(0, 1)), pixel_values=pixels[:1]),
        model(**batch_of(tokenizer, rows=slice(1, 2))),
        model(**batch_of(tokenizer, rows=slice(2, 3)), pixel_values=pixels[1:]),
    ]
    alone = torch.cat([part.logits for part in parts])
    torch.testing.assert_close(together.logits, alone, atol=1e-5, rtol=1e-5)
    assert together.targets.equal(torch.cat([part.targets for part in parts]))


def test_every_image_reaches_its_own_dialogue_only(model, tokenizer, pixels):
    batch = batch_of(tokenizer)
    del batch["labels"]
    pixels.requires_grad_()
    logits = model(**batch, pixel_values=pixels).logits
    for row, own in enumerate([[0], [], [1, 2]]):
        (gradient,) = torch.autograd.grad(
            logits[row].square().sum() + 0 * pixels.sum(), pixels, retain_graph=True
        )
        assert [image for image in range(3) if gradient[image].any()] == own


def test_padding_side_changes_nothing(model, tokenizer, pixels):
    right = model(**batch_of(tokenizer, "right"), pixel_values=pixels)
    left = model(**batch_of(tokenizer, "left"), pixel_values=pixels)
    torch.testing.assert_close(left.logits, right.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(left.loss, right.loss)


def test_absolute_positions_count_from_the_first_real_token(tokenizer, pixels):
    text_config = GPT2Config(vocab_size=320, n_embd=24, n_layer=1, n_head=2, n_positions=256)
    gpt2 = tiny_model(text_config=text_config)
    right, left = (gpt2(**batch_of(tokenizer, side), pixel_values=pixels) for side in ("right", "left"))
    torch.testing.assert_close(left.logits, right.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("text_config", [None, "gemma"])
def test_loss_is_the_language_models_own(tokenizer, pixels, text_config):
    # LLaMA takes the path that computes no logits but the labels'; Gemma is not known to allow it.
    if text_config == "gemma":
        text_config = GemmaConfig(
            vocab_size=320, hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=12, max_position_embeddings=256,
        )  # fmt: skip
    model = tiny_model(text_config=text_config)
    batch = batch_of(tokenizer)
    output = model(**batch, pixel_values=pixels)
    labels = batch.pop("labels")
    full = model(**batch, pixel_values=pixels).logits
    assert full.shape == (*labels.shape, 320)
    assert len(output.logits) == len(output.targets) == (labels != -100).sum()
    expected = F.cross_entropy(full[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(output.loss, expected)


def test_cached_features_and_shared_images_equal_pixels(model, tokenizer, pixels):
    batch = batch_of(tokenizer)
    features = model.vision_features(pixels).detach()
    assert features.shape == (3, PATCHES, 16)
    index = torch.tensor([2, 0, 2])  # what each run of placeholders shows; image 1 is not placed at all
    plain = model(**batch, pixel_values=pixels[index]).loss
    torch.testing.assert_close(model(**batch, image_embeds=features[index]).loss, plain)
    torch.testing.assert_close(model(**batch, pixel_values=pixels, image_index=index).loss, plain)
    torch.testing.assert_close(model(**batch, image_embeds=features, image_index=index).loss, plain)
    instructions = batch["qformer_input_ids"], batch["qformer_attention_mask"]
    states = model.encode_queries(None, features, *instructions, index)
    assert states.shape == (3, QUERIES, 16)
    torch.testing.assert_close(model(**batch, query_states=states).loss, plain)


def test_the_instruction_enters_the_qformer_in_chat_only(model, pixels):
    one = model.encode_images(pixels, None, torch.tensor([[3, 40, 41]] * 3))
    other = model.encode_images(pixels, None, torch.tensor([[3, 50, 51]] * 3))
    assert one.shape == (3, QUERIES, 24)
    assert one.equal(other) != model.config.instruction_aware


def test_padding_of_the_instruction_changes_nothing(pixels):
    model = tiny_model(instruction_aware=True)
    short = model.encode_images(pixels, None, torch.tensor([[3, 40]] * 3))
    mask = torch.tensor([[1, 1, 0]] * 3)
    torch.testing.assert_close(model.encode_images(pixels, None, torch.tensor([[3, 40, 0]] * 3), mask), short)


def test_images_and_placeholders_must_agree(model, tokenizer, pixels):
    batch = batch_of(tokenizer)
    for images in (pixels[:2], torch.cat([pixels, pixels])):
        count = len(images)
        for name in ("qformer_input_ids", "qformer_attention_mask"):
            batch[name] = batch[name][:1].expand(count, -1)
        message = rf"12 image placeholders .id 5.*{count} images of 4 queries need {4 * count}"
        with pytest.raises(ValueError, match=message):
            model(**batch, pixel_values=images)
    with pytest.raises(ValueError, match=r"12 image placeholders.*0 images"):
        model(**batch)
    with pytest.raises(ValueError, match="not both"):
        model(**batch, pixel_values=pixels, image_embeds=model.vision_features(pixels))


def test_a_missing_instruction_or_label_is_named(tokenizer, pixels):
    batch = batch_of(tokenizer)
    with pytest.raises(ValueError, match="labels"):
        tiny_model()(**batch | {"labels": torch.full_like(batch["labels"], -100)}, pixel_values=pixels)
    del batch["qformer_input_ids"], batch["qformer_attention_mask"]
    with pytest.raises(ValueError, match="qformer_input_ids for 3 images, got none"):
        tiny_model(instruction_aware=True)(**batch, pixel_values=pixels)


def test_greedy_generation_follows_forward(model, tokenizer, pixels):
    examples = chat.encode_all(
        [[("What is this?", None)], [("猫", None)]], tokenizer, [1, 2], QUERIES, qformer_tokenizer=tokenizer
    )
    batch = chat.collate(examples, 0, side="left")
    del batch["labels"]
    new = model.generate(**batch, pixel_values=pixels, max_new_tokens=4, eos_token_id=None, pad_token_id=0)
    assert new.shape == (2, 4)
    for step in range(4):
        ids = torch.cat([batch["input_ids"], new[:, :step]], dim=1)
        mask = torch.cat([batch["attention_mask"], torch.ones_like(new[:, :step])], dim=1)
        longer = batch | {"input_ids": ids, "attention_mask": mask}
        logits = model(**longer, pixel_values=pixels).logits[:, -1]
        logits[:, IMAGE_ID] = -torch.inf  # a placeholder is never an answer
        assert logits.argmax(dim=1).equal(new[:, step])
    with pytest.raises(ValueError, match="on the left"):
        model.generate(**batch | {"attention_mask": batch["attention_mask"].flip(1)}, pixel_values=pixels)


def test_the_placeholder_needs_no_word_embedding(tokenizer, pixels):
    model = tiny_model(image_token_id=32000)
    batch = batch_of(tokenizer)
    ids = batch["input_ids"].masked_fill(batch["input_ids"] == IMAGE_ID, 32000)
    loss = model(**batch | {"input_ids": ids}, pixel_values=pixels).loss
    torch.testing.assert_close(loss, tiny_model()(**batch, pixel_values=pixels).loss)


def test_gradients_reach_every_open_part(tokenizer, pixels):
    model = tiny_model(instruction_aware=True).train()
    model(**batch_of(tokenizer), pixel_values=pixels).loss.backward()
    for name in ("query_tokens", "language_projection.weight", "qformer.embeddings.word_embeddings.weight"):
        assert model.get_parameter(name).grad.any(), name
    assert model.vision_model.embeddings.patch_embedding.weight.grad.any()
    assert model.language_model.model.layers[0].self_attn.q_proj.weight.grad.any()
    for head in (model.vision_projection, model.text_projection, model.itm_head, model.lm_head):
        assert all(parameter.grad is None for parameter in head.parameters()), "they take no part"


def test_parts_keep_their_weights_and_serve_retrieval(pixels):
    torch.manual_seed(3)
    parts = tiny_model(seed=4)
    pretraining = QFormerForPretraining(parts.config.qformer_config, QUERIES, 8, decoder_start_id=4)
    vision, language = parts.vision_model, parts.language_model
    language.model.layers[0].mlp = torch.nn.Linear(24, 24)  # a layer that transformers did not make
    modules = {"vision_model": vision, "language_model": language, "": pretraining}
    before = {
        f"{prefix}.{name}".lstrip("."): tensor.clone()
        for prefix, part in modules.items()
        for name, tensor in part.state_dict().items()
    }
    ids, mask = torch.tensor([[3, 40, 41]] * 3), torch.ones(3, 3, dtype=torch.bool)
    with torch.no_grad():
        features = vision(pixels).last_hidden_state
        expected = pretraining.image_features(features), pretraining.match(features, ids, mask)
        model = ZiyaVisualForConditionalGeneration.from_parts(vision, pretraining, language, image_token_id=5)
        after = model.state_dict()
        assert after.keys() - before.keys() == {"language_projection.weight", "language_projection.bias"}
        assert all(after[name].equal(tensor) for name, tensor in before.items())
        assert model.qformer_model.image_features(features).equal(expected[0])
        assert model.qformer_model.match(features, ids, mask).equal(expected[1])
    assert model.config.num_query_tokens == QUERIES and model.config.decoder_start_id == 4


def test_weight_names_are_those_of_blip2():
    names = set(tiny_model().state_dict())
    for name in (
        "vision_model.encoder.layers.0.self_attn.qkv.weight",
        "vision_model.post_layernorm.weight",
        "query_tokens",
        "qformer.embeddings.word_embeddings.weight",
        "qformer.encoder.layer.0.crossattention.attention.key.weight",
        "qformer.encoder.layer.1.intermediate_query.dense.weight",
        "language_projection.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
    ):
        assert name in names


@pytest.mark.parametrize("tied", [False, True])
def test_checkpoints_round_trip_through_the_auto_classes(tmp_path, tokenizer, pixels, tied):
    text_config = tiny_config().text_config.to_dict() | {"tie_word_embeddings": tied}
    model = tiny_model(instruction_aware=True, text_config=LlamaConfig(**text_config))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "ziya_visual"
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is ZiyaVisualConfig
    assert config.to_dict() == model.config.to_dict() | {"_name_or_path": str(tmp_path)}

    expected = model(**batch_of(tokenizer), pixel_values=pixels).loss
    for auto in (AutoModel, AutoModelForImageTextToText, ZiyaVisualForConditionalGeneration):
        again, report = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert type(again) is ZiyaVisualForConditionalGeneration
        assert not report["missing_keys"] and not report["unexpected_keys"]
        assert again.state_dict().keys() == model.state_dict().keys()
        assert all(tensor.equal(model.state_dict()[name]) for name, tensor in again.state_dict().items())
        assert again.eval()(**batch_of(tokenizer), pixel_values=pixels).loss.equal(expected)
        assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) == tied


def test_what_a_checkpoint_lacks_starts_anew(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    lost = ("query_tokens", "temperature", "lm_head.bias", "itm_head.weight")
    kept = {name: tensor for name, tensor in load_file(file).items() if name not in lost}
    save_file(kept, file, {"format": "pt"})
    model, report = ZiyaVisualForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == set(lost)
    assert model.temperature.item() == pytest.approx(0.07) and not model.lm_head.bias.any()
    assert 0.1 < model.query_tokens.std() < 0.3 and 0.1 < model.itm_head.weight.std() < 0.3


def test_new_weights_depend_on_the_seed_alone():
    one, same, other = (tiny_model(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(one[name].equal(same[name]) for name in one)
    assert not one["query_tokens"].equal(other["query_tokens"])


def test_any_vision_model_serves(tokenizer, pixels):
    clip = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=8, patch_size=4,
    )  # fmt: skip
    config = tiny_config()
    config.vision_config = clip
    model = ZiyaVisualForConditionalGeneration(ZiyaVisualConfig(**config.to_dict()))
    assert type(model.config.vision_config) is CLIPVisionConfig
    assert model(**batch_of(tokenizer), pixel_values=pixels).loss.isfinite()


def test_widths_that_disagree_are_refused():
    config = tiny_config()
    config.qformer_config.encoder_hidden_size = 1408
    with pytest.raises(ValueError, match=r"encoder_hidden_size is 1408.*hidden_size 16"):
        ZiyaVisualForConditionalGeneration(config)


def test_bf16_autocast_and_bf16_weights(model, tokenizer, pixels):
    batch = batch_of(tokenizer)
    expected = model(**batch, pixel_values=pixels).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch, pixel_values=pixels).loss
        cached = model(**batch, image_embeds=model.vision_features(pixels)).loss
    torch.testing.assert_close(loss, expected, atol=0.1, rtol=0.05)
    torch.testing.assert_close(cached, expected, atol=0.1, rtol=0.05)
    half = tiny_model(model.config.instruction_aware).to(torch.bfloat16)
    torch.testing.assert_close(half(**batch, pixel_values=pixels).loss, expected, atol=0.2, rtol=0.1)


def test_lora_trains_inside_and_the_model_still_answers(tokenizer, pixels):
    model = tiny_model(instruction_aware=True)
    plain = model(**batch_of(tokenizer), pixel_values=pixels).loss
    targets = r"vision_model\..*\.qkv|language_model\..*\.(q_proj|v_proj)"
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=targets))
    loss = wrapped(**batch_of(tokenizer), pixel_values=pixels).loss
    torch.testing.assert_close(loss, plain)  # LoRA starts as nothing
    loss.backward()
    trained = [name for name, parameter in wrapped.named_parameters() if parameter.grad is not None]
    assert trained and all("lora_" in name for name in trained)
    assert isinstance(model.chat(tokenizer, pixels, "猫", qformer_tokenizer=tokenizer, max_new_tokens=2), str)
