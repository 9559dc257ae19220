"""ITC, ITM and ITG equal the many-pass reference, draw legal negatives, and survive odd batches."""

import math

import pytest
import torch
import torch.nn.functional as F
from reference_stage1 import ReferenceStage1
from small_stage1 import (
    BATCH,
    CLS,
    LENGTH,
    PATCHES,
    QUERIES,
    VOCABULARY,
    assert_gradients_agree,
    gradients,
    random_batch,
    random_model,
    wide_batch,
    wide_model,
)
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.testing import assert_close

from zvl.model import objectives
from zvl.model.objectives import (
    ITM_PRIOR_ENTROPY,
    QFormerForPretraining,
    itc_accuracy,
    itc_loss,
    itg_loss,
    itm_labels,
    itm_loss,
    itm_stuck,
    sample_negatives,
)

pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture
def drawn(monkeypatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The negatives that the model draws during the test."""
    record, original = [], objectives.sample_negatives

    def spy(*arguments, **keywords):
        record.append(original(*arguments, **keywords))
        return record[-1]

    monkeypatch.setattr(objectives, "sample_negatives", spy)
    return record


@pytest.mark.parametrize("hard", [True, False], ids=["hard negatives", "uniform negatives"])
@pytest.mark.parametrize("part", ["itc", "itm", "itg", "loss"])
def test_losses_and_gradients_equal_the_many_pass_reference(part, hard, drawn):
    model, batch = random_model(), random_batch()
    ours = model(**batch, hard_negatives=hard)
    theirs = ReferenceStage1(model).losses(**batch, negatives=drawn[0])
    assert_close(ours[part], theirs[part], rtol=1e-5, atol=1e-5)

    mine, expected = gradients(model, ours[part]), gradients(model, theirs[part])
    assert_gradients_agree(mine, expected, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "image_ids"), [(3, (0, 1, 0)), (2, (0,))], ids=["repeated images", "one row"]
)
def test_losses_and_gradients_equal_the_reference_at_full_width(layers, image_ids, drawn):
    model, batch = wide_model(layers), wide_batch(image_ids)
    ours = model(**batch)
    mine = gradients(model, ours["loss"])
    for attention in ("eager", "sdpa"):
        theirs = ReferenceStage1(model, attention).losses(**batch, negatives=drawn[0])
        for part in ("itc", "itm", "itg", "loss"):
            assert_close(ours[part], theirs[part], rtol=5e-6, atol=5e-6)
        assert_gradients_agree(mine, gradients(model, theirs["loss"]), 2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_reference_runs_in_half_precision_as_ours_does(dtype, attention, drawn):
    model, batch = random_model(spread=0.05), random_batch()
    with torch.autocast("cpu", dtype):
        ours = model(**batch)
    theirs = ReferenceStage1(model, attention, dtype).losses(**batch, negatives=drawn[0])
    exact = ReferenceStage1(model).losses(**batch, negatives=drawn[0])
    # One loss alone is the same to the last bit in one draw of three hundred.
    assert any(theirs[part] != exact[part] for part in ("itc", "itm", "itg")), "it did run in half precision"
    for part in ("itc", "itm", "itg"):
        assert ours[part].item() == pytest.approx(theirs[part].item(), abs=0.1), part
    theirs["loss"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_reference_draws_negatives_of_other_images():
    same = torch.tensor([[True, False, True], [False, True, False], [True, False, True]])
    for hard in (True, False):
        images, texts = ReferenceStage1.draw(torch.randn(3, 3), torch.randn(3, 3), same, hard)
        assert not same[torch.arange(3), images].any() and not same[torch.arange(3), texts].any()
    with pytest.raises(ValueError, match="'flash' is not one of eager, sdpa"):
        ReferenceStage1(random_model(), "flash")


def test_nothing_waits_for_the_device(monkeypatch):
    """torch's fake tensors have shapes and no values: whatever the host would have to read raises."""
    with FakeTensorMode():
        model, batch = random_model(), random_batch()
        # On a CPU nothing has to wait: logits of real words only.
        with pytest.raises(DynamicOutputShapeException):
            model(**batch)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # the path of GPUs
        model(**batch)["loss"].backward()
        assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())


