# Everything is relative to this folder, so that a path with spaces above it does no harm.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
TEST_WORKERS ?= 2
TEST_ARGS ?=

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format clean distclean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done
	@echo
	@echo '  PYTHON=python3.12         the interpreter that makes the environment (3.10 or newer)'
	@echo '  PIP_ARGS=...              passed to pip install, for example --extra-index-url https://download.pytorch.org/whl/cpu'
	@echo '  TEST_ARGS=tests/models    passed to pytest'

setup: $(STAMP) ## make .venv with the package (editable) and everything needed to develop it
	@echo "ready: $(VENV)/bin/maedfer --help"

$(STAMP): pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "maedfer needs Python 3.10 or newer and '$(PYTHON)' is not: name one with  make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments: install its venv package (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "setting up $(VENV) (downloads PyTorch the first time)"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check --quiet $(PIP_ARGS) -e '.[dev]'
	@touch $@

demo: $(STAMP) ## run the main job on generated clips: pre-train, fine-tune, evaluate, report (runs/demo)
	$(PY) examples/demo.py --out runs/demo

test: lint ## lint, types and all tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(TEST_WORKERS) $(TEST_ARGS)

lint: $(STAMP) ## ruff (lint and format) and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	@# The last numpy for Python 3.10 has annotations that are too coarse for ours.
	@if $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then echo $(PY) -m mypy; $(PY) -m mypy; \
		else echo 'types are checked on Python 3.11 and newer only'; fi

format: $(STAMP) ## let ruff fix and format the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove caches, builds and the demo's output (not .venv)
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache runs/demo
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## also remove .venv
	rm -rf $(VENV)
