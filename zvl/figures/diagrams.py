"""Figures of the model itself: who may attend to whom, and what each stage trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from zvl.figures.style import BLUE, GREY, INK, array, use_cjk_font, wrap

FROZEN, TRAINABLE = "#BFD9EA", "#F6C667"
BOXES = {  # first word of a part's name -> its box
    "vision_model": "ViT", "vit": "ViT",
    "qformer": "Q-Former", "q-former": "Q-Former", "query_tokens": "Q-Former", "queries": "Q-Former",
    "language_projection": "FC", "projection": "FC", "fc": "FC",
    "language_model": "LLM", "llm": "LLM",
}  # fmt: skip


def show_mask(
    mask, rows: Sequence[str], sizes: Sequence[int] | None = None, title: str = "", ax: Axes | None = None
) -> Figure:
    """One attention mask: a dark cell means that the token of the row may attend to the token of the column.

    mask: (total, total) bool. rows: names of the blocks of tokens, in order. sizes: tokens of each block;
    equal parts where it is not given. Raises ValueError where the blocks do not add up to `total`. Paper
    Figure 2.
    """
    use_cjk_font()
    mask = array(mask).astype(bool)
    total = len(mask)
    sizes = list(sizes) if sizes is not None else [total // len(rows)] * len(rows)
    if mask.shape != (total, total) or len(sizes) != len(rows) or sum(sizes) != total:
        raise ValueError(
            f"mask {mask.shape} and blocks {dict(zip(rows, sizes, strict=False))} do not fit together"
        )
    if ax is None:
        _, ax = plt.subplots(figsize=(3.4, 3.4), layout="constrained")
    ax.imshow(mask, cmap=ListedColormap(["white", BLUE]), vmin=0, vmax=1)
    edges = np.cumsum([0, *sizes]) - 0.5
    for edge in np.arange(1, total) - 0.5:
        ax.axhline(edge, color="#DADCE0", linewidth=0.6)
        ax.axvline(edge, color="#DADCE0", linewidth=0.6)
    for edge in edges[1:-1]:
        ax.axhline(edge, color=INK, linewidth=1.2)
        ax.axvline(edge, color=INK, linewidth=1.2)
    centres = (edges[:-1] + edges[1:]) / 2
    ax.set_xticks(centres, [wrap(name, 9) for name in rows], fontsize=9)
    ax.set_yticks(centres, rows, rotation=90, va="center", fontsize=9)
    ax.tick_params(length=0)
    ax.set_xlabel("may look at", fontsize=9)
    ax.set_title(title, fontsize=10)
    return ax.figure


def show_masks(masks: Mapping[str, tuple]) -> Figure:
    """Masks side by side, as on the right of the paper's Figure 2.

    masks: title -> (mask, {block name: tokens}), drawn as by `show_mask`.
    """
    use_cjk_font()
    figure, axes = plt.subplots(
        1, len(masks), figsize=(3 * len(masks), 3.3), layout="constrained", squeeze=False
    )
    for ax, (title, (mask, blocks)) in zip(axes[0], masks.items(), strict=True):
        show_mask(mask, list(blocks), list(blocks.values()), title, ax)
    axes[0, 0].set_ylabel("token", fontsize=9)
    return figure


@dataclass(frozen=True)
class Stage:
    """One training stage as the code set it up.

    parameters: rows (part, trainable, frozen) with counts of parameters, as
    `zvl.training.stages.parameter_table` gives them. instruction_aware: the instruction also enters the
    Q-Former (Chat).
    """

    title: str
    parameters: Sequence[tuple[str, int, int]]
    instruction_aware: bool = False


def stage_diagram(stages: Sequence[Stage], columns: int = 2) -> Figure:
    """What each stage trains, as in the paper's Figures 3 and 8, drawn from parameter counts.

    Boxes are coloured by what is trainable in them. A ViT or LLM that trains in part carries LoRA. Parts
    other than ViT, Q-Former, FC and LLM, such as the ITC and ITM heads, are named below. Raises ValueError
    where one of the four is missing.
    """
    use_cjk_font()
    columns = min(columns, len(stages))
    rows = -(-len(stages) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(6.1 * columns, 2.75 * rows), layout="constrained", squeeze=False
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, stage in zip(axes.flat, stages, strict=False):
        _draw_stage(ax, stage)
    return figure


def _draw_stage(ax: Axes, stage: Stage) -> None:
    counts: dict[str, list[int]] = {}
    others = []
    for part, trainable, frozen in stage.parameters:
        box = box_of(part)
        if box is None:
            others.append(f"{part}: {_state(trainable, frozen)}")
        else:
            total = counts.setdefault(box, [0, 0])
            total[0] += trainable
            total[1] += frozen
    missing = [box for box in ("ViT", "Q-Former", "FC", "LLM") if box not in counts]
    if missing:
        names = [row[0] for row in stage.parameters]
        raise ValueError(
            f"stage {stage.title!r}: parts {names} have none for {missing}; known names: {list(BOXES)}"
        )
    ax.set_xlim(0, 12.2)
    ax.set_ylim(-0.15, 5.5)
    ax.set_title(stage.title, fontsize=11, loc="left")
    places = {
        "ViT": (1.4, 2.1),
        "Q-Former": (4.2, 2.4),
        "FC": (7.3, 1.3),
        "LLM": (9.3, 2.7),
    }  # left edge, width
    for box, (left, width) in places.items():
        _draw_box(ax, box, left, width, *counts[box])
    middle = 3.4
    ax.text(0.5, middle, "image", ha="center", va="center", fontsize=9)
    for start, end in ((1.0, 1.4), (3.5, 4.2), (6.6, 7.3), (8.6, 9.3)):
        _arrow(ax, (start, middle), (end, middle))
    ax.text(10.65, 5.12, "answer", ha="center", va="center", fontsize=9)
    _arrow(ax, (10.65, 4.4), (10.65, 4.9))
    ax.text(5.4, 5.12, "queries", ha="center", va="center", fontsize=9)
    _arrow(ax, (5.4, 4.9), (5.4, 4.4))
    ax.text(10.65, 1.0, "instruction", ha="center", va="center", fontsize=9)
    _arrow(ax, (10.65, 1.25), (10.65, 2.4))
    if stage.instruction_aware:
        ax.plot([9.55, 5.4], [1.0, 1.0], color=INK, linewidth=1.2)
        _arrow(ax, (5.4, 1.0), (5.4, 2.4))
    if others:
        ax.text(0.05, 0.1, wrap("; ".join(others), 92), fontsize=7.5, color=GREY, va="center")


def _draw_box(ax: Axes, box: str, left: float, width: float, trainable: int, frozen: int) -> None:
    lora = box in ("ViT", "LLM") and 0 < trainable and 0 < frozen
    colour = TRAINABLE if trainable and not lora else FROZEN
    style = {"boxstyle": "round,pad=0,rounding_size=0.15", "edgecolor": INK, "linewidth": 1}
    ax.add_patch(FancyBboxPatch((left, 2.4), width, 2.0, facecolor=colour, **style))
    centre = left + width / 2
    ax.text(centre, 4.02, box, ha="center", va="center", fontsize=11)
    lines = [f"{_count(n)} {state}" for n, state in ((trainable, "train"), (frozen, "frozen")) if n]
    if not lora:
        ax.text(
            centre,
            3.1,
            "\n".join(wrap(line, 7) if box == "FC" else line for line in lines),
            ha="center",
            va="center",
            fontsize=8,
            linespacing=1.5,  # lines of Noto Sans SC touch at the default
        )
        return
    ax.text(centre, 3.52, f"{_count(frozen)} frozen", ha="center", va="center", fontsize=8)
    style["boxstyle"] = "round,pad=0,rounding_size=0.1"
    ax.add_patch(FancyBboxPatch((left + 0.12, 2.52), width - 0.24, 0.68, facecolor=TRAINABLE, **style))
    ax.text(centre, 2.86, f"LoRA {_count(trainable)}", ha="center", va="center", fontsize=8)


def parameter_table(stages: Sequence[Stage]) -> Figure:
    """Trainable and frozen counts of every part in every stage, coloured like `stage_diagram`.

    Raises ValueError where stages do not list the same parts in the same order.
    """
    use_cjk_font()
    parts = [row[0] for row in stages[0].parameters]
    for stage in stages:
        found = [row[0] for row in stage.parameters]
        if found != parts:
            raise ValueError(f"stage {stage.title!r} lists {found}; {stages[0].title!r} lists {parts}")
    cells = [[_state(*stage.parameters[i][1:]) for stage in stages] for i in range(len(parts))]
    colours = [
        [TRAINABLE if stage.parameters[i][1] else FROZEN for stage in stages] for i in range(len(parts))
    ]
    sums = [
        (sum(row[1] for row in stage.parameters), sum(row[2] for row in stage.parameters)) for stage in stages
    ]
    cells.append([_state(*total) for total in sums])
    colours.append(["white"] * len(stages))
    size = (1.9 + 2.15 * len(stages), 0.34 * (len(parts) + 2) + 0.1)
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    ax.set_axis_off()
    table = ax.table(cells, colours, "center", [1 / len(stages)] * len(stages), [*parts, "all"],
                     colLabels=[stage.title for stage in stages], bbox=(0, 0, 1, 1))  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    for cell in table.get_celld().values():
        cell.set_edgecolor("white")
        cell.set_linewidth(2)
    return figure


def box_of(part: str) -> str | None:
    """The box a part belongs to, by its first word: ViT, Q-Former, FC, LLM, or None for another."""
    return BOXES.get(part.lower().replace(".", " ").split()[0])


def _state(trainable: int, frozen: int) -> str:
    parts = [f"{_count(n)} {state}" for n, state in ((trainable, "train"), (frozen, "frozen")) if n]
    return ", ".join(parts) or "none"


def _count(number: int) -> str:
    """1234 -> 1.23 k: three figures are enough to compare parts by."""
    for unit, name in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return str(number)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 0,
                                            "shrinkB": 0})  # fmt: skip
