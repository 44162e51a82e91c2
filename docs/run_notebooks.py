"""Run the notebooks and store their outputs, so that they can be read without being run.

python docs/run_notebooks.py                    # all of them
python docs/run_notebooks.py 03_finetune        # one
python docs/run_notebooks.py --check            # run nothing; fail if stored outputs are not those of the cells

Before a notebook runs, its shared parts are written: heading, badges, install cell, folded cells and
the link to the next notebook, with the repository's address from pyproject.toml. It runs in an empty folder, like a
single file in Colab.
The hash of the code cells is stored with the outputs, so that `--check` finds outputs of other cells.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from vladva_kit.models.files import atomic_write
from vladva_kit.widgets.static_view import STATIC_STYLE, WIDGET_VIEW

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
TITLES = {
    "00_playground": "Playground",
    "01_load_an_lvlm": "Load an LVLM",
    "02_prompts_and_lora": "Prompts and LoRA",
    "03_finetune": "Fine-tuning",
    "04_embeddings": "Embeddings",
    "05_similarity": "Similarity",
    "06_failure_cases": "Failure cases",
    "07_your_model_and_data": "Your model and data",
    "08_save_share_export": "Save, share, export",
}
FOLDED = ("install", "form", "setup")  # ids of cells
MAX_BYTES = 1_250_000
CELL_TIMEOUT = int(600 * float(os.environ.get("VLADVA_PATIENCE", "1")))  # seconds; VLADVA_PATIENCE=3 on a busy machine


def repository_url() -> str:
    """Return the repository's address from pyproject.toml: "https://github.com/…"."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def colab_url(name: str) -> str:
    """Return a notebook's address in Colab: `colab_url("03_finetune")`."""
    path = repository_url().removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{name}.ipynb"


def kaggle_url(name: str) -> str:
    """Return the address that imports a notebook into Kaggle: `kaggle_url("03_finetune")`."""
    return f"https://kaggle.com/kernels/welcome?src={repository_url()}/blob/main/notebooks/{name}.ipynb"


def install_source() -> str:
    """Return the install cell, which does nothing if the kit is installed."""
    return (
        "#@title Install (only if the kit is missing, as in Colab)\n"
        "import importlib.util\n\n"
        'if importlib.util.find_spec("vladva_kit") is None:\n'
        f'    %pip install --quiet "vladva-kit[widgets] @ git+{repository_url()}"'
    )


def next_link(name: str) -> str:
    """Return a notebook's last line, the link to the next one in the folder and in Colab."""
    names = list(TITLES)
    target = names[(names.index(name) + 1) % len(names)]
    label = "Next" if target != names[0] else "Back to the first"
    return f"**{label}:** [{TITLES[target]}]({target}.ipynb) ([in Colab]({colab_url(target)}))"


def add_shared_parts(notebook: NotebookNode, name: str) -> NotebookNode:
    """Write the parts that all notebooks share: `add_shared_parts(notebook, "03_finetune")`.

    The cell `title` gets the heading and the badges, the cell `install` (inserted after it if missing) its code, and
    the cell `end` its last line. Colab shows the cells in FOLDED as forms; JupyterLab folds all of them but the form.
    Raises KeyError for a name that is not in TITLES, ValueError for a missing cell.
    """
    cells = {cell.id: cell for cell in notebook.cells}
    if missing := {"title", "form", "end"} - cells.keys():
        raise ValueError(f"{name} has no cell with the id {', '.join(sorted(missing))}")
    badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab_url(name)})"
    badge += f" [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]({kaggle_url(name)})"
    body = re.sub(r"\A# .*\n|^\[!\[Open in Colab\].*\n?", "", cells["title"].source, flags=re.MULTILINE).strip()
    cells["title"].source = f"# {name[:2]} · {TITLES[name]}\n\n{badge}\n\n{body}"
    if "install" not in cells:
        cells["install"] = nbformat.v4.new_code_cell(id="install")
        notebook.cells.insert(1, cells["install"])
    cells["install"].source = install_source()
    for cell in (cells[key] for key in FOLDED if key in cells):
        cell.metadata["cellView"] = "form"
        if cell.id != "form":  # whose values are edited in the source
            cell.metadata["jupyter"] = {"source_hidden": True}
    body = re.sub(r"^\*\*(Next|Back to the first):\*\* .*\Z", "", cells["end"].source.strip(), flags=re.MULTILINE)
    cells["end"].source = f"{body.strip()}\n\n{next_link(name)}"
    return notebook


