"""Where a run's figures live: one results.json a notebook, one report a run.

A run folder holds for each notebook `<notebook>/results.json` (what it measured), `<notebook>/*.png` (its
figures) and `<notebook>/run.json` (what running it cost, written by zvl.run); for the whole run it holds
`report.md` and `report.html`.
"""

import base64
import dataclasses
import html
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "numpy", "pillow")
ATTRIBUTION = (
    "Emoji art in figures: OpenMoji (CC BY-SA 4.0) and Twemoji (CC BY 4.0); see the cards in data_cards/."
)


# The largest value of a figure that is no fraction, by the last part of its name: CIDEr's is 10, whatever papers print.
LARGEST = {"caption_cider": 10.0}


class UsageError(ValueError):
    """A parameter, preset or path that does not exist or does not fit; the message says which are allowed."""


def repository() -> Path:
    """The checkout this package runs from; for an installed package, one around the working folder."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here, Path.cwd(), *Path.cwd().parents):
        if (folder / "zvl").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return Path.cwd()


def run_folder(run_dir: str | Path) -> Path:
    """The absolute folder that `run_dir` means, wherever the notebook or command was started.

    Absolute paths stay. Relative ones start at the repository root, so that "runs/nano" is one place for
    Jupyter, papermill and nbval, whose working folders differ. The environment variable ZVL_RUNS (a folder)
    takes the place of "runs" at the front: `make test` uses it to give nbval, which injects no parameters, an
    empty run folder.
    """
    path = Path(run_dir)
    runs = os.environ.get("ZVL_RUNS")
    if runs and path.parts[:1] == ("runs",):
        path = Path(runs, *path.parts[1:])
    return repository() / path


def write_json(path: Path, content: Mapping) -> Path:
    """Write `content` so that a reader finds the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(
        json.dumps(content, indent=1, ensure_ascii=False, default=_plain) + "\n", encoding="utf-8"
    )
    os.replace(draft, path)
    return path


def _plain(value):
    """What json cannot write by itself: configurations, tensors and numpy scalars, paths."""
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


