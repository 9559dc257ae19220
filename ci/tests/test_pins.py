"""environment.yml, pyproject.toml and ci/constraints.txt agree, and hold all that the code imports."""

import ast
import json
import re
import sys
import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(line) for line in [*PROJECT["dependencies"], *chain(*EXTRAS.values())]]
CONSTRAINTS = [
    line
    for line in (ROOT / "ci/constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
PINS = {canonicalize_name(name): version for name, version in (line.split("==") for line in CONSTRAINTS)}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_each_requirement_is_pinned_within_its_range(requirement):
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_constraints_are_exact_and_portable():
    assert len(PINS) == len(CONSTRAINTS)
    # A local version such as +cpu, an editable line or a path would install on one machine only.
    assert [line for line in CONSTRAINTS if not re.fullmatch(r"[\w.-]+==[\w.!]+", line)] == []


def test_the_pins_suit_every_python_that_the_project_allows():
    """Where one does not, pip searches for an hour instead of saying so."""
    lowest = min(Requirement(f"python{PROJECT['requires-python']}").specifier, key=str).version + ".0"
    wanted = {
        canonicalize_name(found.metadata["Name"]): found.metadata["Requires-Python"]
        for found in metadata.distributions()
    }
    strict = {name: wanted[name] for name in PINS.keys() & wanted.keys() if wanted[name]}
    assert len(strict) > 100, "the environment does not hold what is pinned"
    assert {name: said for name, said in strict.items() if not SpecifierSet(said).contains(lowest)} == {}


def test_conda_users_get_the_same_pins():
    *conda, last = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert last["pip"] == ["-c ci/constraints.txt", f"torch=={PINS['torch']}", "-e .[dev]"]
    python = next(line.removeprefix("python=") for line in conda if line.startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)


def test_the_nano_weights_travel_with_the_package():
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "model/nano/**/*" in package_data["zvl"]


def test_the_art_and_the_sentences_travel_with_the_package():
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert {"data/art/*", "data/sentences/*"} <= set(package_data["zvl"])


def sources():
    """(place, Python source) of the package, the tests and the code cells of the notebooks."""
    alone = ROOT / "zvl/data/art/draw_noto.py"  # has an environment of its own, which it describes
    for path in {*ROOT.glob("zvl/**/*.py"), *ROOT.glob("ci/**/*.py")} - {alone}:
        yield path.relative_to(ROOT), path.read_text(encoding="utf-8")
    for path in ROOT.glob("notebooks/**/*.ipynb"):
        if ".ipynb_checkpoints" in path.parts:
            continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                yield path.relative_to(ROOT), "".join(cell["source"])


def test_every_import_is_a_declared_requirement():
    declared = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS} | {"zvl"}
    # What jupyterlab, papermill and pytest themselves stand on.
    declared |= {"huggingface-hub", "ipython", "nbclient", "packaging"}
    owners = metadata.packages_distributions()
    missing = set()
    for place, source in sources():
        for node in ast.walk(ast.parse(source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names):
                if (ROOT / "ci/tests" / f"{name}.py").exists():
                    continue
                if not {canonicalize_name(owner) for owner in owners.get(name, [])} & declared:
                    missing.add(f"{place}: {name}")
    assert sorted(missing) == []
