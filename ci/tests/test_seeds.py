"""Several seeds: what is luck in a figure, and a seed that fails."""

import numpy as np
import pytest

from zvl import cli, results, seeds
from zvl.results import UsageError


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("ZVL_RUNS", str(tmp_path))
    return tmp_path


def fake_run(fails=()):
    """A run that records its seed, and fails for some seeds after its first notebook."""

    def run(seed, folder):
        (folder / "stages").mkdir(parents=True)
        results.record(folder, "01_first", {"a/b": seed / 10}, seed=seed)
        if seed in fails:
            raise RuntimeError(f"03 failed in cell 2: AssertionError: margin {seed}")
        results.record(folder, "03_second", {"c/d": 0.5}, seed=seed)

    return run


def test_the_spread_is_that_of_the_runs():
    rng = np.random.default_rng(0)
    values = rng.random((5, 3))
    found = seeds.spread([dict(zip("xyz", row, strict=True)) for row in values])
    for name, column in zip("xyz", values.T, strict=True):
        assert found[name]["mean"] == pytest.approx(column.mean())
        assert found[name]["sd"] == pytest.approx(column.std(ddof=1))
        assert (found[name]["low"], found[name]["high"]) == (column.min(), column.max())
        assert found[name]["runs"] == 5
    assert seeds.spread([{"x": 0.5}])["x"]["sd"] == 0.0
    with pytest.raises(UsageError, match="no run to compare"):
        seeds.spread([])


def test_each_seed_has_its_folder_and_the_spread_is_written(runs):
    found = seeds.run_seeds([1, 3], fake_run())
    assert found["a/b"] == pytest.approx({"mean": 0.2, "sd": 0.02**0.5, "low": 0.1, "high": 0.3, "runs": 2})
    assert results.load_all(runs / "seeds/3")["a/b"] == 0.3
    assert not (runs / "seeds/3/stages").exists(), "trained weights would fill the disk"
    written = seeds.read_spread()
    assert written == {"seeds": [1, 3], "failed": {}, "spread": found}
    assert "| a/b " in (runs / "seeds/spread.md").read_text("utf8")
    seeds.run_seeds([7], fake_run(), keep_stages=True)
    assert (runs / "seeds/7/stages").exists()


def test_a_seed_that_fails_is_told_and_the_others_go_on(capsys, runs):
    found = seeds.run_seeds([1, 2, 4], fake_run(fails=[2]))
    assert found["a/b"]["runs"] == 3 and found["c/d"]["runs"] == 2
    reason = "03 failed in cell 2: AssertionError: margin 2"
    assert seeds.read_spread()["failed"] == {"2": reason}
    assert f"seed 2 failed: {reason}" in capsys.readouterr().out
    assert f"Seed 2 failed: {reason}" in (runs / "seeds/spread.md").read_text("utf8")


@pytest.mark.parametrize("given", [[], [1, 1]])
def test_seeds_are_given_once_and_one_at_least(given):
    with pytest.raises(UsageError, match="each seed once"):
        seeds.run_seeds(given, fake_run())


def test_no_spread_says_which_command_makes_it():
    with pytest.raises(UsageError, match="`zvl seeds` makes it"):
        seeds.read_spread()


def test_the_command_runs_the_notebooks_with_each_seed(monkeypatch, capsys, runs):
    asked = []

    def run(preset, only, parameters, folder):
        asked.append((preset, list(only), parameters, folder.name))
        fake_run()(parameters["seed"], folder)

    monkeypatch.setattr("zvl.run.run", run)
    assert cli.main(["seeds", "0", "2", "--only", "03"]) == 0
    assert asked == [("nano", ["03"], {"seed": 0}, "0"), ("nano", ["03"], {"seed": 2}, "2")]
    out = capsys.readouterr().out
    assert "| a/b " in out and "spread.md" in out
    assert cli.main(["seeds", "1", "1"]) == 2
    assert "each seed once" in capsys.readouterr().err
