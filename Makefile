# Everything starts from a bare machine: Python 3.11 or newer (with venv and pip), git and make.
# The first target that needs it builds $(VENV) from requirements.lock; nothing is installed outside of it.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
SECONDS ?= 60
# Counted, they would outlast their own patience; others reach all that they do.
SLOW_WHEN_COUNTED := not torn_at_any_byte and not through_every_transient_fault
MODULES ?= outcome hints lifecycle budget journal
TARGETS ?= job_file reply hints rate wire catalog usage chats echo gunzip journal

# A model that takes its time and a server that stumbles now and then, as real ones do.
DEMO_PLATFORM ?= --latency 3 --latency-sigma 0.5 --faults model_unavailable=0.02,upstream_error=0.01,reset_body=0.005

# Thousands of processes start in the tests, and none shall compile the package anew, wherever else that is wanted.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
STAMP := $(VENV)/.batchrun-installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test check coverage mutation bench bench-limiter bench-limiter-live campaign fuzz lock clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 24

demo: $(STAMP) ## run 300 jobs against the embedded platform: no key, no cost, nothing leaves this machine
	@run="demo.$$(date +%Y%m%d-%H%M%S).run"; code=0; \
	$(BIN)/batchrun submit jobs/demo.jsonl --simulate --simulate-options '$(DEMO_PLATFORM)' --rpm 1200 --metrics 0 -o "$$run" $(ARGS) || code=$$?; \
	for file in results costs errors; do \
		if [ -s "$$run/$$file.jsonl" ]; then \
			printf '\n%s/%s.jsonl begins:\n' "$$run" "$$file"; head -n 3 "$$run/$$file.jsonl" | cut -c 1-200; \
		fi; \
	done; \
	printf '\nAgain, any time: %s status %s\n' "$(BIN)/batchrun" "$$run"; exit $$code

test: $(STAMP) ## run all tests but the campaign (ARGS="-k name" for some of them)
	$(BIN)/pytest -m "not campaign" -n 4 --dist worksteal $(ARGS)

coverage: $(STAMP) ## run all tests but the campaign, and hold what they reach: all of a pure module, 95 % of any other
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m "not campaign" -n 4 --dist worksteal --timeout 600 -k "$(SLOW_WHEN_COUNTED)" $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage json --quiet -o .coverage.json
	$(BIN)/python -m tests.covered .coverage.json

mutation: $(STAMP) ## break each place of MODULES in turn: the tests must notice 85 % of it (CHILDREN=2 for two at a time)
	$(PIP) install --no-build-isolation --editable '.[mutation]'
	$(BIN)/python -m tests.mutation $(MODULES)

campaign: $(STAMP) ## run the long proofs, then let coverage lead the fuzzers
	$(BIN)/pytest -m campaign --timeout 3600 -rP $(ARGS)
	$(MAKE) fuzz

fuzz: $(STAMP) ## let coverage lead each fuzz target for a minute (SECONDS=600 for ten, TARGETS="wire reply" for some)
	$(PIP) install --no-build-isolation --editable '.[fuzz]'
	@set -e; for target in $(TARGETS); do printf '\n== %s\n' "$$target"; $(BIN)/python -m tests.hostile.fuzz "$$target" $(SECONDS); done

check: $(STAMP) ## lint, formatting, types, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## run each benchmark; every one prints its table and its machine
	@set -e; for script in benchmarks/bench_*.py; do printf '\n== %s\n' "$$script"; $(BIN)/python "$$script" $(ARGS); done

bench-limiter: $(STAMP) ## the limiter beside others on every kind of server, in virtual time (ARGS="--seeds 0 --cells tokens" for a part)
	$(BIN)/python -m benchmarks.limiter $(or $(ARGS),--output benchmarks/results/limiter.md)

bench-limiter-live: $(STAMP) ## submit beside two other clients over real sockets, on three kinds of window: four minutes
	$(BIN)/python -m benchmarks.limiter.live $(or $(ARGS),--output benchmarks/results/limiter_live.md)

lock: | $(BIN)/python ## bring requirements.lock up to pyproject.toml (ARGS=--upgrade: take the newest of everything)
	$(PIP) install 'uv>=0.9'
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra bench --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --quiet -o requirements.lock $(ARGS)
	@! grep -nE '[a-z]+://|--(extra-)?index-url|--find-links' requirements.lock

clean: ## remove caches, build products and demo runs; environments and other run directories stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache htmlcov .coverage* .mutation .fuzz demo.*.run
	find batchrunner tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "make: no $(PYTHON) here. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1); 3.11 or newer is needed: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "make: $(PYTHON) cannot make environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): requirements.lock pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
