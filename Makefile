# `make demo` and `make test` do all their own set-up in .venv and reuse it at once the second time; the demo takes what
# users take (LEAN), the tests add to it. Another Python takes an environment of its own: make test PYTHON=python3.12 VENV=.venv-3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LEAN := $(VENV)/.ready-lean
READY := $(VENV)/.ready
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo docs page-runtime wheel test test-fast test-all test-tpu-build fuzz lint clean

# --clear: what an older setup.py named may own the files of what this one names (TensorFlow's wheels do).
$(LEAN): setup.py constraints.txt
	@echo "installing into $(VENV): 2.4 GB, a few minutes the first time"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[cpu,demo]'
	touch $@

$(READY): $(LEAN)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip check
	touch $@

demo: $(LEAN)
	$(BIN)/python -m examples.demo --output=demo-output

# The documentation, without a network; open build/docs/index.html.
docs: $(READY)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

# What trainer.export --formats=page puts into its pages: 12 MB, once, by npm. Nothing else needs it.
page-runtime: $(READY)
	$(BIN)/python -m trainer.serving.page

# A wheel that makes pages without npm.
wheel: $(READY)
	$(BIN)/python -m trainer.serving.page --output=trainer/serving/page/archives
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes, each with whole files: much of a test is TensorFlow starting on one core.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The half of `make test` for a second Python: all code that is free of TensorFlow (ARCHITECTURE.md), which rests on the
# standard library most, and an import of every other module. Left out is what takes the time, training small models
# once more, and the linting, which knows the oldest Python anyway (pyproject.toml).
FAST := tests/beam_jobs tests/fuzz tests/retrain tests/pipeline/format tests/pipeline/images \
	tests/pipeline/test_command.py tests/test_architecture.py tests/test_packaging.py
test-fast: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(FAST)

test-all: lint
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[notebook]'
	$(BIN)/python -m pytest -n 2 --dist loadfile -m ''

# Hostile and damaged inputs by the minute, which a few seconds of the tests only begin with: make fuzz SECONDS=3600, or
# make fuzz TARGET=image,tar. Ends with 1 where it finds something, and says how to see it again (tests/fuzz/__main__.py).
SECONDS ?= 60
fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz --seconds=$(SECONDS) --target=$(TARGET)

# The [tpu] wheels on this machine's CPU; without constraints.txt, whose tensorboard is too new for TensorFlow 2.20.
test-tpu-build:
	rm -rf .venv-tpu && $(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet --editable '.[tpu,dev,demo]'
	.venv-tpu/bin/python -m pip check
	TPU_SKIP_MDS_QUERY=1 .venv-tpu/bin/python -m trainer.doctor
	TPU_SKIP_MDS_QUERY=1 .venv-tpu/bin/python -m pytest tests/pipeline tests/trainer

# For tests/test_dataflow.py; without constraints.txt, which Beam's pins for Google's libraries contradict.
.venv-dataflow:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --editable '.[dataflow]'

clean:
	rm -rf .venv .venv-* build dist demo-output *.egg-info .mypy_cache .pytest_cache .ruff_cache
