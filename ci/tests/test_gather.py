"""Two processes compute what one computes on their joint batch: losses, gradients, negatives from everywhere."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from small_stage1 import (
    LENGTH,
    assert_gradients_agree,
    gradients,
    hardest_negatives,
    random_batch,
    random_model,
)  # fmt: skip
from torch.testing import assert_close

from zvl.config import LoopConfig
from zvl.model import gather, objectives
from zvl.training import loop
from zvl.training.contrast import whole_batch

pytestmark = pytest.mark.usefixtures("seed")
IMAGES = (0, 1, 2, 1, 3, 1, 0, 4)  # the processes share images 0 and 1
ROWS = 4  # pairs in each process
PARTS = ("itc", "itm", "itg", "loss")
LOOP = LoopConfig(steps=2, learning_rate=1e-3, log_every=1)


def rows_of(batch: dict, rows: slice) -> dict:
    """Some pairs; the second process pads its texts to fewer positions."""
    part = {name: value[rows] for name, value in batch.items()}
    if rows.start >= ROWS:
        for name in ("input_ids", "text_mask"):
            part[name] = part[name][:, : LENGTH - 2]
    return part


def loop_loss(model, batch, step):
    found = model(**batch)
    return found["loss"], {name: found[name].detach() for name in PARTS[:3]}


def worker(rank: int, port: int, folder: str) -> None:
    """All that two processes are asked, in one go: starting them is what takes time."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "1",
    }  # fmt: skip
    dist.init_process_group("gloo")
    objectives.sample_negatives = hardest_negatives
    asked = torch.load(Path(folder) / "asked.pt", weights_only=True)
    batch, told = asked["batch"], {}
    own = slice(rank * ROWS, (rank + 1) * ROWS)
    halves = [slice(own.start + first, own.start + first + 2) for first in (0, 2)]

    def new_model(wrap: bool):
        model = random_model()
        model.load_state_dict(asked["model"])
        return torch.nn.parallel.DistributedDataParallel(model) if wrap else model

    for part in PARTS:
        # DDP waits for a gradient of every parameter, which one part alone does not give: average by hand.
        model = new_model(wrap=part == "loss")
        found = model(**rows_of(batch, own))
        found[part].backward()
        told[f"joint {part}"] = grads_of(getattr(model, "module", model))
        for gradient in told[f"joint {part}"].values() if part != "loss" else ():
            dist.all_reduce(gradient)
            gradient /= 2
    told["joint losses"] = losses_of(found)

    model = new_model(wrap=True)
    prepared = whole_batch(model, [rows_of(batch, half) for half in halves], torch.manual_seed)
    with model.no_sync():
        first = model(**prepared[0])
        (first["loss"] / 2).backward()
    second = model(**prepared[1])
    (second["loss"] / 2).backward()
    told["whole loss"] = grads_of(model.module)
    told["whole losses"] = (losses_of(first) + losses_of(second)) / 2
    drawn = [
        torch.stack([micro["whole"].negative_images, micro["whole"].negative_texts]) for micro in prepared
    ]
    told["drawn"] = torch.cat(drawn, dim=1)

    def prepare(model, batches, step, reseed):
        return whole_batch(model, batches, reseed)

    config = LoopConfig(**{**vars(LOOP), "accumulation": 2})
    history = loop.train(
        new_model(wrap=False), loop_loss, lambda _, micro: rows_of(batch, slice(2 * micro, 2 * micro + 2)), config,
        prepare=prepare,
    )  # fmt: skip
    told["history"] = history

    states = torch.arange(6.0).view(3, 2) + 10 * rank
    states.requires_grad_()
    fetched = gather.fetch(states, torch.tensor([5, 0, 3, 5] if rank == 0 else [0, 1, 2, 4]))
    (fetched * (1 + rank)).sum().backward()
    told["fetched"], told["fetched gradient"] = fetched.detach(), states.grad

    try:
        gather.pad_alike(torch.zeros(2 + rank, 3, dtype=torch.long), torch.ones(2 + rank, 3).bool())
    except ValueError as error:
        told["uneven"] = str(error)
    torch.save(told, Path(folder) / f"told-{rank}.pt")
    dist.destroy_process_group()


