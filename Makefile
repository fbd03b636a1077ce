# These do all the set-up: `make demo`, `make test`, `make docs`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test docs lint clean

demo: $(VENV)/.installed
	$(BIN)/simserve search studies/quickstart.yaml -o simserve-results/quickstart

test: $(VENV)/.installed-dev
	$(BIN)/ruff check simserve tests docs
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -n 2 --dist loadgroup
	$(BIN)/simserve check studies/ --jobs 2

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -d site
	@echo "site/index.html; or, with search: $(BIN)/python -m http.server -d site"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix simserve tests docs
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[report,ui]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,report,ui,docs]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) simserve-results site