@pytest.mark.slow
def test_the_whole_forward_compiles_into_one_graph(drawn):
    torch.compiler.reset()
    model, batch = random_model(), random_batch()
    expected = model(**batch)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    result = compiled(**batch)
    assert_close([result["itc"], result["itg"]], [expected["itc"], expected["itg"]], rtol=1e-5, atol=1e-5)
    result["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_wrong_texts_take_the_place_of_drawn_ones(drawn):
    """ITM is then what separate passes over pairs, foreign images and wrong texts say; the other losses stay."""
    model, batch = random_model(), random_batch()
    size = len(batch["input_ids"])
    wrong = torch.randint(3, VOCABULARY, (size, LENGTH - 1))
    wrong[:, 0], wrong[0, 2:], wrong[1] = CLS, -1, -1  # a short one, and a row that has none
    generator = torch.Generator().manual_seed(5)
    plain = model(**batch, generator=generator)
    found = model(**batch, generator=generator.manual_seed(5), wrong_texts=wrong)
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])
    images, texts = drawn[0]
    ids, mask = batch["input_ids"][texts].clone(), batch["text_mask"][texts].clone()
    for row in range(size):
        if row != 1:
            known = wrong[row][wrong[row] >= 0]
            ids[row], mask[row] = 0, False
            ids[row, : len(known)], mask[row, : len(known)] = known, True
    scores = torch.cat([
        model.match(batch["image_embeds"], batch["input_ids"], batch["text_mask"]),
        model.match(batch["image_embeds"][images], batch["input_ids"], batch["text_mask"]),
        model.match(batch["image_embeds"], ids, mask),
    ])  # fmt: skip
    labels = torch.cat([torch.ones(size), torch.zeros(2 * size)])
    assert_close(found["itm"], F.binary_cross_entropy_with_logits(scores, labels), rtol=1e-4, atol=1e-5)
    assert not torch.equal(found["itm"], plain["itm"])
    assert_close((found["itc"], found["itg"]), (plain["itc"], plain["itg"]))
    with pytest.raises(ValueError, match="exclude each other"):
        model(**batch, wrong_texts=wrong, whole=object())


def test_negatives_for_some_rows_come_from_all():
    similarity, image_ids = torch.randn(6, 6), torch.tensor([0, 1, 2, 1, 3, 1])
    found = [sample_negatives(similarity, image_ids, rows=slice(2, 5)) for _ in range(100)]
    images, texts = (torch.stack(drawn) for drawn in zip(*found, strict=True))
    own = image_ids[2:5]
    for drawn in (images, texts):
        assert drawn.shape == (100, 3) and (image_ids[drawn] != own).all()
        assert set(drawn.flatten().tolist()) == set(range(6))


def test_the_loss_of_some_rows_averages_to_the_whole():
    logits, image_ids = torch.randn(6, 6), torch.tensor([0, 1, 2, 1, 3, 1])
    halves = [itc_loss(logits, image_ids, rows) for rows in (slice(0, 3), slice(3, 6))]
    assert_close(sum(halves) / 2, itc_loss(logits, image_ids))
    halves = [itc_accuracy(logits, image_ids, rows) for rows in (slice(0, 3), slice(3, 6))]
    assert_close(sum(halves) / 2, itc_accuracy(logits, image_ids))


def test_the_loss_is_the_unweighted_sum():
    result = random_model()(**random_batch())
    assert_close(result["loss"], result["itc"] + result["itm"] + result["itg"])


def test_every_parameter_learns_from_the_three_losses():
    model = random_model()
    never = {
        name for name, value in gradients(model, model(**random_batch())["loss"]).items() if not value.any()
    }
    assert never == set()


