"""Small stage-1 models and batches with random numbers, and how their gradients are compared."""

import torch
from transformers import InstructBlipQFormerConfig

from zvl.model.objectives import QFormerForPretraining

BATCH, QUERIES, LENGTH, PATCHES, VOCABULARY, VISION = 6, 3, 7, 5, 40, 20
CLS, DEC = 3, 4


def random_model(spread: float = 0.15, dropout: float = 0.0) -> QFormerForPretraining:
    """Small, with weights large enough that every part matters to the losses."""
    config = InstructBlipQFormerConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=16,
        encoder_hidden_size=VISION,
    )
    model = QFormerForPretraining(config, QUERIES, projection_dim=16, decoder_start_id=DEC, dropout=dropout)
    return shaken(model, spread)


def shaken(model: QFormerForPretraining, spread: float) -> QFormerForPretraining:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "temperature":
                parameter.add_(torch.randn_like(parameter) * spread)
    return model


def wide_model(layers: int) -> QFormerForPretraining:
    """64 queries at full width: 768 in 12 heads, cross-attention to 1,408 in every second layer; few words."""
    config = InstructBlipQFormerConfig(vocab_size=200, num_hidden_layers=layers, max_position_embeddings=32)
    assert (config.hidden_size, config.num_attention_heads, config.encoder_hidden_size) == (768, 12, 1408)
    return shaken(QFormerForPretraining(config, 64, decoder_start_id=DEC), 0.01)


def wide_batch(image_ids: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Pairs for `wide_model`: 17 patches, 32 positions of which 2 to 32 are real tokens."""
    input_ids = torch.randint(5, 200, (len(image_ids), 32))
    input_ids[:, 0] = CLS
    return {
        "image_embeds": torch.randn(max(image_ids) + 1, 17, 1408)[list(image_ids)],
        "input_ids": input_ids,
        "text_mask": torch.arange(32) < torch.randint(2, 33, (len(image_ids), 1)),
        "image_ids": torch.tensor(image_ids),
    }


def random_batch(image_ids: tuple[int, ...] = (0, 1, 2, 1, 3, 1)) -> dict[str, torch.Tensor]:
    """Pairs of the images `image_ids`; texts of 1 to LENGTH real tokens, `[CLS]` first."""
    batch = len(image_ids)
    pictures = torch.randn(max(image_ids) + 1, PATCHES, VISION)
    input_ids = torch.randint(5, VOCABULARY, (batch, LENGTH))
    input_ids[:, 0] = CLS
    return {
        "image_embeds": pictures[list(image_ids)],
        "input_ids": input_ids,
        "text_mask": torch.arange(LENGTH) < torch.randint(1, LENGTH + 1, (batch, 1)),
        "image_ids": torch.tensor(image_ids),
    }


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    values = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(parameter) if value is None else value
        for name, parameter, value in zip(names, parameters, values, strict=True)
    }


def assert_gradients_agree(mine: dict, expected: dict, tolerance: float) -> None:
    """Each parameter's gradient by name, relative to its own size and a tenth of that to the largest one's."""
    scale = max(value.norm() for value in expected.values())
    assert scale > 0 and mine.keys() == expected.keys()
    for name, value in expected.items():
        # The keys' bias has no gradient in exact arithmetic: compare with the largest gradient, too.
        assert (mine[name] - value).norm() <= tolerance * value.norm() + tolerance / 10 * scale, name


def hardest_negatives(similarity, image_ids, hard=True, generator=None, rows=slice(None)):
    """In the place of `sample_negatives`: no chance, so that two ways of computing a batch can be compared."""
    same = image_ids[rows, None] == image_ids
    scores = (side[rows].detach().masked_fill(same, -torch.inf) for side in (similarity.T, similarity))
    return tuple(side.argmax(dim=1).masked_fill(same.all(dim=1), -1) for side in scores)
