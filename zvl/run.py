"""Run the notebooks in order with papermill: parameters that exist, progress, costs, nothing done twice."""

import ast
import hashlib
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
import psutil
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines
from papermill.exceptions import PapermillExecutionError

from zvl import results, tables
from zvl.config import PRESETS, absolute
from zvl.data import own
from zvl.results import UsageError

# Seconds on two busy cores at the nano preset: the time left of a first run. Later runs use their own costs.
TYPICAL_SECONDS = {
    "01_bilingual_data": 60,
    "02_clean_pairs": 180,
    "03_qformer_pretraining": 300,
    "04_multitask_tuning": 200,
    "05_scene_aware_tuning": 260,
    "06_evaluation": 130,
    "08_case_studies": 40,
    "nano_backbones": 80,
}


# Parameters that name one's own files; a kernel works in the notebook's folder, so they are made absolute for it.
OWN_FILES = {"own_pairs": "pairs", "own_conversations": "conversations", "own_images": "images"}
PARTS = ("weights", "data", "start", "tokenizer_name")  # words, or folders and files


class NotebookFailed(RuntimeError):
    """A notebook raised an error: the message names notebook, cell, heading, error and the executed file."""


def select(folder: Path, only: Iterable[str] = (), appendix: bool = False) -> list[Path]:
    """The notebooks to run, in order: those numbered 0*, and on request or by name those of the appendix.

    only: names or their beginnings, such as "03", "nano_backbones" or "solutions".
    Raises UsageError for a name that fits no notebook.
    """
    main, further = sorted(folder.glob("0*.ipynb")), sorted((folder / "appendix").rglob("[!.]*.ipynb"))
    further = [path for path in further if ".ipynb_checkpoints" not in path.parts]
    if not main + further:
        raise UsageError(f"no notebooks in {folder}")
    if not only:
        return main + (further if appendix else [])
    for name in only:
        if not any(path.stem.startswith(Path(name).stem) for path in main + further):
            known = ", ".join(path.stem for path in main + further)
            raise UsageError(f"no notebook '{name}'; there are {known}")
    return [path for path in main + further if any(path.stem.startswith(Path(name).stem) for name in only)]


def check_parameters(notebook: Path, parameters: Mapping) -> dict:
    """`parameters` with their types made those of the notebook's parameters cell.

    papermill only warns about a mistyped name and then runs the defaults, so names are checked here.
    Raises UsageError that names the notebook, the parameter and what is allowed.
    """
    known = papermill.inspect_notebook(str(notebook)) if parameters else {}
    checked = {}
    for name, value in parameters.items():
        if name not in known:
            allowed = ", ".join(known) or "none: no cell is tagged 'parameters'"
            raise UsageError(f"{notebook.stem} has no parameter '{name}'; it has {allowed}")
        kind = known[name]["inferred_type_name"]
        if kind == "float" and isinstance(value, int | str) and not isinstance(value, bool):
            try:
                value = float(value)  # YAML reads 1 as int and 1e-3 as text
            except ValueError:
                pass
        wanted = {"int": int, "float": float, "str": str, "bool": bool}.get(kind)
        if wanted and type(value) is not wanted:
            raise UsageError(f"{notebook.stem}: parameter '{name}' must be {kind}, not {value!r}")
        checked[name] = value
    return checked


