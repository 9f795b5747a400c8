# `make demo` and `make test` are all that a new user needs; each sets up .venv first, once.
PYTHON ?= python3
# An NVIDIA GPU that answers means the CUDA engine. Override: make ENGINE=cpu demo
ENGINE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)
BIN := .venv/bin
READY := .venv/.ready-$(ENGINE)
READY_TEST := .venv/.ready-test-$(ENGINE)
INPUTS := pyproject.toml constraints.txt scripts/setup.sh
PACKAGES := loractl kernels registry
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test lint format types docs generate bench-cli bench-trust bench-gateway bench-neighbour bench-kernels-report clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-21s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): $(INPUTS)
	scripts/setup.sh $(ENGINE)
	@touch $@

$(READY_TEST): $(INPUTS)
	scripts/setup.sh $(ENGINE) test
	@touch $(READY) $@

setup: $(READY)  ## Set up .venv with loractl and its engine

demo: $(READY)  ## Show the main job, start to finish, then stop the server
	@$(BIN)/loractl demo $(ARGS)

serve: $(READY)  ## The demo's adapters on a server that stays up until Ctrl-C
	@$(BIN)/loractl demo --keep-serving $(ARGS)

test: $(READY_TEST)  ## The whole suite
	$(BIN)/pytest $(ARGS)

lint: $(READY_TEST)  ## Format, lint, both type checkers, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright

format: $(READY_TEST)  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY_TEST)  ## Build the documentation into site/, warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

generate: $(READY_TEST)  ## Rewrite what is generated: completions/, docs/reference/cli.md and docs/attacks.md
	$(BIN)/python -m loractl.cli.generate
	PYTHONPATH=tests $(BIN)/python -m attacks.page

bench-cli: $(READY_TEST)  ## Time the commands on a registry of 10 000 versions
	$(BIN)/python benchmarks/cli.py

bench-trust: $(READY_TEST)  ## Time what trust costs: the start of a server, and commands on 10 000 signed versions
	$(BIN)/python benchmarks/trust.py

bench-gateway: $(READY_TEST)  ## Time the gateway at 200 concurrent streams on a fake engine
	$(BIN)/python benchmarks/gateway.py

bench-neighbour: $(READY_TEST)  ## The gateway's memory; a real vLLM: a flood, times across tenants, lost throughput
	$(BIN)/python benchmarks/gateway_memory.py
	$(BIN)/python benchmarks/neighbour.py
	$(BIN)/python benchmarks/cache_timing.py
	$(BIN)/python benchmarks/engine_share.py

bench-kernels-report: $(READY_TEST)  ## Rewrite docs/benchmarks-kernels.md and its plots from the raw rows
	$(BIN)/python kernels/benchmarks/report.py

clean:  ## Remove .venv and everything built
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
