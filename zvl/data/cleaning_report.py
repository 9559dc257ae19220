"""What cleaning kept and dropped, like the paper's Table 1: by language, data set and rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from zvl.data.samples import LANGUAGES

NAMES = {"en": "English", "zh": "Chinese"}


def report(rows: Iterable[Mapping]) -> dict[str, dict[str, dict]]:
    """Language -> data set -> `original` and `cleaned` pairs, `remaining` percent, `rules` and `changes`.

    rows: kept ones and those in quarantine, with language, source, faults, changes. rules: rows that each rule dropped;
    a row can break several, so they may sum to more than was dropped. changes: kept rows of which something was
    cleaned.
    """
    totals: dict[tuple[str, str], list[Counter]] = {}
    for row in rows:
        counts, rules, changes = totals.setdefault(
            (row["language"], row["source"]), [Counter(), Counter(), Counter()]
        )
        counts["original"] += 1
        counts["cleaned"] += not row["faults"]
        rules.update(set(row["faults"]))
        if not row["faults"]:
            changes.update(row.get("changes") or ())
    table: dict[str, dict[str, dict]] = {}
    order = {language: number for number, language in enumerate(LANGUAGES)}
    for language, source in sorted(totals, key=lambda key: (order.get(key[0], len(order)), key)):
        counts, rules, changes = totals[language, source]
        table.setdefault(language, {})[source] = {
            "original": counts["original"],
            "cleaned": counts["cleaned"],
            "remaining": round(100 * counts["cleaned"] / counts["original"], 1),
            "rules": _by_number(rules),
            "changes": _by_number(changes),
        }
    return table


def markdown(table: Mapping[str, Mapping[str, Mapping]]) -> str:
    """The report as two tables: Table 1's columns, then what each rule dropped."""
    sets = [(language, source, told) for language, group in table.items() for source, told in group.items()]
    names = sorted({rule for _, _, told in sets for rule in told["rules"]})
    lines = ["| Language | Dataset | Original | Cleaned | Remaining % |", "|---|---|---|---|---|"]
    lines += [
        f"| {NAMES.get(language, _plain(language))} | {_plain(source)} | {told['original']:,} | {told['cleaned']:,} "
        f"| {told['remaining']:g} % |"
        for language, source, told in sets
    ]
    if names:
        heads = [f"{_plain(source)} ({_plain(language)})" for language, source, _ in sets]
        lines += ["", "Dropped by each rule; a pair can break several.", ""]
        lines += ["| Rule | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
        lines += [
            f"| {_plain(name)} | "
            + " | ".join(f"{told['rules'].get(name, 0):,}" for _, _, told in sets)
            + " |"
            for name in names
        ]
    return "\n".join(lines) + "\n"


def _by_number(counts: Counter) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _plain(text: str) -> str:
    """A name of strangers as one cell: no column, line or markup of its own."""
    for sign in "&<>\\|*`[]":  # "&" first, for it stands in what replaces the others
        text = text.replace(sign, f"\\{sign}" if sign not in "<>&" else f"&#{ord(sign)};")
    return " ".join(text.split())
