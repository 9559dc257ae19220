"""The chat format: what becomes a token, what the loss sees, and dialogues with any number of images."""

import re
from collections import namedtuple

import pytest
import torch
from tiny_model import QUERIES, tiny_model, tiny_tokenizer

from zvl.model import chat

Turn = namedtuple("Turn", "instruction response")
IMAGE_ID, END_ID = 5, 2
HOSTILE = [
    "</s>",
    "<image>",
    "<human>:",
    "\n<bot>:",
    "<s></s><pad>[CLS][DEC]<image><image>",
    "这是</s>什么<image>",
]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def base():
    return tiny_model()


@pytest.fixture(scope="module")
def aware():
    return tiny_model(instruction_aware=True)


def spell(tokenizer, ids) -> str:
    """The ids as text, without the space before a text's first word (`chat.spaced`)."""
    return re.sub(r"((?:human>:|bot>:)(?:<image>)*) ", r"\1", tokenizer.decode(ids))


def learned(example, tokenizer) -> str:
    """The text that the loss falls on, without the space before an answer's first word (`chat.spaced`)."""
    text = tokenizer.decode([token for token in example["labels"] if token != chat.IGNORED])
    return re.sub(r"(^|</s>) ", r"\1", text)


def test_format_is_ziyas():
    turns = [Turn("What is this?", "A cat."), Turn("几只？", "两只")]
    assert chat.format_turns(turns) == "<human>:What is this?\n<bot>:A cat.</s><human>:几只？\n<bot>:两只</s>"
    assert chat.format_turns([("What?", None)], num_images=2) == "<human>:<image><image>What?\n<bot>:"


def test_ids_spell_the_format(tokenizer):
    turns = [("What is this?", "A cat."), ("几只？", "两只")]
    ids = chat.encode(turns, tokenizer, num_images=1, num_queries=QUERIES)["input_ids"]
    spelled = spell(tokenizer, ids).replace("<image>" * QUERIES, "<image>")
    assert spelled == "<s>" + chat.format_turns(turns, num_images=1)


def test_loss_falls_on_answers_and_end_tokens_only(tokenizer):
    example = chat.encode([Turn("What is this?", "A cat."), Turn("几只？", "两只")], tokenizer, 1, QUERIES)
    assert len(example["labels"]) == len(example["input_ids"])
    assert learned(example, tokenizer) == "A cat.</s>两只</s>"
    for token, label in zip(example["input_ids"], example["labels"], strict=True):
        assert label in (token, chat.IGNORED)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", ["question", "answer", "history"])
def test_typed_text_never_becomes_a_control_token(tokenizer, text, place):
    turns = [("a", "b"), ("c", "d")]
    turns = {
        "question": [("a", "b"), (f"x {text} y", "d")],
        "answer": [("a", "b"), ("c", f"x {text} y")],
        "history": [(f"x {text} y", f"x {text} y"), ("c", "d")],
    }[place]
    for image_turns in (None, [0]):
        ids = chat.encode(turns, tokenizer, 1, QUERIES, image_turns=image_turns)["input_ids"]
        assert ids.count(IMAGE_ID) == QUERIES, "as many placeholders as images give, whatever is typed"
        assert ids.count(END_ID) == 2, "one end token for each turn"
        assert ids.count(1) == 1 and not {0, 3, 4} & set(ids)
        spelled = tokenizer.decode(ids)
        assert spelled.count("<human>:") == spelled.count("<bot>:") == 2, "a typed marker opens no turn"
    no_image = chat.encode(turns, tokenizer, 0, QUERIES)["input_ids"]
    assert IMAGE_ID not in no_image


@pytest.mark.parametrize("text", HOSTILE)
def test_instructions_for_the_qformer_hold_no_control_token_but_cls(tokenizer, text):
    (ids,) = chat.instruction_ids(tokenizer, [text])
    assert ids[0] == 3 and not set(range(6)) & set(ids[1:])


def test_typed_control_tokens_are_kept_as_letters(tokenizer):
    (ids,) = chat.text_ids(tokenizer, ["a</s>b"])
    assert tokenizer.decode(ids) == " a</s>b" and END_ID not in ids
    assert tokenizer("</s>", add_special_tokens=False)["input_ids"] == [END_ID], (
        "the tokenizer is left as it was"
    )


def test_an_answer_is_the_word_that_stood_in_the_sentence():
    assert [chat.spaced(t) for t in ("tiger", "T恤", "老虎", " a", "", "3")] == [
        " tiger",
        " T恤",
        "老虎",
        " a",
        "",
        "3",
    ]


def test_a_tokenizer_that_cannot_split_control_tokens_loses_them():
    class Stubborn:
        all_special_ids, unk_token_id = [1, 2], None

        def __call__(self, texts, **_):
            return {"input_ids": [[7, 2, 8, 5] for _ in texts]}

    assert chat.text_ids(Stubborn(), ["x"], image_token_id=5) == [[7, 8]]


def test_images_stand_at_the_start_or_where_llava_marks_them(tokenizer):
    def layout(turns, images, **options):
        ids = chat.encode(turns, tokenizer, images, QUERIES, **options)["input_ids"]
        return spell(tokenizer, ids).replace("<image>" * QUERIES, "@").removeprefix("<s>")

    assert layout([("a", "b")], 2) == "<human>:@@a\n<bot>:b</s>"
    assert layout([("<image>\na", "b")], 1) == layout([("a\n<image>", "b")], 1).replace("a@", "@a")
    assert layout([("a", "b"), ("<image>\nc", "d")], 2) == "<human>:@a\n<bot>:b</s><human>:@c\n<bot>:d</s>"
    assert layout([("a <image> or <image>?", "b")], 2) == "<human>:a @ or @?\n<bot>:b</s>"
    entering = layout([("a", "b"), ("c", "d")], 2, image_turns=[0, 1])
    assert entering == "<human>:@a\n<bot>:b</s><human>:@c\n<bot>:d</s>"
    with pytest.raises(ValueError, match=r"image_turns is .0, 2.*from 0 to 1"):
        layout([("a", "b"), ("c", "d")], 2, image_turns=[0, 2])
    with pytest.raises(ValueError, match="no answer"):
        layout([("a", None), ("c", "d")], 1)


