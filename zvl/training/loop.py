"""One training loop for every stage: pre-training, both tuning stages, the nano backbones.

Two rules make resuming exact. Data order is a pure function of (step, micro), so nothing about data is
stored. And torch's random state is set anew from (seed, step, micro) before every micro-batch, so nothing
about randomness is stored either. What a checkpoint holds is weights, the optimizers' moments and the history.
"""

import ctypes
import hashlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from zvl.config import LoopConfig
from zvl.training import checkpoint, nonfinite
from zvl.training.clock import Clock, rows_of

LossFunction = Callable[[nn.Module, Any, int], tuple[Tensor, dict[str, Any]]]
Evaluation = Callable[[nn.Module], dict[str, Any]]
Alarm = Callable[[list[dict[str, float]]], dict[str, float]]
Prepare = Callable[[nn.Module, Iterator[Any], int, Callable[[int], None]], Iterable[Any]]


def rate_factor(config: LoopConfig, step: int) -> float:
    """The learning rate of `step` (from 0) as a fraction of its peak: linear warm-up, then a cosine."""
    warm = round(config.warmup * config.steps)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, config.steps - warm)
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * done))


# A weight within a block, `layer.3.` or `layers.3.` in its name: a matrix there turns one state into another, which is
# what Muon is for. Embeddings, heads, queries and projections between models stay with AdamW.
_IN_BLOCK = re.compile(r"(^|\.)layers?\.\d+\.")


def parameter_groups(model: nn.Module, config: LoopConfig) -> dict[str, list[dict]]:
    """Groups of the trainable parameters for each optimizer, by peak rate, with decay on matrices only.

    Keys are "adamw" and, with config.optimizer "muon", "muon" for the matrices of the blocks; none is empty.
    Raises ValueError where nothing is trainable or a pattern of `config.rates` finds no parameter.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        raise ValueError(f"{type(model).__name__} has no trainable parameter; was a stage configured?")
    for pattern, _ in config.rates:
        if not any(re.search(pattern, name) for name, _ in trainable):
            raise ValueError(f"rates: {pattern!r} is found in no trainable parameter's name")
    groups: dict[tuple[str, float, float], dict] = {}
    for name, p in trainable:
        matching = (rate for pattern, rate in config.rates if re.search(pattern, name))
        peak = next(matching, config.learning_rate)
        decay = config.weight_decay if p.ndim >= 2 else 0.0
        muon = config.optimizer == "muon" and p.ndim == 2 and _IN_BLOCK.search(name)
        group = groups.setdefault(
            ("muon" if muon else "adamw", peak, decay),
            {"params": [], "lr": peak, "weight_decay": decay, "peak": peak},
        )
        group["params"].append(p)
    found: dict[str, list[dict]] = {}
    for (kind, *_), group in groups.items():
        found.setdefault(kind, []).append(group)
    return found


def optimizers(model: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon where config.optimizer asks for it (Jordan et al. 2024; torch.optim.Muon).

    Muon's steps are scaled to the size of AdamW's (Liu et al. 2025, "Muon is scalable"), so one rate does for both.
    """
    made = []
    for kind, groups in parameter_groups(model, config).items():
        if kind == "muon":
            made.append(torch.optim.Muon(groups, adjust_lr_fn="match_rms_adamw"))
        else:
            made.append(torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True))
    return made


