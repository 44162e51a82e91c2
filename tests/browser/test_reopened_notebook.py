"""A notebook that was run, saved and closed shows its widgets' static views when it is opened without their kernel."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from .front_end import SLOW, opened
from .widget_page import wait_for_text

SETUP = """\
import sys
sys.path.insert(0, {tests!r})
import vladva_kit as vk
from color_encoder import ColorEmbedder
from tests.browser.test_playground import CASES, new_page
kit = vk.notebook("emoji-llava")"""
CELLS = {
    "probe": 'vk.widgets.WinogroundProbe({"sees": ColorEmbedder()}, CASES)',
    "bar": "from tqdm.notebook import tqdm\nfor _ in tqdm(range(4)):\n    pass",
    "stopped-bar": "bar = tqdm(total=8)\nbar.update(3)\nprint('stopped')",
    "page": "new_page()",
    "end": "1",
}
NAME = "reopened.ipynb"
ERROR = "Error displaying widget"


@pytest.fixture(scope="module")
def saved(browser, lab):
    """A notebook with widgets and progress bars, run, changed by hand, saved and closed; its kernel has ended."""
    pytest.importorskip("anywidget")
    cells = {"setup": SETUP.format(tests=str(Path(__file__).resolve().parents[1])), **CELLS}
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source, id=name) for name, source in cells.items()],
        metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    )
    path = lab.folder / NAME
    nbformat.write(notebook, path)
    with opened(browser, lab, NAME) as page:
        page.run_all()
        probe = page.output("probe")
        probe.locator(".comparison").first.wait_for(timeout=SLOW)
        for name in ("probe", "page"):
            assert page.output(name).locator(".vk-static").is_hidden()
        probe.get_by_role("button", name="next case").click()
        wait_for_text(probe, re.compile("^Case 2 of "))
        probe.get_by_label("caption 1", exact=True).fill("a green sky")
        page.page.wait_for_function("() => !document.querySelector('.models.stale')", timeout=SLOW)
        page.page.wait_for_timeout(500)  # for the static view to follow
        page.page.evaluate("document.activeElement.blur()")
        page.page.keyboard.press("Control+s")
        for _ in range(60):
            if '"vk-static' in json.dumps(json.loads(path.read_text())) or "vk-static" in path.read_text():
                break
            page.page.wait_for_timeout(500)
    return path


def test_the_saved_file_holds_the_current_static_views(saved):
    outputs = {cell["id"]: cell["outputs"] for cell in json.loads(saved.read_text())["cells"]}
    live, static = (output["data"] for output in outputs["probe"])
    assert "text/html" not in live and "a green sky" in "".join(static["text/html"])
    assert "edited" in "".join(static["text/html"])
    assert "<img " in "".join(outputs["page"][-1]["data"]["text/html"])


def test_a_reopened_notebook_shows_static_views_and_no_error_and_no_bar(saved, browser, lab, screenshot):
    with opened(browser, lab, NAME) as page:
        for name in ("probe", "page"):
            page.output(name).locator(".vk-static .vk").first.wait_for(timeout=SLOW)
            images = page.output(name).locator(".vk-static img")
            assert images.count() >= 2 and all(image.is_visible() for image in images.all())
        dead = page.page.get_by_text(ERROR)
        dead.first.wait_for(state="attached", timeout=SLOW)  # JupyterLab has given up on the widgets
        screenshot(page.page)
        assert [one.is_visible() for one in dead.all()] == [False] * dead.count()
        shown = page.page.locator(".jp-Notebook")
        assert shown.get_by_text("%|").locator("visible=true").count() == 0
        assert shown.locator("[role=progressbar]:visible, .widget-hprogress:visible").count() == 0
