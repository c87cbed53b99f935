# The commands of the project. Run them as root: they install what is missing and make network namespaces.
.DEFAULT_GOAL := help
.PHONY: help setup demo bench test chaos wheel develop clean

BIN := .venv/bin

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

setup: ## install what is missing, build and install dataplane into .venv
	@.ci/setup

demo: setup ## show the main job on this machine: two real networks, published ports, isolation, checksum repair
	@$(BIN)/dpctl demo

bench: ## measure packets, rules and CNI calls beside others, quickly: three minutes, results in bench-results/
	@.ci/setup --bench
	@$(BIN)/dpctl bench run packet rules cni --quick

test: ## every check and every test, cheap ones first
	@.ci/setup --test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses=auto --dist=worksteal

chaos: ## the long tests: hundreds of thousands of packets, storms, a soak, everything broken at random
	@.ci/setup --test
	$(BIN)/pytest -m chaos

wheel: setup ## build the wheel into dist/
	@$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . && ls dist/*.whl

develop: ## install the checkout itself into .venv, so that changes count at once
	@.ci/setup --develop

clean: ## remove what was built here; what apt installed stays
	rm -f plugin/native/shim plugin/native/not-built
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