def test_cross_attention_sees_each_image_once(drawn):
    model, rows = random_model(), []
    for layer in model.qformer.encoder.layer:
        if layer.has_cross_attention:
            for projection in (layer.crossattention.attention.key, layer.crossattention.attention.value):
                projection.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    model(**random_batch())
    assert rows == [BATCH] * 4, "two layers with cross-attention, a key and a value each, one row an image"


def test_nothing_is_copied_to_python(monkeypatch):
    def refuse(self):
        raise AssertionError("a Python number was read from a tensor")

    model, batch = random_model(), random_batch()
    for name in ("item", "tolist", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    model(**batch)["loss"].backward()


def test_negatives_are_never_pairs_of_the_same_image():
    for _ in range(200):
        batch = int(torch.randint(2, 12, ()))
        image_ids = torch.randint(0, 4, (batch,))
        similarity = torch.randn(batch, batch) * 100 + 100 * (image_ids[:, None] == image_ids)
        for hard in (True, False):
            images, texts = sample_negatives(similarity, image_ids, hard)
            if (image_ids == image_ids[0]).all():
                assert (images == -1).all() and (texts == -1).all()
            else:
                assert (image_ids[images] != image_ids).all()
                assert (image_ids[texts] != image_ids).all()


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "uniform"])
def test_negatives_follow_the_softmax_of_the_similarities_or_none(hard):
    similarity, image_ids, draws = torch.randn(4, 4) * 2, torch.tensor([7, 8, 7, 9]), 800
    allowed = image_ids[:, None] != image_ids
    scores = similarity if hard else torch.zeros(4, 4)
    of_images = scores.T.masked_fill(~allowed, -torch.inf).softmax(1)
    of_texts = scores.masked_fill(~allowed, -torch.inf).softmax(1)
    counts = torch.zeros(2, 4, 4)
    for _ in range(draws):
        for count, indices in zip(counts, sample_negatives(similarity, image_ids, hard), strict=True):
            count[torch.arange(4), indices] += 1
    assert_close(
        counts / draws, torch.stack([of_images, of_texts]), rtol=0, atol=0.1
    )  # almost six deviations


def test_a_generator_repeats_the_draws_and_leaves_the_global_one_alone():
    model, batch = random_model(), random_batch()
    state = torch.get_rng_state()
    runs = [model(**batch, generator=torch.Generator().manual_seed(5))["itm"] for _ in range(2)]
    assert torch.equal(*runs)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("image_ids", [(0,), (0, 0, 0)], ids=["one row", "one image"])
def test_a_batch_of_one_image_trains_without_matching(image_ids):
    model, batch = random_model(), random_batch(image_ids)
    batch["text_mask"][:, 1] = True
    result = model(**batch)
    assert result["itm"] == 0 and result["itm_accuracy"] == 0
    found = gradients(model, result["loss"])
    assert all(value.isfinite().all() for value in found.values())
    assert not found["itm_head.weight"].any(), "nothing to tell apart, nothing to learn"
    assert found["lm_head.dense.weight"].any()


def test_captions_of_one_token_cost_nothing():
    batch = random_batch()
    batch["text_mask"] = torch.arange(LENGTH).expand(BATCH, -1) < 1
    result = random_model()(**batch)
    assert result["itg"] == 0 and result["loss"].isfinite()


def test_what_stands_in_the_padding_changes_nothing():
    model, batch = random_model(), random_batch()
    other = torch.where(batch["text_mask"], batch["input_ids"], torch.randint(5, VOCABULARY, (BATCH, LENGTH)))
    first, second = (
        model(**batch | {"input_ids": ids}, generator=torch.Generator().manual_seed(0))
        for ids in (batch["input_ids"], other)
    )
    assert_close(first, second, rtol=0, atol=1e-5)


