# Every target sets up what it needs. PYTHON chooses the interpreter (3.11 or later):
#   make test PYTHON=python3.13
# Another interpreter gets an environment of its own, named by its version (an interpreter given by
# its path is often just called python), so that none destroys or stands in for another's.

PYTHON ?= python3
ifndef VENV
ifeq ($(PYTHON),python3)
VENV := .venv
else
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
endif
endif
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export CLAUDE_PM_PROFILES_DIR ?= $(CURDIR)/profiles
# The browser that some tests look through.
export CHROMIUM ?= /usr/bin/chromium

.PHONY: help install demo test test-quick lint format lab bench docs lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## set up the virtual environment with everything that development needs

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "claude_pm needs Python 3.11 or later: say which, as in make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "This Python has no venv module: install it (on Debian: apt-get install python3-venv)." >&2; exit 1; }
	@echo "Setting up $(VENV) (about a minute, once) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## ask real agents in two modes, compare, and write report.html
	@$(BIN)/python scripts/demo.py

test: $(STAMP) ## run all tests
	@[ -e "$$CHROMIUM" ] || scripts/install_chromium.sh
	@$(BIN)/python -m pytest

test-quick: $(STAMP) ## run the tests that need no model, worker or kernel
	@$(BIN)/python -m pytest -m "not slow"

lint: $(STAMP) ## check style, types and the import contract
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## format the code
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

lab: $(STAMP) ## open JupyterLab on notebooks/
	@$(BIN)/jupyter lab notebooks

bench: $(STAMP) ## run the benchmarks; read the ratios
	@$(BIN)/python -m benchmarks

docs: $(STAMP) ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

lock: $(STAMP) ## pin the newest versions anew
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	  --group dev --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	  --output-file requirements.lock pyproject.toml

clean: ## remove environments and caches, never profiles
	@rm -rf site .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
