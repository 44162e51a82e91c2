"""The playground as a widget in JupyterLab: messages through the kernel, Lab's theme, and a notebook opened again."""

import json
from pathlib import Path

import nbformat
import pytest

from .front_end import SLOW, opened
from .test_playground import CASES, margins

SOURCE = """\
import sys
sys.path.insert(0, {tests!r})
from tests.browser.test_playground import new_page
new_page()
"""
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def play(browser, lab):
    pytest.importorskip("anywidget")
    tests = str(Path(__file__).resolve().parents[1])
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(SOURCE.format(tests=tests), id="play"),
            nbformat.v4.new_code_cell("1", id="end"),
        ],
        metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    )
    nbformat.write(notebook, lab.folder / "play.ipynb")
    with opened(browser, lab, "play.ipynb") as page:
        page.run_all()
        page.output("play").locator(".comparison").first.wait_for(timeout=SLOW)
        page.page.wait_for_function("() => !document.querySelector('.strip .unscored')", timeout=SLOW)
        page.errors.clear()  # JupyterLab's while it started
        yield page
        assert page.errors == []


def test_keys_change_the_case_and_not_the_notebook(play, screenshot):
    strip = play.output("play").get_by_role("listbox", name="cases")
    strip.focus()
    strip.press("ArrowRight")
    assert play.output("play").get_by_label("caption 2", exact=True).input_value() == CASES[1].captions[1]
    strip.press("d")
    strip.press("d")  # in command mode, JupyterLab deletes a cell
    assert play.page.locator(".jp-Notebook .jp-CodeCell").count() == 2
    strip.press("Home")
    screenshot(play.cell("play"))


def test_typed_text_is_scored_by_the_kernel(play):
    output = play.output("play")
    before = margins(output)
    output.get_by_label("caption 1", exact=True).fill("a white wall")
    play.page.wait_for_function("() => !document.querySelector('.models.stale')", timeout=SLOW)
    assert margins(output) != before
    output.get_by_label("caption 2", exact=True).fill("")
    output.get_by_text("caption 2 is empty").wait_for()
    output.get_by_role("button", name="reset case").click()
    assert margins(output) == before


def test_the_page_follows_the_theme_of_jupyterlab(play, screenshot):
    color = "getComputedStyle(document.querySelector('.vk-play')).backgroundColor"
    set_theme = "light => { document.body.dataset.jpThemeLight = light; }"
    assert play.page.evaluate(color) == "rgb(255, 255, 255)"
    play.page.evaluate(set_theme, "false")
    assert play.page.evaluate(color) == "rgb(13, 17, 23)"
    screenshot(play.cell("play"))
    play.page.evaluate(set_theme, "true")


def test_a_saved_notebook_holds_a_static_view(play):
    play.page.evaluate("document.activeElement.blur()")
    play.page.keyboard.press("Control+s")
    path = play.server.folder / "play.ipynb"

    def data():
        return [output["data"] for output in json.loads(path.read_text())["cells"][0]["outputs"]]

    for _ in range(60):
        if data():
            break
        play.page.wait_for_timeout(500)
    live, static = data()  # JupyterLab shows the second one if it has no model of the first
    assert WIDGET in live and "text/html" not in live and WIDGET not in static
    assert "<img " in "".join(static["text/html"]) and "vk-static" in "".join(static["text/html"])
    assert CASES[0].captions[0] in "".join(static["text/html"])
