"""The plan's arithmetic: what torch counts, what FACTS of the literature say, and no weight touched on the way."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import InstructBlipQFormerConfig, InstructBlipVisionConfig, InstructBlipVisionModel

from zvl import config
from zvl.model import backbones, parts
from zvl.model import qformer as qformer_module
from zvl.model.objectives import QFormerForPretraining
from zvl.training import costs

FULL = config.full()
UNCASED = replace(FULL, parts=replace(FULL.parts, tokenizer="google-bert/bert-base-uncased"))
GFLOP = 1e9
QUERIES, LENGTH, PATCHES = 16, 8, 40


def counted(run):
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


def small_qformer():
    return InstructBlipQFormerConfig(
        vocab_size=500, hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=160,
        encoder_hidden_size=56, max_position_embeddings=32, cross_attention_frequency=2, initializer_range=0.1,
    )  # fmt: skip


def small_batch(rows=4):
    return {
        "image_embeds": torch.randn(rows, PATCHES, 56),
        "input_ids": torch.randint(5, 500, (rows, LENGTH)),
        "text_mask": torch.ones(rows, LENGTH, dtype=torch.bool),
        "image_ids": torch.arange(rows),
    }


def full_qformer(queries, layout, preset=UNCASED):
    return 3 * costs.qformer_flops(parts.qformer_config(preset.parts), queries, 257, 32, layout) / GFLOP


def test_the_vit_costs_what_torch_counts_at_full_size():
    vision = InstructBlipVisionConfig()
    with torch.device("meta"):
        model, pixels = InstructBlipVisionModel(vision), torch.empty(1, 3, 224, 224)
    assert counted(lambda: model(pixel_values=pixels)) == pytest.approx(costs.vision_flops(vision), rel=1e-3)
    assert costs.vision_flops(vision) / GFLOP == pytest.approx(521, abs=0.5)


def test_the_qformer_costs_what_torch_counts():
    rows, model = 4, QFormerForPretraining(small_qformer(), QUERIES, 8, decoder_start_id=4)
    batch = small_batch(rows)
    expected = rows * costs.qformer_flops(model.qformer.config, QUERIES, PATCHES, LENGTH)
    forward = counted(lambda: model(**batch))
    assert forward == pytest.approx(expected, rel=0.02)
    both = counted(lambda: model(**batch)["loss"].backward())
    assert both == pytest.approx(3 * expected, rel=0.06), "the backward pass is two more"


def test_laviss_layout_costs_its_four_passes():
    qformer, rows = QFormerForPretraining(small_qformer(), QUERIES, 8, decoder_start_id=4).qformer, 4
    queries, images = torch.randn(rows, QUERIES, 48), torch.randn(rows, PATCHES, 56)
    text = torch.randint(5, 500, (rows, LENGTH))

    def passes():
        qformer(queries, image_embeds=images)
        qformer(input_ids=text)
        qformer(queries.repeat(3, 1, 1), text.repeat(3, 1), image_embeds=images.repeat(3, 1, 1))

    total = rows * costs.qformer_flops(qformer.config, QUERIES, PATCHES, LENGTH, "lavis")
    generating = counted(
        lambda: qformer(input_ids=text)
    )  # one text pass more, which also looks at the queries
    seen = rows * 4 * 4 * 48 * LENGTH * QUERIES
    words = rows * LENGTH * (2 * 48 * 500 + 2 * 48**2)
    assert counted(passes) + generating + seen + words == pytest.approx(total, rel=1e-3)


def test_contrast_over_the_whole_step_costs_what_torch_counts():
    rows, model = 4, QFormerForPretraining(small_qformer(), QUERIES, 8, decoder_start_id=4)
    batch = small_batch(rows)
    first = counted(
        lambda: model.contrast_features(batch["image_embeds"], batch["input_ids"], batch["text_mask"])
    )

    def again():
        kept = model.qformer.keys_values(batch["image_embeds"])
        torch.stack([part.sum() for pair in kept for part in pair]).sum().backward()

    keys = counted(again)
    expected = rows * costs.contrast_flops(model.qformer.config, QUERIES, PATCHES, LENGTH)
    assert first + keys == pytest.approx(expected, rel=0.03)
    share = costs.plan(FULL)["flops"]
    assert 0.1 < share["whole_batch_contrast"] / share["qformer_training_ours"] < 0.2


def test_the_plan_agrees_with_the_known_numbers_of_the_full_size():
    assert full_qformer(32, "lavis") == pytest.approx(240, abs=1)
    assert full_qformer(64, "lavis") == pytest.approx(315, abs=1)
    assert full_qformer(64, "ours") == pytest.approx(259, rel=0.03)
    alone = replace(UNCASED, pretraining=replace(UNCASED.pretraining, whole_batch_contrast=False))
    ways = costs.plan(alone, gpus=8)["ways"]
    assert ways["live ViT, LAVIS's layout"]["flops"] == pytest.approx(1.5e20, rel=0.03)
    assert ways["live ViT, LAVIS's layout"]["ideal_gpu_hours"] == pytest.approx(53, abs=1)
    assert ways["live ViT"]["ideal_pairs_a_second_a_gpu"] == pytest.approx(1026, rel=0.03)
    assert ways["live ViT"]["gpu_hours"] == pytest.approx(8 * ways["live ViT"]["hours"])


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_activations_are_what_autograd_keeps(monkeypatch, precision):
    monkeypatch.setattr(  # on a GPU; a CPU would keep fp32 copies
        qformer_module, "_attend",
        lambda query, key, value, mask, rate: torch.nn.functional.scaled_dot_product_attention(query, key, value, mask),
    )  # fmt: skip
    model, kept = QFormerForPretraining(small_qformer(), QUERIES, 8, decoder_start_id=4), {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor keeps its address from reuse
        return tensor

    rows = 64  # so many that copies of the weights do not show
    batch = small_batch(rows)
    if precision == "bf16":
        batch["image_embeds"] = batch["image_embeds"].bfloat16()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**batch)["loss"]
    assert loss.requires_grad
    measured = sum(size for size, _ in kept.values()) / rows
    estimated = costs.activation_bytes(model.qformer.config, QUERIES, PATCHES, LENGTH, precision)
    assert estimated == pytest.approx(measured, rel=0.15)


def test_a_plan_touches_no_weights_and_no_tokenizer(monkeypatch):
    for name in ("load_clip", "load_llm", "load_tokenizer"):
        monkeypatch.setattr(backbones, name, lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(parts.tokenizers, "text_tokenizer", lambda *_: pytest.fail("loaded"))
    found = costs.plan(FULL, gpus=8)
    assert json.loads(json.dumps(found)) == found
    assert {row["part"]: row["frozen"] for row in found["parts"]}["vision_model"] == 985_952_256
    assert found["run"] == {"steps": 90_000, "pairs_a_step": 2048, "pairs": 184_320_000, "pictures": 8000}
    assert found["features_bytes_a_picture"] == 257 * 1408 * 2
    assert found["disk_bytes"]["the paper's"]["features"] == 30_000_000 * 257 * 1408 * 2


def test_memory_counts_what_adamw_holds_and_grows_with_the_batch():
    found = costs.plan(FULL)
    trainable = sum(row["trainable"] for row in found["parts"])
    memory = found["memory_bytes"]
    held = memory["Q-Former, fp32"] + memory["its gradients"] + memory["AdamW's two moments"]
    assert held == 16 * trainable and memory["ViT, frozen"] == 2 * 985_952_256
    peaks = [row["bytes"] for row in found["peak"]]
    assert [row["batch"] for row in found["peak"]] == [32, 64, 128, 256] and peaks == sorted(peaks)
    assert all(row["fits"] == (row["bytes"] < 80e9) for row in found["peak"])


def test_both_presets_are_planned_by_the_same_functions():
    found = costs.plan(config.nano())
    assert {row["part"] for row in found["parts"]} == {row["part"] for row in costs.plan(FULL)["parts"]}
    assert all(len({len(row) for row in rows}) == 1 for rows in costs.tables(found).values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": "h1000"}, "'h1000': allowed are a100, h100, h200"),
        ({"gpus": 0}, "at least 1"),
        ({"share": 40}, "fraction of the peak"),
    ],
)
def test_a_plan_for_an_impossible_machine_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        costs.plan(FULL, **options)
