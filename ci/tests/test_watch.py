"""What is watched in training tells the truth, names what broke, and changes no bit of the training."""

import json
import os
import socket
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_stage1 import PATCHES, VISION, random_batch, random_model
from test_loop import digest
from torch import nn

from zvl.config import LoopConfig
from zvl.model.collapse import query_similarity
from zvl.model.objectives import ITM_PRIOR_ENTROPY
from zvl.training import checkpoint, watch
from zvl.training.clock import Clock, rows_of
from zvl.training.loop import train
from zvl.training.nonfinite import broken_rows

CONFIG = LoopConfig(steps=6, learning_rate=1e-3, log_every=1, precision="bf16")
CAPTION = "cat.png zh caption 2"


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return random_model()


def batches(step: int, micro: int) -> dict:
    torch.manual_seed(1000 * step + micro)
    return random_batch() | {"sample_ids": [f"{step}-{micro}-{row}" for row in range(5)] + [CAPTION]}


def poisoned(at_step: int, at_micro: int = 0):
    """Batches of which one, in its last row, has a number that is not finite."""

    def some_batches(step: int, micro: int) -> dict:
        batch = batches(step, micro)
        if (step, micro) == (at_step, at_micro):
            batch["image_embeds"][-1, 2, 1] = float("nan")
        return batch

    return some_batches


def loss_fn(model, batch, step):
    found = model(**batch)  # hard negatives: NaN must not break their sampling
    return found["loss"], {name: value.detach() for name, value in found.items() if name != "loss"}


class Judge(nn.Module):
    """Stands for a Q-Former: picture i is the number i, a caption names a picture, and the head compares them."""

    def __init__(self, sees: bool):
        super().__init__()
        self.sees, self.anything = sees, nn.Parameter(torch.zeros(()))

    def image_features(self, image_embeds):
        number = image_embeds[:, 0, 0].long() if self.sees else torch.zeros(len(image_embeds)).long()
        return nn.functional.one_hot(number, 12).float()[:, None].expand(-1, 3, -1)

    def text_features(self, input_ids, text_mask):
        return nn.functional.one_hot(input_ids[:, 0], 12).float()

    def match(self, image_embeds, input_ids, text_mask):
        if not self.sees:
            return torch.ones(len(image_embeds))
        return (image_embeds[:, 0, 0] == input_ids[:, 0]).float() - 0.5


