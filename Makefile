.PHONY: install reproduce evidence pages docs test integrations fuzz sanitize arm lint types-library types-tests bench wheel clean

PYTHON ?= python3
PRESET ?= quick
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
RUNNABLE := .venv/runnable
INSTALLED := .venv/installed
BENCHED := .venv/benched
DOCUMENTED := .venv/documented
# Some images set this, and every process would then compile PyTorch anew, for seconds.
export PYTHONDONTWRITEBYTECODE :=
KERNEL := $(wildcard CMakeLists.txt src/contextual_rnn/ops/csrc/* src/contextual_rnn/ops/*/csrc/*)

install: $(INSTALLED)

# What the command contextual-rnn needs. torch first and pinned: asked for by another package it could be the newest build
# with gigabytes of CUDA. Not compiled: of 14,000 files of Python most are never imported, and the others are compiled when
# they are; but the package itself is, for where Python may not write bytecode each start would compile it anew.
$(RUNNABLE): pyproject.toml constraints.txt $(KERNEL)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable ".[experiments]"
	$(BIN)/python -m compileall -q -j 0 src
	touch $@

# And tests and linters: by its name the package is the one installed, whose kernel is not built again.
$(INSTALLED): $(RUNNABLE)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt "contextual-rnn[test,lint]"
	touch $@

reproduce: $(RUNNABLE)
	$(BIN)/contextual-rnn reproduce --preset $(PRESET)

# Trains every run behind results/: days of one core. Finished runs are skipped, interrupted ones continue.
evidence: $(RUNNABLE)
	OMP_NUM_THREADS=1 results/evidence.sh

# Finished runs into results/, and results/ into the README and the pages.
pages: $(RUNNABLE)
	$(BIN)/python -m contextual_rnn.experiments.report.pages
	$(BIN)/python -m contextual_rnn.experiments.compare.page
	$(BIN)/python -m benchmarks.page

# The documentation into build/docs; a warning is an error. It imports the library to describe it, so that the environment
# is the same; a clean clone installs no tests and no linters for it.
docs: $(DOCUMENTED)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs build/docs
	@echo build/docs/index.html

$(DOCUMENTED): $(RUNNABLE)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt "contextual-rnn[docs,hub,transformers]"
	touch $@

# One thread per process: the tests already run on all cores. Each process takes tests that stand together, which share
# what they prepare.
test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal --quiet

# The recipes of docs/works-with.md, three examples and RWKV-7, with frameworks that nothing else needs, in an environment
# of their own. Without the pin of pandas: gluonts wants an older one. Of silero-vad only the files are read. norse asks
# for torchvision and does not import it; others do where it is installed, and beside a torch for CPUs alone PyPI's cannot
# be imported.
INTEGRATIONS := .venv-integrations
INTEGRATED := $(INTEGRATIONS)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
integrations: $(INTEGRATIONS)/installed
	OMP_NUM_THREADS=1 $(INTEGRATED)/pytest --quiet tests/test_works_with.py tests/test_adapters.py tests/test_attach.py \
	    tests/test_fla.py tests/language/test_families.py tests/language/test_rwkv7.py \
	    tests/examples/test_fertility.py tests/examples/test_masked_cartpole.py tests/examples/test_voice.py

$(INTEGRATIONS)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(INTEGRATIONS)
	grep -v "^pandas==" constraints.txt > $(INTEGRATIONS)/constraints.txt
	$(INTEGRATED)/pip install --quiet --no-compile --constraint $(INTEGRATIONS)/constraints.txt torch
	$(INTEGRATED)/pip install --quiet --no-compile --constraint $(INTEGRATIONS)/constraints.txt --editable ".[integrations]"
	$(INTEGRATED)/pip install --quiet --no-compile --no-deps silero-vad
	$(INTEGRATED)/python -c "import torchvision" 2> /dev/null || $(INTEGRATED)/pip uninstall --quiet --yes torchvision
	touch $@

# Random calls of every public name and damaged files: 40,000 and 5,000 tries in processes of their own, about an hour
# of a core. A failure can be repeated by its seed and number. Another seed: make fuzz SEED=7.
SEED ?= 0
fuzz: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --seed $(SEED)

# The kernel with address and undefined-behaviour sanitizers, for each instruction set of this processor. Leaks are not
# checked: Python and PyTorch never free some of their memory.
SANITIZED := build/sanitize
SETS := baseline $(shell grep -qw avx2 /proc/cpuinfo && echo avx2) $(shell grep -qw avx512bw /proc/cpuinfo && echo avx512)
sanitize: install
	cmake -S . -B $(SANITIZED) -DSANITIZE=ON
	cmake --build $(SANITIZED) --parallel
	for set in $(SETS); do \
	    CONTEXTUAL_RNN_KERNEL=$(CURDIR)/$(SANITIZED)/libcontextual_rnn_cpu.so CONTEXTUAL_RNN_INSTRUCTION_SET=$$set \
	    LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 \
	    $(BIN)/pytest --numprocesses auto --quiet tests/ops -k "cpu or kernel or classification or places" || exit 1; \
	done

# The kernel compiled for Arm and run in an emulator, against plain loops. Debian: apt install g++-aarch64-linux-gnu qemu-user
ARM := build/arm
arm:
	cmake -S . -B $(ARM) -DKERNEL_TEST=ON -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
	    "-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64;-L;/usr/aarch64-linux-gnu"
	cmake --build $(ARM) --parallel --target plain_loops
	ctest --test-dir $(ARM) --output-on-failure

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --jobs types-library types-tests

types-library:
	$(BIN)/basedpyright

types-tests:
	$(BIN)/pyrefly check --summary=none

bench: install $(BENCHED)
	$(BIN)/python -m benchmarks.fast_weights
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.ragged
	$(BIN)/python -m benchmarks.streaming

# Without JAX the benchmark says so and continues.
$(BENCHED): $(INSTALLED)
	-$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable ".[bench]" && touch $(BENCHED)

# With the kernel inside: can be installed where there is no compiler.
wheel: install
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf .venv .venv-integrations build dist
