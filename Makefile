# `make help` lists the targets. Everything runs in .venv, which uv makes from the lock file.

# What sites run, and what comes.
PICTRS         := 0.5.25 0.6.0-rc.6
CACHE          ?= $(HOME)/.cache/safety-proxy
PICTRS_ROOTS   ?= $(CACHE)
UV             ?= $(or $(shell command -v uv),$(CACHE)/uv/bin/uv)
PYTHON         ?= python3
BIN            := .venv/bin
DEMO           ?=
PYTEST         ?=
FAULTS         ?=
export PICTRS_ROOTS

.DEFAULT_GOAL := help
.PHONY: help demo test check bench faults pict-rs clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/synced ## Start with the small model and sample pictures, and stay up (DEMO="--upstream URL")
	$(BIN)/safety-proxy demo $(DEMO)

test: check ## All checks and tests; builds the real pict-rs by cargo (PYTEST="-k name")
	@$(MAKE) --no-print-directory pict-rs || [ "$(REQUIRE_E2E)" != 1 ]
	$(BIN)/python -m pytest $(PYTEST)

check: .venv/synced ## Linter, format, types, import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/synced ## Latency and throughput against pict-rs and the bare model
	$(BIN)/python benchmarks/run.py

faults: .venv/synced pict-rs ## 10,000 requests while everything breaks (FAULTS="--requests 1000 --seed 7")
	$(BIN)/python -m tests.faults.run $(FAULTS)

pict-rs: $(PICTRS:%=$(PICTRS_ROOTS)/pict-rs-%/bin/pict-rs) ## Build pict-rs for the end-to-end tests, outside this folder

clean: ## Remove the environment and the caches of the tools
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/synced: pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen
	@touch $@

$(CACHE)/uv/bin/uv:
	$(PYTHON) -m venv $(CACHE)/uv
	$(CACHE)/uv/bin/pip install --quiet 'uv>=0.9'

$(PICTRS_ROOTS)/pict-rs-%/bin/pict-rs:
	@command -v cargo >/dev/null || { \
	  echo "*** NO cargo: the tests against the real pict-rs will be SKIPPED. https://rustup.rs has it."; \
	  exit 1; }
	@cargo install pict-rs --version $* --locked --root $(PICTRS_ROOTS)/pict-rs-$* || { \
	  echo "*** pict-rs DID NOT BUILD (it needs Rust 1.95): the tests against it will be SKIPPED."; \
	  exit 1; }
