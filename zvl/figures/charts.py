"""Figures in numbers: loss curves, and bars with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from zvl.evaluation.bootstrap import Interval
from zvl.figures.style import GREYS, INK, PALETTE, RED, quiet, use_cjk_font

ITM_PRIOR = math.log(3) - 2 / 3 * math.log(2)  # 0.6365: entropy of one match among three pairs


def loss_curves(
    history: Sequence[Mapping[str, float]] | Mapping[str, Sequence[Mapping[str, float]]],
    keys: Sequence[str] = ("itc", "itm", "itg"),
    lines: Mapping[str, tuple[float, str]] | None = None,
    smooth: int = 1,
) -> Figure:
    """One panel for each loss over the steps.

    history: rows of the training loop with `step` and the losses, or several runs as name -> rows. lines:
    key -> (value, label) of a dashed line; where it is not given, `itm` has its prior, 0.6365: a head that
    stays there has learned only that one pair in three matches. smooth: points of the running mean, the raw
    curve stays in the background. Raises ValueError where no row has a key.
    """
    use_cjk_font()
    runs = history if isinstance(history, Mapping) else {"": history}
    lines = {"itm": (ITM_PRIOR, f"prior of 1:2 ({ITM_PRIOR:.4f})")} if lines is None else lines
    figure, axes = plt.subplots(
        1, len(keys), figsize=(3.4 * len(keys), 2.7), layout="constrained", squeeze=False, sharex=True
    )
    for ax, key in zip(axes[0], keys, strict=True):
        for number, (name, rows) in enumerate(runs.items()):
            points = [(row["step"], float(row[key])) for row in rows if key in row]
            if not points:
                raise ValueError(
                    f"loss_curves: no row of run {name!r} has {key!r}; rows have {sorted(rows[0])}"
                )
            steps, values = np.array(points).T
            colour = PALETTE[number % len(PALETTE)]
            if 1 < smooth <= len(values):
                ax.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
                steps = steps[(smooth - 1) // 2 :][
                    : len(values) - smooth + 1
                ]  # centred, so that a fall stays put
                values = np.convolve(values, np.full(smooth, 1 / smooth), mode="valid")
            ax.plot(steps, values, color=colour, linewidth=1.6, label=name or None)
        if key in lines:
            value, label = lines[key]
            ax.axhline(value, color=RED, linestyle="--", linewidth=1, label=label)
        ax.set_title(key.upper() if len(key) <= 3 else key.replace("_", " "), fontsize=10)
        ax.set_xlabel("step", fontsize=9)
        ax.set_ylim(bottom=0)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8, frameon=False)
        quiet(ax)
    axes[0, 0].set_ylabel("loss", fontsize=9)
    return figure


def bars_with_intervals(
    values: Mapping[str, Mapping[str, Interval | float]],
    ylabel: str = "accuracy",
    title: str = "",
    baselines: Sequence[str] = (),
    chance: float | None = None,
) -> Figure:
    """Bars with 95% intervals: a model beside its baselines, or before beside after, in each language.

    values: group (such as "English") -> bar name -> Interval or plain fraction. Every group has the same
    bars. baselines: names drawn in greys, so that the models stand out. chance: height of a dashed line.
    Raises ValueError where groups differ in their bars or a figure lies outside 0 to 1.
    """
    use_cjk_font()
    names = list(next(iter(values.values())))
    figure, ax = plt.subplots(
        figsize=(max(4.2, 0.62 * len(names) * len(values) + 2.2), 3.1), layout="constrained"
    )
    colours: dict[str, str] = {}
    for name in names:
        tones = GREYS if name in baselines else PALETTE
        colours[name] = tones[sum(colour in tones for colour in colours.values()) % len(tones)]
    width = 0.84 / len(names)
    for position, (group, bars) in enumerate(values.items()):
        if list(bars) != names:
            raise ValueError(f"group {group!r} has bars {list(bars)}; the first group has {names}")
        for number, name in enumerate(names):
            value = bars[name] if isinstance(bars[name], Interval) else Interval(*[float(bars[name])] * 3)
            if not 0 <= value.low <= value.high <= 1:
                raise ValueError(f"{group}, {name}: {value} is not a fraction from 0 to 1")
            x = position + (number - (len(names) - 1) / 2) * width
            label = name if position == 0 else None
            ax.bar(x, value.mean, width * 0.92, color=colours[name], label=label)
            if value.high > value.low:
                error = [[max(0.0, value.mean - value.low)], [max(0.0, value.high - value.mean)]]
                ax.errorbar(x, value.mean, error, color=INK, capsize=2.5, linewidth=1)
            ax.text(x, value.high + 0.015, f"{value.mean:.2f}", ha="center", fontsize=8)
    if chance is not None:
        ax.axhline(chance, color=RED, linestyle="--", linewidth=1, label=f"chance ({chance:g})")
    ax.set_xticks(range(len(values)), list(values))
    ax.set_ylim(0, 1.08)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.set_ylabel(ylabel, fontsize=9)
    ax.set_title(title, fontsize=10)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    quiet(ax)
    return figure
