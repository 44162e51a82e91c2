"""A browser for all, a Jupyter for all, and loud words where there is none: what did not run has not passed."""

import os
from pathlib import Path

import pytest
from PIL import Image

from .front_end import PICTURES, chromium, jupyter, missing, opened
from .gallery import write_gallery

REQUIRED = "VLADVA_BROWSER"  # set to "required" by `make test-browser`
_NOT_RUN = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def browser(request):
    why = missing()
    if why and os.environ.get(REQUIRED) == "required":
        pytest.fail(why)
    if why:
        request.config.stash[_NOT_RUN] = why
        pytest.skip(why)
    with chromium() as started:
        yield started


def pytest_terminal_summary(terminalreporter, config):
    if why := config.stash.get(_NOT_RUN, ""):
        terminalreporter.section("NOT RUN: the widgets in a real browser", red=True)
        terminalreporter.line(f"{why}; then: make test-browser")


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory):
    with jupyter("lab", tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="session")
def open_gallery(browser, lab):
    """The notebook of all widgets, open in JupyterLab, all its cells run."""
    write_gallery(lab.folder / "gallery.ipynb")
    with opened(browser, lab, "gallery.ipynb") as page:
        page.run_all()
        yield page


@pytest.fixture
def gallery(open_gallery):
    """The page of all widgets, on which nothing may go wrong meanwhile."""
    open_gallery.wrong.clear()
    yield open_gallery
    assert open_gallery.wrong == []
    assert open_gallery.page.evaluate("document.title") != "it ran"


@pytest.fixture
def picture_file(tmp_path):
    """A photograph of one's own: all green."""
    path = tmp_path / "green.png"
    Image.new("RGB", (80, 80), (10, 160, 70)).save(path)
    return path


@pytest.fixture
def keep(request):
    """Keeps a screenshot of a part of the page: `keep(output)`, named after the test."""

    def kept(shown, suffix: str = "") -> Path:
        PICTURES.mkdir(parents=True, exist_ok=True)
        path = PICTURES / f"{request.node.name}{suffix}.png"
        shown.screenshot(path=path)
        return path

    return kept
