# `make demo` and `make test` need nothing but Python: each makes a virtual environment and installs what it uses.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

.PHONY: demo test lab lint clean

demo: $(VENV)/.kit
	$(BIN)/vladva demo

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

lab: $(VENV)/.notebooks
	$(BIN)/jupyter lab notebooks

$(VENV)/.kit: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.test: $(VENV)/.kit
	$(BIN)/python -m pip install --quiet -e ".[test]"
	touch $@

$(VENV)/.notebooks: $(VENV)/.kit
	$(BIN)/python -m pip install --quiet -e ".[notebooks]"
	touch $@

clean:
	rm -rf $(VENV) runs
