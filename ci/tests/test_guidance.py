"""Guidance equals what loops over words, slots and questions say, and the guided heads carry boxes from the start."""

import math

import numpy as np
import pytest
import torch

from zvl.data import boxes, moji, questions
from zvl.model import backbones
from zvl.training import reading
from zvl.training.aligned import BOX_EDGES, box_code, rotation
from zvl.training.guidance import GUIDE_WEIGHT, carry_boxes, guidance, looks
from zvl.training.slots import soft_slots


@pytest.fixture(scope="module")
def tokenizer():
    return backbones.load_tokenizer()


@pytest.fixture(scope="module")
def batch(tokenizer):
    ids = reading.TextIds(tokenizer)
    rng = np.random.default_rng(np.random.SeedSequence().entropy)
    rows = []
    for scene in moji.scenes(12, "train", int(rng.integers(2**31)), min_pieces=2):
        language = ("en", "zh")[rng.integers(2)]
        asked = reading._turns(scene, language, rng, reading.KINDS[:-1], 4, True, 0.0)
        asked.append(reading.ground_question(scene, language, rng))
        asked.insert(int(rng.integers(3)), questions.describe(scene, language, "train", rng))
        slots = soft_slots(scene, ids, rng) if rng.random() < 0.8 else None
        prefix = [reading.IMAGE_ID] * 16 if slots is not None else ids("a house")
        rows.append(reading.Asked(prefix, asked, slots))
    return reading.collate_text(rows, ids, rng, 0.3)


def by_loops(matching, asking, naming, batch):
    """The same, one word at a time."""
    start, first, second, third, before, written = int(batch["start"]), [], [], [], [], []
    for row in range(len(batch["soft"])):
        if not batch["soft"][row]:
            continue
        words, turn, kind = (batch[name][row].tolist() for name in ("input_ids", "turn", "answer"))
        called, mixing = batch["called"][row].tolist(), batch["mixing"][row]
        fact_at = {}
        for at in range(start + 16, len(words)):
            named = [f for f in range(7) if words[at] in called[f]]
            if len(named) == 1:
                fact_at[at] = named[0]
        for at, fact in fact_at.items():
            purity = mixing[:, fact] / mixing[:, fact].max()
            for head in (0, 1):
                first.append(-math.log(float((matching[row, head, at, start : start + 16] * purity).sum())))
        for at in range(start + 16, len(words) - 1):
            if kind[at + 1] != 1 or turn[at + 1] != turn[at]:
                continue
            asked = {k: f for k, f in sorted(fact_at.items()) if turn[k] == turn[at] and kind[k] == 0}
            facts = list(asked.values())
            for head, fact in enumerate((facts[0], facts[-1]) if facts else ()):
                there = [k for k, f in asked.items() if f == fact]
                second.append(-math.log(max(float(asking[row, head, at, there].sum()), 1e-6)))
        for at, whose in enumerate(batch["about"][row].tolist()):
            if whose:
                purity = mixing[:, whose - 1] / mixing[:, whose - 1].max()
                for head in (0, 1):
                    seen = (naming[row, head, at - 1, start : start + 16] * purity).sum()
                    written.append(-math.log(max(float(seen), 1e-6)))
        told = {at: fact for at, fact in fact_at.items() if kind[at] == 2}
        for at, fact in told.items():
            if told.get(at - 1) == fact:
                continue
            purity = mixing[:, fact] / mixing[:, fact].max()
            for head in (0, 1):
                seen = (naming[row, head, at - 1, start : start + 16] * purity).sum()
                third.append(-math.log(max(float(seen), 1e-6)))
            earlier = [k for k in told if k < at and turn[k] == turn[at]]
            if earlier:
                before.append(-math.log(max(float(asking[row, 0, at - 1, earlier].sum()), 1e-6)))
    return sum(sum(part) / len(part) for part in (first, second, third, before, written) if part)


def test_guidance_is_what_loops_over_words_say(batch):
    rows, length = batch["input_ids"].shape
    attention = [torch.rand(rows, 6, length, length).softmax(-1) for _ in range(3)]
    assert float(guidance(*attention, batch)) == pytest.approx(by_loops(*attention, batch), rel=1e-4)


