"""The command `zvl`: run the notebooks, report what they measured, convert weights."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml
from tqdm import tqdm

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
    steps: Annotated[int | None, typer.Option(help="training steps of 03, fewer than the preset's")] = None,
    batch_size: Annotated[int | None, typer.Option(help="pairs in a micro-batch of 03")] = None,
    accumulation: Annotated[int | None, typer.Option(help="micro-batches a step of 03")] = None,
    weights: Annotated[
        str | None, typer.Option(help="of the ViT in 03: random, or a checkpoint's folder")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="training pairs of 03: moji, or a folder of shards")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="of 03's Q-Former: nothing, a file of `zvl convert`, or a folder")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="of 03's Q-Former: nano, or a folder")] = None,
    features: Annotated[
        str | None, typer.Option(help="of the ViT in 03: live in every step, or kept on disk")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="say what 03 would cost; run nothing")] = False,
    gpus: Annotated[int | None, typer.Option(help="of a plan: how many GPUs, 1 by default")] = None,
    gpu: Annotated[str | None, typer.Option(help="of a plan: a100, h100 (default) or h200")] = None,
    share: Annotated[float | None, typer.Option(help="of a plan: of the peak that training reaches")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="of a plan: one JSON object")] = False,
) -> None:
    """Run the notebooks in order into the run folder; what has not changed is skipped."""
    given = dict(_parse(text) for text in parameter or [])
    own = {"steps": steps, "batch_size": batch_size, "accumulation": accumulation, "weights": weights, "data": data,
           "start": start, "tokenizer_name": tokenizer, "features": features}  # fmt: skip
    own = {name: value for name, value in own.items() if value is not None}
    machine = {
        name: value for name, value in {"gpus": gpus, "gpu": gpu, "share": share}.items() if value is not None
    }
    if plan:
        return _plan(
            preset, only, own, machine, as_json, unused={"--params": params, "--parameter": parameter}
        )
    if machine or as_json:
        odd = ", ".join(f"--{name}" for name in [*machine, *(["json"] if as_json else [])])
        raise UsageError(f"{odd}: belongs to a plan; add --plan")
    from zvl import run as runner  # papermill takes a second to import, and `zvl report` does without

    given |= own
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


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(help=".safetensors, an index of shards, .bin, .pt, .pth, or a folder")
    ],
    target: Annotated[Path, typer.Argument(help="a new .safetensors file, or .pth for LAVIS")],
    from_layout: Annotated[
        str, typer.Option("--from", help="the source's names; auto looks at them")
    ] = "auto",
    to_layout: Annotated[
        str, typer.Option("--to", help="lavis, blip2, blip2-retrieval, instructblip, zvl")
    ] = "zvl",
    queries: Annotated[int | None, typer.Option(help="tile the queries to as many, with noise")] = None,
    partial: Annotated[bool, typer.Option(help="convert what is there, whatever names are missing")] = False,
) -> None:
    """Give a Q-Former's or a whole model's weights the names of another layout."""
    from zvl.model import convert as converter  # torch takes seconds to import

    try:
        done = converter.convert_file(source, target, from_layout, to_layout, queries, not partial)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    print(f"{target}: {len(done.state)} tensors, from {done.source} to {done.target}")
    for part in done.absent:
        print(f"not in {source.name}: {part}")
    for name, reason in done.dropped.items():
        print(f"left out: {name} ({reason})")
    for kind in ("unexpected", "missing"):
        for name in getattr(done, kind):
            print(f"{kind}: {name}")


@app.command()
def shards(
    reader: Annotated[str, typer.Option(help="as a data card's `reader` has it: zvl.data.readers.read_cc3m")],
    annotations: Annotated[list[Path], typer.Option(help="a raw file; again for more")],
    images: Annotated[Path, typer.Option(help="the folder of the pictures")],
    out: Annotated[Path, typer.Option(help="the folder for the tars")],
    language: Annotated[list[str] | None, typer.Option(help="en or zh; again, one for each file")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE for the reader")
    ] = None,
    size: Annotated[int | None, typer.Option(help="make the shorter side no longer than this")] = None,
    pairs_per_shard: Annotated[int, typer.Option(help="pairs in a tar")] = 10_000,
    grouped: Annotated[
        bool, typer.Option(help="one record a picture, however far apart its captions")
    ] = False,
    workers: Annotated[int, typer.Option(help="processes, a shard each")] = 1,
) -> None:
    """Write image-text pairs of any reader as WebDataset tars; what a killed run left whole is kept."""
    from zvl.data import pair_readers, shards  # they import torch
    from zvl.data.rows import Quarantine

    given, languages = dict(_parse(text) for text in parameter or []), language or ()
    put_aside = Quarantine(log=out / "quarantine.jsonl")
    made_by = {"reader": reader, "annotations": list(map(str, annotations)), "images": str(images),
               "languages": list(languages), "parameters": given}  # fmt: skip
    try:
        pairs = pair_readers.read_pairs(reader, annotations, images, languages, given, put_aside)
        done = shards.write_shards(
            pairs, out, made_by, size, pairs_per_shard, grouped, workers, put_aside, tqdm
        )
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    spoken = ", ".join(f"{count} {name}" for name, count in done["pairs"].items())
    print(f"{out}: {done['shards']} shards, {done['records']} pictures, pairs: {spoken}")
    for reason, count in put_aside.counts().items():
        print(f"put aside: {count} rows, {reason}")


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="with tars of another program, such as img2dataset")],
    language: Annotated[str, typer.Option(help="en or zh, where a record does not say it")] = "en",
    source: Annotated[str, typer.Option(help="the data set's name, where a record does not say it")] = "",
) -> None:
    """Index WebDataset tars of other programs, so that training can read them in any order."""
    from zvl.data import tars

    try:
        found = tars.index_folder(folder, language, source)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    for made in found:
        spoken = ", ".join(f"{count} {name}" for name, count in made["pairs"].items())
        print(f"{made['tar']}: {made['records']} pictures, pairs: {spoken}; refused: {len(made['refused'])}")


def _plan(preset: str, only, own: dict, machine: dict, as_json: bool, unused: dict) -> None:
    from zvl import config
    from zvl.training import costs  # torch is heavy, and only a plan needs it here

    if not only or any(not name.startswith("03") for name in only):
        raise UsageError("--plan knows the costs of the Q-Former's pre-training; add --only 03")
    if odd := [name for name, value in unused.items() if value is not None]:
        raise UsageError(f"{', '.join(odd)}: a plan reads the preset and its own options alone")
    given = {name.removesuffix("_name"): value for name, value in own.items()}
    try:
        found = costs.plan(config.preset(preset).with_run(**given), **machine)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for title, rows in costs.tables(found).items():
        print(f"\n{title}\n{results.markdown_table(rows)}")


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
