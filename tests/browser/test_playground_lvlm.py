"""The playground's tabs that ask an LVLM, in a browser, with a tiny one."""

import pytest
from color_encoder import COLORS_RGB, ColorEmbedder
from PIL import Image
from tiny import tiny_embedder

import vladva_kit as vk
from vladva_kit.analysis import probe_images

from .test_playground import CASES, served, tab
from .widget_page import EVIL

COLORS = ("red", "green", "blue")


def shades():
    """Twelve pairs whose images differ in brightness."""
    for part in range(12):
        name = COLORS[part % 3]
        color = tuple(value * (20 - part) // 20 for value in COLORS_RGB[name])
        yield vk.Pair(Image.new("RGB", (24, 24), color), f"a {name} wall{' with an edge' * part}")


@pytest.fixture(scope="module")
def embedder():
    return tiny_embedder()


@pytest.fixture(scope="module")
def play(browser, embedder):
    page = vk.playground({"CLIP": ColorEmbedder(), "tiny": embedder}, CASES[:2], [*shades()])
    with served(page) as url, tab(browser, url) as opened:
        yield opened


def test_the_top_ten_are_ranked_by_likelihood_until_it_is_switched_off(play, embedder, screenshot):
    play.get_by_role("tab", name="Search").click()
    column = play.locator("section[aria-label=tiny]")
    play.get_by_label("caption to search for").fill("a red wall")
    column.locator(".hit").first.wait_for()
    pairs = list(shades())
    scores = embedder.similarity([pair.image for pair in pairs], ["a red wall"])[:, 0].tolist()
    with embedder.base():
        asked = vk.likelihood(embedder, [pair.image for pair in pairs], ["a red wall"], progress=False)[:, 0].tolist()
    top = sorted(range(12), key=lambda i: -scores[i])[:10]
    after = sorted(top, key=lambda i: -asked[i])
    first = sum(score >= scores[0] for score in scores)
    play.get_by_role("button", name="re-rank the top ten").click()
    column.get_by_text("to re-rank").wait_for()
    second = 1 + after.index(0) if 0 in top else first
    wanted = f"stays at rank {first} of" if first == second else f"at rank {first} → {second} of"
    assert wanted in column.inner_text()
    hits = [hit.get_attribute("aria-label").split(": ", 1)[1] for hit in column.locator(".hit").all()[:10]]
    assert [hit.removesuffix(", the target") for hit in hits] == [pairs[i].short for i in after]
    assert "by the LVLM of tiny" in play.locator("section[aria-label=CLIP]").inner_text()
    screenshot(play)
    play.get_by_role("button", name="re-rank the top ten").click()
    assert f"target at rank {first} of" in column.inner_text() and "to re-rank" not in column.inner_text()


def test_an_image_query_is_not_re_ranked(play):
    play.locator("section[aria-label=tiny] .hit").first.click()
    play.get_by_text("Click a caption to search by it").wait_for()
    assert play.get_by_role("button", name="re-rank the top ten").count() == 0


def test_attention_of_each_head_is_shown_over_the_image(play, embedder, screenshot):
    play.get_by_role("tab", name="Attention").click()
    column = play.locator(".attention section[aria-label=tiny]")
    column.locator(".hit").first.wait_for()
    maps = probe_images(embedder, [next(shades()).image], attention=True, k=1).maps[0]
    assert f"{100 * maps.mean((0, 1)).sum():.1f} % of the attention" in column.inner_text()
    assert column.locator(".hit").count() == 1 + maps.shape[1]
    play.get_by_label("layer").select_option(index=2)
    column.get_by_role("button", name="head 2").click()
    assert f"{100 * maps[1, 1].sum():.1f} % of the attention" in column.inner_text()
    assert f"brightest patch: {100 * maps[1, 1].max():.1f} %" in column.inner_text()
    assert column.get_by_role("button", name="head 2").get_attribute("aria-pressed") == "true"
    canvas = column.locator("> canvas")
    pixel = "canvas => [...canvas.getContext('2d').getImageData(210, 210, 1, 1).data].slice(0, 3)"
    play.get_by_label("opacity").fill("0")
    assert canvas.evaluate(pixel) == pytest.approx(next(shades()).image.getpixel((0, 0)), abs=4)
    play.get_by_label("opacity").fill("100")
    assert sum(canvas.evaluate(pixel)) < sum(next(shades()).image.getpixel((0, 0)))
    canvas.hover(position={"x": 5, "y": 5})
    assert f"{100 * maps[1, 1, 0, 0]:.1f} % at row 1, column 1" in column.inner_text()
    screenshot(play)
    play.get_by_label("image to look at", exact=True).press("ArrowRight")
    play.wait_for_function("() => document.querySelector('.picks img:nth-child(2)').ariaSelected === 'true'")


def bubbles(page):
    page.wait_for_function("() => ![...document.querySelectorAll('.bubble')].some((one) => one.textContent === '…')")
    return page.locator(".bubble").all_inner_texts()


def test_answers_with_the_adapter_on_and_off_are_side_by_side(play, embedder, screenshot):
    play.get_by_role("tab", name="Chat").click()
    question, image = "what is in the picture?", next(shades()).image
    play.get_by_role("button", name=question).click()
    with embedder.base():
        off = embedder.generate(image, question, max_new_tokens=64)
    on = embedder.generate(image, question, max_new_tokens=64)
    shown = [" ".join(text.split()) for text in bubbles(play)]
    assert shown == [" ".join(text.split()) or "(no words)" for text in (question, on, off)]
    play.get_by_label("question", exact=True).fill(EVIL)
    play.get_by_label("question", exact=True).press("Enter")
    assert bubbles(play)[3] == EVIL and play.locator("img[src=x]").count() == 0
    screenshot(play)
    play.get_by_label("question", exact=True).fill("  ")
    play.get_by_role("button", name="ask", exact=True).click()
    play.locator(".chat .message", has_text="the question is empty").wait_for()
    play.get_by_role("button", name="new chat").click()
    assert play.locator(".bubble").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [720, 1600])
def test_every_tab_fits_the_window_in_both_themes(browser, embedder, screenshot, scheme, width):
    page = vk.playground({"CLIP": ColorEmbedder(), "tiny": embedder}, CASES[:2], [*shades()])
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    with served(page) as url, tab(browser, url, **options) as shown:
        for name in shown.get_by_role("tab").all_inner_texts():
            shown.get_by_role("tab", name=name).click()
            shown.wait_for_timeout(300)
            assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            widths = [card.bounding_box()["width"] for card in shown.locator(".card:visible, .bubble:visible").all()]
            assert min(widths, default=200) > 100, name
            screenshot(shown, f"-{name}")