def test_each_box_in_an_answer_is_its_things_and_no_other_word_is_anybodys(batch, tokenizer):
    found = 0
    for ids, about, answer, corners, soft in zip(
        *(batch[name] for name in ("input_ids", "about", "answer", "corners", "soft")), strict=True
    ):
        said = tokenizer.decode(ids[answer > 0])
        assert about.any() == (soft and "(" in said) and not about[answer == 0].any()
        ends = [i for i in range(1, len(ids) + 1) if i == len(ids) or about[i] != about[i - 1]]
        for first, end in zip([0, *ends], ends, strict=False):
            if about[first]:
                text = tokenizer.decode(ids[first:end])
                box = boxes.boxes_in(text, 1.0, 1.0)
                left, top, right, bottom = corners[int(about[first]) - 1].tolist()
                wanted = torch.tensor([left, top, right - left, bottom - top])
                torch.testing.assert_close(torch.tensor(box), wanted[None], atol=2e-3, rtol=0)
                found += 1
            elif soft:
                assert "(" not in tokenizer.decode(ids[first:end][answer[first:end] > 0])
    assert found > 3


def test_each_question_counts_as_one_however_long_its_answer_and_boxes_as_four(batch, tokenizer):
    model = backbones.new_llm(len(tokenizer)).eval()
    with torch.no_grad():
        loss, metrics = reading.reading_loss(model, batch)
        embeds = reading.embed_text(model, batch)
        with looks(model) as attention:
            logits = model(inputs_embeds=embeds).logits[:, :-1]
    assert len(attention) == 3
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), batch["labels"][:, 1:], reduction="none", ignore_index=-100
    )
    kind, turn, told = batch["answer"][:, 1:], batch["turn"][:, 1:], batch["labels"][:, 1:] != -100
    weights, means = [], []
    for row in range(len(turn)):
        for number in set(turn[row, kind[row] == 1].tolist()):
            here = (kind[row] == 1) & (turn[row] == number)
            boxed = "(" in tokenizer.decode(batch["labels"][row, 1:][here])
            weights.append(4.0 if boxed else 1.0)
            means.append(weights[-1] * losses[row, here].mean())
    assert {1.0, 4.0} == set(weights)
    expected = torch.stack(means).sum() / sum(weights) + GUIDE_WEIGHT * metrics["guidance"]
    for number, weight in ((0, reading.TOLD_WEIGHT), (2, reading.DETAIL_WEIGHT)):
        if bool((told & (kind == number)).any()):
            expected = expected + weight * losses[told & (kind == number)].mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    assert float(metrics["guidance"]) == pytest.approx(by_loops(*attention, batch), rel=1e-3)


def test_ordinary_text_and_rows_without_slots_are_not_guided(batch, tokenizer):
    ids = reading.TextIds(tokenizer)
    model = backbones.new_llm(len(tokenizer)).eval()
    assert set(reading.reading_loss(model, reading.ordinary_batch(ids, 0, 2, 0, 12))[1]) == {"ordinary"}
    rows, length = batch["input_ids"].shape
    attention = torch.rand(rows, 6, length, length).softmax(-1)
    assert guidance(*[attention] * 3, batch | {"soft": torch.zeros(rows, dtype=torch.bool)}) is None


def test_guided_heads_carry_the_code_of_a_box_in_directions_of_their_own(tokenizer):
    model = backbones.new_llm(len(tokenizer)).eval()
    states = tuple(torch.randn(2, 5, backbones.WIDTH) * size for size in (0.2, 7.0, 10.0, 12.0, 1.0))
    carry_boxes(model, states)
    box = box_code(torch.tensor([0.1, 0.3, 0.4, 0.6]), backbones.WIDTH)
    edges = rotation(BOX_EDGES, backbones.WIDTH) @ box
    for layer, head, written, size in ((0, 0, 0, 7.0), (1, 0, 1, 10.0), (1, 1, 2, 10.0)):
        block = model.model.layers[layer]
        rows = slice(head * 32, head * 32 + BOX_EDGES)
        carried = block.self_attn.o_proj.weight[:, rows] @ (block.self_attn.v_proj.weight[rows] @ box)
        expected = edges @ rotation(BOX_EDGES, backbones.WIDTH, written)
        assert torch.nn.functional.cosine_similarity(carried, expected, dim=0) > 0.999
        assert float((carried.norm() / expected.norm()).detach()) == pytest.approx(size, rel=0.1)


def test_heads_too_small_for_a_box_are_refused(tokenizer):
    config = backbones.llm_config(len(tokenizer))
    config.num_attention_heads = config.num_key_value_heads = 12
    config.head_dim = 16
    model = type(backbones.new_llm(len(tokenizer)))(config)
    with pytest.raises(ValueError, match="heads of 28 numbers"):
        carry_boxes(model, tuple(torch.ones(1, 1, backbones.WIDTH) for _ in range(5)))
