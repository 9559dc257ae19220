"""A dialogue as the language model gets it: one box a token, coloured by what the loss sees."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

from zvl.figures.diagrams import FROZEN, TRAINABLE
from zvl.figures.style import INK, columns_of, use_cjk_font
from zvl.model.chat import BOT, HUMAN, IGNORED

PLAIN = "#ECEEF0"


def token_pieces(tokenizer, ids: Sequence[int], image_token_id: int) -> list[tuple[str, int]]:
    """Readable pieces of a sequence and how many ids each holds; they add up to len(ids).

    A run of image placeholders is one piece, and so is a role mark, which is ordinary text of several tokens.
    Byte-level ids that only together make a character are one, too.
    """
    marks = [tokenizer(mark, add_special_tokens=False)["input_ids"] for mark in (HUMAN, BOT)]
    pieces: list[tuple[str, int]] = []
    position = 0
    while position < len(ids):
        end = position + 1
        if ids[position] == image_token_id:
            while end < len(ids) and ids[end] == image_token_id:
                end += 1
            text = f"<image> × {end - position}"
        elif mark := next((m for m in marks if list(ids[position : position + len(m)]) == m), None):
            end = position + len(mark)
            text = tokenizer.decode(mark)
        else:
            text = tokenizer.decode(ids[position:end])
            while "\ufffd" in text and end < min(len(ids), position + 4):  # UTF-8 has at most four bytes
                end += 1
                text = tokenizer.decode(ids[position:end])
        pieces.append((text, end - position))
        position = end
    return pieces


def show_tokens(
    tokenizer,
    examples: Sequence[dict],
    image_token_id: int,
    titles: Sequence[str] = (),
    columns: int = 104,
) -> Figure:
    """Dialogues token by token: orange where the loss falls, blue for images, grey for what is only read.

    examples: results of `zvl.model.chat.encode` (input_ids and labels). columns: width of a line in characters.
    """
    use_cjk_font()
    boxes, row = [], 0
    for number, example in enumerate(examples):
        if titles:
            boxes.append((0, row, 0, titles[number], None))
            row += 1
        left = position = 0
        for text, count in token_pieces(tokenizer, example["input_ids"], image_token_id):
            label, token = example["labels"][position], example["input_ids"][position]
            colour = TRAINABLE if label != IGNORED else FROZEN if token == image_token_id else PLAIN
            position += count
            shown = text.replace("\n", "↵").strip() or "␣"
            width = columns_of(shown) + 1.2
            if left and left + width > columns:
                left, row = 0, row + 1
            boxes.append((left, row, width, shown, colour))
            left += width + 0.5
        row += 1.4
    figure, ax = plt.subplots(figsize=(9.6, 0.34 * (row + 1)), layout="constrained")
    ax.set_axis_off()
    ax.set_xlim(0, columns + 2)
    ax.set_ylim(row, -0.7)
    for left, top, width, text, colour in boxes:
        if colour is None:
            ax.text(left, top, text, fontsize=9.5, va="center", color=INK)
            continue
        style = {"boxstyle": "round,pad=0,rounding_size=0.3", "mutation_aspect": 0.4}
        ax.add_patch(
            FancyBboxPatch((left, top - 0.4), width, 0.8, facecolor=colour, edgecolor="none", **style)
        )
        ax.text(left + width / 2, top, text, fontsize=8.5, ha="center", va="center", color=INK)
    meanings = {"the loss falls here": TRAINABLE, "image placeholders": FROZEN, "read only": PLAIN}
    handles = [Patch(facecolor=colour, label=name) for name, colour in meanings.items()]
    figure.legend(handles=handles, loc="outside lower left", ncols=3, fontsize=8.5, frameon=False)
    return figure