def source_hash(notebook: NotebookNode) -> str:
    """Return a hash of the code cells, which changes if any of them does."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def set_form(notebook: NotebookNode, values: Mapping[str, str]) -> None:
    """Replace values in the form cell by their source: `set_form(notebook, {"N": "24"})`.

    Raises ValueError for a name that the form cell does not have.
    """
    form = next(cell for cell in notebook.cells if cell.id == "form")
    for name, value in values.items():
        line = f"{name} = {value}"
        form.source, count = re.subn(rf"(?m)^{name} = .*?(?=  #@param)", lambda _, line=line: line, form.source)
        if count != 1:
            raise ValueError(f"the form cell has {count} lines '{name} = …  #@param'; it needs exactly one")


@contextmanager
def started_kernel(folder: str | Path) -> Iterator[NotebookClient]:
    """Start a kernel in a folder, offline, with the code of this checkout; stop it after the block."""
    client = NotebookClient(
        nbformat.v4.new_notebook(),
        timeout=CELL_TIMEOUT,
        startup_timeout=CELL_TIMEOUT,
        kernel_name="python3",
        store_widget_state=False,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "JPY_SESSION_NAME": "run"}  # static views follow their widgets
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment.pop("MPLBACKEND", None)  # a kernel draws figures into the notebook
    with client.setup_kernel(env=environment):
        yield client


def execute(notebook: NotebookNode, client: NotebookClient) -> NotebookNode:
    """Run the cells of a notebook in a started kernel; the outputs are stored in the notebook.

        with started_kernel(folder) as client: execute(notebook, client)

    Raises CellExecutionError if a cell raises.
    """
    client.nb = notebook
    client.reset_execution_trackers()
    for index, cell in enumerate(notebook.cells):
        client.execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
    return notebook


def clean_outputs(notebook: NotebookNode) -> NotebookNode:
    """Remove outputs and metadata that need a kernel or differ between runs, and store the hash of the code cells.

    Widgets are stored as their static views, and progress bars are dropped. Raises ValueError for a widget without
    a static view.
    """
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [
                output
                for output, following in zip_longest(cell.outputs, cell.outputs[1:], fillvalue={})
                if not _is_dropped(output, following)
            ]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if WIDGET_VIEW in data:
                del data[WIDGET_VIEW]
                if "text/html" not in data:
                    raise ValueError(f"cell {cell.id} shows a widget that has no static view; end it with the view")
    notebook.metadata = nbformat.from_dict(
        {
            "colab": {"provenance": [], "toc_visible": True},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
            "vladva": {"source_hash": source_hash(notebook)},
        }
    )
    return notebook


def _is_dropped(output: Mapping, following: Mapping) -> bool:
    """Return whether an output is a bar of tqdm, the style of static views, or a widget whose static view follows."""
    data, after = output.get("data", {}), following.get("data", {}).get("text/html", "")
    if WIDGET_VIEW not in data:
        return data.get("text/html") == STATIC_STYLE
    is_bar = re.search(r"\d+%\|", data.get("text/plain", "")) is not None  # "images:  40%|████ | 80/200"
    return is_bar or ("text/html" not in data and STATIC_STYLE in after)


def find_drift(path: Path) -> str | None:
    """Say how a stored notebook is out of date, or return None: `find_drift(FOLDER / "03_finetune.ipynb")`."""
    notebook = nbformat.read(path, as_version=4)
    if notebook.metadata.get("vladva", {}).get("source_hash") != source_hash(notebook):
        return "its outputs were made by other cells"
    sources = [cell.source for cell in notebook.cells]
    if [cell.source for cell in add_shared_parts(notebook, path.stem).cells] != sources:
        return "its badge, install cell or last line differs from the shared one"
    return None


def run(path: Path) -> None:
    """Run a notebook and write it back atomically. Raises ValueError if it is larger than MAX_BYTES."""
    notebook = add_shared_parts(nbformat.read(path, as_version=4), path.stem)
    with tempfile.TemporaryDirectory() as folder, started_kernel(folder) as client:
        clean_outputs(execute(notebook, client))
    nbformat.validate(notebook)
    content = (nbformat.writes(notebook).rstrip("\n") + "\n").encode()
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path.name} has {len(content):,} bytes; the limit is {MAX_BYTES:,}: show fewer images")
    atomic_write({path: content})


def main() -> None:
    """Run the command that the module's docstring describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="such as 03_finetune; all notebooks by default")
    parser.add_argument("--check", action="store_true", help="run nothing, list notebooks that are out of date")
    arguments = parser.parse_args()
    paths = [FOLDER / f"{Path(name).stem}.ipynb" for name in arguments.names] or sorted(FOLDER.glob("*.ipynb"))
    if arguments.check:
        drifts = {path.name: drift for path in paths if (drift := find_drift(path))}
        raise SystemExit("\n".join(f"{name}: {why}; run docs/run_notebooks.py" for name, why in drifts.items()) or 0)
    for path in paths:
        start = time.monotonic()
        run(path)
        print(f"{path.stem}: {time.monotonic() - start:.0f} s, {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    main()
