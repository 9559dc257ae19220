"""What all figures share: the Chinese font, colours, and how a text is wrapped."""

from __future__ import annotations

import re
from functools import cache
from unicodedata import east_asian_width

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes

from zvl.data.drawing import chinese_font

BLUE, ORANGE, GREEN, RED, GREY, INK = "#0072B2", "#E69F00", "#009E73", "#C44E00", "#6B7076", "#202124"
PALETTE = (
    BLUE,
    ORANGE,
    GREEN,
    "#CC79A7",
    "#56B4E9",
    RED,
)  # Okabe and Ito's, told apart by colour-blind readers
GREYS = ("#C7CACE", "#A3A8AE", "#7F858C", "#5F656C")
WIDE = r"\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\uffe0-\uffe6"  # two columns each
CLOSING = "，。！？、；：）」』》”’"  # never at the start of a line


@cache
def use_cjk_font() -> str:
    """Let matplotlib draw Chinese with Noto Sans SC from the zhplot wheel; returns the font's name.

    Raises ModuleNotFoundError where zhplot is missing.
    """
    path = chinese_font()
    font_manager.fontManager.addfont(path)
    name = font_manager.FontProperties(fname=path).get_name()
    # Noto Sans SC lacks some signs, such as check marks; those glyphs come from DejaVu, one by one.
    plt.rcParams["font.family"] = [name, "DejaVu Sans"]
    return name


def array(values) -> np.ndarray:
    """A numpy array of a tensor on any device and of any type, or of what numpy takes."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def columns_of(text: str) -> int:
    """Width of a text in columns; a Chinese character takes two."""
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


def wrap(text: str, width: int) -> str:
    """Break a text at `width` columns: between words, and after any Chinese character."""
    lines = [""]
    for piece in re.findall(rf"\s+|[{WIDE}][{CLOSING}]*|[^\s{WIDE}]+[{CLOSING}]*", text):
        if lines[-1] and columns_of(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece if lines[-1] else piece.lstrip()
    return "\n".join(line.rstrip() for line in lines)


def bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def quiet(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#E8EAED", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8)
