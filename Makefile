# Everything runs from .venv; no target needs more than Python >= 3.11, git and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
# Extra pip arguments for PyTorch alone, for example an index that has its CPU-only build.
TORCH_ARGS ?=
DEMO_OUT ?= demo_out
# One process per core (at most four), each with one thread: tiny models gain nothing from more.
TEST_WORKERS ?= auto
PYTEST_ARGS ?=
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check format clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: .setup-dev ## make .venv with everything the tests need

demo: .setup-demo ## stage three unseen clips, caption them with the shipped weights, write a page
	$(BIN)/avocet demo --out $(DEMO_OUT)

test: .setup-dev ## the test suite (offline, minutes)
	$(PYTEST) $(PYTEST_ARGS)

test-slow: .setup-dev ## the tests marked slow
	$(PYTEST) -m slow $(PYTEST_ARGS)

check: .setup-dev ## lint, formatting, strict types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py

format: .setup-dev ## reformat and apply safe lint fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and everything built
	rm -rf $(VENV) .setup-venv .setup-demo .setup-dev build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# PyTorch is installed first and alone: a resolver that sees all requirements at once may replace
# a CPU build by a CUDA one.
.setup-venv: constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "No python3.11 or python3 found; name one with: make PYTHON=/path/to/python" >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; ok = sys.version_info >= (3, 11); ok or sys.stderr.write("Avocet needs Python 3.11 or newer, $(PYTHON) is %d.%d; name another with: make PYTHON=/path/to/python\n" % sys.version_info[:2]); sys.exit(not ok)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_ARGS) $$(grep '^torch==' constraints.txt)
	@touch $@

.setup-demo: .setup-venv pyproject.toml
	$(PIP) -e '.[theatre]'
	@touch $@

.setup-dev: .setup-venv pyproject.toml
	$(PIP) -e '.[dev]'
	@touch $@ .setup-demo