def numbered(captions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor(captions)[:, None].expand(-1, 4)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def test_evaluation_measures_each_language_against_held_out_pictures():
    pictures = torch.arange(12.0)[:, None, None].expand(-1, 5, 8).half()
    told = {"en": numbered(list(range(12))), "zh": numbered([(i + 2) % 12 for i in range(12)])}
    found = watch.evaluate(Judge(sees=True), [watch.HeldOut(pictures, told)])
    assert found == {
        "eval/en/tr1": 1.0, "eval/en/ir1": 1.0, "eval/en/itm": 1.0,
        "eval/zh/tr1": 0.0, "eval/zh/ir1": 0.0, "eval/zh/itm": 0.5,
    }  # fmt: skip
    blind = watch.evaluate(Judge(sees=False), [watch.HeldOut(pictures, {"en": told["en"]})])
    assert blind == {"eval/en/tr1": pytest.approx(1 / 12), "eval/en/ir1": 0.0, "eval/en/itm": 0.5}, (
        "ties rank last"
    )


def test_losses_with_and_without_evaluation_are_the_same_bits():
    aside = watch.HeldOut(torch.randn(4, PATCHES, VISION), {"en": numbered([5, 6, 7, 8])})
    modes = []

    def evaluate(model):
        modes.append((model.training, torch.is_grad_enabled()))
        torch.rand(7)  # whatever an evaluation draws
        return watch.evaluate(model, [aside])

    plain, watched = small_model(), small_model()
    bare = train(plain, loss_fn, batches, CONFIG)
    rows = train(
        watched, loss_fn, batches, replace(CONFIG, eval_every=4), evaluate=evaluate,
        alarm=lambda history: watch.itm_alarm(history, 1),
    )  # fmt: skip
    assert [row["step"] for row in rows if "eval/en/tr1" in row] == [4, 6], "every four steps, and the last"
    assert modes == [(False, False)] * 2
    assert digest(watched) == digest(plain)
    assert [{name: row[name] for name in bare[0]} for row in rows] == bare


@pytest.mark.parametrize("last", [3, 4, 5])
def test_a_resumed_training_tells_the_same_history(tmp_path, last):
    config = replace(CONFIG, log_every=4, eval_every=3, save_every=2)

    def watched(batches, folder=None):
        return train(
            small_model(), loss_fn, batches, config, folder, evaluate=lambda m: {"eval/x": torch.rand(())},
            alarm=lambda history: {"rows": len(history)},
        )  # fmt: skip

    def interrupted(step, micro):
        if step == last:
            raise KeyboardInterrupt
        return batches(step, micro)

    whole = watched(batches)
    assert [set(row) & {"eval/x", "rows"} for row in whole] == [{"eval/x", "rows"}] * 2
    with pytest.raises(KeyboardInterrupt):
        watched(interrupted, tmp_path)
    assert watched(batches, tmp_path) == whole


def test_the_alarm_rings_once_says_what_to_do_and_needs_fifty_steps():
    history, told = [], []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(10, 101, 10):
            history.append({"step": step, "itm": ITM_PRIOR_ENTROPY + 0.001})
            history[-1] |= watch.itm_alarm(history, log_every=10)
            told.append(history[-1]["itm_alarm"])
    assert told == [0.0] * 4 + [1.0] * 6
    assert len(caught) == 1
    text = str(caught[0].message)
    for advice in ("at step 50", "caption belongs to its picture", "uniform_share", "crossattention"):
        assert advice in text
    history.append({"step": 110, "itm": 0.4})
    assert watch.itm_alarm(history, 10) == {"itm_alarm": 0.0}


def test_query_similarity_is_the_mean_over_pairs():
    states = torch.randn(4, 5, 6) + 0.5
    unit = nn.functional.normalize(states, dim=-1)
    of_picture = [unit[b, i] @ unit[b, j] for b in range(4) for i in range(5) for j in range(5) if i != j]
    of_query = [unit[a, i] @ unit[b, i] for i in range(5) for a in range(4) for b in range(4) if a != b]
    found = query_similarity(states.requires_grad_())
    assert found["query_similarity"].item() == pytest.approx(torch.stack(of_picture).mean().item(), abs=1e-5)
    assert found["image_similarity"].item() == pytest.approx(torch.stack(of_query).mean().item(), abs=1e-5)
    assert not found["query_similarity"].requires_grad
    one = query_similarity(torch.randn(4, 1, 6).expand(4, 5, 6))  # all queries say the same
    assert one["query_similarity"].item() == pytest.approx(1.0, abs=1e-5)
    assert one["image_similarity"].item() < 0.99
    assert all(torch.isfinite(value) for value in query_similarity(torch.randn(1, 1, 6)).values())


@pytest.mark.parametrize(
    ("value", "used", "clamped"), [(0.07, 0.07, 0.0), (0.9, 0.5, 1.0), (1e-4, 0.01, 1.0)]
)
def test_the_temperature_is_clamped_its_gradient_is_not_and_both_show(value, used, clamped):
    model = small_model()
    with torch.no_grad():
        model.temperature.fill_(value)
    found = model(**random_batch())
    assert found["temperature"].item() == pytest.approx(used)
    assert found["temperature_clamped"].item() == clamped
    found["itc"].backward()
    assert model.temperature.grad.item() != 0


def test_the_clock_counts_samples_and_the_time_spent_waiting():
    clock = Clock(seconds=4.0, waited=1.0, samples=100)
    assert clock.read(processes=2) == {"time/samples_per_second": 50.0, "time/data_wait_share": 0.25}
    assert clock == Clock(), "the next window starts from zero"
    assert rows_of({"name": "x", "scale": torch.ones(()), "ids": torch.zeros(7, 2)}) == 7


@pytest.mark.slow  # imports TensorBoard
def test_tensorboard_gets_everything_and_the_history_no_times(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def slow_batches(step, micro):
        time.sleep(0.3)
        return batches(step, micro)

    config = replace(CONFIG, steps=4, eval_every=2, log_every=2)
    history = train(
        small_model(), loss_fn, slow_batches, config, tmp_path, evaluate=lambda m: {"eval/x": 0.25},
        alarm=lambda history: {"itm_alarm": 1.0},
    )  # fmt: skip
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    written = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    times = {"time/samples_per_second", "time/data_wait_share"}
    assert set(written) == (set(history[0]) - {"step"}) | times
    assert {"query_similarity", "temperature", "temperature_clamped", "gradient_norm"} < set(history[0])
    assert written["eval/x"] == [0.25, 0.25] and written["itm_alarm"] == [1.0, 1.0]
    assert all(0.1 < share <= 1 for share in written["time/data_wait_share"])
    assert all(0 < speed <= 6 / 0.3 for speed in written["time/samples_per_second"])


def test_a_poisoned_sample_is_named_and_the_last_checkpoint_goes_on(tmp_path):
    config, model = replace(CONFIG, save_every=2), small_model()
    with pytest.raises(FloatingPointError) as raised:
        train(model, loss_fn, poisoned(at_step=5), config, tmp_path, "nano stage 1")
    for part in ("nano stage 1: step 5", "micro-batch 0", "itc is nan", CAPTION, "image_embeds, row 5",
                 "Mend these samples", "nonfinite-step-5.json"):  # fmt: skip
        assert part in str(raised.value)
    assert "5-0-0" not in str(raised.value), "healthy samples are not accused"
    record = json.loads((tmp_path / "nonfinite-step-5.json").read_text("utf8"))
    assert record["step"] == 5 and record["row"]["loss"] == "nan"
    (found,) = record["micro_batches"]
    assert found["broken"] == [{"field": "image_embeds", "row": 5, "sample_id": CAPTION}]
    assert found["sample_ids"][-1] == CAPTION and len(found["sample_ids"]) == 6

    before = small_model()
    with pytest.raises(KeyboardInterrupt):

        def until_five(step, micro):
            if step == 5:
                raise KeyboardInterrupt
            return batches(step, micro)

        train(before, loss_fn, until_five, config)
    assert digest(model) == digest(before), "the weights are those before the step"

    assert checkpoint.load_latest(tmp_path / "checkpoints").step == 4
    whole = small_model()
    expected = train(whole, loss_fn, batches, config)
    resumed = small_model()
    assert train(resumed, loss_fn, batches, config, tmp_path, "nano stage 1") == expected
    assert digest(resumed) == digest(whole)


def test_of_several_micro_batches_the_broken_one_is_named():
    config = replace(CONFIG, accumulation=3)
    with pytest.raises(FloatingPointError, match=r"\. Process 0, micro-batch 1: loss is nan") as raised:
        train(small_model(), loss_fn, poisoned(at_step=2, at_micro=1), config)
    assert "micro-batch 0" not in str(raised.value) and "micro-batch 2" not in str(raised.value)


def test_a_loss_that_overflows_by_itself_names_term_and_samples():
    def breaking(model, batch, step):
        loss, terms = loss_fn(model, batch, step)
        return loss + (torch.inf if step == 1 else 0), terms | {
            "itg": terms["itg"] + (torch.inf if step == 1 else 0)
        }

    with pytest.raises(FloatingPointError, match=r"itg is inf; its samples: 1-0-0, .*cat\.png") as raised:
        train(small_model(), breaking, batches, CONFIG)
    assert "lower learning rate" in str(raised.value) and "itc is" not in str(raised.value)


def test_a_gradient_alone_suspects_every_micro_batch():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * torch.nan

    def breaking(model, batch, step):
        loss, terms = loss_fn(model, batch, step)
        return Broken.apply(loss) if step == 1 else loss, terms

    with pytest.raises(FloatingPointError, match="gradient_norm nan") as raised:
        train(small_model(), breaking, batches, replace(CONFIG, accumulation=2))
    assert "micro-batch 0: every term is finite; its samples: 1-0-0" in str(raised.value)
    assert "micro-batch 1: every term is finite; its samples: 1-1-0" in str(raised.value)


def test_rows_without_names_are_told_by_number():
    batch = {"ids": torch.zeros(2).long(), "x": torch.tensor([[0.0], [torch.inf], [1.0]])}
    assert broken_rows(batch, ["a", "b"]) == [{"field": "x", "row": 1}]
    assert broken_rows(batch | {"scale": torch.tensor(torch.nan)}, list("abc")) == [
        {"field": "x", "row": 1, "sample_id": "b"}
    ]


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from accelerate import PartialState
from test_loop import digest
from test_watch import CONFIG, batches, loss_fn, poisoned, small_model
from dataclasses import replace
from zvl.training.loop import train

config = replace(CONFIG, accumulation=2, save_every=2, eval_every=2)
batches = poisoned(at_step=3, at_micro=3) if {poison!r} else batches
model = small_model()
try:
    history = train(model, loss_fn, batches, config, {folder!r}, evaluate=lambda model: {{"eval/x": 0.5}})
    print(digest(model), history[-1]["loss"], history[-1]["eval/x"])
except FloatingPointError as error:
    print(digest(model), error)
PartialState().destroy_process_group()
"""


def run_two(folder: Path, poison: bool) -> list[str]:
    """Train in two processes joined by gloo; process 1 has micro-batches 2 and 3. Returns what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = PROGRAM.format(tests=str(Path(__file__).parent), folder=str(folder), poison=poison)
    shared = {
        "PYTHONPATH": str(Path(__file__).parents[2]), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    printed = [process.communicate(timeout=300)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    return printed


@pytest.mark.slow  # two times two processes that import torch
def test_two_processes_stop_together_name_the_same_sample_and_resume(tmp_path):
    first, second = run_two(tmp_path, poison=True)
    assert first == second, "the same weights and the same message in both"
    assert "Process 1, micro-batch 3: loss is nan" in first and CAPTION in first
    assert "Process 0" not in first and "micro-batch 2" not in first
    (file,) = tmp_path.glob("nonfinite-*.json")
    (found,) = json.loads(file.read_text("utf8"))["micro_batches"]
    assert (found["process"], found["micro"], found["broken"][0]["sample_id"]) == (1, 3, CAPTION)
    assert checkpoint.load_latest(tmp_path / "checkpoints").step == 2
    first, second = run_two(tmp_path, poison=False)
    assert first == second and first.endswith(" 0.5")
    assert checkpoint.load_latest(tmp_path / "checkpoints").step == CONFIG.steps
