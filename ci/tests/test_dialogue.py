"""Dialogues: batches of them give what one turn after the other gives, on the model's own answers."""

import pytest
import torch
from tiny_model import PATCHES, tiny_model, tiny_tokenizer

from zvl.data.samples import Sample, Turn
from zvl.evaluation.dialogue import accuracy_by_depth, converse, right_by_depth

TOKENIZER = tiny_tokenizer()
FEATURES = torch.randn(3, PATCHES, 16, generator=torch.Generator().manual_seed(0))
ROW = {"a.png": 0, "b.png": 1, "c.png": 2}


def sample(name, images, *turns, language="en"):
    return Sample(name, images, tuple(Turn(*turn) for turn in turns), task="conversation", language=language)


SAMPLES = [
    sample("one", ("b.png",), ("What is this?", "apple"), ("How many?", "two"), ("红?", "红")),
    sample("two", ("a.png", "c.png"), ("<image>\nWhat is this?", "cat"), ("<image>\nAnd here?", "apple")),
    sample("three", ("c.png",), ("图中有几只猫？", "两只"), language="zh"),
    sample("late", ("a.png", "b.png"), ("<image>\nA red apple?", "red"), ("cats?", "two"), ("<image>\nis?", "red")),
]  # fmt: skip


@pytest.mark.parametrize("aware", [False, True])
def test_a_batch_of_dialogues_is_what_one_turn_after_the_other_gives(aware):
    model = tiny_model(instruction_aware=aware)
    found = converse(model, TOKENIZER, SAMPLES, FEATURES, ROW, max_new_tokens=5)
    turns_of = {"one": [0], "two": [0, 1], "three": [0], "late": [0, 2]}
    for sample_, answers in zip(SAMPLES, found, strict=True):
        history = []
        for depth, turn in enumerate(sample_.turns):
            enters = [turn_ for turn_ in turns_of[sample_.id] if turn_ <= depth]
            images = [FEATURES[ROW[image]] for image in sample_.images[: len(enters)]]
            question = turn.instruction.replace("<image>", "").strip()
            said = model.chat(
                TOKENIZER, images, question, history, image_turns=enters, qformer_tokenizer=TOKENIZER,
                max_new_tokens=5,
            )  # fmt: skip
            history.append((question, said))
        assert answers == [said for _, said in history]


def test_accuracy_is_counted_at_each_depth():
    said = [["an apple", "three", "红"], ["cat", "cat"], ["两只"], ["red", "2", "red"]]
    assert accuracy_by_depth(said, SAMPLES) == {1: 1.0, 2: pytest.approx(1 / 3), 3: 1.0}
    assert {depth: len(right) for depth, right in right_by_depth(said, SAMPLES).items()} == {1: 4, 2: 3, 3: 2}
    with pytest.raises(ValueError, match="'one' has 3 turns, but 1 answers"):
        right_by_depth([["a"]], SAMPLES[:1])
