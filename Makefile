# `make demo` and `make test` do all their own set-up in .venv and reuse it at once the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test test-all lint clean

$(READY): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,dev,demo]'
	$(BIN)/python -m pip check
	touch $@

demo: $(READY)
	$(BIN)/python -m examples.demo --output=demo-output

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

test-all: lint
	$(BIN)/python -m pytest -m ''

clean:
	rm -rf $(VENV) demo-output *.egg-info .mypy_cache .pytest_cache .ruff_cache
