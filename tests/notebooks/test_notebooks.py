"""Each notebook runs from its own folder, offline and in time, and is committed as it ran."""

import re
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import vladva_kit

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 240
FEW = 24  # pictures in place of the form's N

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def with_few_pictures(notebook):
    """The notebook with the form cell's N made small; refuses one that has no such line, or several."""
    replaced = 0
    for cell in code_cells(notebook):
        cell.source, times = re.subn(r"(?m)^N = \d+(?=  #@param)", f"N = {FEW}", cell.source)
        replaced += times
    assert replaced == 1, f"{replaced} lines 'N = …  #@param' instead of one: the run would not be a short one"
    return notebook


def output_texts(notebook):
    """Everything that the outputs say, pictures left out."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            yield output.get("text", "")
            yield from (text for kind, text in output.get("data", {}).items() if kind.startswith("text/"))


def test_there_is_a_notebook():
    assert NOTEBOOKS


@every_notebook
def test_it_runs_from_top_to_bottom_in_time_without_a_network(path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # a kernel draws into the page
    notebook = with_few_pictures(nbformat.read(path, as_version=4))
    files = sorted(FOLDER.rglob("*"))
    begun = time.monotonic()
    NotebookClient(
        notebook,
        timeout=SECONDS,
        startup_timeout=SECONDS,
        kernel_name="python3",
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    assert time.monotonic() - begun < SECONDS
    assert sorted(FOLDER.rglob("*")) == files, "a notebook leaves no files behind"


@every_notebook
def test_it_is_committed_as_it_ran_once_from_top_to_bottom(path):
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell.outputs)


@every_notebook
def test_it_can_be_shown_everywhere(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata  # GitHub refuses those that lack a state
    assert path.stat().st_size < 1.2e6


@every_notebook
def test_its_outputs_name_no_folder_of_the_machine_it_ran_on(path):
    package = Path(vladva_kit.__file__).resolve().parent
    for text in output_texts(nbformat.read(path, as_version=4)):
        assert str(package.parent) not in text and "site-packages" not in text
