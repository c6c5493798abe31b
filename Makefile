# `make demo` and `make test` do all the set-up themselves: a virtual environment with pinned packages, then their job.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: demo test lint openapi clean

demo: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh demo.sh

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

openapi: $(STAMP)
	$(BIN)/python -m workflows.serve.openapi

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[app,dev]"
	touch $@

clean:
	rm -rf .venv demo runs
