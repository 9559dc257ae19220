"""Pre-training without a notebook: accelerate's configurations are accelerate's, and two processes train together."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from transformers import BertConfig, BertForMaskedLM

from zvl import config
from zvl.model import convert, parts
from zvl.training import checkpoint, loop, pretrain, pretraining, schedule

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {path.stem: path for path in ROOT.glob("notebooks/params/accelerate/*.yaml")}
SMALL = ["--batch-size", "4", "--accumulation", "2", "--steps", "1"]


def test_both_machines_are_there():
    assert set(CONFIGS) == {"one_gpu", "ddp_8"}


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_reads_every_key(name, tmp_path):
    found = load_config_from_file(str(CONFIGS[name]))  # raises for a key that it does not know
    given = yaml.safe_load(CONFIGS[name].read_text("utf8"))
    known = vars(found) | vars(launch_command_parser().parse_args(["x.py"]))
    assert set(given) <= set(known)
    for key, value in given.items():
        kept = getattr(found, key, value)
        assert str(getattr(kept, "value", kept)) == str(value)
    (tmp_path / "odd.yaml").write_text(CONFIGS[name].read_text("utf8") + "number_of_gpus: 8\n")
    with pytest.raises(ValueError, match="number_of_gpus"):
        load_config_from_file(str(tmp_path / "odd.yaml"))


def test_eight_processes_share_the_papers_step_without_rest(monkeypatch):
    loop = config.full().pretraining.loop
    processes = load_config_from_file(str(CONFIGS["ddp_8"])).num_processes

    class Several:
        num_processes = processes

    monkeypatch.setattr(pretraining, "PartialState", Several)
    assert pretraining.own_share(loop).accumulation * processes == loop.accumulation == 16
    with pytest.raises(ValueError, match=r"accumulation 12: 8 processes .* a multiple of 8"):
        pretraining.own_share(replace(loop, accumulation=12))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "full", "--steps", "1"], "ships none of vision 'eva-clip-g'"),
        (["--steps", "-1"], "steps is -1"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(arguments, message, tmp_path, capsys):
    assert pretrain.main([*arguments, "--run-dir", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.slow  # three processes that import torch
def test_two_processes_train_on_the_joined_batch(tmp_path, monkeypatch):
    run = tmp_path / "run"
    given = yaml.safe_load(CONFIGS["ddp_8"].read_text("utf8"))
    given |= {"num_processes": 2, "use_cpu": True}
    (tmp_path / "cpu.yaml").write_text(yaml.safe_dump(given))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "cpu.yaml")]
    done = subprocess.run(
        [*launch, "--main_process_port", "0", "-m", "zvl.training.pretrain", *SMALL, "--run-dir", str(run)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Trained in") == 1, "one process speaks for both"

    preset = config.nano().with_run(steps=1, batch_size=4, accumulation=2)
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("the notebook finds it trained"))
    _, (row,) = schedule.pretrain(preset, run)
    data, tokenizer = schedule.read(preset, run, "train"), parts.text_tokenizer(preset.parts)
    batches = pretraining.pair_batches(preset, data, tokenizer)
    first, second = batches(0, 0), batches(0, 1)
    # Before autocast, which would keep its copies of the weights from before they are aligned.
    model = schedule.new_qformer(preset, preset.pretraining.loop.seed, data)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        joined = {name: torch.cat([first[name], second[name]]) for name in ("image_embeds", "image_ids")}
        width = max(first["input_ids"].shape[1], second["input_ids"].shape[1])
        for name in ("input_ids", "text_mask"):
            rows = [torch.nn.functional.pad(b[name], (0, width - b[name].shape[1])) for b in (first, second)]
            joined[name] = torch.cat(rows)
        expected = float(model(**joined)["itc"])
    assert row["itc"] == pytest.approx(expected, abs=0.02), "contrast sees the pairs of both processes"


@pytest.mark.slow  # a Q-Former at full width
def test_the_full_size_trains_for_real_in_few_layers(tmp_path):
    preset = config.full().with_run(steps=2, batch_size=2, accumulation=2, weights="random")
    preset = replace(preset, parts=replace(preset.parts, layers=2))
    model, history = schedule.pretrain(preset, tmp_path)
    assert {"itc", "itm", "itg"} <= set(history[-1]) and all(
        torch.isfinite(torch.tensor(list(history[-1].values())))
    )
    assert model.query_tokens.shape == (1, 64, 768) and model.qformer.config.encoder_hidden_size == 1408
    (folder,) = tmp_path.glob("stages/pretraining-*/checkpoints")
    found = checkpoint.load_latest(folder)
    assert found.step == 2
    before = schedule.new_qformer(preset, 0)
    moved = {
        name for name, p in before.named_parameters() if not torch.equal(p, found.tensors["model"][name])
    }
    assert {"query_tokens", "itm_head.weight", "lm_head.dense.weight", "vision_projection.weight"} <= moved
    assert json.loads((folder.parent / "complete.json").read_text("utf8"))["stage"] == "pretraining"


def test_what_zvl_convert_writes_starts_the_qformer(tmp_path):
    preset = config.nano()
    other = schedule.new_qformer(
        replace(preset, num_queries=8, parts=replace(preset.parts, start="nothing")), seed=7
    )
    convert.write_weights(other.state_dict(), tmp_path / "eight.safetensors")
    convert.convert_file(tmp_path / "eight.safetensors", tmp_path / "start.safetensors", num_queries=16)
    started = schedule.new_qformer(preset.with_run(start=str(tmp_path / "start.safetensors"))).state_dict()
    assert torch.equal(started["query_tokens"][:, :8], other.query_tokens)
    assert torch.equal(started["itm_head.weight"], other.itm_head.weight)


def test_the_folder_that_a_run_names_starts_the_qformer(tmp_path):
    preset = config.full().with_run(steps=1, weights="random", start=str(tmp_path))
    preset = replace(preset, parts=replace(preset.parts, layers=2))
    sizes = {"vocab_size": parts.qformer_config(preset.parts).vocab_size, "num_hidden_layers": 2}
    bert = BertForMaskedLM(BertConfig(**sizes))
    bert.save_pretrained(tmp_path)
    started = schedule.new_qformer(preset).state_dict()
    for name in ("attention.self.query.weight", "intermediate.dense.weight"):
        given = bert.state_dict()[f"bert.encoder.layer.1.{name}"]
        assert any(value.shape == given.shape and torch.equal(value, given) for value in started.values()), (
            name
        )
