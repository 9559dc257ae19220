"""What is looked at while the Q-Former trains: retrieval and matching on held-out pairs, and ITM's alarm.

None of it changes the training: with and without it the weights are the same, bit by bit. Paper: section 3.3.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accelerate import PartialState
from torch import Tensor, nn

from zvl.evaluation import retrieval
from zvl.model.objectives import itm_stuck

ALARM = "itm_alarm"
ALARM_STEPS = 50  # of ITM at its prior, before the alarm rings


@dataclass(frozen=True)
class HeldOut:
    """Pairs of the training split that no batch holds: row i of every tensor is picture i.

    image_embeds: (pictures, patches, width). captions: language -> ids and mask, each (pictures, length).
    """

    image_embeds: Tensor
    captions: Mapping[str, tuple[Tensor, Tensor]]


def evaluate(model: nn.Module, held_out: Sequence[HeldOut]) -> dict[str, float]:
    """Retrieval and matching on the held-out pairs, in each language; pictures may differ from language to language.

    model: a QFormerForPretraining. Returns for each language eval/<language>/tr1 and /ir1, recall at one among all
    held-out pictures (ties rank last), and /itm, the balanced accuracy of the ITM head on right pictures and on
    pictures moved on by one: 0.5 for a head that always says the same.
    """
    device, found = next(model.parameters()).device, {}
    for pairs in held_out:
        embeds = pairs.image_embeds.to(device).float()
        strangers = embeds.roll(1, dims=0)
        pool = [list(range(len(embeds)))]
        for language, (ids, mask) in pairs.captions.items():
            ids, mask = ids.to(device), mask.to(device)
            features = retrieval.embed_pairs(model, embeds, ids, mask)
            hits = retrieval.retrieval_at_100(*features, pool)
            verdicts = [retrieval.match_pairs(model, seen, ids, mask) for seen in (embeds, strangers)]
            found[f"eval/{language}/tr1"], found[f"eval/{language}/ir1"] = hits.tr1, hits.ir1
            found[f"eval/{language}/itm"] = retrieval.itm_balanced_accuracy(*verdicts)
    return found


def itm_alarm(history: Sequence[Mapping[str, float]], log_every: int) -> dict[str, float]:
    """{"itm_alarm": 1.0} where ITM has rested at the entropy of its prior for the last 50 steps, otherwise 0.0.

    history: rows of the loop up to now, each the mean over `log_every` steps. Warns the first time that it rings in
    this history. Nothing but the history decides, so a resumed training tells the same.
    """
    window = max(2, math.ceil(ALARM_STEPS / log_every))
    rings = itm_stuck([row["itm"] for row in history], window)
    if rings and not any(row.get(ALARM) for row in history[:-1]) and PartialState().is_main_process:
        warnings.warn(
            f"ITM alarm at step {history[-1]['step']}: for {window * log_every} steps its loss has rested at 0.6365, "
            "the entropy of one match among three pairs. The head has learned that ratio and nothing of the pictures. "
            "Check first that each caption belongs to its picture. Then let more of the first steps draw uniform "
            "negatives (PretrainingConfig.uniform_share), or give cross-attention a higher rate "
            "(LoopConfig.rates, pattern 'crossattention').",
            stacklevel=2,
        )
    return {ALARM: float(rings)}
