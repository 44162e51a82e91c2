"""The map in a browser: hover, zoom, lasso, keys and the animation."""

import numpy as np
import pytest
from PIL import Image

import vladva_kit as vk

from .test_playground import CASES, served, tab
from .widget_page import EVIL

N = 600
EDGE = 24  # pixels between the outermost points and the border
RENDER = """async ([esm, css, state]) => {
    document.head.append(Object.assign(document.createElement('style'), {textContent: css}));
    const source = 'data:text/javascript;base64,' + btoa(unescape(encodeURIComponent(esm)));
    const {render} = (await import(source)).default, listeners = {};
    Object.assign(window, {changes: [], selected: [], fire: (event) => listeners[event]()});
    const model = {get: (name) => name === 'state' ? state : window.selected, off() {}, send: null,
        set: (name, value) => window.changes.push([name, value]), save_changes: () => window.changes.push('saved'),
        on: (event, listener) => listeners[event] = listener};
    render({model, el: document.body});
}"""


def units(vectors):
    return (np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")


class Spread:
    """Embed the k-th image or caption at random, with the caption near its image in the second model."""

    def __init__(self, noise):
        self.noise = noise

    def encode_image(self, images, batch_size=64):
        return units([self.vector(int(np.asarray(image)[0, 0] @ [65536, 256, 1])) for image in images])

    def encode_text(self, texts, batch_size=64):
        numbers = [int(text.split()[0]) if text[0].isdigit() else 0 for text in texts]
        return units([self.vector(k) + self.noise * np.random.default_rng([1, k]).normal(size=8) for k in numbers])

    def vector(self, number):
        return np.random.default_rng([0, number]).normal(size=8) * [4, 3, 1, 1, 1, 1, 1, 1]


def image_of(number):
    return Image.new("RGB", (4, 4), (number // 65536, number // 256 % 256, number % 256))


@pytest.fixture(scope="module")
def page():
    pairs = [vk.Pair(image_of(k), f"{k} {EVIL if k == 7 else 'things'}") for k in range(N)]
    return vk.playground({"before": Spread(3.0), "after": Spread(0.2)}, CASES[:1], pairs[:20], pairs)


@pytest.fixture(scope="module")
def opened(browser, page):
    with served(page) as url, tab(browser, url) as shown:
        shown.get_by_role("tab", name="Map").click()
        shown.locator(".map .summary b").first.wait_for()
        shown.wait_for_function("() => !document.querySelector('.map progress')")
        yield shown


def pixels(page, shown, model):
    """Where the points of images and captions are on the canvas of the page as opened."""
    frames = [page.to_frame(name)[["x", "y"]].to_numpy() for name in ("before", "after")]
    both, box = np.concatenate(frames), shown.locator(".map canvas").bounding_box()
    low, high = both.min(0), both.max(0)
    inner = np.array([box["width"] - 2, box["height"] - 2])  # within the border
    scale = ((inner - 2 * EDGE) / (high - low)).min()
    at = (frames[model] - (low + high) / 2) * scale * [1, -1] + inner / 2 + [box["x"] + 1, box["y"] + 1]
    return at[:N], at[N:]


def test_a_hovered_point_shows_its_image_and_its_caption(page, opened):
    images, texts = pixels(page, opened, 0)
    both = np.concatenate([images, texts])
    k = int(images[:, 0].argmax())  # the outermost one, which no other covers
    opened.mouse.move(*images[k])
    nearest = int(np.linalg.norm(both - images[k], axis=1).argmin())
    name = opened.locator(".mapped b", has_text=f"{nearest % N} ")
    name.wait_for()
    opened.locator(".mapped img[src^='data:image/jpeg']").wait_for()
    assert name.is_visible()
    opened.mouse.move(5, 5)


def test_a_lasso_selects_the_pairs_within_it_and_clears(page, opened, screenshot):
    images, texts = pixels(page, opened, 0)
    box = opened.locator(".map canvas").bounding_box()
    middle = box["x"] + box["width"] / 2
    opened.get_by_role("button", name="lasso").click()
    corners = [(box["x"] + 2, box["y"] + 2), (middle, box["y"] + 2), (middle, box["y"] + box["height"] - 2)]
    opened.mouse.move(*corners[0])
    opened.mouse.down()
    for corner in [*corners[1:], (box["x"] + 2, box["y"] + box["height"] - 2)]:
        opened.mouse.move(*corner, steps=2)
    opened.mouse.up()
    inside = int(((images[:, 0] < middle) | (texts[:, 0] < middle)).sum())
    shown = int(opened.locator(".mapped b", has_text="selected").inner_text().split()[0])
    assert abs(shown - inside) <= 6 and 150 < inside < N  # points on the line may be on either side
    screenshot(opened)
    opened.get_by_role("button", name="clear the selection").click()
    assert opened.get_by_text("nothing selected").is_visible()
    opened.get_by_role("button", name="lasso").click()


def test_keys_walk_to_images_select_them_and_zoom(page, opened):
    canvas = opened.locator(".map canvas")
    canvas.focus()
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("Enter")
    assert "1 pair selected" in opened.locator(".mapped").inner_text()
    first = opened.locator(".mapped ol li").inner_text()
    assert first == page.map_pairs[int(first.split()[0])].short
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("Enter")
    assert "2 pairs selected" in opened.locator(".mapped").inner_text()
    before = canvas.evaluate("canvas => canvas.toDataURL()")
    opened.keyboard.press("+")
    opened.wait_for_function("before => document.querySelector('.map canvas').toDataURL() !== before", arg=before)
    opened.keyboard.press("0")
    opened.keyboard.press("Escape")
    assert opened.get_by_text("nothing selected").is_visible()


def test_the_animation_ends_at_the_model_after_whose_captions_are_nearer(opened):
    text = opened.locator(".map .summary b").first.inner_text()
    before, after = (int(part.split()[1]) for part in text.split(", "))
    assert after < 20 < before
    opened.get_by_role("button", name="▶ before → after").click()
    opened.get_by_role("button", name="▶ after → before").wait_for()
    assert opened.get_by_label("from the model before").input_value() == "100"


def test_captions_are_shown_as_text(page, opened):
    images, _ = pixels(page, opened, 1)
    opened.mouse.move(*images[7])
    opened.wait_for_function("() => document.querySelector('.mapped b')")
    assert opened.locator("img[src=x]").count() == 0


def test_a_notebooks_python_gets_the_selection_and_can_set_it(browser, page):
    pytest.importorskip("anywidget")
    page.to_frame()
    page.__dict__.pop("widget", None)
    with tab(browser, "about:blank") as shown:
        shown.evaluate(RENDER, [page.widget._esm, page.widget._css, page.widget.state])
        shown.get_by_role("tab", name="Map").click()
        shown.locator(".map canvas").focus()
        shown.keyboard.press("ArrowRight")
        shown.keyboard.press("Enter")
        (name, value), saved = shown.evaluate("window.changes")
        assert name == "selection" and len(value) == 1 and saved == "saved"
        shown.evaluate("() => { window.selected = [3, 9]; window.fire('change:selection'); }")
        assert "2 pairs selected" in shown.locator(".mapped").inner_text()


def test_a_map_of_a_saved_page_needs_no_python(browser, page, tmp_path):
    page.to_frame()
    path = tmp_path / "page.html"
    path.write_text(page.html(), encoding="utf-8")
    with tab(browser, path.as_uri()) as shown:
        shown.get_by_role("tab", name="Map").click()
        shown.locator(".map .summary b").first.wait_for()
        shown.get_by_role("button", name="keep the modality gap").click()
        message = shown.locator(".map .message", has_text="needs Python")
        message.wait_for()
        assert message.is_visible()
