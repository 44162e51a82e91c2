"""Every notebook of `make lab` opens and runs in JupyterLab without errors."""

import re

import nbformat
import pytest

from .front_end import ROOT, SLOW, opened

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
N_IMAGES = 24  # in place of the form's N and STEPS
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@every_notebook
def test_the_notebook_runs_without_an_error(path, browser, lab, screenshot):
    notebook = nbformat.read(path, as_version=4)
    form = next(cell for cell in notebook.cells if cell.get("id") == "form")
    form.source, replaced = re.subn(r"(?m)^(N|STEPS) = \d+(?=  #@param)", r"\1 = " + str(N_IMAGES), form.source)
    assert replaced or path.stem.startswith("06")  # which uses all cases
    for cell in notebook.cells:
        if cell.cell_type == "code":  # so that every output is of this run
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, lab.folder / path.name)
    with opened(browser, lab, path.name) as shown:
        shown.run_all()
        images = shown.page.locator(".jp-Notebook .jp-OutputArea img")
        assert images.count() > 0
        assert images.evaluate_all("images => images.every(image => image.naturalWidth > 0)")
        for view in shown.page.locator(".jp-OutputArea .vk").all():
            view.wait_for(timeout=SLOW)
        screenshot(shown.page)
        assert shown.errors == []


@every_notebook
def test_the_committed_notebook_opens_with_its_figures(path, browser, lab, screenshot):
    (lab.folder / f"committed-{path.name}").write_bytes(path.read_bytes())
    with opened(browser, lab, f"committed-{path.name}") as shown:
        figures = shown.page.locator(".jp-Notebook .jp-OutputArea img")
        assert figures.count() > 0
        assert figures.evaluate_all("images => images.every(image => image.naturalWidth > 0)")
        screenshot(shown.page)
        assert shown.errors == []


def test_there_are_notebooks():
    assert PATHS


def test_a_failing_cell_is_detected(browser, lab):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in ("1 / 0", "2")])
    nbformat.write(notebook, lab.folder / "fails.ipynb")
    with opened(browser, lab, "fails.ipynb") as shown, pytest.raises(RuntimeError, match="ZeroDivisionError"):
        shown.run_all()
