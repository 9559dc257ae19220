"""What each stage trains, exactly; that all else keeps its bits; and that no result is built twice."""

import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_model import QUERIES, tiny_config, tiny_model

from zvl.model.visual import ZiyaVisualForConditionalGeneration
from zvl.training import checkpoint, loop, stages
from zvl.training.loop import LoopConfig, train
from zvl.training.stages import cached, code_version, configure_stage, merge_lora, parameter_table


def with_bias(*modules):
    return {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}


def attention(name):
    inner = [f"{name}.attention.{part}" for part in ("query", "key", "value")]
    return with_bias(*inner, f"{name}.output.dense", f"{name}.output.LayerNorm")


# The tiny Q-Former has two layers; the first has cross-attention.
LAYERS = ["qformer.encoder.layer.0", "qformer.encoder.layer.1"]
PROJECTION = with_bias("language_projection")
QUERY_SIDE = {
    "query_tokens",
    *with_bias("qformer.embeddings.layernorm"),
    *attention(f"{LAYERS[0]}.crossattention"),
}
for layer in LAYERS:
    QUERY_SIDE |= attention(f"{layer}.attention")
    QUERY_SIDE |= with_bias(
        *(f"{layer}.{part}" for part in ("intermediate_query.dense", "output_query.dense"))
    )
    QUERY_SIDE |= with_bias(f"{layer}.output_query.LayerNorm")
INSTRUCTION_SIDE = {
    f"qformer.embeddings.{kind}_embeddings.weight" for kind in ("word", "position")
} | with_bias(*(f"{LAYERS[0]}.{part}" for part in ("intermediate.dense", "output.dense", "output.LayerNorm")))
ADAPTED = ["vision_model.encoder.layers.0.self_attn.qkv"] + [
    f"language_model.model.layers.{i}.self_attn.{part}" for i in (0, 1) for part in ("q_proj", "v_proj")
]
LORA = {f"{module}.lora_{side}.default.weight" for module in ADAPTED for side in "AB"}

STAGES = {
    "base 1": (("base", 1), PROJECTION),
    "base 2": (("base", 2), PROJECTION | QUERY_SIDE),
    "chat 1": (("chat", 1), PROJECTION | QUERY_SIDE | INSTRUCTION_SIDE),
    "chat 1, Q-Former frozen": (("chat", 1, True), PROJECTION),
    "chat 2": (("chat", 2), PROJECTION | QUERY_SIDE | INSTRUCTION_SIDE | LORA),
    "chat 2, Q-Former frozen": (("chat", 2, True), PROJECTION | LORA),
}


def staged(name):
    arguments, _ = STAGES[name]
    return configure_stage(tiny_model(instruction_aware=arguments[0] == "chat"), *arguments, lora_rank=2)


def batches(step, micro):
    generator = torch.Generator().manual_seed(10 * step + micro)
    words = torch.randint(6, 320, (2, 6), generator=generator)
    input_ids = torch.cat([torch.full((2, QUERIES), 5), words], dim=1)
    labels = input_ids.clone()
    labels[:, : QUERIES + 3] = -100
    return {
        "input_ids": input_ids,
        "labels": labels,
        "pixel_values": torch.randn(2, 3, 8, 8, generator=generator),
        "qformer_input_ids": torch.cat([torch.full((2, 1), 3), words[:, :3]], dim=1),
    }


def loss_fn(model, batch, step):
    return model(**batch).loss, {}


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_trains_exactly_its_set_and_all_else_keeps_its_bits(name):
    model = staged(name)
    expected = STAGES[name][1]
    assert {n for n, p in model.named_parameters() if p.requires_grad} == expected
    before = bits(model)
    train(model, loss_fn, batches, LoopConfig(steps=3, learning_rate=1e-2, warmup=0.0, accumulation=2))
    after = model.state_dict()
    assert before.keys() == after.keys()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == expected


@pytest.mark.parametrize("name", ["base 2", "chat 1"])
def test_what_stays_frozen_in_the_open_qformer_gets_no_gradient_anyway(name):
    model = staged(name).requires_grad_(True)
    model(**batches(0, 0)).loss.backward()
    felt = {
        n
        for n, p in model.named_parameters()
        if n.startswith(("query_tokens", "qformer.")) and p.grad is not None
    }
    assert felt == STAGES[name][1] - PROJECTION


def test_the_next_stage_starts_from_the_last_and_freezes_again():
    model = configure_stage(tiny_model(), "base", 2)
    configure_stage(model, "base", 1)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == PROJECTION


def test_fresh_adapters_change_nothing_and_depend_on_their_seed_alone():
    plain = tiny_model(instruction_aware=True)
    torch.manual_seed(7)
    expected = torch.rand(3)
    model = tiny_model(instruction_aware=True)
    torch.manual_seed(7)
    configure_stage(model, "chat", 2, lora_rank=2)
    assert torch.equal(torch.rand(3), expected), "the caller's random state must stay as it is"
    with torch.no_grad():
        assert torch.equal(model(**batches(0, 0)).logits, plain(**batches(0, 0)).logits)
    again = staged("chat 2")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_merged_the_model_answers_the_same_and_saves_under_plain_names(tmp_path):
    model = staged("chat 2")
    train(model, loss_fn, batches, LoopConfig(steps=3, learning_rate=1e-2))
    with torch.no_grad():
        adapted = model(**batches(9, 0)).logits
        merged = merge_lora(model)(**batches(9, 0)).logits
    assert torch.allclose(adapted, merged, atol=1e-5)
    plain = tiny_model(instruction_aware=True)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not torch.equal(
        model.state_dict()[f"{ADAPTED[0]}.weight"], plain.state_dict()[f"{ADAPTED[0]}.weight"]
    )
    model.save_pretrained(tmp_path)
    loaded = ZiyaVisualForConditionalGeneration.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(**batches(9, 0)).logits, merged)


