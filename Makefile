# Every command sets up .venv first. Another interpreter: make PYTHON=python3.12 test
.DEFAULT_GOAL := help
.PHONY: help install demo test check docs notebooks wheel ttsem format clean

# The first Python >= 3.11 that starts.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
PYTHON_VERSION := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null)
LOCK := $(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')
VENV := .venv
MADE := $(VENV)/.made-with-$(PYTHON_VERSION)
INSTALLED := $(VENV)/.installed-$(LOCK)
BIN := $(VENV)/bin
TTSEM := .venv-ttsem
TTSEM_PYTHON ?= python3.12

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## train two tiny models on synthetic data, compare them layer by layer
	$(BIN)/mpdiag demo

# One torch thread per process: threads of two processes slow each other down. tests/conftest.py sets
# the number of processes. They and the processes that they start share the bytecode.
test: $(INSTALLED) ## run the tests
	@tests/apps/install-chromium
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

check: $(INSTALLED) ## lint, formatting, types, import directions, vocabulary
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/check_language.py

notebooks: $(INSTALLED) ## execute the notebooks of the documentation
	PYTHONWARNINGS=ignore OMP_NUM_THREADS=1 $(BIN)/python docs/notebooks/execute.py --check

docs: $(INSTALLED) ## build the documentation site in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(BIN)/mkdocs build --strict --site-dir site
	@echo "Ready: site/index.html"

wheel: $(INSTALLED) ## build wheel and sdist, and use the wheel from an empty directory
	.ci/wheel

# Without a GPU. The empty cache makes Triton run all configurations.
ttsem: $(TTSEM)/.installed ## check accesses and races of the Triton kernel (Python 3.12 or 3.13)
	rm -rf $(TTSEM)/cache
	OMP_NUM_THREADS=1 TRITON_CACHE_DIR=$(CURDIR)/$(TTSEM)/cache $(TTSEM)/bin/python -m ttsem.sanitize \
		pytest tests/mpdiag/ops/test_deformable_attention_on_gpu.py -k triton

install: $(INSTALLED) ## set up .venv with the tested versions
	@echo "Ready: $(BIN)/mpdiag"

format: $(INSTALLED) ## let ruff sort and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and the caches
	rm -rf $(VENV) $(TTSEM) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info build dist site

$(MADE):
	@test -n "$(PYTHON_VERSION)" || { \
		echo "mpdiag needs Python 3.11 or newer with the venv module; name one: make PYTHON=python3.12 ..." >&2; \
		exit 2; }
	@echo "Setting up $(VENV) with Python $(PYTHON_VERSION)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(INSTALLED): $(MADE)
	@echo "Installing the tested versions of constraints.txt into $(VENV) (some minutes the first time)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@rm -f $(VENV)/.installed-* && touch $@

# ttsem needs its own versions of PyTorch and Triton.
$(TTSEM)/.installed:
	$(TTSEM_PYTHON) -m venv --clear $(TTSEM)
	$(TTSEM)/bin/pip install --quiet --disable-pip-version-check 'ttsem[triton]==0.1.0' pytest-timeout -e .
	@touch $@
