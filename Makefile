# Any Python from 3.11 on: make PYTHON=python3.12 test
PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
WORKERS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test lint format types imports benchmarks faults studies-quick studies soak clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

venv: $(STAMP) ## make .venv and install the package with everything that tests and benchmarks need

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: venv ## watch a training on real images, diagnose it, write report.html
	rm -rf demo-run report.html
	$(BIN)/separatrix watch --run demo-run examples/fashion_mnist_cnn.py
	$(BIN)/separatrix diagnose demo-run || test $$? -eq 1
	$(BIN)/separatrix report demo-run -o report.html
	@echo "The report is $(CURDIR)/report.html; the run is $(CURDIR)/demo-run"

test: lint types imports ## everything that must hold before a change is merged
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: venv ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: venv ## mend style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: venv ## check types
	$(BIN)/mypy --strict src

imports: venv ## check that rooms import only from lower floors
	$(BIN)/lint-imports --no-cache

# Peers pull in packages that must not meet the tests, so they have a virtual environment of their own.
$(PEERS)/.installed: pyproject.toml constraints.txt benchmarks/constraints.txt benchmarks/requirements.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c benchmarks/constraints.txt -r benchmarks/requirements.txt
	@touch $@

benchmarks: $(PEERS)/.installed ## measure overhead and storage against interleaved baselines; needs a quiet machine
	for file in benchmarks/[a-z]*.py; do $(PEERS)/bin/python -m "benchmarks.$$(basename "$$file" .py)" || exit; done

faults: venv ## record and diagnose scripts with planted faults and healthy ones; prints recall and precision
	$(BIN)/python -m benchmarks.faults --workers $(WORKERS)

studies-quick: venv ## see whether the studies' claims hold, in under a minute each; what was computed is kept
	OMP_NUM_THREADS=1 $(BIN)/python -m separatrix.studies._suite --quick --workers $(WORKERS)

studies: venv ## the same in full, at most 30 minutes each
	OMP_NUM_THREADS=1 $(BIN)/python -m separatrix.studies._suite --workers $(WORKERS)

soak: venv ## kill recordings at 100 moments and read every one back
	$(BIN)/python -m soak.kill --moments 100

clean: ## remove what the other targets made, except .venv
	rm -rf demo-run report.html separatrix-runs build dist .cache .hypothesis .ruff_cache .mypy_cache .pytest_cache
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
