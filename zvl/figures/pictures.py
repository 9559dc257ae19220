"""Figures with pictures in them: scenes, what queries look at, and cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from zvl.figures.style import GREEN, GREY, INK, PALETTE, RED, array, bare, use_cjk_font, wrap


def show_scenes(
    images: Sequence,
    boxes: Sequence[Sequence[tuple[float, float, float, float]]] | None = None,
    captions: Sequence[str | Sequence[str]] | None = None,
    labels: Sequence[Sequence[str]] | None = None,
    columns: int = 4,
) -> Figure:
    """Pictures in a grid, with boxes drawn on them and captions below, one line for each language.

    images: paths, PIL images or arrays. boxes: for each image, (x, y, width, height) in pixels. labels: a
    word for each box. captions: for each image a text, or several (English and Chinese). Raises ValueError
    for unequal numbers.
    """
    use_cjk_font()
    for name, given in (("boxes", boxes), ("captions", captions), ("labels", labels)):
        if given is not None and len(given) != len(images):
            raise ValueError(f"show_scenes: {len(images)} images but {len(given)} {name}; one each is needed")
    columns = min(columns, len(images))
    texts = ["" if captions is None else _lines(captions[i], 34) for i in range(len(images))]
    counts = [text.count("\n") + 1 if text else 0 for text in texts]
    heights = [2.3 + 0.17 * max(counts[row : row + columns]) for row in range(0, len(images), columns)]
    figure, axes = _grid(len(images), columns, 2.3, heights)
    for i, ax in enumerate(axes):
        ax.imshow(_image(images[i]))
        for j, (x, y, width, box_height) in enumerate(boxes[i] if boxes is not None else ()):
            colour = PALETTE[j % len(PALETTE)]
            ax.add_patch(Rectangle((x, y), width, box_height, fill=False, edgecolor=colour, linewidth=2))
            if labels is not None:
                style = {"boxstyle": "square,pad=0.15", "facecolor": colour, "edgecolor": "none"}
                ax.text(x, y, labels[i][j], color="white", fontsize=7, va="bottom", bbox=style)
        ax.set_xlabel(texts[i], fontsize=8, loc="left", linespacing=1.2)
        ax.set_anchor("N")
    return figure


def attention_overlay(image, attention: Mapping[str, object] | object, columns: int = 4) -> Figure:
    """Where queries look: their attention laid over the image, one panel a map and the bare image first.

    image: a path, PIL image or array. attention: title -> weights over patches, or an array (queries,
    patches). The number of patches is a square, or a square and one: a class token stands first then, and
    is left out, and the panel says which share of the weight it did not take. Each panel has its own scale.
    Raises ValueError for weights of another shape.
    """
    use_cjk_font()
    picture = _image(image)
    if not isinstance(attention, Mapping):
        attention = {f"query {i}": weights for i, weights in enumerate(array(attention))}
    columns = min(columns, len(attention) + 1)
    figure, axes = _grid(len(attention) + 1, columns, 2.1, [2.45] * -(-(len(attention) + 1) // columns))
    axes[0].imshow(picture)
    axes[0].set_title("image", fontsize=9)
    height, width = np.asarray(picture).shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    grey = np.asarray(picture.convert("L"))  # the colours belong to the attention
    for ax, (title, weights) in zip(axes[1:], attention.items(), strict=True):
        weights = array(weights).astype(float)
        side = math.isqrt(weights.size)
        patches = weights.reshape(-1)[weights.size - side * side :]
        if weights.size - side * side > 1 or weights.ndim != 1:
            raise ValueError(
                f"attention {title!r} has shape {weights.shape}; needed: a vector of n*n or n*n + 1"
            )
        ax.imshow(grey, cmap="gray", extent=extent)
        ax.imshow(
            patches.reshape(side, side),
            cmap="inferno",
            alpha=0.62,
            interpolation="bilinear",
            extent=extent,
            vmin=0,
        )
        ax.set_title(wrap(title, 26), fontsize=9)
        if weights.size > patches.size:
            ax.set_xlabel(f"{patches.sum() / max(weights.sum(), 1e-12):.0%} on patches", fontsize=8)
    return figure


@dataclass(frozen=True)
class Exchange:
    """A question, its accepted answer, and what each model said: name -> (answer, whether it is right)."""

    question: str
    reference: str
    answers: Mapping[str, tuple[str, bool]]


@dataclass(frozen=True)
class Case:
    """A picture (path, PIL image or array) with the questions asked about it, in any languages."""

    image: object
    exchanges: tuple[Exchange, ...]


def case_gallery(cases: Sequence[Case], columns: int = 2) -> Figure:
    """Pictures with questions and the models' answers, right and wrong ones marked (paper Figures 4 to 7).

    Right answers are green with a check mark, wrong ones red with a cross; the accepted answer stands in
    grey.
    """
    use_cjk_font()
    columns = min(columns, len(cases))
    texts = [[line for exchange in case.exchanges for line in _exchange_lines(exchange)] for case in cases]
    heights = [
        max(1.75, 0.1 + 0.2 * max(len(text) for text in texts[row : row + columns]))
        for row in range(0, len(cases), columns)
    ]
    figure = plt.figure(figsize=(5.2 * columns, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(
        len(heights), 2 * columns, width_ratios=[1.6, 3.4] * columns, height_ratios=heights
    )
    for i, (case, lines) in enumerate(zip(cases, texts, strict=True)):
        row, column = divmod(i, columns)
        ax = figure.add_subplot(grid[row, 2 * column])
        ax.imshow(_image(case.image))
        ax.set_anchor("NW")
        bare(ax)
        ax = figure.add_subplot(grid[row, 2 * column + 1])
        ax.set_axis_off()
        for number, (text, colour) in enumerate(lines):
            y = 1 - (0.2 * number + 0.02) / heights[row]
            ax.text(0, y, text, color=colour, fontsize=9, va="top", transform=ax.transAxes)
    return figure


def _image(image) -> Image.Image:
    if isinstance(image, str | Path):
        with Image.open(image) as opened:
            return opened.convert("RGB")
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    pixels = array(image)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ValueError(
            f"image of shape {pixels.shape}; needed: a path, a PIL image, or an array (height, width[, 3])"
        )
    return Image.fromarray(pixels if pixels.dtype == np.uint8 else (pixels.clip(0, 1) * 255).astype(np.uint8))


def _lines(caption: str | Sequence[str], width: int) -> str:
    return "\n".join(wrap(text, width) for text in ([caption] if isinstance(caption, str) else caption))


def _exchange_lines(exchange: Exchange) -> list[tuple[str, str]]:
    """Text and colour of each line of an exchange in the gallery; a blank line ends it."""
    lines = [(line, INK) for line in wrap(exchange.question, 46).split("\n")]
    lines += [(line, GREY) for line in wrap(f"({exchange.reference})", 46).split("\n")]
    for model, (answer, right) in exchange.answers.items():
        said = wrap(f"{'✓' if right else '✗'} {model}: {answer or '(nothing)'}", 46)
        lines += [(line, GREEN if right else RED) for line in said.split("\n")]
    return [*lines, ("", INK)]


def _grid(count: int, columns: int, width: float, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Bare axes for `count` panels; heights: inches of each row."""
    figure, axes = plt.subplots(
        len(heights), columns, figsize=(width * columns, sum(heights)), layout="constrained", squeeze=False
    )
    for ax in axes.flat:
        bare(ax)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return figure, list(axes.flat[:count])
