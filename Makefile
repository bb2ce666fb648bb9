# One virtual environment, two sizes of it: `demo` (the package and scikit-learn) and `dev` (all).
# Stamp files inside .venv remember what is installed, so that set-up is done once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := $(BIN)/python -m pytest
ARGS   ?=

.PHONY: help demo test check format zoo nightly bench setup clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.demo  ## train a small network, cut it, prove it, and print what was won
	$(BIN)/python -m excise demo $(ARGS)

test: $(VENV)/.dev  ## run the tests on two cores (make test ARGS="-k graph")
	$(PYTEST) -n 2 $(ARGS)

check: $(VENV)/.dev  ## format, lint, types, floors, docs
	scripts/check

format: $(VENV)/.dev  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

zoo: $(VENV)/.dev  ## run the tests on other people's networks (minutes)
	$(PYTEST) -n 2 -m zoo $(ARGS)

nightly: $(VENV)/.dev  ## run everything, with 2,000 examples for each property (hours)
	EXCISE_PROFILE=nightly $(PYTEST) -n 2 -m "slow or nightly or not zoo" $(ARGS)

bench: $(VENV)/.dev  ## print the numbers of the README and the docs (minutes)
	set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

setup: $(VENV)/.dev  ## only make the environment

clean:  ## remove the environment and every cache
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "setting up $(VENV) for the demo, once: about a minute, more with a cold cache"
	$(PIP) -e ".[demo]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "setting up $(VENV) for development, once: about two minutes, more with a cold cache"
	$(PIP) -e ".[demo,test,zoo,dev]"
	@touch $@ $(VENV)/.demo
