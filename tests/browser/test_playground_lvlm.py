"""The playground's tabs that ask an LVLM, in a browser, with a tiny one."""

import pytest
from color_encoder import COLORS_RGB, ColorEmbedder
from PIL import Image
from tiny import tiny_embedder

import vladva_kit as vk

from .test_playground import CASES, served, tab

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
