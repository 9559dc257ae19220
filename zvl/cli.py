"""The command `zvl`: run the notebooks, report what they measured."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from zvl import results
from zvl.results import UsageError

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=__doc__,
)


@app.command()
def run(
    preset: Annotated[str, typer.Option(help="nano runs anywhere, full is the paper's size")] = "nano",
    only: Annotated[list[str] | None, typer.Option(help="notebooks by name or number, such as 03")] = None,
    parameter: Annotated[list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE")] = None,
    params: Annotated[Path | None, typer.Option(help="YAML file, or folder of <notebook>.yaml")] = None,
    run_dir: Annotated[str | None, typer.Option(help="where results go; runs/<preset> by default")] = None,
    appendix: Annotated[bool, typer.Option(help="the appendix notebooks too")] = False,
) -> None:
    """Run the notebooks in order into the run folder; what has not changed is skipped."""
    from zvl import run as runner  # papermill takes a second to import, and `zvl report` does without

    given = dict(_parse(text) for text in parameter or [])
    try:
        runner.run(preset, only or (), given, run_dir, params, appendix=appendix)
    except runner.NotebookFailed as error:
        print(f"zvl: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    _show(run_dir or f"runs/{preset}")


@app.command()
def seeds(
    seeds: Annotated[list[int] | None, typer.Argument(help="five by default: 0 to 4")] = None,
    preset: Annotated[str, typer.Option(help="nano or full")] = "nano",
    only: Annotated[list[str] | None, typer.Option(help="notebooks by name or number, such as 03")] = None,
    run_dir: Annotated[str, typer.Option(help="where results go")] = "runs/seeds",
    keep_stages: Annotated[bool, typer.Option(help="keep what was trained")] = False,
) -> None:
    """Run the schedule once a seed and write how far the figures spread."""
    from zvl import run as runner
    from zvl import seeds as several

    found = several.run_seeds(
        seeds or range(5),
        lambda seed, folder: runner.run(preset, only or (), {"seed": seed}, folder),
        run_dir,
        keep_stages,
    )
    print(f"\n{results.markdown_table(several.table(found))}\n\n{results.run_folder(run_dir) / 'spread.md'}")


@app.command()
def report(
    run_dir: Annotated[str, typer.Argument(help="a run folder")] = "runs/nano",
    as_json: Annotated[bool, typer.Option("--json", help="one flat JSON object on standard output")] = False,
) -> None:
    """Write the report of a run and print its figures."""
    if as_json:
        print(json.dumps(results.load_all(run_dir), indent=1, ensure_ascii=False))
    else:
        from zvl import tables  # pydantic, for the cards

        tables.report(run_dir)
        _show(run_dir)


def _parse(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UsageError(f"parameter '{text}' must be NAME=VALUE")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        return name, value


def _show(run_dir: str) -> None:
    folder = results.run_folder(run_dir)
    for group, rows in results.tables(results.load_all(folder)).items():
        print(f"\n{group} ({results.preset_of(folder)})\n{results.markdown_table(rows)}")
    print(f"\nReport: {folder / 'report.html'} and {folder / 'report.md'}")


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0; 1 when a notebook failed; 2, with one line on stderr, for a request that cannot be met."""
    try:
        return app(arguments, standalone_mode=False) or 0
    except typer.TyperException as error:  # an unknown command or option
        message = error.format_message()
    except UsageError as error:
        message = str(error)
    print("zvl:", " ".join(message.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