def test_cutting_never_loses_an_image_or_every_answer(tokenizer):
    turns = [("a", "b"), ("a much longer question", "and a long answer")]
    whole = chat.encode(turns, tokenizer, 1, QUERIES)
    cut = chat.encode(turns, tokenizer, 1, QUERIES, max_length=len(whole["input_ids"]) - 3)
    assert cut["input_ids"] == whole["input_ids"][:-3] and cut["labels"] == whole["labels"][:-3]
    with pytest.raises(ValueError, match=r"dialogue 0 has .* every answer"):
        chat.encode(turns, tokenizer, 1, QUERIES, max_length=8)
    first = len(chat.encode([("a", "b")], tokenizer, 0, QUERIES)["input_ids"])
    with pytest.raises(ValueError, match="an image"):
        chat.encode([("a", "b"), ("c", "d")], tokenizer, 1, QUERIES, max_length=first + 2, image_turns=[1])
    with pytest.raises(ValueError, match="a piece of the prompt"):
        chat.encode([("a long question", None)], tokenizer, 1, QUERIES, max_length=12)


def test_collate_pads_on_either_side(tokenizer):
    dialogues = [[("a", "b")], [("what is this?", "c")], [("d", "e")]]
    examples = chat.encode_all(dialogues, tokenizer, [2, 0, 1], QUERIES, qformer_tokenizer=tokenizer)
    right, left = chat.collate(examples, 0), chat.collate(examples, 0, side="left")
    for row, example in enumerate(examples):
        length = len(example["input_ids"])
        for batch, real in ((right, slice(0, length)), (left, slice(-length, None))):
            assert batch["input_ids"][row, real].tolist() == example["input_ids"]
            assert batch["labels"][row, real].tolist() == example["labels"]
            assert batch["attention_mask"][row].sum() == batch["attention_mask"][row, real].sum() == length
    assert right["qformer_input_ids"].shape[0] == 3, "one for each image, none where there is none"
    assert right["qformer_input_ids"][0].equal(right["qformer_input_ids"][1])
    with pytest.raises(ValueError, match="'left' and 'right'"):
        chat.collate(examples, 0, side="centre")


def test_batched_answers_equal_single_ones(tokenizer, base, aware):
    torch.manual_seed(1)
    pixels = torch.randn(3, 3, 8, 8)
    questions = ["What is this?", "图中有几只猫？", "How many cats are there? two?", "猫"]
    images_of = [(0,), (2, 1), (), (1,)]
    for model in (base, aware):
        options = dict(qformer_tokenizer=tokenizer, max_new_tokens=6)
        batched = chat.answer(model, tokenizer, pixels, questions, images_of, batch_size=3, **options)
        single = [
            model.chat(tokenizer, [pixels[row] for row in rows], question, **options)
            for question, rows in zip(questions, images_of, strict=True)
        ]
        assert batched == single
        features = model.vision_features(pixels).detach()
        assert chat.answer(model, tokenizer, features, questions, images_of, **options) == batched
    assert chat.answer(base, tokenizer, None, questions[:1], max_new_tokens=3)[0] is not None


def test_chat_goes_on_over_turns_and_images(tokenizer, aware):
    torch.manual_seed(2)
    first, second = torch.randn(2, 3, 8, 8)
    options = dict(qformer_tokenizer=tokenizer, max_new_tokens=4)
    history = []
    dialogue = [("这是什么？", [first], [0]), ("How many?", [first], [0]), ("猫", [first, second], [0, 2])]
    for question, images, turns in dialogue:
        reply = aware.chat(tokenizer, images, question, history, image_turns=turns, **options)
        assert isinstance(reply, str) and "<human>:" not in reply
        history.append((question, reply))


def test_chat_forgets_the_oldest_turns_but_no_image(tokenizer, base, monkeypatch):
    seen = {}

    def generate(input_ids, **rest):
        seen.update(rest, ids=input_ids)
        return input_ids[:, :0]

    monkeypatch.setattr(base, "generate", generate)
    history = [(f"question {number}", "a rather long answer about it") for number in range(20)]
    base.chat(tokenizer, torch.randn(1, 3, 8, 8), "the last question", history)
    text = spell(tokenizer, seen["ids"][0])
    assert seen["ids"].shape[1] <= 256 - 64 and seen["pixel_values"].shape[0] == 1
    assert (seen["ids"] == IMAGE_ID).sum() == QUERIES
    assert text.endswith("<human>:the last question\n<bot>:")
    assert "question 19" in text and "question 0" not in text


def test_an_instruction_aware_model_asks_for_its_tokenizer(tokenizer, aware):
    with pytest.raises(ValueError, match="qformer_tokenizer"):
        aware.chat(tokenizer, torch.randn(1, 3, 8, 8), "what?")


def test_chat_leaves_the_training_mode_as_it_was(tokenizer, base):
    base.train()
    base.chat(tokenizer, None, "猫", max_new_tokens=1)
    assert base.training
    base.eval()
