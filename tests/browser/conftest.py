"""One browser and one Jupyter server for all tests; without a browser, the summary says that nothing was tested."""

import os
from pathlib import Path

import pytest
from PIL import Image

from .front_end import SCREENSHOTS, chromium, jupyter, missing, opened
from .gallery import write_gallery

REQUIRED = "VLADVA_BROWSER"  # set to "required" by `make test-browser`
_SKIP_REASON = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def browser(request):
    reason = missing()
    if reason and os.environ.get(REQUIRED) == "required":
        pytest.fail(reason)
    if reason:
        request.config.stash[_SKIP_REASON] = reason
        pytest.skip(reason)
    with chromium() as started:
        yield started


def pytest_terminal_summary(terminalreporter, config):
    if reason := config.stash.get(_SKIP_REASON, ""):
        terminalreporter.section("NOT RUN: the widgets in a real browser", red=True)
        terminalreporter.line(f"{reason}; then: make test-browser")


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory):
    with jupyter("lab", tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="session")
def open_gallery(browser, lab):
    """The notebook of all widgets, open in JupyterLab, with all cells run."""
    write_gallery(lab.folder / "gallery.ipynb")
    with opened(browser, lab, "gallery.ipynb") as notebook:
        notebook.run_all()
        yield notebook


@pytest.fixture
def gallery(open_gallery):
    """The notebook of all widgets; fails the test if the page reports an error meanwhile."""
    open_gallery.errors.clear()
    yield open_gallery
    assert open_gallery.errors == []
    assert open_gallery.page.evaluate("document.title") != "it ran"


@pytest.fixture
def image_file(tmp_path):
    """A green image, to upload."""
    path = tmp_path / "green.png"
    Image.new("RGB", (80, 80), (10, 160, 70)).save(path)
    return path


@pytest.fixture
def screenshot(request):
    """Save a screenshot of a part of the page, named after the test: `screenshot(output)`."""

    def save(part, suffix: str = "") -> Path:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{request.node.name}{suffix}.png"
        part.screenshot(path=path)
        return path

    return save
