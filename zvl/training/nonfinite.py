"""A loss or gradient that is not finite: which process, micro-batch, term and samples it came from.

Nothing of this costs a healthy step anything. Batches are a pure function of (step, micro), so the loop keeps none of
them; once a step has failed, its batches are asked for again and their numbers are looked at row by row.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

SAMPLE_IDS = "sample_ids"
_SHOWN = 8  # samples named in the error; the file names all


def take_ids(batch: Any) -> tuple[Any, list[str] | None]:
    """The batch without its `sample_ids`, and these: they name its rows for people and are no input of a model.

    Where the batch is no mapping or carries none, it comes back as it is, with None.
    """
    if not isinstance(batch, Mapping) or SAMPLE_IDS not in batch:
        return batch, None
    return {name: value for name, value in batch.items() if name != SAMPLE_IDS}, list(batch[SAMPLE_IDS])


def broken_rows(batch: Any, ids: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a batch that hold NaN or infinity before any model has seen them.

    Returns one entry for each row and field: field, row (from 0), and sample_id where the field has as many rows as
    there are ids.
    """
    found = []
    for field, value in batch.items() if isinstance(batch, Mapping) else ():
        if not (isinstance(value, Tensor) and value.is_floating_point() and value.dim()):
            continue
        finite = torch.isfinite(value).reshape(len(value), -1).all(dim=1)
        for row in (~finite).nonzero().flatten().tolist():
            named = ids is not None and len(ids) == len(value)
            found.append({"field": field, "row": row} | ({"sample_id": ids[row]} if named else {}))
    return found


def stop(
    description: str,
    step: int,
    row: Mapping[str, float],
    parts: Sequence[Mapping[str, Any]],
    first_micro: int,
    batches: Callable[[int, int], Any],
    accelerator: Accelerator,
    folder: str | Path | None,
) -> NoReturn:
    """Raise FloatingPointError that says where the failure came from; with a folder, write it all down there.

    Every process must call it in the same step. parts: for each micro-batch of this process, from number
    `first_micro`, its loss and metrics. batches: as `loop.train` takes it. The file is
    `nonfinite-step-<step>.json`: step, row, and the suspected micro-batches of all processes with the terms that are
    not finite, their samples, and the samples that were broken before the model saw them.
    """
    own = []
    for number, part in enumerate(parts):
        values = {name: float(torch.as_tensor(value).detach()) for name, value in part.items()}
        batch, ids = take_ids(batches(step, first_micro + number))
        own.append({
            "process": accelerator.process_index,
            "micro": first_micro + number,
            "terms": {name: value for name, value in values.items() if not math.isfinite(value)},
            "broken": broken_rows(batch, ids),
            "sample_ids": ids,
        })  # fmt: skip
    everywhere = gather_object(own)
    # A contrast over several micro-batches or processes spreads one broken sample to the losses of all of them; and a
    # gradient alone tells no micro-batch from another.
    suspected = [part for part in everywhere if part["broken"]]
    suspected = suspected or [part for part in everywhere if part["terms"]] or everywhere
    told = "; ".join(_tell(part) for part in suspected)
    if folder is not None:
        file = Path(folder) / f"nonfinite-step-{step}.json"
        if accelerator.is_main_process:
            record = {"training": description, "step": step, "row": row, "micro_batches": suspected}
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(_plain(record), ensure_ascii=False, indent=1), encoding="utf-8")
        told += f". All is in {file}; the checkpoints beside it are from before"
    accelerator.wait_for_everyone()  # or a launcher might end the main process while it writes
    advice = (
        "Mend these samples, or take them out: other data is another training, which starts at its first step."
        if any(part["broken"] for part in suspected)
        else "No sample is broken in itself: try a lower learning rate, a longer warm-up, or precision fp32."
    )
    shown = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
    raise FloatingPointError(
        f"{description}: step {step} (from 0) is not finite, stopped before the update ({shown}). {told}. {advice}"
    )


def _tell(part: Mapping[str, Any]) -> str:
    terms = ", ".join(f"{name} is {value}" for name, value in part["terms"].items()) or "every term is finite"
    text = f"Process {part['process']}, micro-batch {part['micro']}: {terms}"
    if part["broken"]:
        rows = [
            f"{b.get('sample_id', 'row ' + str(b['row']))} ({b['field']}, row {b['row']})"
            for b in part["broken"]
        ]
        return f"{text}; not finite before the model saw them: {_first(rows)}"
    return f"{text}; its samples: {_first(part['sample_ids'])}" if part["sample_ids"] else text


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _plain(value: Any) -> Any:
    """JSON has no NaN: numbers that are not finite as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