def read_parameters(path: Path) -> dict:
    """The `name: value` lines of a YAML file. Raises UsageError that names the file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must hold 'name: value' lines, not {type(content).__name__}")
    return content


def gather_parameters(
    notebook: Path, preset: str, folder: Path, files: Iterable[Path], given: Mapping
) -> dict:
    """Everything to inject into one notebook: its preset, then `files`, then `given`, the later ones winning.

    folder: the run folder, injected as run_dir unless the notebook's default means it already, so that a
    plain nano run executes the notebooks as they stand.
    files: YAML files for every notebook, or folders with a <notebook>.yaml for some.
    """
    found: dict = {} if preset == "nano" else {"preset": preset}  # a notebook's defaults are the nano preset
    for file in files:
        file = file / f"{notebook.stem}.yaml" if file.is_dir() else file
        found |= read_parameters(file) if file.exists() else {}
    found |= given
    if "run_dir" in found:
        raise UsageError("run_dir is not a parameter to give; use --run-dir")
    run_dir = papermill.inspect_notebook(str(notebook)).get("run_dir")
    if run_dir and results.run_folder(ast.literal_eval(run_dir["default"])) != folder:
        found["run_dir"] = str(folder)
    found = check_parameters(notebook, found)
    found |= {name: str(Path(found[name]).expanduser().absolute()) for name in OWN_FILES if found.get(name)}
    found |= {name: absolute(found[name]) for name in PARTS if found.get(name)}
    own_content(found)
    return found


def own_content(parameters: Mapping) -> str:
    """A hash of the files and pictures that the parameters name as one's own, "" where they name none.

    Raises UsageError where one is not there or has not a single row.
    """
    given = {field: parameters[name] for name, field in OWN_FILES.items() if parameters.get(name)}
    share = {"share": parameters["own_share"]} if "own_share" in parameters else {}
    if "images" in given and not Path(given["images"]).is_dir():
        raise UsageError(f"own_images: no folder {given['images']}")
    try:
        data = own.OwnData(**given, **share)
        return own.content(data) if data else ""
    except ValueError as error:
        raise UsageError(str(error)) from error


def fingerprint(notebook: Path, parameters: Mapping, upstream: Mapping[str, str]) -> str:
    """A hash that changes with a notebook's code and parameters, one's own data among them, packages, zvl, and the
    notebooks before it.

    upstream: the fingerprints of the notebooks before it whose outputs stand in the run folder.
    """
    nb = nbformat.read(notebook, as_version=4)
    parts = [cell.source for cell in nb.cells if cell.cell_type == "code"]
    parts.append(
        json.dumps([dict(parameters), dict(upstream), results.versions()], sort_keys=True, default=str)
    )
    parts.append(own_content(parameters))
    parts += [_files_below(Path(parameters[name])) for name in PARTS if "/" in parameters.get(name, "")]
    digest = hashlib.sha256("\0".join(parts).encode())
    package = Path(__file__).parent
    for path in sorted(package.rglob("*")):
        if path.is_file() and path.suffix != ".pyc" and path.name not in ("run.py", "cli.py"):
            digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()


def _files_below(path: Path) -> str:
    """Names, sizes and times of the files that a parameter names; what is in them would take hours to hash."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return "\n".join(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)