def versions() -> dict[str, str | None]:
    """Installed versions of Python and of the packages that can change a figure; None where one is absent."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_commit() -> str | None:
    """The commit of the checkout, None outside a git repository (or without git)."""
    command = ["git", "-C", str(repository()), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def record(
    run_dir: str | Path,
    notebook: str,
    metrics: Mapping[str, float],
    *,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    **context,
) -> Path:
    """Write what a notebook measured to <run_dir>/<notebook>/results.json, replacing what stood there.

    metrics: fractions from 0 to 1 by name, such as "pretraining/en/tr1_100"; the last part of a name becomes
    a column of the report, the first a table. Losses, counts and all that is no fraction go into `context`; CIDEr, up
    to 10, is the one exception.
    intervals: (low, high) of the 95% interval by the name of its metric.
    context: what it takes to measure again: preset=, seed=, config= and whatever else JSON holds.
    Raises ValueError that names the metric when it is no fraction, or has an interval but no value.
    """
    fractions = {name: float(value) for name, value in metrics.items()}
    for name, value in fractions.items():
        largest = LARGEST.get(name.split("/")[-1], 1)
        if not (math.isfinite(value) and 0 <= value <= largest):
            what = "a fraction from 0 to 1" if largest == 1 else f"a number from 0 to {largest:g}"
            raise ValueError(f"{notebook}: metric '{name}' is {value}, not {what}")
    bounds = {name: [float(low), float(high)] for name, (low, high) in (intervals or {}).items()}
    if stray := sorted(set(bounds) - set(fractions)):
        raise ValueError(f"{notebook}: intervals without a metric: {', '.join(stray)}")
    content = {
        "notebook": notebook,
        "metrics": fractions,
        "intervals": bounds,
        "context": context,
        "versions": versions(),
        "git_commit": git_commit(),
    }
    return write_json(run_folder(run_dir) / notebook / "results.json", content)


def read_all(run_dir: str | Path, file: str = "results.json") -> dict[str, dict]:
    """The contents of every <run_dir>/<notebook>/<file> by notebook, in the notebooks' order.

    Raises UsageError if there is no such folder, or one that names a file which is not JSON.
    """
    folder = run_folder(run_dir)
    if not folder.is_dir():
        raise UsageError(f"no run folder {folder}; `zvl run` makes one")
    found = {}
    for path in sorted(folder.glob(f"*/{file}")):
        try:
            found[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{path} is not JSON ({error}); delete it and run its notebook again") from error
    return found


def load_all(run_dir: str | Path) -> dict[str, float]:
    """All figures of a run in one flat dict: fractions by metric name, and cost/<notebook>/{seconds,peak_mb}.

    Raises UsageError if the folder does not exist, ValueError if two notebooks recorded one name.
    """
    figures, owner = {}, {}
    for notebook, content in read_all(run_dir).items():
        for name, value in content["metrics"].items():
            if name in owner:
                raise ValueError(f"metric '{name}' is recorded by both {owner[name]} and {notebook}")
            owner[name], figures[name] = notebook, value
    for notebook, content in read_all(run_dir, "run.json").items():
        figures[f"cost/{notebook}/seconds"] = content["seconds"]
        figures[f"cost/{notebook}/peak_mb"] = content["peak_mb"]
    return figures


def preset_of(run_dir: str | Path) -> str:
    """The preset (or presets) of a run as its notebooks recorded it, else the name of its folder."""
    named = {content["context"].get("preset") for content in read_all(run_dir).values()}
    named |= {content["preset"] for content in read_all(run_dir, "run.json").values()}
    return ", ".join(sorted(map(str, filter(None, named)))) or run_folder(run_dir).name


def tables(figures: Mapping[str, float], intervals: Mapping | None = None) -> dict[str, list[list[str]]]:
    """One table by the first part of a name, rows by the middle parts, columns by the last; headers first."""
    groups: dict[str, dict[str, dict[str, str]]] = {}
    for name, value in figures.items():
        group, *middle = name.split("/")[:-1] or ["results"]
        shown = f"{value:.0f}" if group == "cost" else f"{value:.3f}"
        if intervals and name in intervals:
            shown += " [{:.3f}, {:.3f}]".format(*intervals[name])
        groups.setdefault(group, {}).setdefault("/".join(middle), {})[name.split("/")[-1]] = shown
    result = {}
    for group, rows in groups.items():
        columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
        body = [[row, *(cells.get(column, "") for column in columns)] for row, cells in rows.items()]
        result[group] = [["", *columns], *body]
    return result


def markdown_table(rows: list[list[str]]) -> str:
    """A Markdown table, aligned so that it also reads well in a terminal; the first row is the header."""
    rows = [[_markdown(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def report(run_dir: str | Path, more: Iterable[tuple] = ()) -> tuple[Path, Path]:
    """Write report.md and report.html into the run folder; returns their paths.

    more: blocks to stand after the figures: ("h2" or "p", text) and ("table", rows of text, the header first).
    The HTML file needs no other file: figures are embedded. All text is escaped in both.
    Raises UsageError if the folder does not exist or holds no result.
    """
    folder, records, costs = run_folder(run_dir), read_all(run_dir), read_all(run_dir, "run.json")
    if not records and not costs:
        raise UsageError(f"no results in {folder}; `zvl run` makes them")
    preset = preset_of(run_dir)
    intervals = {name: bound for r in records.values() for name, bound in r["intervals"].items()}
    blocks: list[tuple] = [
        ("h1", f"zvl: results at the {preset} preset"),
        (
            "p",
            f"Every figure is a {preset} result, measured by this run, and none a result of the paper, "
            "but for those that stand as the paper's own under a heading that says so.",
        ),
        ("p", "Fractions from 0 to 1; brackets hold 95% intervals."),
    ]
    for group, rows in tables(load_all(run_dir), intervals).items():
        blocks += [("h2", f"{group} ({preset})"), ("table", rows)]
        if group == "cost":
            blocks.append(
                ("p", "Cost of the last execution; a stage taken from an earlier run costs next to nothing.")
            )
    for notebook in sorted(set(records) | set(costs)):
        if pictures := sorted((folder / notebook).glob("*.png")):
            blocks.append(("h2", f"Figures of {notebook} ({preset})"))
            blocks += [("figure", path) for path in pictures]
    blocks += [("p", ATTRIBUTION), *more, ("h2", "What was run")]
    rows = [["notebook", "seed", "parameters given", "git commit"]]
    for notebook in sorted(set(records) | set(costs)):
        result, cost = records.get(notebook, {}), costs.get(notebook, {})
        given = ", ".join(f"{k}={v}" for k, v in cost.get("parameters", {}).items())
        commit = result.get("git_commit") or "none"
        rows.append([notebook, str(result.get("context", {}).get("seed", "")), given, commit[:12]])
    blocks.append(("table", rows))
    for found in list(dict.fromkeys(json.dumps(r["versions"]) for r in records.values())):
        blocks.append(("p", "Versions: " + ", ".join(f"{k} {v}" for k, v in json.loads(found).items())))
    markdown, page = folder / "report.md", folder / "report.html"
    markdown.write_text("\n\n".join(_as_markdown(b, folder) for b in blocks) + "\n", encoding="utf-8")
    page.write_text(
        PAGE.format(title=html.escape(blocks[0][1]), body="\n".join(map(_as_html, blocks))), "utf-8"
    )
    return markdown, page


def _markdown(text: str) -> str:
    return html.escape(str(text), quote=False).replace("|", "\\|").replace("\n", " ")


def _as_markdown(block: tuple, folder: Path) -> str:
    kind, content = block
    if kind == "table":
        return markdown_table(content)
    if kind == "figure":
        return f"![{_markdown(content.stem)}](<{content.relative_to(folder).as_posix()}>)"
    return {"h1": "# ", "h2": "## ", "p": ""}[kind] + _markdown(content)


def _as_html(block: tuple) -> str:
    kind, content = block
    if kind == "table":
        cells = [[html.escape(str(cell)) for cell in row] for row in content]
        head = "".join(f"<th>{cell}</th>" for cell in cells[0])
        body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells[1:])
        return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
    if kind == "figure":
        name, data = html.escape(content.stem), base64.b64encode(content.read_bytes()).decode()
        image = f'<img alt="{name}" src="data:image/png;base64,{data}">'
        return f"<figure>{image}<figcaption>{name}</figcaption></figure>"
    return f"<{kind}>{html.escape(content)}</{kind}>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font-family: system-ui, sans-serif; max-width: 70em; margin: 2em auto; line-height: 1.5 }}
table {{ border-collapse: collapse }}
td, th {{ border: 1px solid #bbb; padding: .2em .6em; text-align: left }}
img {{ max-width: 100% }} figure {{ margin: 1em 0 }} figcaption {{ color: #555 }}
</style></head><body>
{body}
</body></html>
"""
