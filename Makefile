# Two commands do everything on a fresh Linux machine with Python >= 3.11: `make demo` and `make test`.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Installed again only when pyproject.toml changes.
HASH := $(shell sha256sum pyproject.toml | cut -c1-16)
INSTALLED := $(VENV)/.installed-$(HASH)
DEV := $(VENV)/.installed-dev-$(HASH)
# What `make check` runs of the tests: those that need neither torch nor a model nor a browser.
WITH_MODELS := tests/ir/capture tests/ir/test_fold_models.py tests/compiler/test_captured.py \
	tests/compiler/test_raise_moe.py \
	tests/profiler/report/test_html.py $(patsubst %,tests/profiler/test_%.py,alone calibrate candidates compare \
	generation_bench kernel_bench kv_cache measure memory_model perplexity profile_reports profile_verb routing tune) tests/profiler/evaluation/test_adapter.py
FAST := tests/test_layers.py tests/ir tests/compiler tests/profiler $(addprefix --ignore ,$(WITH_MODELS))
PYTEST_ARGS ?=

.PHONY: help install demo test test-slow check format fuzz bench onnx-table account-table placement-table train-lm clean \
	distclean

help:
	@echo "make demo       install, compile two models with real weights, verify, use and profile them"
	@echo "make test       install what tests need, run them (under 10 minutes on 2 cores)"
	@echo "make test-slow  the tests left out of that: full-size models, a GPU where there is one"
	@echo "make check      ruff, mypy and the fast tests, under a minute"
	@echo "make fuzz       hostile input made at random: MINUTES=30, SEED=0, TARGET=bundle,onnx (all when not given)"
	@echo "make bench      calibrate, hold predictions against measurements, race our bundles and their peers; docs/benchmarks.md"
	@echo "make onnx-table run ONNX's own node cases, write docs/onnx.md"
	@echo "make account-table  count the published models, write docs/accounting.md"
	@echo "make placement-table  place experts of drawn loads beside EPLB's method, write docs/placement.md"
	@echo "make train-lm   train the small language models in models/shakespeare and shakespeare_moe again, ten minutes each"
	@echo "make clean      remove what these commands made, but the installation (make distclean)"

install: $(INSTALLED)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch is named first and in the same command, so that no other package can pull another build of it.
$(INSTALLED): | $(BIN)/python
	@echo "== installing into $(VENV); the first time this fetches torch and ONNX Runtime, 0.5 to 3 GB"
	$(BIN)/python -m pip install --quiet "pip>=25.1"
	$(BIN)/python -m pip install "torch==2.13.*" -e ".[all]"
	$(BIN)/python -m pip install --no-deps $$($(BIN)/python -c \
		'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["demo"])')
	@rm -f $(VENV)/.installed-*; touch $@

$(DEV): $(INSTALLED)
	@echo "== installing the test tools into $(VENV)"
	$(BIN)/python -m pip install --group dev
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python -m tundish demo

test: $(DEV)
	$(BIN)/python -m pytest -m "not slow and not gpu" $(PYTEST_ARGS)

test-slow: $(DEV)
	$(BIN)/python -m pytest -m "slow or gpu" $(PYTEST_ARGS)

# The type checker sees the checkout under the name of the package through this link.
build/link/tundish:
	@mkdir -p build/link && ln -sfn ../.. $@

check: $(DEV) build/link/tundish
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m "not slow and not gpu" $(FAST) $(PYTEST_ARGS)

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What is found is kept in build/fuzz; tests/fuzz/__init__.py says what counts as a finding.
MINUTES ?= 5
SEED ?= 0
TARGET ?=
fuzz: $(DEV)
	PYTHONPATH=tests $(BIN)/python -P -m fuzz --minutes $(MINUTES) --seed $(SEED) --target "$(TARGET)"

bench: $(INSTALLED)
	$(BIN)/python -m tundish calibrate
	$(BIN)/python -m tundish predictions --write docs/benchmarks.md
	$(BIN)/python -m tundish bench --write docs/benchmarks.md
	$(BIN)/python -m tundish bench --backend tvm --write docs/benchmarks.md
	for kernel in gemm attention epilogues; do \
		$(BIN)/python -m tundish.profiler.kernel_bench $$kernel --write docs/benchmarks.md || exit 1; done
	$(BIN)/python -m tundish.profiler.kernel_bench gemm --precision bf16 --write docs/benchmarks.md
	-$(BIN)/python -m tundish.profiler.compile_bench --write docs/benchmarks.md
	$(BIN)/python -m tundish compile smollm2 -o build/smollm2.tundish
	$(BIN)/python -m tundish.profiler.generation_bench build/smollm2.tundish --write docs/benchmarks.md

onnx-table: $(DEV)
	PYTHONPATH=tests $(BIN)/python -m parity.onnx_nodes --write docs/onnx.md

placement-table: $(DEV)
	PYTHONPATH=tests $(BIN)/python -m parity.placement_table --write docs/placement.md

account-table: $(DEV)
	PYTHONPATH=tests $(BIN)/python -m parity.account_table --write docs/accounting.md

train-lm: $(INSTALLED)
	$(BIN)/python -m tundish.models.shakespeare.train models/shakespeare
	$(BIN)/python -m tundish.models.shakespeare_moe.train models/shakespeare_moe

clean:
	rm -rf build dist demo *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
