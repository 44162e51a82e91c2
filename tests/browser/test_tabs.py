"""Every tab of the playground once, in both themes: click, type and press keys, and no error in the browser's console.

`make test-tabs` runs this alone; it needs Chromium, but no Jupyter and no shipped model.
"""

import re

import pytest
from color_encoder import ColorEmbedder
from tiny import tiny_embedder

import vladva_kit as vk

from .test_playground import CASES, served, tab
from .test_playground_lvlm import bubbles, shades


def probe(page):
    page.get_by_label("caption 1", exact=True).fill("a white wall")
    page.locator(".title", has_text="(edited)").wait_for()
    page.wait_for_function("() => !document.querySelector('.models.stale')")
    page.get_by_role("button", name="reset case").click()
    page.get_by_role("listbox", name="cases").press("ArrowRight")
    page.locator(".title", has_text=re.compile("^Case 2 of")).wait_for()
    page.get_by_role("button", name="worst first").click()


def compose(page):
    caption = page.locator(".compose .caption").first
    page.locator(".compose .stage canvas").first.wait_for()
    box = page.locator(".thing").first.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 40, box["y"] + 30, steps=3)
    page.mouse.up()
    page.get_by_role("button", name="red", exact=True).click()
    page.get_by_role("button", name="twin: swap the colors").click()
    assert "a red dog" in caption.inner_text()
    page.wait_for_function("() => !document.querySelector('.compose .models.stale')")
    assert page.locator(".compose .comparison").count() == 2 * 4


def search(page):
    page.locator(".search .hit").first.wait_for()
    page.get_by_label("caption to search for").fill("something blue")
    page.wait_for_function("() => !document.querySelector('.columns.stale')")
    page.locator(".search .hit").first.click()
    page.get_by_text("Click a caption to search by it").wait_for()


def matrix(page):
    cells = page.get_by_role("listbox", name=re.compile("^tiny: cells"))
    cells.get_by_role("option").nth(7).click()
    cells.press("ArrowRight")
    assert page.locator(".detail").inner_text().count("image 9 with caption 1") == 1
    page.get_by_role("button", name="difference").click()


def map_(page):
    canvas = page.locator(".map canvas")
    page.wait_for_function("() => /image/.test(document.querySelector('.map .summary').textContent)")
    canvas.press("ArrowRight")
    canvas.press("+")
    page.get_by_role("button", name="lasso").click()


def attention(page):
    column = page.locator(".attention section[aria-label=tiny]")
    column.get_by_role("button", name="head 2").click()
    page.get_by_label("layer").select_option(index=1)
    page.get_by_label("opacity").fill("30")
    assert "of the attention is on the image" in column.inner_text()


def chat(page):
    page.get_by_label("question", exact=True).fill("what is in the picture?")
    page.get_by_label("question", exact=True).press("Enter")
    assert len(bubbles(page)) == 3  # the question, and the answers with the adapter on and off


ACTIONS = {
    "Probe": probe,
    "Compose": compose,
    "Search": search,
    "Matrix": matrix,
    "Map": map_,
    "Attention": attention,
    "Chat": chat,
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tab_responds_and_the_console_stays_empty(browser, scheme, screenshot):
    page = vk.playground({"CLIP": ColorEmbedder(), "tiny": tiny_embedder()}, CASES, [*shades()])
    with served(page) as url, tab(browser, url, console=True, color_scheme=scheme) as shown:
        shown.wait_for_function("() => !document.querySelector('.strip .unscored')")
        assert shown.get_by_role("tab").all_inner_texts() == list(ACTIONS)
        dark = (
            shown.evaluate("getComputedStyle(document.querySelector('.vk-play')).backgroundColor")
            != "rgb(255, 255, 255)"
        )
        assert dark == (scheme == "dark")
        for name, act in ACTIONS.items():
            shown.get_by_role("tab", name=name).click()
            act(shown)
            assert shown.locator(".message:visible:not(:empty)").count() == 0, name
            screenshot(shown, f"-{name}")