class Progress:
    """One line that says which notebook and cell runs, for how long, and how much time is left.

    A terminal gets a line that is redrawn; a log gets a new line when the cell changes (every 5 seconds at
    most) and one every 30 seconds while a cell works.
    """

    def __init__(self, names: list[str], seconds: Mapping[str, float], stream=None):
        self.names, self.expected = names, {name: seconds.get(name) for name in names}
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.measured = self.foreseen = 0.0  # of the notebooks already run here: this machine's speed
        self.shown_at, self.shown_cell = 0.0, None
        self.peak_mb = 0.0

    def start(self, name: str) -> None:
        self.name, self.started, self.peak_mb = name, time.monotonic(), 0.0
        self.cell, self.cells, self.heading = 0, 0, ""

    def enter_cell(self, cells: list, index: int) -> None:
        self.cells = sum(cell.cell_type == "code" for cell in cells)
        self.cell = sum(cell.cell_type == "code" for cell in cells[: index + 1])
        if cells[index].cell_type == "markdown" and (
            found := re.findall(r"^#+ +(.+)$", cells[index].source, re.M)
        ):
            self.heading = found[-1].strip()
        if cells[index].cell_type == "code":
            self.tick()

    def place(self) -> str:
        return f"cell {self.cell} of {self.cells}" + (f" ({self.heading})" if self.heading else "")

    def left(self) -> str:
        """The time left by earlier costs, scaled by how fast this machine has been so far."""
        speed = self.measured / self.foreseen if self.foreseen else 1.0
        rest = [self.expected[name] for name in self.names[self.names.index(self.name) :]]
        if None in rest:
            return "time left not known yet"
        here = rest[0] * speed - (time.monotonic() - self.started)
        return f"about {clock(max(here, 0) + sum(rest[1:]) * speed)} left" + (" or more" if here < 0 else "")

    def tick(self) -> None:
        now = time.monotonic()
        wait = 1 if self.live else 30 if self.shown_cell == (self.name, self.cell) else 5
        if not self.cell or now - self.shown_at < wait:
            return
        self.shown_at, self.shown_cell = now, (self.name, self.cell)
        times = f"{clock(now - self.started)} elapsed, {self.left()}"
        self._write(f"{times} | {self.place()}", end="" if self.live else "\n")

    def weigh(self) -> None:
        self.peak_mb = max(self.peak_mb, _memory_mb())

    def done(self, seconds: float) -> None:
        if self.expected[self.name]:
            self.measured, self.foreseen = self.measured + seconds, self.foreseen + self.expected[self.name]
        self._write(f"done in {clock(seconds)}, peak memory {self.peak_mb:.0f} MB")

    def skip(self, name: str) -> None:
        self.name, self.expected[name] = name, 0.0
        self._write("unchanged, skipped")

    def _write(self, text: str, end: str = "\n") -> None:
        line = f"[{self.names.index(self.name) + 1}/{len(self.names)}] {self.name} | {text}"
        if self.live:
            line = "\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1]
        print(line, end=end, file=self.stream, flush=True)


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


# A kernel's own log holds only noise here (loopback without encryption, interrupted at shutdown); what goes
# wrong in a cell reaches the notebook.
QUIET = ["--log-level=CRITICAL"]


class _Manager(NotebookExecutionManager):
    """papermill's bookkeeping, which tells a Progress where it is and when to weigh the kernel."""

    progress: Progress

    def cell_start(self, cell, cell_index=None, **kwargs):
        self.progress.enter_cell(self.nb.cells, cell_index)
        return super().cell_start(cell, cell_index=cell_index, **kwargs)

    def cell_complete(self, cell, cell_index=None, **kwargs):
        self.progress.weigh()
        return super().cell_complete(cell, cell_index=cell_index, **kwargs)


class _Engine(NBClientEngine):
    """papermill's own engine with our progress in place of its bar."""

    @classmethod
    def execute_notebook(cls, nb, kernel_name, output_path=None, progress=None, **kwargs):
        for unused in ("progress_bar", "log_output", "autosave_cell_every"):
            kwargs.pop(unused, None)
        manager = _Manager(nb, output_path=output_path, progress_bar=False)
        manager.progress = progress
        manager.notebook_start()
        try:
            cls.execute_managed_notebook(
                manager, kernel_name, coalesce_streams=True, extra_arguments=QUIET, **kwargs
            )
        finally:
            manager.notebook_complete()
        return manager.nb


papermill_engines.register("zvl", _Engine)


def _memory_mb() -> float:
    """Resident memory of the processes below this one in MB: the kernel and what it started."""
    total = highest = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_info().rss
            # Linux keeps the highest value of each process, which sampling alone would miss.
            status = Path(f"/proc/{process.pid}/status").read_text()
            highest = max(highest, 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1]))
        except (psutil.Error, OSError, TypeError):
            continue
    return max(total, highest) / 2**20


