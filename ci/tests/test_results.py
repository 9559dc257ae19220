"""What notebooks measure becomes one flat set of fractions and a report that is safe to open."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from zvl import results

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "nano"
    results.record(
        folder,
        "03_qformer",
        {"pretraining/en/tr1_100": 0.75, "pretraining/zh/tr1_100": np.float32(0.5)},
        intervals={"pretraining/en/tr1_100": (0.7, 0.8)},
        preset="nano",
        seed=7,
    )
    results.write_json(
        folder / "03_qformer/run.json",
        {"preset": "nano", "parameters": {"seed": 7}, "fingerprint": "x", "seconds": 61.5, "peak_mb": 812.0},
    )
    return folder


def test_all_figures_are_one_flat_object(run_dir):
    assert results.load_all(run_dir) == {
        "pretraining/en/tr1_100": 0.75,
        "pretraining/zh/tr1_100": 0.5,
        "cost/03_qformer/seconds": 61.5,
        "cost/03_qformer/peak_mb": 812.0,
    }


def test_a_record_says_how_to_measure_again(run_dir):
    content = json.loads((run_dir / "03_qformer/results.json").read_text())
    assert content["context"] == {"preset": "nano", "seed": 7}
    assert content["versions"]["torch"].startswith("2.")
    assert "git_commit" in content


@pytest.mark.parametrize("value", [1.01, -0.1, float("nan"), float("inf")])
def test_only_fractions_are_metrics(tmp_path, value):
    with pytest.raises(ValueError, match=r"03_qformer: metric 'pretraining/loss'"):
        results.record(tmp_path, "03_qformer", {"pretraining/loss": value})
    assert not list(tmp_path.iterdir())


def test_an_interval_needs_its_metric(tmp_path):
    with pytest.raises(ValueError, match="a/c"):
        results.record(tmp_path, "03_qformer", {"a/b": 0.5}, intervals={"a/c": (0, 1)})


def test_one_name_has_one_owner(run_dir):
    results.record(run_dir, "06_evaluation", {"pretraining/en/tr1_100": 0.1})
    with pytest.raises(ValueError, match=r"tr1_100' is recorded by both 03_qformer and 06_evaluation"):
        results.load_all(run_dir)


def test_recording_again_leaves_no_old_figure(run_dir):
    results.record(run_dir, "03_qformer", {"pretraining/en/ir1_100": 0.25})
    assert "pretraining/en/tr1_100" not in results.load_all(run_dir)


def test_the_report_shows_values_intervals_figures_and_the_preset(run_dir):
    (run_dir / "03_qformer/loss.png").write_bytes(PNG)
    markdown, page = results.report(run_dir)
    for text in markdown.read_text(), page.read_text():
        assert "0.750 [0.700, 0.800]" in text
        assert "results at the nano preset" in text
        assert "pretraining (nano)" in text
        assert "OpenMoji (CC BY-SA 4.0)" in text
    assert "(<03_qformer/loss.png>)" in markdown.read_text()
    assert base64.b64encode(PNG).decode() in page.read_text()


def test_further_blocks_stand_in_both_reports_and_are_escaped(run_dir):
    more = [("h2", "The paper's data"), ("table", [["Dataset", "Remaining %"], ["<b>CC12M|", "85 %"]])]
    for path in results.report(run_dir, more):
        text = path.read_text()
        assert "data" in text and "85 %" in text and "Remaining %" in text and "<b>CC12M" not in text
        assert text.index("Remaining %") < text.index("What was run")


def test_no_markup_from_results_reaches_the_report(run_dir):
    evil = "<script>alert(1)</script>|"
    results.record(run_dir, "08_cases", {f"cases/{evil}/b": 0.5}, preset=evil, seed=evil)
    markdown, page = results.report(run_dir)
    assert "<script" not in markdown.read_text() + page.read_text()


def test_an_empty_or_missing_run_is_named(tmp_path):
    with pytest.raises(results.UsageError, match="no results"):
        results.report(tmp_path)
    with pytest.raises(results.UsageError, match="missing"):
        results.load_all(tmp_path / "missing")


def test_a_damaged_result_is_named(run_dir):
    (run_dir / "03_qformer/results.json").write_text('{"metrics": ')
    with pytest.raises(results.UsageError, match=r"03_qformer.results\.json is not JSON"):
        results.load_all(run_dir)


def test_a_run_folder_is_one_place_from_everywhere(tmp_path, monkeypatch):
    root = Path(results.__file__).resolve().parents[1]
    monkeypatch.delenv("ZVL_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert results.run_folder(tmp_path / "x") == tmp_path / "x"
    assert results.run_folder("runs/nano") == root / "runs/nano"
    monkeypatch.setenv("ZVL_RUNS", str(tmp_path))
    assert results.run_folder("runs/nano") == tmp_path / "nano"
    assert results.run_folder("elsewhere") == root / "elsewhere"
    monkeypatch.setenv("ZVL_RUNS", "runs/ci")
    assert results.run_folder("runs/nano") == root / "runs/ci/nano"
