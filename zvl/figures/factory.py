"""Figures of the data factory: its way from symbols to kept rows with counts, and what the kept rows consist of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from zvl.figures.style import BLUE, GREY, INK, PALETTE, RED, quiet, use_cjk_font

KINDS = {  # in the order of the figure
    "conversation": "对话", "detail": "细节描述", "reasoning": "复杂推理", "deepening": "加深",
    "concretizing": "具体化", "increasing_reasoning": "增加推理", "adding_constraints": "增加约束",
    "translation": "翻译",
}  # fmt: skip
_STEPS = {
    "generated": "teacher writes\n生成",
    "rewritten": "four rewritings\n改写",
    "translated": "translation\n翻译",
}


def factory_diagram(pictures: int, made: Mapping[str, int], kept: Mapping[str, int]) -> Figure:
    """The paper's Figure 1 with the counts of a run: what each step made and what the detector kept of it.

    made, kept: rows by step ("generated", "rewritten", "translated"). Raises ValueError where a step is missing or
    keeps more than it made.
    """
    if set(made) != set(_STEPS) or set(kept) != set(_STEPS) or any(kept[s] > made[s] for s in _STEPS):
        raise ValueError(f"steps are {list(_STEPS)}; made {dict(made)}, kept {dict(kept)}")
    use_cjk_font()
    figure, ax = plt.subplots(figsize=(10, 3.5), layout="constrained")
    ax.set_axis_off()
    ax.set_xlim(0, 20)
    ax.set_ylim(0, 7)
    _box(ax, 0.1, 2.5, 3.4, 2, f"{pictures:,} pictures\ncaptions and boxes\n图片的描述与物体框", "#F1F3F4")
    _box(ax, 4.6, 2.5, 3.2, 2, "symbols\nin two languages\n符号（中英文）", "#F1F3F4")
    _arrow(ax, (3.5, 3.5), (4.6, 3.5))
    _box(ax, 16.4, 2.5, 3.4, 2, f"BMMIC (nano)\n{sum(kept.values()):,} rows kept\n保留", "#F6C667")
    lost = sum(made.values()) - sum(kept.values())
    ax.text(
        18.1,
        1.6,
        f"{lost:,} put aside with reasons\n淘汰并注明原因",
        ha="center",
        va="top",
        fontsize=8,
        color=RED,
    )
    for row, step in enumerate(_STEPS):
        y = 5.0 - 2.3 * row
        _box(ax, 8.9, y, 3.1, 1.6, _STEPS[step], "#BFD9EA")
        _box(ax, 12.9, y, 2.5, 1.6, "detector\n规则检测", "#E3D5EC")
        ax.text(12.45, y + 1.0, f"{made[step]:,}", ha="center", fontsize=8)
        _arrow(ax, (12.0, y + 0.8), (12.9, y + 0.8))
        _arrow(ax, (15.4, y + 0.8), (16.4, 3.5))
        ax.text(15.6, y + 1.25, f"{kept[step]:,}", ha="left", fontsize=8)
    _arrow(ax, (7.8, 3.5), (8.9, 5.8))
    ax.plot([14.1, 14.1, 8.4, 8.4], [5.0, 4.6, 4.6, 1.2], color=GREY, linestyle="--", linewidth=1.1)
    ax.text(11.2, 4.66, "clean rows 通过检测的样本", ha="center", va="bottom", fontsize=7.5, color=GREY)
    for y in (3.5, 1.2):
        _arrow(ax, (8.4, y), (8.9, y))
    return figure


def dataset_statistics(found: Mapping[str, Counter], rejected: Counter) -> Figure:
    """Kinds and languages, turns, lengths, the commonest verbs and nouns of each language, and why rows were put aside.

    found: from `zvl.data.statistics.statistics`. rejected: from `zvl.data.factory.rejections`.
    """
    use_cjk_font()
    figure, axes = plt.subplots(2, 4, figsize=(11.5, 5.6), layout="constrained")
    kinds = [kind for kind in KINDS if any(key[0] == kind for key in found["kind"])]
    for number, language in enumerate(("en", "zh")):
        values = [found["kind"][kind, language] for kind in kinds]
        before = [found["kind"][kind, "en"] if number else 0 for kind in kinds]
        label = {"en": "English", "zh": "中文"}[language]
        axes[0, 0].barh(range(len(kinds)), values, left=before, color=PALETTE[number], label=label)
        lengths = found.get(f"words/{language}", Counter())
        top = max(lengths, default=1)
        bins = np.arange(0, top + 6, 5)
        axes[0, 1].hist(list(lengths), bins, weights=list(lengths.values()), color=PALETTE[number], alpha=0.6,
                        label={"en": "English, words", "zh": "中文，字"}[language])  # fmt: skip
        for column, part in ((2, "verbs"), (3, "nouns")):
            ax = axes[number, column]
            _ranked(ax, found.get(f"{part}/{language}", Counter()).most_common(12), PALETTE[number])
            ax.set_title(f"{part}, {label}", fontsize=10)
    axes[0, 0].set_yticks(range(len(kinds)), [f"{kind} {KINDS[kind]}" for kind in kinds], fontsize=8)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_title("kinds", fontsize=10)
    axes[0, 1].set_title("length of a response", fontsize=10)
    for ax in axes[0, :2]:
        ax.legend(fontsize=8, frameon=False)
    turns = sorted(found["turns"].items())
    axes[1, 0].bar([str(n) for n, _ in turns], [count for _, count in turns], color=BLUE)
    axes[1, 0].set_title("turns of a dialogue", fontsize=10)
    _ranked(axes[1, 1], rejected.most_common(12), RED)
    axes[1, 1].set_title("why rows were put aside", fontsize=10)
    for ax in axes.flat:
        quiet(ax)
    return figure


def _ranked(ax: Axes, items: list[tuple[str, int]], colour: str) -> None:
    ax.barh(range(len(items)), [count for _, count in items], color=colour)
    ax.set_yticks(range(len(items)), [name for name, _ in items], fontsize=8)
    ax.invert_yaxis()


def _box(ax: Axes, left: float, bottom: float, width: float, height: float, text: str, colour: str) -> None:
    ax.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.2",
                                facecolor=colour, edgecolor=INK, linewidth=1))  # fmt: skip
    ax.text(
        left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=8.5, linespacing=1.4
    )


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.1})
