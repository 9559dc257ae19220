"""ITC over a whole step's batch when it is computed in micro-batches: gradients equal to those of the big batch.

Plain accumulation contrasts each micro-batch with itself: 16 times 128 pairs are not a batch of 2,048. Here a first
pass without gradients computes the features of all pairs; the loss over all of them gives the gradient of each feature;
the second pass computes each micro-batch anew, with gradient, and takes <features, gradient> in ITC's place beside its
ITM and ITG (GradCache: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup").
The mean over micro-batches and processes is the big batch's, in value and gradient, for ITC, ITM and ITG; the gradient
of the temperature too. Dropout agrees because both passes start from the same random state.

ITM's negatives come from the whole batch too, as in the big batch. That needs no picture that is not there already,
because the ViT's output of the whole step is kept for the second pass (2,048 x 257 x 1,408 in bf16: 1.5 GB; what one
process sends to others is in `zvl.model.gather`), but the keys and values of drawn pictures are computed a second time.
Price, of the Q-Former's work at full size: 11% for the first pass, 5% for these keys and values; none of the ViT's.
ITG's mean is over all words of the whole batch, where plain accumulation averages the micro-batches' means.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from zvl.model import gather, objectives
from zvl.model.objectives import WholeBatch


def whole_batch(
    model: nn.Module,
    micro_batches: Iterable[Mapping[str, Any]],
    reseed: Callable[[int], None],
    hard_negatives: bool = True,
    generator: torch.Generator | None = None,
) -> list[dict[str, Any]]:
    """The micro-batches of one step with all that makes them one batch: their loss is then a share of the big one's.

    model: a QFormerForPretraining, or DDP around one.
    micro_batches: arguments of its forward (image_embeds, input_ids, text_mask, image_ids) on its device, equally many
        pairs in each, and equally many micro-batches in each process.
    reseed(micro): sets the random state that forward will start from; called before each first pass.
    hard_negatives, generator: as of forward.

    Returns micro-batches with `whole` added; their losses' mean has the big batch's value and gradient.
    Raises ValueError where micro-batches or processes differ in their number of pairs.
    """
    bare = extract_model_from_parallel(model)
    batches = _of_one_length([dict(batch) for batch in micro_batches])
    micros, size = len(batches), len(batches[0]["image_ids"])
    features = []
    with torch.no_grad():
        for micro, batch in enumerate(batches):
            reseed(micro)
            features.append(
                bare.contrast_features(batch["image_embeds"], batch["input_ids"], batch["text_mask"])
            )
    image_features, text_features = (
        torch.cat(parts).requires_grad_() for parts in zip(*features, strict=True)
    )

    image_ids = gather.all_gather(torch.cat([batch["image_ids"] for batch in batches]))
    rows = gather.own_rows(micros * size)
    with torch.enable_grad():
        logits = bare.joint_logits(image_features, text_features, chunk=size)
        itc = objectives.itc_loss(logits, image_ids, rows)
    slopes = torch.autograd.grad(itc, [image_features, text_features, bare.temperature])
    logits = logits.detach()
    negatives = objectives.sample_negatives(logits, image_ids, hard_negatives, generator, rows)
    accuracy = objectives.itc_accuracy(logits, image_ids, rows)

    pictures = _in_one_piece(batches)
    texts = torch.cat([objectives.texts_of(batch["input_ids"], batch["text_mask"]) for batch in batches])
    texts = gather.all_gather(texts)
    words = objectives.words_of(texts) / (gather.processes() * micros)
    own = [states.split(size) for states in (slopes[0] * micros, slopes[1] * micros, *negatives)]
    return [
        batch
        | {
            "whole": WholeBatch(
                itc.detach(), accuracy, image, text, slopes[2], pictures, texts, *drawn, words
            )
        }
        for batch, image, text, *drawn in zip(batches, *own, strict=True)
    ]


def _of_one_length(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Texts padded to the longest of all micro-batches and processes; masks become bool."""
    sizes = [len(batch["image_ids"]) for batch in batches]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"the micro-batches of a step have {sizes} pairs; one batch needs equally many in each"
        )
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    texts = [objectives.texts_of(batch["input_ids"], batch["text_mask"].bool()) for batch in batches]
    texts = torch.cat([F.pad(lines, (0, longest - lines.shape[1]), value=-1) for lines in texts])
    input_ids, text_mask = gather.pad_alike(texts.clamp(min=0), texts >= 0)
    split = zip(batches, input_ids.split(sizes[0]), text_mask.split(sizes[0]), strict=True)
    return [batch | {"input_ids": ids, "text_mask": mask} for batch, ids, mask in split]


def _in_one_piece(batches: list[dict[str, Any]]) -> Tensor:
    """All pictures' image_embeds in one tensor, of which those in the batches become views: they are held once."""
    pictures = torch.cat([batch["image_embeds"] for batch in batches])
    for batch, own in zip(batches, pictures.split(len(batches[0]["image_ids"])), strict=True):
        batch["image_embeds"] = own
    return pictures
