# Every target sets up what it needs first, once. `make help` says what there is.

export PYTHON
export PROCTREE_LIVE ?= auto

VENV := .venv/bin
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup setup-demo setup-test setup-bench build demo test lint bench bench-live clean

help:
	@echo "make demo    watch processes of this machine, or replay a bundled intrusion"
	@echo "make test    lint, type checks, layers, and all tests"
	@echo "make lint    the checks without the tests"
	@echo "make bench   measure everything; results as in benchmarks/results/"
	@echo "make bench-live   what being watched costs: us, auditd, bpftrace, forkstat; half an hour"
	@echo "make build   compile the kernel programs into the package"
	@echo "make setup   install what all of these need: .venv here, and system packages by apt"
	@echo "make clean   remove what was built, and .venv"
	@echo
	@echo "PYTHON=...          the interpreter to use, 3.11 or newer"
	@echo "PROCTREE_LIVE=...   live tests: auto (where the kernel allows), require, skip"

setup: setup-test build

setup-demo:
	@scripts/setup.sh demo

setup-test:
	@scripts/setup.sh test

setup-bench:
	@scripts/setup.sh bench

# bpf/Makefile knows by itself whether there is anything to compile.
build:
	@if command -v clang >/dev/null && command -v llvm-strip >/dev/null; then \
		$(MAKE) -s -C bpf; \
	else \
		echo "==> no clang or llvm-strip: the kernel programs are not compiled, live sources are off"; \
	fi

demo: setup-demo
	@$(MAKE) build
	@examples/demo.sh

test: lint
	@echo "==> pytest: unit, property and live tests (PROCTREE_LIVE=$(PROCTREE_LIVE))"
	@$(VENV)/python -m pytest

lint: setup-test
	@$(MAKE) build
	@echo "==> ruff: style and likely bugs"
	@$(VENV)/ruff check --quiet
	@$(VENV)/ruff format --check --quiet
	@echo "==> mypy: types"
	@$(VENV)/mypy --no-error-summary
	@echo "==> import-linter: layers"
	@$(VENV)/lint-imports --no-logo

bench: setup-test
	@$(MAKE) build
	@$(VENV)/python -m benchmarks

bench-live: setup-bench
	@$(MAKE) build
	@$(VENV)/python -m benchmarks cost ladder loop storm soak

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	$(MAKE) -C bpf clean
