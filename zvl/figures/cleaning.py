"""Figures of the cleaning: scores of matched and mismatched pairs, and pictures that were kept and dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from PIL import Image

from zvl.data.drawing import chinese_font
from zvl.data.limits import DEFAULT
from zvl.data.picture_rules import open_picture
from zvl.figures.style import GREEN, GREY, INK, PALETTE, RED, bare, quiet, use_cjk_font, wrap

SHOWN = 90  # characters of a caption


def score_histograms(
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    limits: Mapping[str, float] | None = None,
    bins: int = 40,
) -> Figure:
    """One panel a data set (or language): how the CLIP scores of each kind of pair spread, and where they are cut.

    scores: panel -> kind, such as "matched" or "another scene's" -> scores. limits: panel -> lowest score kept. Each
    histogram has area 1, for there are far fewer bad pairs. Raises ValueError for a kind without scores.
    """
    use_cjk_font()
    figure, axes = plt.subplots(
        1, len(scores), figsize=(3.9 * len(scores), 2.9), layout="constrained", squeeze=False, sharex=True
    )
    every = [float(v) for kinds in scores.values() for values in kinds.values() for v in values]
    for ax, (panel, kinds) in zip(axes[0], scores.items(), strict=True):
        for number, (kind, values) in enumerate(kinds.items()):
            if not len(values):
                raise ValueError(f"score_histograms: {panel!r} has no scores of {kind!r}")
            edges = np.linspace(min(every), max(max(every), min(every) + 1e-6), bins + 1)
            colour = PALETTE[number % len(PALETTE)]
            label = f"{_plain(kind)} ({len(values):,})"
            ax.hist(values, edges, density=True, color=colour, alpha=0.55, label=label)
        if limits and panel in limits:
            ax.axvline(
                limits[panel], color=RED, linestyle="--", linewidth=1.2, label=f"limit {limits[panel]:.2f}"
            )
        ax.set_title(_plain(panel), fontsize=10, parse_math=False)
        ax.set_xlabel("CLIP score", fontsize=9)
        ax.set_yticks([])
        for text in ax.legend(fontsize=8, frameon=False).get_texts():
            text.set_parse_math(False)
        quiet(ax)
    axes[0, 0].set_ylabel("share of pairs", fontsize=9)
    return figure


def kept_and_dropped(rows: Sequence[Mapping], columns: int = 4) -> Figure:
    """Pictures with their captions as they were read; below, in green "kept" or in red the rules and reasons.

    rows: with image, caption, faults, reasons, and `original` where there is one. Captions are shown as plain text:
    nothing in them is taken for mathematics, and what the fonts lack becomes a box. A picture that cannot be read is
    grey.
    """
    use_cjk_font()
    columns = max(1, min(columns, len(rows)))
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(
        max(lines, 1),
        columns,
        figsize=(2.4 * columns, 3.2 * max(lines, 1)),
        layout="constrained",
        squeeze=False,
    )
    for ax in axes.flat:
        bare(ax)
        ax.set_visible(False)
    for ax, row in zip(axes.flat, rows, strict=False):
        ax.set_visible(True)
        ax.imshow(_thumbnail(row["image"]))
        ax.set_anchor("N")
        told = zip(row["faults"], row["reasons"], strict=True)
        verdict = "; ".join(f"{fault}: {reason}" for fault, reason in told) or "kept"
        ax.set_title(
            _short(verdict, 34), fontsize=7.5, color=RED if row["faults"] else GREEN, parse_math=False
        )
        caption = row.get("original", row["caption"])
        changed = caption != row["caption"]
        text = _short(caption, 34) + (
            f"\n→ {_short(row['caption'], 32)}" if changed and not row["faults"] else ""
        )
        ax.set_xlabel(text, fontsize=7.5, loc="left", color=INK, linespacing=1.2, parse_math=False)
    return figure


def _thumbnail(path: str) -> Image.Image:
    try:
        with open(path, "rb") as file, open_picture(file.read()) as image:
            if image.width * image.height <= DEFAULT.pixels:
                small = image.convert("RGB")
                small.thumbnail((192, 192))
                return small
    except Exception:  # a decoder of strangers' files raises nearly anything; a grey panel says enough
        pass
    return Image.new("RGB", (96, 96), GREY)


def _short(text: str, width: int) -> str:
    text = _plain(text)
    return wrap(text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…", width)


def _plain(text: str) -> str:
    """One line that the fonts can draw."""
    return "".join(c if ord(c) in _glyphs() else "▯" for c in " ".join(str(text).split()))


@cache
def _glyphs() -> frozenset[int]:
    fonts = (str(chinese_font()), font_manager.findfont("DejaVu Sans"))
    return frozenset(code for font in fonts for code in FT2Font(font).get_charmap())