def test_chat_2_resumes_exactly_and_its_checkpoint_holds_what_trains_alone(tmp_path):
    def interrupted(step, micro):
        if step == 5:
            raise KeyboardInterrupt
        return batches(step, micro)

    config = LoopConfig(steps=6, learning_rate=1e-2, save_every=2, precision="bf16")
    whole, first, resumed = (staged("chat 2") for _ in range(3))
    train(whole, loss_fn, batches, config)
    with pytest.raises(KeyboardInterrupt):
        train(first, loss_fn, interrupted, config, tmp_path)
    train(resumed, loss_fn, batches, config, tmp_path)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    saved = checkpoint.load_latest(tmp_path / "checkpoints").tensors["model"]
    assert saved.keys() - dict(resumed.named_buffers()).keys() == STAGES["chat 2"][1]


def test_the_table_counts_what_trains_and_works_without_weights():
    table = dict((part, counts) for part, *counts in parameter_table(staged("chat 2")))
    sizes = {n: p.numel() for n, p in staged("chat 2").named_parameters()}
    assert sum(trainable for trainable, _ in table.values()) == sum(sizes[n] for n in STAGES["chat 2"][1])
    assert sum(map(sum, table.values())) == sum(sizes.values())
    assert table["query_tokens"] == [QUERIES * 16, 0]
    assert table["pretraining heads"][0] == 0
    assert 0 < table["vision_model"][0] < table["vision_model"][1]

    with torch.device("meta"):
        empty = ZiyaVisualForConditionalGeneration(tiny_config(instruction_aware=True))
    configure_stage(empty, "chat", 2, lora_rank=2)
    assert parameter_table(empty) == [(part, *counts) for part, counts in table.items()]
    assert [row[0] for row in parameter_table(tiny_model())] == list(table)


def test_wrong_stages_are_named():
    with pytest.raises(ValueError, match="kinds are 'base' and 'chat', stages 1 and 2"):
        configure_stage(tiny_model(), "base", 3)
    with pytest.raises(ValueError, match="instruction_aware is False"):
        configure_stage(tiny_model(), "chat", 1)
    with pytest.raises(ValueError, match="language_model has no module that matches"):
        configure_stage(tiny_model(instruction_aware=True), "chat", 2, llm_targets=("c_attn",))


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1
    betas: tuple[float, float] = (0.9, 0.9)


def test_a_result_is_built_once_and_again_only_for_other_inputs(tmp_path):
    built = []

    def build(folder: Path):
        built.append(folder)
        (folder / "weights").write_text(f"build {len(built)}")

    data = tmp_path / "data"
    data.mkdir()
    (data / "a.json").write_text("1")
    inputs = {"config": Settings(), "data": data, "code": code_version(stages), "seeds": [1, 2], "note": None}
    first = cached("base", inputs, tmp_path, build)
    assert cached("base", dict(reversed(inputs.items())), tmp_path, build) == first
    assert len(built) == 1
    others = [{"config": Settings(rate=0.2)}, {"seeds": [2, 1]}, {"code": code_version(stages, checkpoint)}]
    assert len({first, *(cached("base", inputs | other, tmp_path, build) for other in others)}) == 4
    assert cached("chat", inputs, tmp_path, build) != first
    (data / "a.json").write_text("2")
    assert cached("base", inputs, tmp_path, build) != first
    assert len(built) == 6


def test_a_stage_depends_on_the_key_of_the_one_before_not_on_its_logs(tmp_path):
    before = cached("base-1", {"seed": 0}, tmp_path, lambda folder: None)
    after = cached("base-2", {"start": before}, tmp_path, lambda folder: None)
    (before / "events.log").write_text("a time stamp")
    assert cached("base-2", {"start": before}, tmp_path, lambda folder: None) == after
    other = cached("base-1", {"seed": 1}, tmp_path, lambda folder: None)
    assert cached("base-2", {"start": other}, tmp_path, lambda folder: None) != after


def test_an_interrupted_build_goes_on_in_its_folder(tmp_path):
    seen = []

    def build(folder):
        seen.append(sorted(p.name for p in folder.iterdir()))
        (folder / "checkpoint").touch()
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("base", {}, tmp_path, build)
    cached("base", {}, tmp_path, build)
    assert seen == [[], ["checkpoint"]]


def test_inputs_without_a_stable_content_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"inputs\['model'\]\['a'\]\[1\] is a Tensor"):
        cached("base", {"model": {"a": [0, torch.zeros(1)]}}, tmp_path, lambda folder: None)
    with pytest.raises(FileNotFoundError, match=r"inputs\['data'\]"):
        cached("base", {"data": tmp_path / "absent"}, tmp_path, lambda folder: None)


def test_code_version_follows_the_source(tmp_path):
    file = tmp_path / "part.py"
    module = types.ModuleType("part")
    module.__file__ = str(file)
    file.write_text("a = 1\n")
    first = code_version(module)
    file.write_text("a = 2\n")
    assert code_version(module) != first
    assert code_version(loop) != code_version(loop, checkpoint)
