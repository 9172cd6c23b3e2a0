.PHONY: install reproduce test lint bench wheel clean

PYTHON ?= python3
PRESET ?= quick
BIN := .venv/bin
INSTALLED := .venv/installed
BENCHED := .venv/benched
KERNEL := $(wildcard CMakeLists.txt src/contextual_rnn/ops/csrc/*)

install: $(INSTALLED)

# torch first and pinned: asked for by another package it could be the newest build with gigabytes of CUDA.
$(INSTALLED): pyproject.toml constraints.txt $(KERNEL)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[experiments,test,lint]"
	touch $(INSTALLED)

reproduce: install
	$(BIN)/contextual-rnn reproduce --preset $(PRESET)

# One thread a process: the tests run on all cores already.
test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --quiet

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

bench: install $(BENCHED)
	$(BIN)/python -m benchmarks.fast_weights

# Without JAX the benchmark says so and goes on.
$(BENCHED): $(INSTALLED)
	-$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[bench]" && touch $(BENCHED)

# With the kernel inside: installs where there is no compiler.
wheel: install
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf .venv build dist
