"""Runs the notebooks and keeps what they show, so that they can be read without being run.

python docs/run_notebooks.py                    # all of them
python docs/run_notebooks.py 03_finetune        # one
python docs/run_notebooks.py --check            # runs nothing; fails where what is shown is not what the cells say

Before a notebook runs, what all of them share is written into it: the badge, the install cell and the link to the next
one, with the repository's address from pyproject.toml. It runs in an empty folder, as a lone file would in Colab.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import tempfile
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from vladva_kit.models.files import atomic_write
from vladva_kit.widgets.base import WIDGET_VIEW

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
TITLES = {
    "01_load_an_lvlm": "Load an LVLM",
    "02_prompts_and_lora": "Prompts and LoRA",
    "03_finetune": "The fine-tune",
    "04_embeddings": "Embeddings",
    "05_similarity": "Similarity",
    "06_failure_cases": "Failure cases",
    "07_your_model_and_data": "Your model, your data",
}
MOST_BYTES = 1_000_000
SECONDS = int(600 * float(os.environ.get("VLADVA_PATIENCE", "1")))  # for a cell; times as long on a busy machine


def repository() -> str:
    """The repository's address, from the one place where it stands: `repository()` -> "https://github.com/…"."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def in_colab(name: str) -> str:
    """A notebook's address in Colab: `in_colab("03_finetune")`."""
    path = repository().removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{name}.ipynb"


def badge(name: str) -> str:
    """The badge that opens a notebook in Colab, as Markdown."""
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({in_colab(name)})"


def install_source() -> str:
    """The install cell: does nothing where the kit is there."""
    return (
        "# Installs the kit where it is missing, as in Colab; elsewhere this cell does nothing.\n"
        "import importlib.util\n\n"
        'if importlib.util.find_spec("vladva_kit") is None:\n'
        f'    %pip install --quiet "vladva-kit[notebooks] @ git+{repository()}"'
    )


def next_line(name: str) -> str:
    """The last line of a notebook: where to go on, here and in Colab."""
    names = list(TITLES)
    following = names[(names.index(name) + 1) % len(names)]
    words = "Next" if following != names[0] else "Back to the first"
    return f"**{words}:** [{TITLES[following]}]({following}.ipynb) ([in Colab]({in_colab(following)}))"


def shared(notebook: NotebookNode, name: str) -> NotebookNode:
    """The notebook with all that every one of them has alike: `shared(notebook, "03_finetune")`.

    Its cell `title` gets the heading and the badge, `install` its code (put behind `title` where there is none), and
    `end` its last line. Raises KeyError for a name that is not one of TITLES, ValueError where a cell is missing.
    """
    cells = {cell.id: cell for cell in notebook.cells}
    missing = {"title", "form", "end"} - cells.keys()
    if missing:
        raise ValueError(f"{name} has no cell with the id {', '.join(sorted(missing))}")
    heading = f"# {name[:2]} · {TITLES[name]}"
    body = re.sub(r"\A# .*\n|^\[!\[Open in Colab\].*\n?", "", cells["title"].source, flags=re.MULTILINE).strip()
    cells["title"].source = f"{heading}\n\n{badge(name)}\n\n{body}"
    if "install" not in cells:
        cells["install"] = nbformat.v4.new_code_cell(id="install")
        notebook.cells.insert(1, cells["install"])
    cells["install"].source = install_source()
    said = re.sub(r"^\*\*(Next|Back to the first):\*\* .*\Z", "", cells["end"].source.strip(), flags=re.MULTILINE)
    cells["end"].source = f"{said.strip()}\n\n{next_line(name)}"
    return notebook


def source_hash(notebook: NotebookNode) -> str:
    """What the code cells say, as one number: changes when any of them does."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def executed(notebook: NotebookNode, changed: Mapping[str, str] | None = None) -> NotebookNode:
    """Runs a notebook in place, offline, in a folder of its own, on this checkout's code; its figures stay in it.

        executed(notebook, {"N": "24"})     # with that value in place of the form cell's

    Raises ValueError for a name that the form cell does not have, CellExecutionError as the notebook does.
    """
    form = next(cell for cell in notebook.cells if cell.id == "form")
    for key, value in (changed or {}).items():
        form.source, times = re.subn(
            rf"(?m)^{key} = .*?(?=  #@param)", lambda _, v=value, k=key: f"{k} = {v}", form.source
        )
        if times != 1:
            raise ValueError(f"the form cell has {times} lines '{key} = …  #@param' instead of one")
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "1"}
    surroundings["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    surroundings.pop("MPLBACKEND", None)  # a kernel draws into the page
    with tempfile.TemporaryDirectory() as empty:
        NotebookClient(
            notebook,
            timeout=SECONDS,
            startup_timeout=SECONDS,
            kernel_name="python3",
            store_widget_state=False,
            record_timing=False,
            resources={"metadata": {"path": empty}},
        ).execute(env=surroundings)
    return notebook


def tidied(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs from run to run or needs a kernel, and with the hash of its code cells.

    A widget is shown by its static view, which lies beside it in the output. Raises ValueError for a widget without.
    Bars of progress, which show only where a machine is slow, are dropped.
    """
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if not _is_bar(output)]
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


def _is_bar(output: NotebookNode) -> bool:
    """Whether an output is tqdm's, whose text reads "images:  40%|████ | 80/200"."""
    data = output.get("data", {})
    return WIDGET_VIEW in data and re.search(r"\d+%\|", data.get("text/plain", "")) is not None


def drifted(path: Path) -> str | None:
    """What is wrong with a notebook as it is kept, or None: `drifted(FOLDER / "03_finetune.ipynb")`."""
    notebook = nbformat.read(path, as_version=4)
    if notebook.metadata.get("vladva", {}).get("source_hash") != source_hash(notebook):
        return "its cells are not those that made its outputs"
    if [cell.source for cell in shared(nbformat.read(path, as_version=4), path.stem).cells] != [
        cell.source for cell in notebook.cells
    ]:
        return "its badge, install cell or last line are not those of all notebooks"
    return None


def run(path: Path) -> None:
    """Runs one notebook and writes it back, whole or not at all. Raises ValueError for one that grew too large."""
    notebook = tidied(executed(shared(nbformat.read(path, as_version=4), path.stem)))
    nbformat.validate(notebook)
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    if len(text.encode()) > MOST_BYTES:
        raise ValueError(f"{path.name} would be {len(text.encode()):,} bytes; the limit is {MOST_BYTES:,}: show less")
    atomic_write({path: text.encode()})


def main() -> None:
    """The command: see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="such as 03_finetune; all where none is given")
    parser.add_argument("--check", action="store_true", help="run nothing, say what has drifted")
    arguments = parser.parse_args()
    paths = [FOLDER / f"{Path(name).stem}.ipynb" for name in arguments.names] or sorted(FOLDER.glob("*.ipynb"))
    if arguments.check:
        wrong = {path.name: why for path in paths if (why := drifted(path))}
        raise SystemExit("\n".join(f"{name}: {why}; run docs/run_notebooks.py" for name, why in wrong.items()) or 0)
    for path in paths:
        begun = time.monotonic()
        run(path)
        print(f"{path.stem}: {time.monotonic() - begun:.0f} s, {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    main()
