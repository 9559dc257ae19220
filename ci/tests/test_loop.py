"""The training loop: schedule, accumulation, what it refuses, and resuming to the same bits."""

import hashlib
import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from zvl.training.checkpoint import CheckpointError
from zvl.training.loop import LoopConfig, parameter_groups, rate_factor, train

CONFIG = LoopConfig(steps=12, learning_rate=1e-2, log_every=5)


def new_model(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Dropout(dropout), nn.Linear(16, 1))


def batches(step, micro, rows=16):
    generator = torch.Generator().manual_seed(1000 * step + micro)
    x = torch.randn(rows, 8, generator=generator)
    return {"x": x, "y": x.sum(dim=1, keepdim=True)}


def loss_fn(model, batch, step):
    """Squared error with noise, so that a wrong random state cannot hide."""
    error = model(batch["x"]) - batch["y"] + 0.1 * torch.randn_like(batch["y"])
    return error.float().square().mean(), {"mean_error": error.mean(), "constant": 1.0}


def digest(model):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


def interrupted_at(last):
    def some_batches(step, micro):
        if step == last:
            raise KeyboardInterrupt
        return batches(step, micro)

    return some_batches


def test_the_rate_warms_up_then_falls_along_a_cosine():
    config = LoopConfig(steps=100, learning_rate=1.0, warmup=0.1, min_lr_ratio=0.2)
    factors = [rate_factor(config, step) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1.0
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert factors[55] == pytest.approx(0.6)  # half way down
    assert 0.2 < factors[99] < 0.201
    assert rate_factor(replace(config, warmup=0.0), 0) == 1.0


def test_matrices_decay_and_vectors_do_not():
    model = new_model()
    groups = parameter_groups(model, replace(CONFIG, rates=(("^3", 0.5),)))["adamw"]
    found = {p: (group["peak"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert [found[p] for p in model.parameters()] == [
        (0.01, 0.05), (0.01, 0.0), (0.01, 0.0), (0.01, 0.0), (0.5, 0.05), (0.5, 0.0)
    ]  # fmt: skip


def blocks():
    """Two blocks between an embedding and a head, named as transformers names them."""
    torch.manual_seed(1)
    model = nn.ModuleDict(
        {"embed": nn.Linear(8, 12), "layers": nn.ModuleList(nn.Linear(12, 12) for _ in "ab")}
    )
    model["head"] = nn.Linear(12, 1)
    model.forward = lambda x: model["head"](model["layers"][1](model["layers"][0](model["embed"](x)).tanh()))
    return model


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_all_else():
    model, muon = blocks(), replace(CONFIG, optimizer="muon")
    groups = parameter_groups(model, muon)
    names = {p: name for name, p in model.named_parameters()}
    found = {kind: {names[p] for group in groups[kind] for p in group["params"]} for kind in groups}
    assert found["muon"] == {"layers.0.weight", "layers.1.weight"}
    assert found["adamw"] == set(names.values()) - found["muon"]
    assert set(parameter_groups(model, CONFIG)) == {"adamw"}


def test_a_step_of_muon_turns_a_matrix_and_one_of_adamw_its_entries():
    """Of a gradient's matrix, Muon keeps the directions and makes their lengths alike (its singular values)."""
    model = blocks()
    before = model["layers"][0].weight.detach().clone()
    config = replace(CONFIG, steps=1, optimizer="muon", weight_decay=0.0, warmup=0.0)
    train(model, loss_fn, batches, config)
    lengths = torch.linalg.svdvals(before - model["layers"][0].weight.detach())
    lengths = lengths / (config.learning_rate * 0.2 * 12**0.5)  # 0.2 sqrt(width): as large as AdamW's
    rank = int((lengths > 0.3).sum())
    assert rank >= 6 and 0.6 < float(lengths[:rank].median()) < 1.3, lengths
    gradient = torch.linalg.svdvals(gradient_of(blocks()))
    assert gradient[0] / gradient[5] > 5, "the gradient itself is far from even"


def gradient_of(model):
    torch.manual_seed(0)
    loss_fn(model, batches(0, 0), 0)[0].backward()
    return model["layers"][0].weight.grad


def test_a_training_with_two_optimizers_resumes_to_the_same_bits(tmp_path):
    config = replace(CONFIG, optimizer="muon", save_every=5)
    whole, cut = blocks(), blocks()
    history = train(whole, loss_fn, batches, config)
    with pytest.raises(KeyboardInterrupt):
        train(cut, loss_fn, interrupted_at(7), config, tmp_path)
    again = blocks()
    assert train(again, loss_fn, batches, config, tmp_path) == history
    assert digest(again) == digest(whole)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="'adamw' and 'muon'"):
        replace(CONFIG, optimizer="sgd")
    with pytest.raises(ValueError, match="'fp32' and 'bf16'"):
        replace(CONFIG, precision="fp16")
    with pytest.raises(ValueError, match="accumulation must be at least 1"):
        replace(CONFIG, accumulation=0)
    with pytest.raises(ValueError, match="warmup is a fraction"):
        replace(CONFIG, warmup=10)
    with pytest.raises(ValueError, match="'qformer' is found in no trainable"):
        train(new_model(), loss_fn, batches, replace(CONFIG, rates=(("qformer", 1e-3),)))
    with pytest.raises(ValueError, match="no trainable parameter"):
        train(new_model().requires_grad_(False), loss_fn, batches, CONFIG)


def test_history_has_a_row_for_every_log_every_steps_and_the_last():
    history = train(new_model(), loss_fn, batches, CONFIG)
    assert [row["step"] for row in history] == [5, 10, 12]
    assert set(history[0]) == {"step", "loss", "mean_error", "constant", "gradient_norm", "lr"}
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(row["constant"] == 1.0 for row in history)


def test_accumulated_micro_batches_equal_one_large_batch():
    def plain_loss(model, batch, step):
        return (model(batch["x"]) - batch["y"]).square().mean(), {}

    def joined(step, micro):
        parts = [batches(step, k) for k in range(4)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    one, many = new_model(), new_model()
    train(one, plain_loss, joined, CONFIG)
    train(many, plain_loss, batches, replace(CONFIG, accumulation=4))
    for a, b in zip(one.parameters(), many.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_loss_that_is_not_finite_stops_before_the_update():
    model, weights = new_model(), []

    def breaking(model, batch, step):
        loss, metrics = loss_fn(model, batch, step)
        weights.append(digest(model))
        return loss * (float("nan") if step == 3 else 1.0), metrics

    with pytest.raises(FloatingPointError, match=r"nano: step 3 .* stopped before the update"):
        train(model, breaking, batches, CONFIG, description="nano")
    assert digest(model) == weights[3]
    assert all(p.grad is None for p in model.parameters())


def test_an_evaluation_leaves_dropout_and_the_weights_as_they_would_be():
    plain, watched = new_model(dropout=0.2), new_model(dropout=0.2)
    bare = train(plain, loss_fn, batches, CONFIG)
    rows = train(
        watched,
        loss_fn,
        batches,
        replace(CONFIG, eval_every=4),
        evaluate=lambda model: {"drawn": model(torch.ones(2, 8)).sum() + torch.rand(())},
    )
    assert digest(watched) == digest(plain)
    assert ["drawn" in row for row in rows] == [True] * 3, "steps 4, 8 and 12 fall into three rows"
    assert [{name: row[name] for name in bare[0]} for row in rows] == bare


def test_the_callers_random_state_and_mode_are_left_alone():
    model = new_model().eval()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(model, loss_fn, batches, replace(CONFIG, steps=2))
    assert torch.equal(torch.rand(3), expected)
    assert not model.training


def test_random_numbers_depend_on_seed_step_and_micro_batch_alone():
    drawn = []

    def drawing(model, batch, step):
        drawn.append(torch.rand(()).item())
        return loss_fn(model, batch, step)

    train(new_model(), drawing, batches, replace(CONFIG, steps=3, accumulation=2))
    assert len(set(drawn)) == 6
    again, drawn = drawn, []
    train(new_model(), drawing, batches, replace(CONFIG, steps=3, accumulation=2))
    assert drawn == again


def test_no_folder_and_no_save_every_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(new_model(), loss_fn, batches, replace(CONFIG, save_every=2))
    assert not list(tmp_path.iterdir())
    train(new_model(), loss_fn, batches, CONFIG, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["tensorboard"]


def test_the_bar_stays_out_of_notebooks_unless_asked_for(capfd, monkeypatch):
    monkeypatch.delenv("ZVL_PROGRESS", raising=False)
    train(new_model(), loss_fn, batches, CONFIG)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("ZVL_PROGRESS", "1")
    train(new_model(), loss_fn, batches, CONFIG, description="nano stage")
    assert "nano stage" in capfd.readouterr().err
    train(new_model(), loss_fn, batches, CONFIG, progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("last", [1, 6, 11])
def test_a_resumed_training_ends_in_the_same_weights_and_history(tmp_path, last):
    config = replace(CONFIG, save_every=3)
    whole = new_model(dropout=0.2)
    history = train(whole, loss_fn, batches, config)
    with pytest.raises(KeyboardInterrupt):
        train(new_model(dropout=0.2), loss_fn, interrupted_at(last), config, tmp_path)
    resumed = new_model(dropout=0.2)
    assert train(resumed, loss_fn, batches, config, tmp_path) == history
    assert digest(resumed) == digest(whole)


def test_a_complete_training_is_loaded_and_not_repeated(tmp_path):
    config = replace(CONFIG, save_every=50)
    first = new_model()
    history = train(first, loss_fn, batches, config, tmp_path)
    again = new_model()
    assert train(again, loss_fn, interrupted_at(0), config, tmp_path) == history
    assert digest(again) == digest(first)


def test_resuming_after_damage_uses_the_previous_checkpoint_and_still_agrees(tmp_path):
    config = replace(CONFIG, save_every=3)
    whole = new_model(dropout=0.2)
    train(whole, loss_fn, batches, config)
    with pytest.raises(KeyboardInterrupt):
        train(new_model(dropout=0.2), loss_fn, interrupted_at(8), config, tmp_path)
    damaged = tmp_path / "checkpoints" / "step-00000006" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    resumed = new_model(dropout=0.2)
    with pytest.warns(UserWarning, match=r"step-00000006.optimizer\.safetensors"):
        train(resumed, loss_fn, batches, config, tmp_path)
    assert digest(resumed) == digest(whole)


@pytest.mark.parametrize(
    "change", [{"learning_rate": 0.5}, {"steps": 13}, {"seed": 1}, {"precision": "bf16"}], ids=str
)
def test_checkpoints_of_another_training_are_refused(tmp_path, change):
    config = replace(CONFIG, save_every=6)
    train(new_model(), loss_fn, batches, config, tmp_path)
    name = next(iter(change))
    with pytest.raises(CheckpointError, match=rf"another training: {name} = "):
        train(new_model(), loss_fn, batches, replace(config, **change), tmp_path)


def test_checkpoints_of_another_set_of_parameters_are_refused(tmp_path):
    config = replace(CONFIG, save_every=6)
    train(new_model(), loss_fn, batches, config, tmp_path)
    smaller = new_model()
    smaller[0].requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"another set of trainable parameters \(0\.bias, 0\.weight\)"):
        train(smaller, loss_fn, batches, config, tmp_path)


PROGRAM = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_loop import LONG, batches, digest, loss_fn, new_model
from zvl.training import checkpoint
from zvl.training.loop import train

def die():
    os.kill(os.getpid(), signal.SIGKILL)  # not to be caught, nothing is tidied up

def some_batches(step, micro):
    if {kill!r} == "computing" and (step, micro) == (18, 1):
        die()
    return batches(step, micro)

flush = checkpoint._flush
def flush_or_die(path):
    if {kill!r} == "writing" and "step-00000028" in str(path) and path.name == "optimizer.safetensors":
        die()
    flush(path)

checkpoint._flush = flush_or_die
model = new_model(dropout=0.2)
train(model, loss_fn, some_batches, LONG, {folder!r})
print(digest(model))
"""
LONG = LoopConfig(steps=40, learning_rate=1e-2, save_every=4, accumulation=2, precision="bf16")


def run_program(folder, kill=""):
    """Train in a process of its own, killed with SIGKILL at `kill`. Returns what it printed."""
    program = PROGRAM.format(tests=str(Path(__file__).parent), folder=str(folder), kill=kill)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment, check=False
    )
    assert process.returncode == (-signal.SIGKILL if kill else 0)
    return process.stdout.strip()


@pytest.mark.slow  # three processes that import torch
def test_killed_in_the_middle_and_resumed_the_weights_have_the_same_hash(tmp_path):
    whole = new_model(dropout=0.2)
    train(whole, loss_fn, batches, LONG)
    saves = tmp_path / "checkpoints"
    assert run_program(tmp_path, kill="computing") == ""
    assert sorted(p.name for p in saves.iterdir()) == ["step-00000012", "step-00000016"]
    assert run_program(tmp_path, kill="writing") == ""  # resumes at 16, dies while it writes 28
    assert sorted(p.name for p in saves.iterdir()) == [
        ".writing-step-00000028",
        "step-00000020",
        "step-00000024",
    ]
    assert run_program(tmp_path) == digest(whole)
    assert sorted(p.name for p in saves.iterdir()) == ["step-00000036", "step-00000040"]
