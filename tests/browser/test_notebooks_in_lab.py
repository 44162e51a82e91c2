"""The notebooks that `make lab` opens: each is opened and run from top to bottom in the browser, as a reader would."""

import re

import nbformat
import pytest

from .front_end import ROOT, SLOW, opened

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FEW = 24  # pictures in place of the form's N
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@every_notebook
def test_it_runs_in_the_page_without_an_error(path, browser, lab, keep):
    notebook = nbformat.read(path, as_version=4)
    form = next(cell for cell in notebook.cells if cell.get("id") == "form")
    form.source, times = re.subn(r"(?m)^N = \d+(?=  #@param)", f"N = {FEW}", form.source)
    assert times == 1
    for cell in notebook.cells:
        if cell.cell_type == "code":  # what is seen then is what has run here
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, lab.folder / path.name)
    with opened(browser, lab, path.name) as page:
        page.run_all()
        assert page.page.locator(".jp-Notebook img").count() > 0
        pictures = page.page.locator(".jp-Notebook .jp-OutputArea img")
        assert pictures.evaluate_all("all => all.every(one => one.naturalWidth > 0)")
        for box in page.page.locator(".jp-OutputArea .vk").all():
            box.wait_for(timeout=SLOW)
        keep(page.page)
        assert page.wrong == []


@every_notebook
def test_it_opens_as_it_is_committed_with_its_figures(path, browser, lab, keep):
    (lab.folder / f"as-it-is-{path.name}").write_bytes(path.read_bytes())
    with opened(browser, lab, f"as-it-is-{path.name}") as page:
        figures = page.page.locator(".jp-Notebook .jp-OutputArea img")
        assert figures.count() > 0
        assert figures.evaluate_all("all => all.every(one => one.naturalWidth > 0)")
        keep(page.page)
        assert page.wrong == []


def test_there_are_notebooks_to_open():
    assert PATHS


def test_a_cell_that_fails_is_noticed(browser, lab):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in ("1 / 0", "2")])
    nbformat.write(notebook, lab.folder / "fails.ipynb")
    with opened(browser, lab, "fails.ipynb") as page, pytest.raises(RuntimeError, match="ZeroDivisionError"):
        page.run_all()
