"""The Q-Former equals transformers' and its masks let through exactly what they should."""

import pytest
import torch
from torch.testing import assert_close
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from zvl.model.qformer import (
    QFormer,
    bidirectional_mask,
    block_mask,
    causal_mask,
    select_kv,
    unimodal_mask,
)

pytestmark = pytest.mark.usefixtures("seed")
BATCH, QUERIES, LENGTH, PATCHES, VOCABULARY, WIDTH, VISION = 5, 3, 7, 6, 50, 24, 20
CLOSE = {"rtol": 0, "atol": 1e-5}


def random_config(**changes) -> InstructBlipQFormerConfig:
    values = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 16,
        "encoder_hidden_size": VISION,
        "cross_attention_frequency": int(torch.randint(1, 4, ())),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return InstructBlipQFormerConfig(**values | changes)


def random_qformer(**changes) -> QFormer:
    """Weights large enough that attention is far from uniform, and biases and norms that are not trivial."""
    model = QFormer(random_config(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def random_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, image embeddings, text and its mask; texts of any length from 1, padded on either side."""
    queries = torch.randn(BATCH, QUERIES, WIDTH)
    image_embeds = torch.randn(BATCH, PATCHES, VISION)
    input_ids = torch.randint(1, VOCABULARY, (BATCH, LENGTH))
    text_mask = torch.arange(LENGTH) < torch.randint(1, LENGTH + 1, (BATCH, 1))
    if torch.rand(()) < 0.5:
        text_mask = text_mask.flip(1)
    return queries, image_embeds, input_ids, text_mask


def test_weight_names_and_shapes_are_those_of_transformers():
    config = random_config()
    ours = {name: value.shape for name, value in QFormer(config).state_dict().items()}
    theirs = {name: value.shape for name, value in InstructBlipQFormerModel(config).state_dict().items()}
    assert ours == theirs


@pytest.mark.parametrize(
    "case", ["queries only", "text only", "both", "both, causal text", "one packed pass"]
)
def test_equals_transformers(case):
    ours = random_qformer()
    theirs = InstructBlipQFormerModel(ours.config).eval()
    theirs.load_state_dict(ours.state_dict())
    queries, image_embeds, input_ids, text_mask = random_inputs()
    positions = None
    if case == "queries only":
        input_ids = mask = None
    elif case == "text only":
        queries = image_embeds = None
        mask = text_mask
    elif case == "both":
        mask = torch.cat([torch.ones(BATCH, QUERIES, dtype=torch.bool), text_mask], dim=1)
    elif case == "both, causal text":
        text_mask = text_mask.sort(dim=1, descending=True).values  # on the right: else a row may see nothing
        mask = causal_mask(text_mask, QUERIES)
    else:
        text_mask = text_mask.sort(dim=1, descending=True).values
        mask = block_mask(text_mask, QUERIES)
        input_ids = torch.cat([input_ids, input_ids.flip(1)], dim=1)
        positions = torch.arange(LENGTH).repeat(2).expand(BATCH, -1)

    result = ours(queries, input_ids, mask, positions, image_embeds)
    expected = theirs(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=positions,
        query_embeds=queries,
        encoder_hidden_states=image_embeds,
    ).last_hidden_state
    assert_close(result, expected, **CLOSE)


def test_two_dimensional_masks_are_the_bidirectional_mask():
    model = random_qformer()
    queries, image_embeds, input_ids, text_mask = random_inputs()
    flat = torch.cat([torch.ones(BATCH, QUERIES, dtype=torch.bool), text_mask], dim=1)
    full = bidirectional_mask(text_mask, QUERIES)
    assert full.shape == (BATCH, 1, QUERIES + LENGTH, QUERIES + LENGTH)
    expected = model(queries, input_ids, full, image_embeds=image_embeds)
    assert_close(model(queries, input_ids, flat, image_embeds=image_embeds), expected, **CLOSE)


@pytest.mark.parametrize(
    ("function", "drawing"),
    [
        # two queries, then a text of two words and one padding
        (bidirectional_mask, "xxxx. xxxx. xxxx. xxxx. xxxx."),
        (causal_mask, "xx... xx... xxx.. xxxx. xxxx."),
        (unimodal_mask, "xx... xx... ..xx. ..xx. ..xx."),
        (
            block_mask,
            "xx...... xx...... ..xx.... ..xx.... ..xx.... xx...x.. xx...xx. xx...xx.",
        ),
    ],
)
def test_masks_are_as_drawn_in_figure_2(function, drawing):
    mask = function(torch.tensor([[True, True, False]]), 2)
    expected = torch.tensor([[letter == "x" for letter in row] for row in drawing.split()])
    assert mask.dtype == torch.bool
    assert torch.equal(mask[0, 0], expected)


def test_one_packed_pass_equals_separate_passes():
    model = random_qformer()
    queries, image_embeds, input_ids, text_mask = random_inputs()
    text_mask = text_mask.sort(dim=1, descending=True).values
    decoder_ids = input_ids.clone()
    decoder_ids[:, 0] = 0
    packed = model(
        queries,
        torch.cat([input_ids, decoder_ids], dim=1),
        block_mask(text_mask, QUERIES),
        torch.arange(LENGTH).repeat(2)[None],
        image_embeds,
    )
    only_queries = model(queries, image_embeds=image_embeds)
    only_text = model(input_ids=input_ids, attention_mask=text_mask)
    causal = model(queries, decoder_ids, causal_mask(text_mask, QUERIES), image_embeds=image_embeds)
    assert_close(packed, torch.cat([only_queries, only_text, causal[:, QUERIES:]], dim=1), **CLOSE)


def packed_sensitivity() -> torch.Tensor:
    """(total, total): does the output at one position depend on the input at another, in the packed pass?"""
    model = random_qformer(num_hidden_layers=2, cross_attention_frequency=1)
    total = QUERIES + 2 * LENGTH
    mask = block_mask(torch.ones(1, LENGTH, dtype=torch.bool), QUERIES)
    image_embeds = torch.randn(1, PATCHES, VISION)

    def run(states: torch.Tensor) -> torch.Tensor:
        # Text as queries' neighbours: words are replaced through the embedding's output.
        handle = model.embeddings.register_forward_hook(lambda *_: states)
        try:
            ids = torch.zeros(1, 2 * LENGTH, dtype=torch.long)
            return model(states[:, :QUERIES], ids, mask, torch.zeros_like(ids), image_embeds)
        finally:
            handle.remove()

    states = torch.randn(1, total, WIDTH)
    before, depends = run(states), torch.zeros(total, total, dtype=torch.bool)
    for position in range(total):
        changed = states.clone()
        changed[:, position] += torch.randn(WIDTH)
        depends[:, position] = (run(changed) - before).abs().amax(dim=(0, 2)) > 1e-6
    return depends


def test_information_flows_exactly_where_the_packed_mask_allows():
    """Queries never see text, the two texts never see each other, and no word sees a later one."""
    allowed = block_mask(torch.ones(1, LENGTH, dtype=torch.bool), QUERIES)[0, 0]
    assert torch.equal(packed_sensitivity(), allowed)  # allowed is transitive, so two layers change nothing


def test_padding_is_never_seen():
    model = random_qformer()
    queries, image_embeds, input_ids, text_mask = random_inputs()
    other = torch.where(text_mask, input_ids, torch.randint(1, VOCABULARY, input_ids.shape))
    kept = torch.cat([torch.ones(BATCH, QUERIES, dtype=torch.bool), text_mask], dim=1)
    for function in (bidirectional_mask, causal_mask, unimodal_mask):
        mask = function(text_mask, QUERIES)
        first, second = (model(queries, ids, mask, image_embeds=image_embeds) for ids in (input_ids, other))
        assert_close(first[kept], second[kept], **CLOSE)


def test_a_text_without_a_single_token_stays_finite():
    model = random_qformer()
    queries, image_embeds, input_ids, _ = random_inputs()
    nothing = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    ids, positions = torch.cat([input_ids, input_ids], dim=1), torch.arange(LENGTH).repeat(2)[None]
    hidden = model(queries, ids, block_mask(nothing, QUERIES), positions, image_embeds)
    hidden.square().sum().backward()
    assert hidden.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_keys_and_values_of_an_image_can_be_reused():
    model = random_qformer()
    queries, image_embeds, _, _ = random_inputs()
    index = torch.randint(0, BATCH, (8,))
    rows = queries[torch.randint(0, BATCH, (8,))]
    reused = model(rows, image_kv=select_kv(model.keys_values(image_embeds), index))
    assert_close(reused, model(rows, image_embeds=image_embeds[index]), **CLOSE)


def test_queries_only_is_the_head_of_the_full_output():
    model = random_qformer()
    queries, image_embeds, input_ids, text_mask = random_inputs()
    for mask in (None, bidirectional_mask(text_mask, QUERIES), causal_mask(text_mask, QUERIES)):
        full = model(queries, input_ids, mask, image_embeds=image_embeds)
        short = model(queries, input_ids, mask, image_embeds=image_embeds, queries_only=True)
        assert_close(short, full[:, :QUERIES], **CLOSE)


def test_attention_maps_are_those_of_transformers():
    model = random_qformer()
    theirs = InstructBlipQFormerModel._from_config(model.config, attn_implementation="eager").eval()
    theirs.load_state_dict(model.state_dict())
    queries, image_embeds, _, _ = random_inputs()
    maps = model.cross_attention(queries, image_embeds=image_embeds)
    expected = theirs(
        input_ids=None, query_embeds=queries, encoder_hidden_states=image_embeds, output_attentions=True
    ).cross_attentions
    assert maps.shape == (BATCH, len(expected), 4, QUERIES, PATCHES)
    assert_close(maps, torch.stack(expected, dim=1), **CLOSE)


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bf16_stays_close_to_fp32_and_trains(how):
    model = random_qformer()
    queries, image_embeds, input_ids, text_mask = random_inputs()
    mask = causal_mask(text_mask.sort(dim=1, descending=True).values, QUERIES)
    expected = model(queries, input_ids, mask, image_embeds=image_embeds)
    if how == "weights":
        result = model.bfloat16()(queries, input_ids, mask, image_embeds=image_embeds)
        assert result.dtype == torch.bfloat16
    else:
        with torch.autocast("cpu", torch.bfloat16):
            result = model(queries, input_ids, mask, image_embeds=image_embeds)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        inference = model(queries, input_ids, mask, image_embeds=image_embeds)
    for output in (result, inference):
        assert torch.nn.functional.cosine_similarity(output.float(), expected, dim=-1).min() > 0.98
    result.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_dropout_is_off_unless_asked_for():
    queries, image_embeds, _, _ = random_inputs()
    config = random_config(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    silent, noisy = QFormer(config).train(), QFormer(config, dropout=0.5).train()
    assert torch.equal(silent(queries, image_embeds=image_embeds), silent(queries, image_embeds=image_embeds))
    assert not torch.equal(
        noisy(queries, image_embeds=image_embeds), noisy(queries, image_embeds=image_embeds)
    )
    noisy.eval()
    assert torch.equal(noisy(queries, image_embeds=image_embeds), noisy(queries, image_embeds=image_embeds))


def test_initial_weights_follow_the_seed(seed):
    config = random_config(hidden_size=128, intermediate_size=256)
    models = []
    for _ in range(2):
        torch.manual_seed(seed)
        models.append(QFormer(config))
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    dense = first["encoder.layer.0.intermediate.dense.weight"]
    assert dense.std().item() == pytest.approx(0.02, rel=0.1)
    assert not first["encoder.layer.0.intermediate.dense.bias"].any()
    assert not first["embeddings.word_embeddings.weight"][0].any(), "padding starts at zero"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "query_embeds, input_ids or both"),
        ({"query_embeds": torch.zeros(2, 3, WIDTH)}, "image_embeds or image_kv"),
        (
            {"query_embeds": torch.zeros(2, 3, WIDTH), "image_embeds": torch.zeros(2, 4, VISION + 1)},
            r"\(2, 4, 21\)",
        ),
        ({"input_ids": torch.ones(2, 17, dtype=torch.long)}, "17 tokens, at most 16"),
        (
            {"input_ids": torch.ones(2, 5, dtype=torch.long), "attention_mask": torch.ones(2, 4)},
            r"\(2, 4\), expected \(2, 5\)",
        ),
        (
            {"input_ids": torch.ones(2, 5, dtype=torch.long), "attention_mask": torch.ones(2, 1, 5, 5)},
            "float32",
        ),
    ],
)
def test_wrong_inputs_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_qformer()(**arguments)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="hidden_size 24 is not a multiple of num_attention_heads 5"):
        QFormer(random_config(num_attention_heads=5))
