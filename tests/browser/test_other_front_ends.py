"""The same notebook where JupyterLab is not: the classic page of Notebook 7, a page of HTML, a file opened again."""

import re
import time

import nbformat
import pytest

from .front_end import SLOW, SOON, jupyter, opened
from .gallery import write_gallery
from .widget_page import pressed, says, written

SHOWN = ("setup", "probe", "explorer", "map", "search", "chat")
OFFLINE = re.compile(r"Failed to load resource: net::|ERR_INTERNET_DISCONNECTED")


@pytest.fixture(scope="module")
def classic(browser, tmp_path_factory):
    """The notebook, open and run in `jupyter notebook`, and saved from there."""
    with jupyter("notebook", tmp_path_factory.mktemp("classic")) as server:
        write_gallery(server.folder / "gallery.ipynb", SHOWN)
        write_gallery(server.folder / "empty.ipynb", [])
        with opened(browser, server, "empty.ipynb", "notebooks") as empty:
            empty.page.wait_for_timeout(5000)
            usual = set(empty.wrong)  # what Notebook 7 complains of by itself: 7.6.5 of a setting's schema
        with opened(browser, server, "gallery.ipynb", "notebooks") as page:
            page.run_all()
            says(page.output("search"), "Best first, of 12")
            yield page, usual


@pytest.fixture(scope="module")
def kept(classic):
    """The file as the page saved it: the widgets' static views lie beside them."""
    classic, _ = classic
    classic.page.keyboard.press("Escape")
    classic.page.keyboard.press("Control+s")
    path = classic.server.folder / "gallery.ipynb"
    end = time.monotonic() + SOON / 1000
    while time.monotonic() < end:
        notebook = nbformat.read(path, as_version=4)
        if all(cell.execution_count for cell in notebook.cells):
            return notebook
        classic.page.wait_for_timeout(1000)
    pytest.fail("the page did not save its notebook")


def test_the_classic_page_shows_the_widgets_and_they_answer(classic, keep):
    classic, usual = classic
    for name in SHOWN[1:]:
        classic.output(name).locator(".vk").first.wait_for(timeout=SLOW)
    probe, chat = classic.output("probe"), classic.output("chat")
    written(probe, "caption 1", "a zebra <b>on</b> grass")
    says(probe, "1 of 12: your own")
    says(probe, "<b>on</b>")
    written(chat, "question", "what is in the picture?")
    pressed(chat, "ask")
    says(chat, "done")
    assert all(answer.strip("— ") for answer in chat.locator("tbody td").all_inner_texts())
    keep(classic.page)
    assert set(classic.wrong) <= usual


def as_page(notebook, path):
    """Exports as `jupyter nbconvert --to html` does."""
    from nbconvert import HTMLExporter  # comes with JupyterLab, not with what `make test` installs

    path.write_text(HTMLExporter().from_notebook_node(notebook)[0])
    return path


def opened_offline(browser, path):
    """The page as a file, without a network, and what went wrong on it besides the network that is not there."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 1500})
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(f"{error}"))
    page.set_default_timeout(SOON)
    page.goto(path.as_uri())
    return page, [text for text in wrong if not OFFLINE.search(text)]


def broken_pictures(page):
    """Alternative texts of the pictures that did not come."""
    return page.locator("img").evaluate_all("all => all.filter(one => one.naturalWidth === 0).map(one => one.alt)")


def test_an_html_export_shows_each_widgets_view_without_a_kernel(browser, kept, tmp_path, keep):
    page, wrong = opened_offline(browser, as_page(kept, tmp_path / "gallery.html"))
    assert page.locator(".vk:visible").count() == len(SHOWN) - 1
    for words in (
        "1 of 12: ",
        "similarity (cosine)",
        "principal component 1",
        "Best first, of 12",
        "Nothing was asked",
    ):
        page.get_by_text(words).first.wait_for()
    assert broken_pictures(page) == []
    keep(page)
    assert wrong == []
    page.context.close()


def test_a_file_that_is_opened_again_shows_its_views_before_anything_runs(browser, lab, kept, keep):
    for cell in kept.cells:  # as docs/run_notebooks.py keeps them: a committed notebook holds no live widget
        for output in cell.outputs:
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    kept.metadata.pop("widgets", None)
    nbformat.write(kept, lab.folder / "kept.ipynb")
    with opened(browser, lab, "kept.ipynb") as page:
        assert page.page.locator(".vk:visible").count() == len(SHOWN) - 1
        assert broken_pictures(page.page) == []
        keep(page.cell("probe"), "-probe")
        keep(page.cell("explorer"), "-explorer")
        keep(page.cell("map"), "-map")
        assert page.wrong == []
