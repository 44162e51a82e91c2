"""Composing a case in the browser: what is dragged, what the captions say, and what is scored."""

import base64
import io
import json

import numpy as np
import pytest
from color_encoder import image_vector, text_vector
from PIL import Image

from vladva_kit.emoji_world.nouns import COLORS
from vladva_kit.emoji_world.scenes import Thing
from vladva_kit.widgets.scene_composer import compose, scene_of

from .test_playground import margins, new_page, served, tab

DOG, HOUSE = Thing("dog", color="blue", size="big"), Thing("house", color="purple", size="big")


@pytest.fixture(scope="module")
def url():
    with served(new_page()) as address:
        yield address


@pytest.fixture
def composer(browser, url):
    with tab(browser, url) as page:
        page.wait_for_function("() => !document.querySelector('.strip .unscored')")
        page.get_by_role("tab", name="Compose").click()
        page.locator(".compose .verdict").first.wait_for()
        wait(page)
        yield page


def wait(page):
    page.wait_for_function("() => !document.querySelector('.compose .stale')")


def captions(page):
    return [text[3:] for text in page.locator(".compose .caption").all_inner_texts()]


def pixels(page, number):
    uri = page.locator(".stage canvas").nth(number).evaluate("canvas => canvas.toDataURL()")
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


def drag(page, number, x, y):
    """Drag a thing to a place in the scene, as parts of its side."""
    stage, thing = (page.locator(one).nth(number * k).bounding_box() for k, one in enumerate((".stage", ".thing")))
    page.mouse.move(thing["x"] + thing["width"] / 2, thing["y"] + thing["height"] / 2)
    page.mouse.down()
    page.mouse.move(stage["x"] + x * stage["width"], stage["y"] + y * stage["height"], steps=4)
    page.mouse.up()


@pytest.mark.parametrize("swap", ["positions", "objects", "colors", "sizes"])
def test_captions_of_a_scene_and_its_twin_are_those_of_the_emoji_world(composer, swap):
    composer.get_by_role("button", name=f"swap the {swap}").click()
    house = Thing("house", color="purple", size="small") if swap == "sizes" else HOUSE
    assert captions(composer) == list(compose(scene_of(DOG, "to the left of", house, "grass"), swap).captions)


def test_dragging_a_thing_changes_the_relation_and_the_scores(composer, screenshot):
    for x, y, relation in [(0.5, 0.2, "above"), (0.75, 0.4, "in front of"), (0.2, 0.6, "to the left of")]:
        drag(composer, 1, *((0.5, 0.78) if relation == "above" else (0.75, 0.55)))
        drag(composer, 0, x, y)
        assert captions(composer)[0] == f"a blue dog {relation} a purple house"
    composer.locator(".thing").first.focus()
    for _ in range(25):
        composer.keyboard.press("ArrowRight")
    for _ in range(20):
        composer.keyboard.press("ArrowDown")
    wait(composer)
    images, texts = [pixels(composer, k) for k in range(2)], captions(composer)
    scores = np.array([[image_vector(image) @ text_vector(text) for text in texts] for image in images])
    (a, b), (c, d) = scores
    shown = [row for row in margins(composer.locator(".compose")) if row][1]
    assert shown == pytest.approx([a - b, d - c, a - c, d - b], abs=0.0051)
    screenshot(composer)


def test_the_twin_is_the_same_scene_but_for_the_swap(composer):
    composer.get_by_role("button", name="swap the colors").click()
    first, second = (np.asarray(pixels(composer, k), dtype=float) for k in range(2))
    differs = np.abs(first - second).max(-1) > 8
    assert 0.02 < differs.mean() < 0.4 and not differs[:20].any()  # both things change color, the ground does not
    names = {"dog": (0.27, 0.45), "house": (0.73, 0.55)}
    for image, colors in ((first, ("blue", "purple")), (second, ("purple", "blue"))):
        for (x, y), color in zip(names.values(), colors, strict=True):
            row, column = round(y * 288), round(x * 288)
            area = image[row - 25 : row + 25, column - 25 : column + 25].reshape(-1, 3)
            nearest = {name: np.linalg.norm(area - rgb, axis=1).min() for name, rgb in COLORS.items()}
            assert min(nearest, key=nearest.get) == color


def test_color_size_and_thing_are_chosen_by_click_and_a_scene_that_is_no_case_says_why(composer):
    composer.locator(".thing").nth(1).click()
    composer.get_by_role("button", name="red", exact=True).click()
    composer.get_by_role("button", name="small", exact=True).click()
    palette = composer.get_by_role("listbox", name="thing")
    palette.get_by_role("option", name="book", exact=True).click()
    assert captions(composer)[0] == "a blue dog to the left of a red book"
    palette.press("ArrowRight")
    assert captions(composer)[0] == "a blue dog to the left of a heart"  # hearts are red by nature
    palette.get_by_role("option", name="dog", exact=True).click()
    composer.get_by_role("alert").get_by_text("both things are “dog”").wait_for()
    palette.get_by_role("option", name="cat", exact=True).click()
    assert composer.locator(".compose .message:not(:empty)").count() == 0


def test_a_scene_is_sought_until_the_models_disagree(composer):
    right, wrong = [[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]]
    asked = []

    def answer(route):
        message = json.loads(route.request.post_data)
        asked.append(message)
        grids = [wrong, right] if len(asked) == 3 else [right, right]
        route.fulfill(json={"id": message["id"], "scores": grids, "notes": []})

    composer.route("**/message", answer)
    composer.get_by_role("button", name="find a scene").click()
    composer.get_by_text("scene 3 splits them: <b>after</b> right, before wrong").wait_for()
    assert captions(composer) == asked[2]["captions"] and len(asked) == 3
    uris = [composer.locator(".stage canvas").nth(k).evaluate("canvas => canvas.toDataURL()") for k in range(2)]
    assert uris == asked[2]["images"]
    for message in asked:
        first, second = (sorted(text.split()) for text in message["captions"])
        assert first == second and message["captions"][0] != message["captions"][1]


def test_without_python_things_can_still_be_dragged(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(new_page().html(), encoding="utf-8")
    with tab(browser, path.as_uri()) as page:
        page.get_by_role("tab", name="Compose").click()
        drag(page, 0, 0.75, 0.2)
        drag(page, 1, 0.25, 0.3)
        assert captions(page)[0] == "a blue dog to the right of a purple house"
        page.locator(".compose").get_by_text("Scoring needs Python").wait_for()
