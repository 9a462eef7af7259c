# `make demo` and `make test` do all their own set-up in .venv and reuse it at once the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test test-all test-tpu-build lint clean

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

# Two processes, each with whole files: much of a test is TensorFlow starting on one core.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: lint
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[notebook]'
	$(BIN)/python -m pytest -n 2 --dist loadfile -m ''

# The [tpu] wheels on this machine's CPU; without constraints.txt, whose tensorboard is too new for TensorFlow 2.20.
test-tpu-build:
	rm -rf .venv-tpu && $(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet --editable '.[tpu,dev,demo]'
	.venv-tpu/bin/python -m pip check
	TPU_SKIP_MDS_QUERY=1 .venv-tpu/bin/python -m trainer.doctor
	TPU_SKIP_MDS_QUERY=1 .venv-tpu/bin/python -m pytest tests/pipeline tests/trainer

clean:
	rm -rf .venv-tpu $(VENV) demo-output *.egg-info .mypy_cache .pytest_cache .ruff_cache
