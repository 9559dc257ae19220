"""A table as a figure, for notebooks that show it beside pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from zvl.figures.style import BLUE, INK, RED, columns_of, use_cjk_font, wrap

WIDEST = 46  # columns of a cell before its text is broken
COLUMN, LINE = 0.082, 0.175  # inches of a column of text and of a line, at the font size below
FONT = 8.5


def table_figure(
    rows: Sequence[Mapping[str, str]], title: str, caption: str = "", red: Sequence[str] = ()
) -> Figure:
    """Rows with the same keys as a table: keys are the header, a first cell that repeats is left out.

    caption: a sentence below it that says the conclusion. red: cells with one of these texts are drawn in red, such
    as "does not add up". Raises ValueError without rows or where their columns differ.
    """
    if not rows or any(list(row) != list(rows[0]) for row in rows):
        raise ValueError("a table needs rows, all with the same columns")
    use_cjk_font()
    header = list(rows[0])
    cells = [[wrap(str(cell), WIDEST) for cell in row.values()] for row in rows]
    marked = [[str(cell) in red for cell in row.values()] for row in rows]
    for above, row in zip(list(rows), cells[1:], strict=False):
        row[0] = "" if row[0] == wrap(str(above[header[0]]), WIDEST) else row[0]
    lines = [1, *(max(cell.count("\n") + 1 for cell in row) for row in cells)]
    widths = [
        2 + max(columns_of(line) for row in [header, *cells] for line in row[i].split("\n"))
        for i in range(len(header))
    ]
    width, height = COLUMN * sum(widths), LINE * sum(count + 0.55 for count in lines)
    figure, ax = plt.subplots(
        figsize=(width + 0.2, height + 0.45 + 0.3 * bool(caption)), layout="constrained"
    )
    ax.set_axis_off()
    ax.set_title(title, fontsize=10, loc="left", color=INK)
    table = ax.table(cells, colLabels=header, cellLoc="left", colLoc="left",
                     colWidths=[part / sum(widths) for part in widths], bbox=(0, 0, 1, 1))  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(FONT)
    for (number, column), cell in table.get_celld().items():
        cell.set_height((lines[number] + 0.55) / sum(count + 0.55 for count in lines))
        cell.visible_edges = "B" if number else "TB"
        cell.set_edgecolor("#D5D8DC" if number else BLUE)
        cell.PAD = 1.0 / widths[column]
        if number == 0:
            cell.get_text().set_color(BLUE)
        elif marked[number - 1][column]:
            cell.get_text().set_color(RED)
    if caption:
        figure.supxlabel(caption, fontsize=8.5, color=INK)
    return figure
