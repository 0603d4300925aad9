# Everything runs in .venv, which the first target makes and keeps in step with pyproject.toml and the pinned versions.
# `python3` has to be a Python that pyproject.toml allows; `make PYTHON=python3.12 test` names another.

PYTHON ?= python3
JOBS   ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
ARGS   ?=

VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PINS   := .ci/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test exhaustive gpu check clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  ARGS="..." is passed on by demo, test, exhaustive and gpu, for example: make test ARGS="-k binomial"'

demo: $(READY) ## run examples/demo.py
	@$(BIN)/python examples/demo.py $(ARGS)

# One thread for each worker: the workers already fill the machine.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

test: $(READY) ## run the tests, one worker for each processor
	@$(PYTEST) $(ARGS)

exhaustive: $(READY) ## run what test leaves out: more cases of the same, and long runs
	@$(PYTEST) -m exhaustive $(ARGS)

# On a machine where nothing can be installed: python3 examples/benchmarks/gpu.py
gpu: $(READY) ## what a GPU says: checks, costs, trainings, in eight minutes
	@$(BIN)/python examples/benchmarks/gpu.py $(ARGS)

check: $(READY) ## lint, formatting and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

clean: ## remove caches and builds (not .venv)
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find metafunc tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml $(PINS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS) -e '.[dev,examples,higher,torchopt]'
	@touch $@