def test_generation_starts_from_its_own_token_and_contrast_does_not():
    model, batch = random_model(), random_batch()
    batch["text_mask"][:, 1] = True
    first = model(**batch, hard_negatives=False, generator=torch.Generator().manual_seed(0))
    model.decoder_start_id = CLS
    second = model(**batch, hard_negatives=False, generator=torch.Generator().manual_seed(0))
    assert not torch.isclose(first["itg"], second["itg"])
    assert_close([first["itc"], first["itm"]], [second["itc"], second["itm"]])


def test_itc_shares_the_target_among_texts_of_the_same_image():
    logits, image_ids = torch.randn(3, 3), torch.tensor([4, 9, 4])
    targets = torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]]) * 0.9 + 0.1 / 3
    expected = -((targets * logits.log_softmax(1)).sum() + (targets * logits.T.log_softmax(1)).sum()) / 6
    assert_close(itc_loss(logits, image_ids), expected)

    rows = torch.arange(3)
    plain = sum(F.cross_entropy(scores, rows, label_smoothing=0.1) for scores in (logits, logits.T)) / 2
    assert_close(itc_loss(logits, rows), plain)


def test_itg_smooths_and_ignores():
    logits, labels = torch.randn(2, 3, 8), torch.tensor([[1, -100, 2], [-100, -100, 7]])
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)
    assert_close(itg_loss(logits, labels), expected)
    assert itg_loss(logits, torch.full((2, 3), -100)) == 0


def test_accuracies_of_a_perfect_and_of_an_ignorant_model(monkeypatch):
    model, batch = random_model(), random_batch((0, 1, 2, 3))
    monkeypatch.setattr(model, "similarity", lambda *_: torch.eye(4, requires_grad=True))
    assert model(**batch)["itc_accuracy"] == 1
    monkeypatch.setattr(model, "similarity", lambda *_: torch.eye(4, requires_grad=True).roll(1, 0))
    assert model(**batch)["itc_accuracy"] == 0
    with torch.no_grad():
        model.itm_head.weight.zero_()
        model.itm_head.bias.copy_(torch.tensor([1.0, 0.0]))
    assert model(**batch)["itm_accuracy"].item() == pytest.approx(2 / 3), (
        "always mismatch is right twice in three"
    )


def test_the_alarm_value_is_the_loss_of_a_head_that_knows_only_the_prior():
    assert pytest.approx(0.6365, abs=5e-5) == ITM_PRIOR_ENTROPY
    rows = torch.arange(BATCH).roll(1)
    labels = itm_labels(rows, rows)
    assert labels.tolist() == [1] * BATCH + [0] * 2 * BATCH
    ignorant = torch.tensor([math.log(2 / 3), math.log(1 / 3)]).expand(3 * BATCH, 2)
    assert itm_loss(ignorant, labels).item() == pytest.approx(ITM_PRIOR_ENTROPY)


def test_the_alarm_rings_at_the_prior_and_nowhere_else():
    noise = (torch.randn(80) * 0.005).tolist()
    resting = [ITM_PRIOR_ENTROPY + value for value in noise]
    falling = [0.76 - 0.005 * step for step in range(50)]  # its mean is the prior's entropy
    assert sum(falling) / 50 == pytest.approx(ITM_PRIOR_ENTROPY, abs=0.01)
    assert itm_stuck(resting)
    assert itm_stuck([0.1] * 100 + resting), "only the end counts"
    assert not itm_stuck(resting[:49]), "too early to tell"
    assert not itm_stuck(falling)
    assert not itm_stuck(resting + [0.4] * 50)
    assert not itm_stuck(resting[:25] + [0.4] * 25), "it has just left"
    assert itm_stuck(resting[:10], window=10, tolerance=0.05)
    with pytest.raises(ValueError, match="window is 1"):
        itm_stuck(resting, window=1)


