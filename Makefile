# Every goal sets up .venv by itself, once; it is set up again when pyproject.toml changes.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: help setup demo test test-all bench lint faults formats onnx-tests fuzz precision
help:
	@echo "make demo      port a real sentence encoder to the four default targets and show what it cost"
	@echo "make test      lint-free fast tests        make test-all  all tests"
	@echo "make bench     seconds, memory and kernels per model and target, the checker beside polygraphy: build/bench/"
	@echo "make faults    known miscompilations and planted ones are found, equivalent models are not: both counts"
	@echo "make formats   every code of every number format, every conversion, ONNX's low-bit cases on each target"
	@echo "make onnx-tests [TARGET=gpu|tpu|trainium|maia|all]   every official case of onnx, interpreted or ported"
	@echo "make fuzz      2,000 random graphs: interpreter, jax, onnxruntime, and ports to every target"
	@echo "make precision what each precision costs trained models: the tables of docs/precision.md"
	@echo "make lint      ruff, mypy, import-linter"

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,gpu,tpu]'
	touch $@

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/python demo/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest -q -m 'not slow' -n 2

test-all: $(STAMP)
	$(BIN)/python -m pytest -q -n 2

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	OMP_NUM_THREADS=1 $(BIN)/python bench/checker.py
	$(BIN)/python bench/bench.py
	$(BIN)/python bench/quantize.py

faults: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,faults]'
	OMP_NUM_THREADS=1 $(BIN)/python tests/check/faults/run.py

formats: $(STAMP)
	$(BIN)/python -W ignore tests/formats/run.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# every official case of onnx: in the interpreter and under jax, or ported (make onnx-tests TARGET=gpu|tpu|trainium|maia|all)
onnx-tests: $(STAMP)
	$(BIN)/python tests/onnx/run.py $(addprefix --target ,$(TARGET)) --document docs/operators.md

fuzz: $(STAMP)
	$(BIN)/python tests/onnx/fuzz.py

# what each precision costs trained models: the tables of docs/precision.md (make precision ARGS="--models decoder")
precision: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python bench/precision.py $(ARGS)
