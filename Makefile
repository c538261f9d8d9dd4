# What a developer does with this checkout. Everything runs in .venv, which scripts/setup.sh keeps up to date.
# PYTHON=/path/to/python3 chooses the interpreter; ARGS="-k name" goes to pytest,
# ARGS=--features to the benchmark.
.DEFAULT_GOAL := help
.PHONY: help setup servers test lint format docs bench run stop clean

IN_VENV := .venv/bin/python -m

help:            ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup:           ## make or update .venv, with the development tools
	@./scripts/setup.sh --dev

servers:         ## install the real servers that tests use (as root; minutes the first time)
	@./scripts/servers.sh

test: setup      ## run the test suite, three files at a time
	@$(IN_VENV) pytest -q -n 3 --dist loadfile $(ARGS)

lint: setup      ## ruff (rules and format), mypy --strict
	@$(IN_VENV) ruff check .
	@$(IN_VENV) ruff format --check .
	@$(IN_VENV) mypy

format: setup    ## let ruff fix and format
	@$(IN_VENV) ruff check --fix .
	@$(IN_VENV) ruff format .

docs: setup      ## write the plugins' pages from their code (docs/plugins)
	@$(IN_VENV) scripts.plugin_pages

bench: setup     ## measure the gateway beside its peers (about two minutes)
	@$(IN_VENV) benchmarks $(ARGS)

run:             ## start the demo: two services and the gateway
	@./run_all.sh

stop:            ## stop the demo
	@./run_all.sh stop

clean:           ## remove the environment, caches and build products
	@for directory in .run/[0-9]*/; do if [ -d "$$directory" ]; then PORT=$$(basename "$$directory") ./run_all.sh stop; fi; done
	rm -rf .venv .run .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
