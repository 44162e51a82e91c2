# `make demo` and `make test` need nothing but Python: each makes a virtual environment and installs what it uses.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

.PHONY: demo test test-browser screenshots lab lint clean

demo: $(VENV)/.kit
	$(BIN)/vladva demo

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

test-browser: $(VENV)/.browser
	VLADVA_BROWSER=required $(BIN)/python -m pytest tests/browser

screenshots: $(VENV)/.browser
	$(BIN)/python -m tests.browser.screenshots

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

$(VENV)/.browser: $(VENV)/.test $(VENV)/.notebooks
	$(BIN)/python -m pip install --quiet -e ".[notebooks,test,browser]"
	touch $@

clean:
	rm -rf $(VENV) runs
