"""The committed notebooks read well without running: outputs complete, small, and free of machine traces."""

import ast
import json
import re
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from zvl import run

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(p for p in ROOT.glob("notebooks/**/*.ipynb") if ".ipynb_checkpoints" not in p.parts)
# Those of accelerate are not papermill's; test_pretrain.py reads them.
PARAMETER_FILES = sorted(f for f in ROOT.glob("notebooks/params/*/*.yaml") if f.parent.name != "accelerate")
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

TRACES = {
    "a path of a machine": r"(?<![\w.:/])/(?:tmp|root|home|work|usr|opt|mnt|Users|private)/\w|[A-Z]:\\\\",
    "a warning": r"\w*Warning\b",
    "a missing glyph": r"Glyph \d+",
    "a progress bar": r"\d+it/s|s/it\b",
}


def read(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in nb["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    return nb, code


def source(cell):
    return "".join(cell["source"])


def parameters_cells(code):
    return [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]


def output_text(code):
    """All outputs as text, pictures aside: base64 is no prose."""
    outputs = [output for cell in code for output in cell["outputs"]]
    for output in outputs:
        output["data"] = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
    return json.dumps(outputs, ensure_ascii=False)


@each_notebook
def test_every_cell_ran_once_in_order(path):
    _, code = read(path)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    results = [
        output for cell in code for output in cell["outputs"] if output["output_type"] == "execute_result"
    ]
    assert all(output["execution_count"] for output in results), "nbval needs the counts of outputs"


@each_notebook
def test_outputs_are_there_and_small(path):
    nb, code = read(path)
    assert any(cell["outputs"] for cell in code)
    assert path.stat().st_size < 500_000
    assert "widgets" not in nb["metadata"] and "application/vnd.jupyter.widget" not in path.read_text("utf-8")


@each_notebook
@pytest.mark.parametrize("trace", TRACES)
def test_outputs_hold_no_trace_of_a_machine_or_a_fault(path, trace):
    _, code = read(path)
    found = re.search(f".{{0,60}}(?:{TRACES[trace]}).{{0,60}}", output_text(code))
    assert found is None, f"{trace} in an output: {found[0]}"


@each_notebook
def test_outputs_hold_no_errors_and_no_stderr(path):
    _, code = read(path)
    kinds = {output.get("name", output["output_type"]) for cell in code for output in cell["outputs"]}
    assert not kinds & {"error", "stderr"}


@each_notebook
def test_metadata_holds_no_times(path):
    nb, _ = read(path)
    assert nb["nbformat"] == 4 and nb["nbformat_minor"] >= 5 and all(cell["id"] for cell in nb["cells"])
    for metadata in [nb["metadata"], *(cell["metadata"] for cell in nb["cells"])]:
        assert not {"papermill", "execution"} & set(metadata), "run `make notebooks`"


@each_notebook
def test_parameters_are_typed_literals(path):
    # papermill replaces the values after this cell: a value derived here would keep the old ones.
    _, code = read(path)
    (cell,) = parameters_cells(code)
    for statement in ast.parse(source(cell)).body:
        assert isinstance(statement, ast.AnnAssign), f"line {statement.lineno}: write `name: type = value`"
        ast.literal_eval(statement.value)


@each_notebook
def test_claims_are_checked(path):
    _, code = read(path)
    assert any(isinstance(node, ast.Assert) for cell in code for node in ast.walk(ast.parse(source(cell))))


@each_notebook
def test_there_are_no_magics(path):
    # An unknown %magic followed by an error passes under nbval's lax mode.
    _, code = read(path)
    plain = TransformerManager().transform_cell
    assert [source(cell) for cell in code if plain(source(cell)).strip() != source(cell).strip()] == []


@pytest.mark.parametrize("file", PARAMETER_FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_parameter_files_name_real_notebooks_and_parameters(file):
    found = [path for path in NOTEBOOKS if path.stem == file.stem]
    assert found, f"{file.relative_to(ROOT)} belongs to no notebook"
    assert run.check_parameters(found[0], run.read_parameters(file))