def grads_of(model) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def losses_of(found: dict) -> torch.Tensor:
    return torch.stack([found[part].detach() for part in (*PARTS, "itc_accuracy", "itm_accuracy")])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The model, the joint batch, and what each of two processes told."""
    folder = tmp_path_factory.mktemp("two")
    model, batch = random_model(), random_batch(IMAGES)
    batch["text_mask"][ROWS:, LENGTH - 2 :] = False
    batch["text_mask"][:ROWS, 1:] = True  # more words in the first process: a mean of means would be another
    torch.save({"model": model.state_dict(), "batch": batch}, folder / "asked.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, str(folder)), nprocs=2)
    return model, batch, [torch.load(folder / f"told-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture
def hardest(monkeypatch):
    monkeypatch.setattr(objectives, "sample_negatives", hardest_negatives)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_gradients_of_two_processes_are_those_of_one_with_the_joint_batch(two, hardest, part):
    model, batch, told = two
    expected = gradients(model, model(**batch)[part])
    for rank in range(2):
        assert_gradients_agree(told[rank][f"joint {part}"], expected, 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["joint", "whole"])
def test_losses_of_two_processes_are_those_of_one(two, hardest, way):
    model, batch, told = two
    mean = (told[0][f"{way} losses"] + told[1][f"{way} losses"]) / 2
    assert_close(mean, losses_of(model(**batch)), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_micro_batches_of_two_processes_are_one_batch(two, hardest):
    model, batch, told = two
    expected = gradients(model, model(**batch)["loss"])
    for rank in range(2):
        assert_gradients_agree(told[rank]["whole loss"], expected, 2e-5)
    drawn = torch.cat([told[rank]["drawn"] for rank in range(2)], dim=1)
    assert (drawn // ROWS != torch.arange(2 * ROWS) // ROWS).any(), (
        "some negatives come from the other process"
    )


@pytest.mark.slow
def test_the_loop_trains_two_processes_on_the_whole_step(two, hardest):
    model, batch, told = two
    copy = random_model()
    copy.load_state_dict(model.state_dict())
    expected = loop.train(copy, loop_loss, lambda *_: batch, LOOP)
    for rank in range(2):
        for mine, row in zip(told[rank]["history"], expected, strict=True):
            assert mine == pytest.approx(row, rel=1e-4)


@pytest.mark.slow
def test_rows_are_fetched_from_their_process_and_gradients_go_back(two):
    joint = torch.cat([torch.arange(6.0).view(3, 2), torch.arange(6.0).view(3, 2) + 10])
    told = two[2]
    assert_close(told[0]["fetched"], joint[[5, 0, 3, 5]])
    assert_close(told[1]["fetched"], joint[[0, 1, 2, 4]])
    expected = torch.tensor([1.0 + 2, 2, 2, 1, 2, 2])[:, None].expand(6, 2)
    assert_close(torch.cat([told[0]["fetched gradient"], told[1]["fetched gradient"]]), expected)


@pytest.mark.slow
def test_processes_with_unequal_batches_are_told(two):
    for told in two[2]:
        assert "[2, 3] pairs (by rank)" in told["uneven"]


def test_without_a_process_group_nothing_changes():
    states, index = torch.randn(3, 2, requires_grad=True), torch.tensor([2, 2, 0])
    ids, mask = torch.ones(3, 4, dtype=torch.long), torch.ones(3, 4, dtype=torch.bool)
    assert gather.processes() == 1 and gather.own_rows(3) == slice(0, 3)
    assert gather.all_gather(states) is states
    assert gather.pad_alike(ids, mask) == (ids, mask)
    assert_close(gather.fetch(states, index), states[index])
