# The two commands a newcomer needs are `make run` and `make test`; each does all of its own set-up.
# PYTHON=...     another Python than the first of 3.11 or later on the PATH
# TORCH=cpu      fetch torch from its makers' index, in the small build without a GPU's libraries
.DEFAULT_GOAL := help
.PHONY: help run test lint unit e2e bench bench-speed bench-relevance soak lock clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

run: ## Install what is needed and open the window
	@sh packaging/setup.sh run
	@.venv/bin/dragoman

test: ## Install what is needed and run every check but the long ones
	@sh packaging/setup.sh test
	@bash packaging/check.sh lint format types layers unit integration

lint: ## Style, types and import layers only
	@sh packaging/setup.sh test
	@bash packaging/check.sh lint format types layers

unit: ## The fast tests only
	@sh packaging/setup.sh test
	@bash packaging/check.sh unit

e2e: ## The whole program on a library of real documents in several languages (takes long)
	@sh packaging/setup.sh test
	@bash packaging/check.sh end2end

bench: ## Measure against sentence-transformers in the same run; ARGS=--quick takes 3 minutes
	@sh packaging/setup.sh bench
	@.venv/bin/python -m tests.bench $(ARGS)

bench-speed: ## Measure speed and scale beside others, up to a million passages (hours); ARGS=--quick takes 10 minutes
	@sh packaging/setup.sh bench
	@sh packaging/bench_speed.sh $(ARGS)

bench-relevance: ## Measure how well it finds, beside the usual ways; ARGS=--quick takes a fifth of the hours
	@sh packaging/setup.sh run
	@.venv/bin/python -m tests.relevance $(ARGS)

soak: ## Changes, searches, kills and a full disk, then a comparison with a fresh index; ARGS="--minutes 20 --seed 1"
	@sh packaging/setup.sh run
	@.venv/bin/python -m tests.end2end.soak $(ARGS)

lock: ## Write constraints.txt anew from pyproject.toml
	@# Not brought up to date first: that would fail where old pins and new requirements do not fit.
	@test -x .venv/bin/python || sh packaging/setup.sh test
	@.venv/bin/python packaging/lock.py

clean: ## Remove what the other targets made, the environment included
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