def train(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Callable[[int, int], Any],
    config: LoopConfig,
    folder: str | Path | None = None,
    description: str = "training",
    progress: bool | None = None,
    evaluate: Evaluation | None = None,
    alarm: Alarm | None = None,
    prepare: Prepare | None = None,
) -> list[dict[str, float]]:
    """Train the parameters of `model` that require gradients, in place; resume if `folder` has checkpoints.

    loss_fn(model, batch, step) -> (scalar loss, {metric: float or scalar tensor}). Its randomness must come
        from torch's default generators, or from generators made from `step`.
    batches(step, micro) -> batch: a pure function; step counts from 0. With several processes each asks for
        its own: process p takes micro = p * accumulation ... (p + 1) * accumulation - 1. A mapping may carry
        `sample_ids`, a string for each row, which the model does not get: after a failure they name the samples.
    folder: gets tensorboard/ and, with config.save_every, checkpoints/ (the last step too); None for nothing.
    description: names the training in the progress bar, in errors and in its checkpoints.
    progress: draw a bar on stderr. None: only on a terminal, so that committed notebooks stay clean, unless
        the environment variable ZVL_PROGRESS (0 or 1) decides.
    evaluate(model) -> {metric: float}: called every config.eval_every steps and after the last one, in every
        process, in evaluation mode, without gradients, and with random numbers that the training never sees.
    alarm(history) -> {name: float}: called for every new row of the history, to which what it tells is added.
    prepare(model, micro-batches, step, reseed) -> micro-batches: sees all those of a step before loss_fn sees one, for
        a loss over the whole step (`zvl.training.contrast`); reseed(micro) sets the random state that loss_fn gets.

    Speed goes to TensorBoard (time/...) and to the bar only: the history of a training is the same on any machine.

    Returns the history, one row for every log_every steps: step (updates done), loss, gradient_norm (before
    clipping), lr (of the first parameter group) and the metrics, each the mean over these steps.
    Raises FloatingPointError before the update when the loss or the gradient is not finite: all processes stop, the
    weights are those before the step, and nonfinite-step-<step>.json in `folder` names the samples. Raises
    CheckpointError when the folder's checkpoints belong to another training or are all damaged.
    """
    accelerator = Accelerator(mixed_precision="no")  # its own is fixed once a process; ours is a choice a run
    was_training = model.training
    wrapped, *prepared = accelerator.prepare(model, *optimizers(model, config))
    saves = Path(folder) / "checkpoints" if folder is not None else None
    # Through JSON, so that it compares equal to what a checkpoint gives back.
    identity = json.loads(json.dumps(_identity(config, description, model, accelerator.num_processes)))

    start, history, pending = 0, [], []
    if saves is not None and (found := checkpoint.load_latest(saves)) is not None:
        _check_identity(found, identity)
        _restore(model, prepared, found)
        start, history, pending = found.step, found.records["history"], found.records["pending"]

    first_micro = accelerator.process_index * config.accumulation
    main = accelerator.is_main_process
    writer = _tensorboard(folder, start) if main and start < config.steps else None
    hidden = not (main and _show_progress(progress))
    bar = tqdm(total=config.steps, initial=start, desc=description, disable=hidden, leave=False)
    wrapped.train()
    clock = Clock()
    try:
        with _own_random_state(accelerator.device):
            for step in range(start, config.steps):
                began = time.perf_counter()
                factor = rate_factor(config, step)
                for optimizer in prepared:
                    for group in optimizer.param_groups:
                        group["lr"] = group["peak"] * factor
                parts, reseed = [], _seeder(config.seed, step, first_micro)
                micro_batches = _load(batches, step, first_micro, config, reseed, clock, accelerator.device)
                if prepare is not None:
                    with _precision(config, accelerator.device):
                        micro_batches = prepare(wrapped, micro_batches, step, reseed)
                for micro, batch in enumerate(micro_batches):
                    if prepare is not None:
                        reseed(micro)
                    last = micro == config.accumulation - 1  # only then do processes exchange gradients
                    with nullcontext() if last else accelerator.no_sync(wrapped):
                        with _precision(config, accelerator.device):
                            loss, metrics = loss_fn(wrapped, batch, step)
                        accelerator.backward(loss / config.accumulation)
                    parts.append({"loss": loss.detach(), **metrics})
                batch = micro_batches = None  # their pictures, which the next step would hold beside its own
                norm = accelerator.clip_grad_norm_(wrapped.parameters(), config.clip or math.inf)
                row = _row(parts, norm, accelerator)
                if not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])):
                    nonfinite.stop(description, step, row, parts, first_micro, batches, accelerator, folder)
                for optimizer in prepared:
                    optimizer.step()
                    optimizer.zero_grad()
                clock.seconds += time.perf_counter() - began

                done = step + 1
                row["lr"] = prepared[0].param_groups[0]["lr"]
                if evaluate is not None and _is_due(config.eval_every, config, done):
                    row |= _evaluated(evaluate, model, config, done, accelerator.device)
                    wrapped.train()
                pending.append(row)
                if done % config.log_every == 0 or done == config.steps:
                    history.append({"step": done} | _mean(pending))
                    pending = []
                    if alarm is not None:
                        history[-1] |= alarm(history)
                    _return_memory()
                    speed = clock.read(accelerator.num_processes)
                    told = history[-1] | speed
                    bar.set_postfix({n: f"{told[n]:.4g}" for n in ("loss", *speed)}, refresh=False)
                    for name, value in told.items():
                        if writer is not None and name != "step":
                            writer.add_scalar(name, value, done)
                bar.update()
                if saves is not None and _is_due(config.save_every, config, done):
                    if main:
                        records = {"identity": identity, "history": history, "pending": pending}
                        checkpoint.save(saves, done, _state(model, prepared), records)
                    accelerator.wait_for_everyone()
    finally:
        bar.close()
        if writer is not None:
            writer.close()
        for optimizer in prepared:
            optimizer.zero_grad()
        model.train(was_training)
    return history


def _load(batches, step, first_micro, config, reseed, clock: Clock, device: torch.device) -> Iterator[Any]:
    """The micro-batches of a step for this process, on the device; each is asked for when its turn comes."""
    for micro in range(config.accumulation):
        reseed(micro)
        asked = time.perf_counter()
        batch, _ = nonfinite.take_ids(batches(step, first_micro + micro))
        clock.waited += time.perf_counter() - asked
        clock.samples += rows_of(batch)
        yield send_to_device(batch, device)


def _is_due(every: int, config: LoopConfig, done: int) -> bool:
    return every > 0 and (done % every == 0 or done == config.steps)


