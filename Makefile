.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
LOCKED := .venv/.locked
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PYTEST_ARGS ?=
# Four processes on two cores, because most tests wait; a file's tests share a process, so that they share its fixtures.
PARALLEL ?= -n 4 --dist loadfile

# The one version of the resolver that writes the lock; in a venv of its own, since nothing but `make lock` needs it.
UV := uv==0.13.9

.PHONY: help install lint types test fault bench demo watch all lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv from the lock, the project in it (editable)

# A change of the lock makes the venv anew, so that nothing lingers which the lock no longer names;
# a change of pyproject.toml alone (a command, a version) only installs the project again.
$(LOCKED): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(PIP) install --require-hashes -r requirements.lock
	@touch $@

$(STAMP): $(LOCKED) pyproject.toml
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

lint: $(STAMP) types ## ruff, pyright, the walls between the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP) ## pyright alone
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

test: $(STAMP) ## every test: unit, property, integration, a short fault campaign
	$(BIN)/pytest $(PARALLEL) $(PYTEST_ARGS) tests

fault: $(STAMP) ## the fault suite alone: real workers, real signals (CAMPAIGN=long: ten minutes; CAMPAIGN_SEED=n)
	CAMPAIGN=$(CAMPAIGN) CAMPAIGN_SEED=$(CAMPAIGN_SEED) CAMPAIGN_FSYNC=$(CAMPAIGN_FSYNC) \
		$(BIN)/pytest $(PYTEST_ARGS) tests/fault

bench: $(STAMP) ## the benchmarks
	$(BIN)/python -m bench

demo: $(STAMP) ## a request from submit to outcome, on a Valkey and a simulated model of its own (REAL=1: the real one)
	$(BIN)/tailrace demo

watch: $(STAMP) ## a page to watch answers on, http://127.0.0.1:8000, on a Valkey and a simulated model of its own (PORT=n)
	$(BIN)/tailrace demo --watch --port $(or $(PORT),8000)

all: lint test demo ## lint, test, demo

lock: ## write requirements.lock anew from pyproject.toml
	$(PYTHON) -m venv --clear .lock-venv
	.lock-venv/bin/python -m pip install --quiet --disable-pip-version-check '$(UV)'
	.lock-venv/bin/uv pip compile --no-config --quiet --universal --python-version 3.11 --upgrade --all-extras --group dev \
		--generate-hashes --custom-compile-command 'make lock' \
		--output-file requirements.lock pyproject.toml
	rm -rf .lock-venv

clean: ## remove what make made
	rm -rf .venv .lock-venv .reports .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
