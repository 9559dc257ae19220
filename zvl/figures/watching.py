"""One figure for all that was watched during a pre-training of the Q-Former."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zvl.figures.charts import ITM_PRIOR
from zvl.figures.style import GREY, PALETTE, RED, quiet, use_cjk_font

LANGUAGE_NAMES = {"en": "English", "zh": "Chinese"}

# panel -> key of the history -> its label and line style
PANELS: dict[str, dict[str, tuple[str, str]]] = {
    "losses": {"itc": ("ITC", "-"), "itm": ("ITM", "-"), "itg": ("ITG", "-")},
    "held-out retrieval": {
        f"eval/{language}/{key}": (f"{name}, {asks}", style)
        for language, name in LANGUAGE_NAMES.items()
        for key, asks, style in (("tr1", "TR@1", "-"), ("ir1", "IR@1", ":"))
    },
    "ITM accuracy": {
        "itm_accuracy": ("in the batch (ratio alone: 0.67)", "-"),
        "eval/en/itm": ("held out, English", "-"),
        "eval/zh/itm": ("held out, Chinese", "-"),
    },
    "temperature": {"temperature": ("temperature", "-")},
    "gradient norm": {"gradient_norm": ("before clipping", "-")},
    "similarity of queries": {
        "query_similarity": ("of one picture", "-"),
        "image_similarity": ("of one query, two pictures", "-"),
    },
}


def watching(history: Sequence[Mapping[str, float]], chance: float = 0.01) -> Figure:
    """Six panels over the steps: losses, retrieval, matching, temperature, gradient, and whether queries collapse.

    history: rows of the training loop; a panel that no row has anything for says so. chance: recall at one of a model
    that guesses among the held-out pictures. Steps at which ITM's alarm rang are shaded, and so are those at which
    the temperature was held at an end of its range. Raises ValueError where no panel has anything to show.
    """
    use_cjk_font()
    keys = {key for row in history for key in row}
    if not keys & {key for lines in PANELS.values() for key in lines}:
        raise ValueError(f"watching: no row of the history has anything to show; rows have {sorted(keys)}")
    figure, axes = plt.subplots(2, 3, figsize=(10.2, 5.2), layout="constrained", sharex=True)
    panels = dict(zip(PANELS, axes.flat, strict=True))
    for title, ax in panels.items():
        _draw(ax, history, PANELS[title])
        ax.set_title(title, fontsize=10)
    for ax in axes[1]:
        ax.set_xlabel("step", fontsize=9)
    for title in ("losses", "temperature", "gradient norm"):
        panels[title].set_ylim(bottom=0)
    for title in ("held-out retrieval", "ITM accuracy"):
        panels[title].set_ylim(0, 1.03)
    panels["similarity of queries"].set_ylim(min(0.0, panels["similarity of queries"].get_ylim()[0]), 1.03)

    _level(panels["losses"], ITM_PRIOR, f"ITM's prior ({ITM_PRIOR:.4f})")
    _level(panels["held-out retrieval"], chance, f"chance ({chance:g})")
    _level(panels["ITM accuracy"], 0.5, "chance, held out (0.5)")
    _level(panels["similarity of queries"], 1.0, "collapsed (1)")
    _shade(panels["ITM accuracy"], history, "itm_alarm", "the alarm rings")
    _shade(panels["temperature"], history, "temperature_clamped", "held at its limit")
    for ax in panels.values():
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=7, frameon=False)
        quiet(ax)
    return figure


def _draw(ax: Axes, history: Sequence[Mapping[str, float]], lines: Mapping[str, tuple[str, str]]) -> None:
    colours: dict[str, str] = {}
    for key, (label, style) in lines.items():
        points = [(row["step"], row[key]) for row in history if key in row]
        if not points:
            continue
        # One colour a language.
        group = key.rpartition("/")[0] if style == ":" or key.endswith("tr1") else key
        colour = colours.setdefault(group, PALETTE[len(colours) % len(PALETTE)])
        marker = "o" if key.startswith("eval/") else None
        ax.plot(
            *zip(*points, strict=True), color=colour, linestyle=style, marker=marker, markersize=3,
            linewidth=1.5, label=label,
        )  # fmt: skip
    if not colours:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color=GREY, fontsize=9)


def _level(ax: Axes, height: float, label: str) -> None:
    if ax.lines:
        ax.axhline(height, color=RED, linestyle="--", linewidth=1, label=label)


def _shade(ax: Axes, history: Sequence[Mapping[str, float]], key: str, label: str) -> None:
    before = 0
    for row in history:
        if row.get(key):
            ax.axvspan(before, row["step"], color=RED, alpha=0.15, linewidth=0, label=label)
            label = "_" + label.lstrip("_")  # once in the legend
        before = row["step"]
