"""Tables 1 to 4 of the Ziya-Visual paper, drawn from the data cards, for notebooks and the report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from zvl import results
from zvl.arithmetic import SAMPLES, check_arithmetic, finding_rows
from zvl.cards import Card, places, read_cards

Row = dict[str, str]

CAPTIONS = {
    1: "Table 1: pre-training data",
    2: "Table 2: first tuning stage (multi-task representation learning)",
    3: "Table 3: second tuning stage (scene-aware knowledge learning)",
    4: "Table 4: evaluation benchmarks",
}


def table_1(cards: Mapping[str, Card]) -> list[Row]:
    """Pre-training data; numbers as printed."""
    return [
        {
            "Language": row.language,
            "Dataset": row.dataset,
            "Original": row.original,
            "Cleaned": row.cleaned,
            "Remaining %": row.remaining,
        }
        for _, row in places(cards, 1)
    ]


def table_2(cards: Mapping[str, Card]) -> list[Row]:
    """Data sets of the first tuning stage by task, sizes as printed."""
    return [
        {
            "Task": task,
            "# Samples": samples,
            "Dataset": ", ".join(row.dataset for _, row in places(cards, 2) if row.task == task),
        }
        for task, samples in SAMPLES.items()
    ]


def table_3(cards: Mapping[str, Card]) -> list[Row]:
    """Data of the second tuning stage, sizes as printed."""
    return [
        {"Dataset": row.dataset, "Data Description": description, "# Samples": samples}
        for _, row in places(cards, 3)
        for description, samples in row.samples.items()
    ]


def table_4(cards: Mapping[str, Card]) -> list[Row]:
    """Evaluation benchmarks."""
    return [
        {
            "Task": row.task,
            "Dataset": row.dataset,
            "Description": row.description,
            "Split": row.split,
            "Metric": row.metric,
        }
        for _, row in places(cards, 4)
    ]


TABLES = {1: table_1, 2: table_2, 3: table_3, 4: table_4}


def trained_and_tested(cards: Mapping[str, Card]) -> list[Row]:
    """Data sets that Table 4 evaluates on and Tables 1 to 3 train on, by their own names.

    What one set contains of another (M3IT holds ScienceQA's test rows) is told by the cards' prose, not here.
    """
    found = []
    for card, row in places(cards, 4):
        if trained := sorted({other.table for other in card.printed if other.table != 4}):
            tables = ", ".join(f"Table {number}" for number in trained)
            found.append({"Dataset": card.name, "Evaluated": f"Table 4, {row.split}", "Trained": tables})
    return found


def as_lists(rows: Sequence[Row]) -> list[list[str]]:
    """Header first, as zvl.results writes tables. Raises ValueError without rows or where their columns differ."""
    if not rows or any(list(row) != list(rows[0]) for row in rows):
        raise ValueError("a table needs rows, all with the same columns")
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def report_blocks(cards: Mapping[str, Card]) -> list[tuple]:
    """Blocks ("h2" or "p", text) and ("table", lists) for the report of a run: four tables and the check."""
    blocks: list[tuple] = [
        ("h2", "The paper's data"),
        ("p", "Numbers of the paper as printed, from data_cards/; nothing here was measured by this run."),
    ]
    for number, table in TABLES.items():
        blocks += [("p", CAPTIONS[number]), ("table", as_lists(table(cards)))]
    blocks += [
        ("p", "Where one printed number should follow from others; intervals undo the rounding."),
        ("table", as_lists(finding_rows(check_arithmetic(cards)))),
        ("p", "Evaluated in Table 4 and trained on under the same name:"),
        ("table", as_lists(trained_and_tested(cards))),
    ]
    return blocks


def report(run_dir: str | Path) -> tuple[Path, Path]:
    """`results.report` of a run with the paper's tables, where it runs beside the repository's cards."""
    cards = results.repository() / "data_cards"
    return results.report(run_dir, report_blocks(read_cards(cards)) if cards.is_dir() else ())


def tables_markdown(cards: Mapping[str, Card]) -> str:
    """The same as Markdown, for a file or a notebook."""
    shown = {"h2": lambda text: f"## {text}", "p": str, "table": results.markdown_table}
    return "\n\n".join(shown[kind](content) for kind, content in report_blocks(cards)) + "\n"
