"""Notebooks run once, in order, with parameters that exist, and say where they are and what they cost."""

import io
import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from zvl import results, run
from zvl.results import UsageError

PARAMETERS = """\
preset: str = "nano"
seed: int = 0  # one seed
rate: float = 0.1
run_dir: str = "runs/nano"
"""


def notebook(folder, name, *cells, parameters=PARAMETERS):
    """A notebook with a parameters cell and one headed section for each further cell."""
    parts = [new_markdown_cell("# Title"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    for i, source in enumerate(cells):
        parts += [new_markdown_cell(f"Prose.\n\n## Section {i}\n\nMore prose."), new_code_cell(source)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=parts, metadata=kernel), path)
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "notebooks"


def record(name, key="a/b"):
    return f"from zvl import results\nresults.record(run_dir, '{name}', {{'{key}': seed / 10}}, seed=seed)"


@pytest.mark.slow
def test_a_run_records_costs_and_does_only_what_changed(folder, tmp_path, capsys):
    first = notebook(folder, "01_first", "block = b'x' * (300 * 2**20)", record("01_first"))
    notebook(folder, "02_second", record("02_second", "c/d"))
    given = dict(run_dir=tmp_path / "nano", notebook_folder=folder)
    figures = run.run(**given)
    assert figures["a/b"] == 0.0
    assert figures["cost/01_first/peak_mb"] > 300  # the block, and only just above it the kernel
    assert figures["cost/01_first/seconds"] > 0
    assert (tmp_path / "nano/notebooks/02_second.ipynb").exists()
    assert (tmp_path / "nano/report.html").exists()
    log = capsys.readouterr().out
    assert "[1/2] 01_first | 0:" in log and "left" in log and "| cell 1 of 4 (Title)\n" in log
    assert "[1/2] 01_first | done in 0:" in log
    assert "\r" not in log

    assert run.run(**given) == figures, "skipped notebooks keep their results and their costs"
    assert capsys.readouterr().out.count("unchanged, skipped") == 2

    notebook(folder, "02_second", record("02_second", "c/e"))
    assert "c/d" not in (again := run.run(**given)) and again["c/e"] == 0.0
    assert capsys.readouterr().out.count("unchanged, skipped") == 1

    run.run(parameters={"seed": 3}, only=["01"], **given)
    assert results.load_all(tmp_path / "nano")["a/b"] == 0.3
    capsys.readouterr()
    first.touch()
    run.run(parameters={"seed": 3}, only=["02"], **given)
    assert "skipped" not in capsys.readouterr().out, "02 stands on 01, which has changed"


@pytest.mark.slow
def test_a_failure_names_notebook_cell_heading_and_error(folder, tmp_path):
    notebook(
        folder, "01_first", "x = 1", "assert x == 2, 'queries\\nmust not see the text'", record("01_first")
    )
    with pytest.raises(run.NotebookFailed) as caught:
        run.run(run_dir=tmp_path / "nano", notebook_folder=folder)
    assert "01_first failed in cell 4 of 5 (Section 1): must not see the text" in str(caught.value)
    executed = (tmp_path / "nano/notebooks/01_first.ipynb").read_text()
    assert "Traceback (most recent call last)" in executed
    assert not (tmp_path / "nano/01_first/run.json").exists(), "a failed notebook must run again"


@pytest.mark.slow
def test_files_and_presets_reach_the_notebook(folder, tmp_path):
    notebook(folder, "01_first", "print(preset, seed, rate)")
    for name, text in {"full": "seed: 1\nrate: 1e-3", "smoke": "seed: 2"}.items():
        (folder / "params" / name).mkdir(parents=True)
        (folder / "params" / name / "01_first.yaml").write_text(text)
    run.run("full", run_dir=tmp_path / "r", params_file=folder / "params/smoke", notebook_folder=folder)
    executed = nbformat.read(tmp_path / "r/notebooks/01_first.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "full 2 0.001\n"
    assert json.loads((tmp_path / "r/01_first/run.json").read_text())["parameters"]["rate"] == 0.001


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sed": 1}, "01_first has no parameter 'sed'; it has preset, seed, rate, run_dir"),
        ({"seed": 1.5}, "'seed' must be int, not 1.5"),
        ({"seed": True}, "'seed' must be int, not True"),
        ({"rate": "fast"}, "'rate' must be float, not 'fast'"),
        ({"run_dir": "x"}, "use --run-dir"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(folder, tmp_path, parameters, message):
    notebook(folder, "01_first", "1 / 0")
    with pytest.raises(UsageError, match=message):
        run.run(parameters=parameters, run_dir=tmp_path / "nano", notebook_folder=folder)
    assert not (tmp_path / "nano").exists()


def test_a_parameter_must_fit_every_chosen_notebook(folder, tmp_path):
    notebook(folder, "01_first")
    notebook(folder, "02_second", parameters='run_dir: str = "runs/nano"')
    with pytest.raises(UsageError, match="02_second has no parameter 'seed'"):
        run.run(parameters={"seed": 1}, run_dir=tmp_path, notebook_folder=folder)


def test_a_notebook_without_parameters_refuses_them(folder):
    path = notebook(folder, "01_first")
    nb = nbformat.read(path, as_version=4)
    nb.cells[1].metadata = {}
    nbformat.write(nb, path)
    with pytest.raises(UsageError, match="no cell is tagged 'parameters'"):
        run.check_parameters(path, {"seed": 1})


def test_wrong_presets_names_and_files_are_refused(folder, tmp_path):
    notebook(folder, "01_first")
    for arguments, message in [
        (dict(preset="large"), "no preset 'large'; there are nano, full"),
        (dict(only=["09"]), "no notebook '09'; there are 01_first"),
        (dict(params_file=tmp_path / "none.yaml"), r"none\.yaml"),
    ]:
        with pytest.raises(UsageError, match=message):
            run.run(**arguments, run_dir=tmp_path / "nano", notebook_folder=folder)
    (bad := tmp_path / "bad.yaml").write_text("- 1")
    with pytest.raises(UsageError, match=r"bad\.yaml: must hold"):
        run.read_parameters(bad)


def test_a_plain_nano_run_injects_nothing(folder, monkeypatch, tmp_path):
    path = notebook(folder, "01_first")
    monkeypatch.setenv("ZVL_RUNS", str(tmp_path))
    assert run.gather_parameters(path, "nano", tmp_path / "nano", [], {}) == {}
    assert run.gather_parameters(path, "nano", tmp_path / "x", [], {}) == {"run_dir": str(tmp_path / "x")}


def test_files_are_named_from_the_folder_where_zvl_is_called_and_count_by_their_content(
    tmp_path, monkeypatch
):
    path = results.repository() / "notebooks/03_qformer_pretraining.ipynb"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "moji").mkdir()  # a word all the same
    given = {"data": "shards", "weights": "random", "start": "google-bert/bert-base-chinese"}
    found = run.gather_parameters(path, "full", tmp_path, [], given)
    assert found["data"] == str(tmp_path / "shards")
    assert found["weights"] == "random" and found["start"] == given["start"]
    assert run.gather_parameters(path, "full", tmp_path, [], {"data": "moji"})["data"] == "moji"
    before = run.fingerprint(path, found, {})
    (tmp_path / "shards/0.tar").write_bytes(b"x")
    assert run.fingerprint(path, found, {}) != before


def test_appendix_notebooks_run_by_name_or_on_request(folder):
    first, further = notebook(folder, "01_first"), notebook(folder / "appendix", "nano_backbones")
    assert run.select(folder) == [first]
    assert run.select(folder, appendix=True) == [first, further]
    assert run.select(folder, ["nano"]) == run.select(folder, ["appendix/nano_backbones.ipynb"]) == [further]


def test_fingerprints_see_code_parameters_and_upstream_but_not_prose(folder):
    path = notebook(folder, "01_first", "x = 1")
    before = run.fingerprint(path, {}, {})
    nb = nbformat.read(path, as_version=4)
    nb.cells[0].source = "# Another title"
    nbformat.write(nb, path)
    assert run.fingerprint(path, {}, {}) == before
    notebook(folder, "01_first", "x = 2")
    others = [
        run.fingerprint(path, {}, {}),
        run.fingerprint(path, {"seed": 1}, {}),
        run.fingerprint(path, {}, {"0": "a"}),
    ]
    assert len({before, *others}) == 4


def test_time_left_comes_from_earlier_costs_and_this_machines_speed(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    log = io.StringIO()
    progress = run.Progress(["a", "b", "c"], {"a": 10, "b": 60, "c": 30}, stream=log)
    cells = [new_markdown_cell("## Masks"), new_code_cell("1"), new_code_cell("2")]
    progress.start("a")
    assert progress.left() == "about 1:40 left"
    progress.peak_mb = 500
    progress.done(20)
    progress.start("b")
    now[0] += 20
    assert progress.left() == "about 2:40 left", "a took twice as long as foreseen: 2 * 90 - 20 seconds"
    progress.enter_cell(cells, 0)
    progress.enter_cell(cells, 1)
    assert log.getvalue().splitlines() == [
        "[1/3] a | done in 0:20, peak memory 500 MB",
        "[2/3] b | 0:20 elapsed, about 2:40 left | cell 1 of 2 (Masks)",
    ]
    now[0] += 2
    progress.enter_cell(cells, 2)
    progress.tick()
    assert len(log.getvalue().splitlines()) == 2, "a log gets no more than a line every five seconds"
    now[0] += 4
    progress.tick()
    now[0] += 10
    progress.tick()
    assert len(log.getvalue().splitlines()) == 3, "nor the same cell more than every thirty"
    now[0] += 150
    assert progress.left().endswith("or more")
