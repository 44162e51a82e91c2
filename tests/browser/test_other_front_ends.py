"""The widgets outside JupyterLab: in Notebook 7, in an HTML export, and in a saved notebook without a kernel."""

import re
import time

import nbformat
import pytest

from .front_end import SLOW, SOON, jupyter, opened
from .gallery import write_gallery
from .widget_page import fill, press, wait_for_text, wait_until

CELLS = ("setup", "probe", "explorer", "map", "search", "chat")
WIDGETS = CELLS[1:]
QUESTION, MARKUP = "what is in the picture?", "a zebra <b>on</b> grass"
ANSWERED = "chat => { const row = chat.querySelector('tbody tr'); return row && !/—/.test(row.innerText); }"
OFFLINE = re.compile(r"Failed to load resource: net::|ERR_INTERNET_DISCONNECTED")


@pytest.fixture(scope="module")
def classic(browser, tmp_path_factory):
    """The notebook, run and used in Notebook 7, and the errors that an empty notebook reports there."""
    with jupyter("notebook", tmp_path_factory.mktemp("classic")) as server:
        write_gallery(server.folder / "gallery.ipynb", CELLS)
        write_gallery(server.folder / "empty.ipynb", [])
        with opened(browser, server, "empty.ipynb", "notebooks") as empty:
            empty.page.wait_for_timeout(5000)
            usual = set(empty.errors)  # for example, 7.6.5 reports a setting's schema
        with opened(browser, server, "gallery.ipynb", "notebooks") as notebook:
            notebook.run_all()
            wait_for_text(notebook.output("search"), "Best first, of 12")
            chat, probe = notebook.output("chat"), notebook.output("probe")
            fill(chat, "question", QUESTION)
            press(chat, "ask")
            wait_until(chat, ANSWERED)
            probe.get_by_label("caption 1", exact=True).fill(MARKUP)
            notebook.page.wait_for_function("() => !document.querySelector('.models.stale')", timeout=SLOW)
            yield notebook, usual


@pytest.fixture(scope="module")
def saved(classic):
    """The notebook file as saved from the page, with the widgets' static views."""
    notebook, _ = classic
    notebook.page.keyboard.press("Escape")
    notebook.page.keyboard.press("Control+s")
    path = notebook.server.folder / "gallery.ipynb"
    end = time.monotonic() + SOON / 1000
    while time.monotonic() < end:
        content = nbformat.read(path, as_version=4)
        if all(cell.execution_count for cell in content.cells):
            return content
        notebook.page.wait_for_timeout(1000)
    pytest.fail("the page did not save its notebook")


def test_widgets_respond_in_notebook_7(classic, screenshot):
    notebook, usual = classic
    for name in WIDGETS[1:]:
        notebook.output(name).locator(".vk").first.wait_for(timeout=SLOW)
    probe, chat = notebook.output("probe"), notebook.output("chat")
    assert "(edited)" in probe.locator(".title").inner_text()
    assert probe.locator("mark", has_text="<b>on</b>").count() == 1
    assert all(answer.strip() for answer in chat.locator("tbody td").all_inner_texts())
    screenshot(notebook.page)
    assert set(notebook.errors) <= usual


def export_html(notebook, path):
    """Export as `jupyter nbconvert --to html` does."""
    from nbconvert import HTMLExporter  # installed with JupyterLab, not by `make test`

    path.write_text(HTMLExporter().from_notebook_node(notebook)[0])
    return path


def open_offline(browser, path):
    """Open a file without a network; return the page and its errors, except those of the missing network."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 1500})
    page, errors = context.new_page(), []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(f"{error}"))
    page.set_default_timeout(SOON)
    page.goto(path.as_uri())
    return page, [text for text in errors if not OFFLINE.search(text)]


def broken_images(page):
    """The text alternatives of images that did not load."""
    return page.locator("img").evaluate_all("all => all.filter(one => one.naturalWidth === 0).map(one => one.alt)")


def test_an_html_export_shows_the_views_without_a_kernel(browser, saved, tmp_path, screenshot):
    page, errors = open_offline(browser, export_html(saved, tmp_path / "gallery.html"))
    assert page.locator(".vk:visible").count() == len(WIDGETS)
    for text in (MARKUP, "similarity (cosine)", "principal component 1", "Best first, of 12", QUESTION):
        page.get_by_text(text).first.wait_for()
    assert broken_images(page) == []
    screenshot(page)
    assert errors == []
    page.context.close()


def test_a_saved_notebook_shows_the_views_before_it_is_run(browser, lab, saved, screenshot):
    for cell in saved.cells:  # as docs/run_notebooks.py does: committed notebooks contain no live widgets
        for output in cell.outputs:
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    saved.metadata.pop("widgets", None)
    nbformat.write(saved, lab.folder / "saved.ipynb")
    with opened(browser, lab, "saved.ipynb") as notebook:
        views = notebook.page.locator(".vk:visible")
        views.nth(len(WIDGETS) - 1).wait_for(timeout=SLOW)  # its cells exist before they are shown
        assert views.count() == len(WIDGETS)
        assert broken_images(notebook.page) == []
        for name in ("probe", "explorer", "map"):
            screenshot(notebook.cell(name), f"-{name}")
        assert notebook.errors == []
