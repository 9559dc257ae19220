"""The picture of a dialogue's tokens: nothing lost, nothing invented, coloured by the labels."""

import matplotlib.pyplot as plt
import pytest

from zvl.figures.tokens import show_tokens, token_pieces
from zvl.model import backbones, chat

TURNS = [("<image>\nWhat do you see?", "a tiger"), ("最左边是什么？", "长颈鹿、龘")]


@pytest.fixture(scope="module")
def tokenizer():
    return backbones.load_tokenizer()


def test_pieces_cover_every_token_once_and_read_as_text(tokenizer):
    example = chat.encode(TURNS, tokenizer, num_images=1, num_queries=4)
    image = tokenizer.convert_tokens_to_ids(chat.IMAGE)
    pieces = token_pieces(tokenizer, example["input_ids"], image)
    assert sum(count for _, count in pieces) == len(example["input_ids"])
    texts = [text for text, _ in pieces]
    assert ("<image> × 4", 4) in pieces and texts.count(chat.HUMAN) == texts.count(chat.BOT) == 2
    assert "龘" in texts, "a character of several byte tokens is one readable piece"
    assert not any("\ufffd" in text for text in texts)


def test_only_learned_tokens_are_orange(tokenizer):
    example = chat.encode(TURNS, tokenizer, num_images=1, num_queries=4)
    figure = show_tokens(tokenizer, [example], tokenizer.convert_tokens_to_ids(chat.IMAGE), ["title"])
    colours = [patch.get_facecolor() for patch in figure.axes[0].patches]
    orange = max(colours, key=lambda colour: colour[0] - colour[2])
    learned = chat.encode([("", answer) for _, answer in TURNS], tokenizer, 0, 4)
    image = tokenizer.convert_tokens_to_ids(chat.IMAGE)
    pieces, position, wanted = token_pieces(tokenizer, learned["input_ids"], image), 0, 0
    for _, count in pieces:
        wanted += learned["labels"][position] != chat.IGNORED
        position += count
    assert colours.count(orange) == wanted
    plt.close(figure)