def test_retrieval_features_are_those_of_training():
    model, batch = random_model(), random_batch()
    image_features = model.image_features(batch["image_embeds"])
    text_features = model.text_features(batch["input_ids"], batch["text_mask"])
    assert image_features.shape == (BATCH, QUERIES, 16) and text_features.shape == (BATCH, 16)
    similarity = model.similarity(image_features, text_features)
    nearest = F.cosine_similarity(image_features[1], text_features[2], dim=-1).max()
    assert_close(similarity[1, 2], nearest)
    assert_close(itc_loss(similarity / 0.07, batch["image_ids"]), model(**batch)["itc"], rtol=1e-4, atol=1e-5)


def test_match_is_the_logit_that_training_sees(monkeypatch, drawn):
    model, batch, seen = random_model(), random_batch(), []
    monkeypatch.setattr(objectives, "itm_loss", lambda logits, labels: seen.append(logits) or logits.sum())
    model(**batch)
    logits = seen[0][:, 1] - seen[0][:, 0]
    images, texts = drawn[0]
    ids, mask, embeds = batch["input_ids"], batch["text_mask"], batch["image_embeds"]
    expected = [
        model.match(embeds, ids, mask),
        model.match(embeds[images], ids, mask),
        model.match(embeds, ids[texts], mask[texts]),
    ]
    assert_close(logits, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_queries_read_the_instruction_and_look_at_the_image():
    model, batch = random_model(), random_batch()
    embeds, ids, mask = batch["image_embeds"], batch["input_ids"], batch["text_mask"]
    plain, instructed = model.queries(embeds), model.queries(embeds, ids, mask)
    assert plain.shape == instructed.shape == (BATCH, QUERIES, 24)
    assert not torch.allclose(plain, instructed, atol=1e-3)
    maps = model.cross_attention(embeds, ids, mask)
    assert maps.shape == (BATCH, 2, 4, QUERIES, PATCHES)
    assert_close(maps.sum(-1), torch.ones(BATCH, 2, 4, QUERIES))
    with pytest.raises(ValueError, match="need text_mask"):
        model.queries(embeds, ids)


@pytest.mark.parametrize("value", [1e-6, -1.0, 5.0])
def test_a_temperature_out_of_range_is_clamped_and_can_come_back(value):
    model, batch = random_model(), random_batch()
    with torch.no_grad():
        model.temperature.fill_(value)
    result = model(**batch)
    assert result["loss"].isfinite()
    assert gradients(model, result["itc"])["temperature"] != 0
    clamped = min(max(value, 0.01), 0.5)
    with torch.no_grad():
        model.temperature.fill_(clamped)
    assert_close(model(**batch)["itc"], result["itc"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bf16_losses_stay_close_to_fp32_and_train(how):
    model, batch = random_model(spread=0.05), random_batch()
    draw = {"hard_negatives": False}
    expected = model(**batch, **draw, generator=torch.Generator().manual_seed(1))
    if how == "weights":
        model = model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        result = model(**batch, **draw, generator=torch.Generator().manual_seed(1))
        hard = model(**batch)
    for name in ("itc", "itm", "itg"):
        assert result[name].dtype == torch.float32
        assert result[name].item() == pytest.approx(expected[name].item(), abs=0.1), name
    (result["loss"] + hard["loss"]).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_tiny_qformer_learns_all_three_objectives():
    torch.manual_seed(0)  # the promise is about learning, not about every initialisation
    model, batch = random_model(spread=0.1), random_batch((0, 1, 2, 3))
    batch["text_mask"] = torch.ones(4, LENGTH, dtype=torch.bool)
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3)
    history = []
    for _ in range(120):
        result = model(**batch)
        result["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        history.append({name: value.item() for name, value in result.items()})
    print(history[0], history[-1])
    last = history[-1]
    assert last["itc_accuracy"] == 1 and last["itm_accuracy"] > 0.9
    assert last["itm"] < 0.5 * ITM_PRIOR_ENTROPY
    assert last["itg"] < 0.5 * history[0]["itg"]


def test_a_start_token_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="decoder_start_id 40 lies outside the vocabulary, 0 to 39"):
        QFormerForPretraining(random_model().qformer.config, QUERIES, decoder_start_id=VOCABULARY)
