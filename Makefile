# The front door: `make` lists the targets. Each starts from nothing but Python 3.11, 3.12 or 3.13 and a package index.
PYTHON ?= $(shell command -v python3.12 >/dev/null 2>&1 && python3.12 -c '' 2>/dev/null && echo python3.12 || echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
TRANSFORMERS := transformers-$(shell sed -n 's/^transformers==//p' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-transformers check format fuzz compatibility wheel-check starter clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

quickstart: $(VENV)/.run ## install, describe a clip (CLIP=path for your own), fine-tune the model in the box a little
	$(BIN)/hf-emotion quickstart $(CLIP)

test: $(VENV)/.dev $(VENV)/mediapipe-later ## install and run the tests
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --durations 20

test-transformers: $(VENV)/.dev $(VENV)/$(TRANSFORMERS)/tests ## run transformers' own model tests on the models (not part of test; fetches them)
	TRANSFORMERS_SOURCES=$(VENV)/$(TRANSFORMERS) $(BIN)/python -m pytest -o addopts=-q conformance

check: $(VENV)/.dev ## lint, format check and type check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

SEED ?= 0
CASES ?= 3000
fuzz: $(VENV)/.dev ## search for inputs that break anything: SEED and CASES, in bounded worker processes
	$(BIN)/python tests/hostile/fuzz.py --seed $(SEED) --cases $(CASES)

compatibility: $(VENV)/.dev ## check every cell of docs/compatibility.md and run the examples (about 30 minutes; not part of test)
	$(PIP) --editable ".[compatibility]"
	$(BIN)/python benchmarks/compatibility.py
	$(BIN)/python benchmarks/run_examples.py

PYTHONS ?= python3.11 python3.12 python3.13
wheel-check: ## build the wheel, install it clean on each of PYTHONS, try it on CLIP
	$(PYTHON) benchmarks/clean_installs.py --clip $(CLIP) --python $(PYTHONS)

starter: $(VENV)/.run ## train the model in the box from nothing, on synthetic faces and voices (15 minutes)
	$(BIN)/hf-emotion starter --output src/hf_emotion/starter/weights

clean: ## remove the virtual environment and what quickstart wrote
	rm -rf $(VENV) quickstart_output

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "hf_emotion is tested with Python 3.11, 3.12 and 3.13; $(PYTHON) is another: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A CPU build of torch where the index offers one: the default build brings several GB of CUDA libraries.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) "torch==$(TORCH)+cpu" 2>/dev/null || $(PIP) "torch==$(TORCH)"
	@touch $@

$(VENV)/.run: pyproject.toml $(VENV)/.torch
	$(PIP) --editable ".[demo]"
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.run

# The release that newer Pythons get, beside the one installed: tests compare the faces that both find.
$(VENV)/mediapipe-later: constraints.txt | $(VENV)/.dev
	rm -rf $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ \
		"mediapipe==$(shell sed -n 's/^mediapipe==\([^;]*\); python_version >= .*/\1/p' constraints.txt)"

# The wheel of transformers leaves its tests out; its source distribution holds the mixins, and nothing of it is built.
$(VENV)/$(TRANSFORMERS)/tests: | $(VENV)/.dev
	$(PIP) parameterized
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary transformers \
		--dest $(VENV) $(subst -,==,$(TRANSFORMERS))
	tar -xzf $(VENV)/$(TRANSFORMERS).tar.gz -C $(VENV)