@contextmanager
def _watching(progress: Progress, every: float = 0.5) -> Iterator[None]:
    """Weighs the kernel and refreshes the progress line while the block runs."""
    stop = threading.Event()

    def watch():
        while not stop.wait(every):
            progress.weigh()
            progress.tick()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def execute(notebook: Path, output: Path, parameters: Mapping, progress: Progress) -> tuple[float, float]:
    """Run one notebook into `output`; returns (seconds, peak memory in MB). Raises NotebookFailed."""
    output.parent.mkdir(parents=True, exist_ok=True)
    progress.start(notebook.stem)
    try:
        with _watching(progress):
            papermill.execute_notebook(
                str(notebook),
                str(output),
                parameters=dict(parameters),
                engine_name="zvl",
                kernel_name="python3",
                cwd=notebook.parent,  # as Jupyter and nbval do
                progress=progress,
            )
    except PapermillExecutionError as error:
        last = re.sub(r"\x1b\[[0-9;]*m", "", f"{error.ename}: {error.evalue}").strip().splitlines()[-1]
        raise NotebookFailed(f"{notebook.stem} failed in {progress.place()}: {last}; see {output}") from error
    except DeadKernelError as error:
        reason = f"its kernel died at {progress.peak_mb:.0f} MB, out of memory?"
        raise NotebookFailed(
            f"{notebook.stem} failed in {progress.place()}: {reason} See {output}"
        ) from error
    return time.monotonic() - progress.started, progress.peak_mb


def run(
    preset: str = "nano",
    only: Iterable[str] = (),
    parameters: Mapping | None = None,
    run_dir: str | Path | None = None,
    params_file: str | Path | None = None,
    *,
    appendix: bool = False,
    notebook_folder: Path | None = None,
) -> dict[str, float]:
    """Execute notebooks in order into <run_dir>/notebooks/ and write the report; returns all figures.

    preset: "nano" (the notebooks' defaults) or "full" (with notebooks/params/full/<notebook>.yaml).
    only: names of notebooks or their beginnings; all numbered ones if empty. appendix: the appendix's too.
    parameters: names and values that every chosen notebook must have.
    run_dir: "runs/<preset>" if None. params_file: a YAML file, or a folder with a <notebook>.yaml for some.
    A notebook whose fingerprint is the one it last finished with is skipped and keeps its results and costs.
    Raises UsageError before anything runs, NotebookFailed when a notebook does.
    """
    if preset not in PRESETS:
        raise UsageError(f"no preset '{preset}'; there are {', '.join(PRESETS)}")
    if params_file is not None and not Path(params_file).exists():
        raise UsageError(f"no parameter file or folder {params_file}")
    folder = results.run_folder(run_dir or f"runs/{preset}")
    source = notebook_folder or results.repository() / "notebooks"
    files = [source / "params" / preset] if (source / "params" / preset).is_dir() else []
    files += [Path(params_file)] if params_file is not None else []
    chosen = select(source, only, appendix)
    given = {path: gather_parameters(path, preset, folder, files, parameters or {}) for path in chosen}

    # The kernel is this Python's, and its progress bars would only fill the executed notebooks.
    os.environ.update(JUPYTER_PREFER_ENV_PATH="1", ZVL_PROGRESS="0")
    finished = results.read_all(folder, "run.json") if folder.is_dir() else {}
    last_seconds = {name: content["seconds"] for name, content in finished.items()}
    progress = Progress([path.stem for path in chosen], TYPICAL_SECONDS | last_seconds)
    for path in chosen:
        place, output = folder / path.stem, folder / "notebooks" / path.name
        upstream = {name: content["fingerprint"] for name, content in finished.items() if name < path.stem}
        mark = fingerprint(path, given[path], upstream)
        if finished.get(path.stem, {}).get("fingerprint") == mark and output.exists():
            progress.skip(path.stem)
            continue
        # Results and figures of the last time must not stand beside those of this one; checkpoints stay.
        for stale in [place / "run.json", place / "results.json", *place.glob("*.png")]:
            stale.unlink(missing_ok=True)
        seconds, peak_mb = execute(path, output, given[path], progress)
        finished[path.stem] = {
            "preset": preset,
            "parameters": given[path],
            "fingerprint": mark,
            "seconds": round(seconds, 1),
            "peak_mb": round(peak_mb, 1),
        }
        results.write_json(place / "run.json", finished[path.stem])
        progress.done(seconds)
    tables.report(folder)
    return results.load_all(folder)
