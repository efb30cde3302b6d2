# `make help` lists what there is; `make demo` and `make test` do their own set-up.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help setup system demo test lab bench check docs lock clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) system ## make .venv from requirements.lock, and add the system packages where that is possible

$(READY): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; assert sys.version_info >= (3, 11), "vidlab needs Python 3.11 or later: make PYTHON=python3.12 setup"'
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

system: ## Chromium (PDF reports, browser tests), FFmpeg, a C compiler and EGL, by apt when root
	@.ci/system-packages

demo: setup ## record a faulty eight-stream pipeline, say why frames were late, write reports/demo.html
	$(BIN)/vidlab demo

test: setup ## run all tests
	$(BIN)/python -m pytest tests -n 2 --dist loadscope --no-loadscope-reorder

# JupyterLab does not start for root, as one is in many containers, unless told to.
lab: setup ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --ip=127.0.0.1 --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

bench: setup ## measure against peers; writes benchmarks/results.json
	$(BIN)/python -m benchmarks

check: $(READY) ## lint, types (strict) and the import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY) ## write the generated parts of docs/ anew
	$(BIN)/python -m docs.generate

lock: ## write requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --quiet --universal --generate-hashes --no-header \
	  --no-annotate --no-emit-index-url --python-version 3.11 \
	  --extra video --extra gpu --extra profile --extra workbench --group dev --output-file requirements.lock

clean: ## remove what make made, except .venv
	rm -rf build dist cache runs reports artifacts notebooks/cache notebooks/runs notebooks/reports .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
