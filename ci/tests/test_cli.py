"""A request that cannot be met gets one line and exit code 2; --json prints one flat object."""

import json

import pytest

from zvl import cli, results
from zvl import run as runner
from zvl.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--preset", "huge"], "no preset 'huge'; there are nano, full"),
        (["run", "-p", "seed"], "must be NAME=VALUE"),
        (["run", "--params", "missing.yaml"], "missing.yaml"),
        (["run", "--depth", "3"], "--depth"),
        (["run", "--gpus", "8"], "--gpus: belongs to a plan; add --plan"),
        (["run", "--json"], "--json: belongs to a plan"),
        (["run", "--plan"], "add --only 03"),
        (["run", "--plan", "--only", "04"], "add --only 03"),
        (["run", "--plan", "--only", "03", "--gpu", "tpu"], "'tpu': allowed are a100, h100, h200"),
        (["run", "--plan", "--only", "03", "--steps", "-2"], "steps is -2"),
        (["run", "--plan", "--only", "03", "-p", "seed=1"], "--parameter: a plan reads"),
        (["run", "--only", "04", "--steps", "3"], "04_multitask_tuning has no parameter 'steps'"),
        (["report", "runs/missing"], "runs/missing"),
        (["train"], "train"),
        ([], "command"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("zvl: ") and message in captured.err
    assert captured.err.count("\n") == 1


def test_json_is_one_flat_object(tmp_path, capsys):
    results.record(tmp_path, "03_qformer", {"pretraining/en/tr1_100": 0.75})
    assert main(["report", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"pretraining/en/tr1_100": 0.75}


def test_report_prints_tables_and_its_place(tmp_path, capsys):
    results.record(tmp_path, "03_qformer", {"pretraining/en/tr1_100": 0.75}, preset="nano")
    assert main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| en | 0.750" in out and str(tmp_path / "report.html") in out
    assert (tmp_path / "report.html").exists()


def test_a_plan_is_a_table_or_one_object_and_runs_nothing(capsys, monkeypatch):
    monkeypatch.setattr(runner, "run", lambda *_, **__: pytest.fail("ran"))
    asked = ["run", "--preset", "full", "--only", "03", "--plan", "--gpus", "8", "--gpu", "h100"]
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert "985.95 M" in out and "hours on 8 x H100" in out and "| 256 " in out
    own = ["--weights", "random", "--data", "moji", "--start", "nothing", "--tokenizer", "nano"]
    assert main([*asked, "--json", "--steps", "20", *own]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["gpus"] == 8 and found["run"]["steps"] == 20


def test_options_of_03_become_its_parameters(monkeypatch, tmp_path):
    found = {}
    monkeypatch.setattr(runner, "run", lambda preset, only, given, *_, **__: found.update(given))
    monkeypatch.setattr(cli, "_show", lambda *_: None)
    options = {"steps": 20, "batch_size": 2, "accumulation": 1, "weights": "random", "data": "moji",
               "start": "nothing", "tokenizer": "nano", "features": "kept"}  # fmt: skip
    words = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["run", "--preset", "full", "--only", "03", *words]) == 0
    assert {**found, "tokenizer": found["tokenizer_name"]}.items() >= options.items()
    (notebook,) = runner.select(results.repository() / "notebooks", ["03"])
    assert runner.check_parameters(notebook, found) == found, "the notebook has them all"


def test_help_is_no_error(capsys):
    assert main(["--help"]) == 0
    assert "report" in capsys.readouterr().out
