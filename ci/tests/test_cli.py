"""A request that cannot be met gets one line and exit code 2; --json prints one flat object."""

import json

import pytest

from zvl import results
from zvl.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--preset", "huge"], "no preset 'huge'; there are nano, full"),
        (["run", "-p", "seed"], "must be NAME=VALUE"),
        (["run", "--params", "missing.yaml"], "missing.yaml"),
        (["run", "--depth", "3"], "--depth"),
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


def test_help_is_no_error(capsys):
    assert main(["--help"]) == 0
    assert "report" in capsys.readouterr().out