@torch.no_grad()
def _evaluated(
    evaluate: Evaluation, model: nn.Module, config: LoopConfig, done: int, device: torch.device
) -> dict[str, float]:
    _seed(config.seed, done, -1)  # a micro-batch that no training has
    model.eval()
    with _precision(config, device):
        return {name: float(value) for name, value in evaluate(model).items()}


@contextmanager
def _precision(config: LoopConfig, device: torch.device) -> Iterator[None]:
    """Where the loss is computed: under autocast for bf16, as it is for fp32."""
    # torch's fused attention on a CPU goes backwards ten times slower in bf16 than in fp32 (torch 2.13);
    # plain products make a step of a small ViT or LLaMA up to 1.6 times as fast.
    slow = device.type == "cpu" and config.precision == "bf16"
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"),
        sdpa_kernel(SDPBackend.MATH) if slow else nullcontext(),
    ):
        yield


def _seed(seed: int, step: int, micro: int) -> None:
    """Make dropout and sampling of a micro-batch depend on (seed, step, micro) alone."""
    # Hashed, so that neighbouring steps and seeds share no random numbers.
    digest = hashlib.sha256(f"{seed} {step} {micro}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _seeder(seed: int, step: int, first_micro: int) -> Callable[[int], None]:
    """`_seed` for this process's micro-batches of a step, counted from 0."""
    return lambda micro: _seed(seed, step, first_micro + micro)


@contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    """Seed freely inside; the caller's random state is as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _row(parts: list[dict], norm: Tensor, accelerator: Accelerator) -> dict[str, float]:
    """Means over micro-batches and processes, in one transfer from the device.

    What is not finite in one process is not finite in the row of all, so that all stop together.
    """
    names = list(parts[0])
    device = accelerator.device
    values = [
        torch.as_tensor(part[name], device=device).detach().double() for part in parts for name in names
    ]
    values = torch.stack(values).view(len(parts), len(names)).mean(0)
    values = torch.cat([values, torch.as_tensor(norm, device=device).double()[None]])
    values = accelerator.reduce(values, reduction="mean") if accelerator.num_processes > 1 else values
    return dict(zip([*names, "gradient_norm"], values.tolist(), strict=True))


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the rows that have it (a task's own metric may be absent in some steps)."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: math.fsum(column) / len(column) for name, column in columns.items()}


def _state(model: nn.Module, prepared: list) -> dict[str, dict[str, Tensor]]:
    """All that changes in training: trainable parameters, buffers, and the optimizers' moments by parameter name."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    persistent = model.state_dict(keep_vars=True).keys()
    buffers = {name: b for name, b in model.named_buffers() if name in persistent}
    moments = {
        f"{key}.{name}": value
        for name, p in trainable.items()
        for optimizer in prepared
        for key, value in optimizer.state.get(p, {}).items()  # empty where no gradient has arrived yet
    }
    return {"model": trainable | buffers, "optimizer": moments}


@torch.no_grad()
def _restore(model: nn.Module, prepared: list, found: checkpoint.Checkpoint) -> None:
    targets = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, value in found.tensors["model"].items():
        targets[name].copy_(value)
    owner = {p: o for o in prepared for group in o.param_groups for p in group["params"]}
    for key_name, value in found.tensors["optimizer"].items():
        key, name = key_name.split(".", 1)
        p = targets[name]
        owner[p].state[p][key] = value.to(p.device)


def _identity(config: LoopConfig, description: str, model: nn.Module, processes: int) -> dict[str, Any]:
    """What must not change between a run and its resumption."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("save_every", "log_every", "eval_every")}
    shapes = {name: list(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    return {"description": description, "processes": processes, **settings, "trainable": shapes}


def _check_identity(found: checkpoint.Checkpoint, identity: dict[str, Any]) -> None:
    old = found.records["identity"]
    for key in identity:
        if old.get(key) != identity[key]:
            if key == "trainable":
                odd = sorted(set(old[key]) ^ set(identity[key]))
                what = f"another set of trainable parameters ({', '.join(odd[:3]) or 'other shapes'})"
            else:
                what = f"{key} = {old.get(key)!r}, now {identity[key]!r}"
            raise checkpoint.CheckpointError(
                f"{found.path}: belongs to another training: {what}; use another folder, or delete this one"
            )


def _return_memory() -> None:
    """Give freed memory back to the system: batches differ in shape, and glibc alone would keep gigabytes of holes."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # not glibc
        pass


def _tensorboard(folder: str | Path | None, start: int):
    """A TensorBoard writer, or None without a folder or where tensorboard is not installed."""
    if folder is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and optional
    except ImportError:
        return None
    return SummaryWriter(str(Path(folder) / "tensorboard"), purge_step=start + 1)


def _show_progress(progress: bool | None) -> bool:
    if progress is not None:
        return progress
    wish = os.environ.get("ZVL_PROGRESS", "")
    return wish == "1" or (wish != "0" and sys.stderr.isatty())
