"""The playground in a browser, served as `vladva play` serves it, with encoders that need no model."""

import dataclasses
import json
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from color_encoder import COLORS_RGB, ColorEmbedder, image_vector, plain, sugarcrepe_result, text_vector
from PIL import Image

import vladva_kit as vk
from vladva_kit.cli.play import page_server
from vladva_kit.evaluation import WinogroundCase

from .front_end import SOON
from .widget_page import EVIL, number

NAMES = list(COLORS_RGB)
CASES = [
    WinogroundCase(f"{a}-{b}", (f"a {a} wall", f"a {b} wall"), (plain(a), plain(b)), {"collapsed_tag": "Object"})
    for a in NAMES
    for b in NAMES
    if a != b
]


def shades():
    """Pairs whose images differ in brightness, so that no two score the same."""
    for name in ("red", "green", "blue"):
        for part in range(8):
            color = tuple(value * (20 - part) // 20 for value in COLORS_RGB[name])
            yield vk.Pair(Image.new("RGB", (24, 24), color), f"a {name} wall{' with a very long edge' * part}")


def new_page():
    return vk.playground({"before": ColorEmbedder(permuted=True), "<b>after</b>": ColorEmbedder()}, CASES, [*shades()])


@contextmanager
def served(page):
    with page_server(page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def tab(browser, url, console=False, **options):
    """Open a page; it fails for an uncaught error, with `console` also for an error that the page logs."""
    context = browser.new_context(**{"viewport": {"width": 1060, "height": 800}, "accept_downloads": True} | options)
    page = context.new_page()
    page.set_default_timeout(SOON)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    if console:
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    try:
        page.goto(url)
        yield page
        assert errors == [] and page.title() != "it ran"
    finally:
        context.close()


@pytest.fixture(scope="module")
def url():
    with served(new_page()) as address:
        yield address


@pytest.fixture
def play(browser, url):
    with tab(browser, url) as page:
        page.get_by_role("button", name=f"all {len(CASES)}").wait_for()
        page.wait_for_function("() => !document.querySelector('.strip .unscored')")
        yield page


def margins(page):
    """The four shown margins of each model."""
    return [
        [number(text) for text in row.locator(".comparison b").all_inner_texts()]
        for row in page.locator(".model:not(.head)").all()
    ]


def expected(images, captions, permuted=False):
    vectors = np.array([image_vector(image) for image in images])
    scores = (vectors[:, [1, 2, 0, 3]] if permuted else vectors) @ np.array([text_vector(text) for text in captions]).T
    (a, b), (c, d) = scores
    return [a - b, d - c, a - c, d - b]


def wait_for_scores(page):
    page.wait_for_function("() => !document.querySelector('.models.stale')")


def test_each_case_has_a_square_with_what_changed(play):
    labels = [square.get_attribute("aria-label") for square in play.locator(".strip .square").all()]
    kinds = []
    for case in CASES:
        before, after = (min(expected(case.images, case.captions, permuted)) > 0 for permuted in (True, False))
        kinds.append({(0, 1): "fixed", (1, 0): "broken", (1, 1): "right", (0, 0): "wrong"}[before, after])
    assert labels == [f"case {n}: {kind}" for n, kind in enumerate(kinds, 1)]
    assert play.get_by_role("button", name=f"fixed {kinds.count('fixed')}").is_visible()
    play.locator(".chip.wrong").click()
    assert play.locator(".strip .square").count() == kinds.count("wrong")
    play.get_by_label("before", exact=True).select_option(label="<b>after</b>")  # compare a model with itself
    play.wait_for_function("() => !document.querySelector('.chip.fixed')")


def test_margins_are_those_of_the_embeddings(play, screenshot):
    shown = margins(play)
    for row, permuted in zip(shown, (True, False), strict=True):
        assert row == pytest.approx(expected(CASES[0].images, CASES[0].captions, permuted), abs=0.0051)
    assert [text.inner_text().split()[0] for text in play.locator(".verdict").all()] == [
        str(sum(value > 0 for value in expected(CASES[0].images, CASES[0].captions, permuted)))
        for permuted in (True, False)
    ]
    screenshot(play)


def test_keys_and_squares_change_the_case(play):
    strip = play.get_by_role("listbox", name="cases")
    strip.focus()
    strip.press("ArrowRight")
    assert play.get_by_label("caption 2", exact=True).input_value() == CASES[1].captions[1]
    strip.press("ArrowLeft")
    strip.press("ArrowLeft")
    assert play.locator(".title").inner_text().startswith(f"Case {len(CASES)} of {len(CASES)}")
    play.locator(".strip .square").nth(3).click()
    assert play.get_by_label("caption 1", exact=True).input_value() == CASES[3].captions[0]
    assert play.locator(".strip .square[aria-selected=true]").get_attribute("aria-label").startswith("case 4")
    field = play.get_by_label("caption 1", exact=True)
    field.press("ArrowLeft")  # moves the cursor in the field, not the case
    assert field.input_value() == CASES[3].captions[0]
    play.locator(".strip .square").nth(5).hover()
    assert CASES[5].captions[1] in play.locator(".preview").inner_text()


def test_scores_follow_the_typed_caption_without_enter_until_a_reset(play):
    before = margins(play)
    play.get_by_label("caption 1", exact=True).press("End")
    play.get_by_label("caption 1", exact=True).press_sequentially(" that is white")
    play.wait_for_function("() => document.querySelector('.title').textContent.includes('(edited)')")
    wait_for_scores(play)
    captions = [f"{CASES[0].captions[0]} that is white", CASES[0].captions[1]]
    assert margins(play)[1] == pytest.approx(expected(CASES[0].images, captions), abs=0.0051)
    assert play.locator("mark").all_inner_texts() == ["red", "that", "is", "white", "green"]
    play.get_by_role("button", name="next case").click()
    play.get_by_role("button", name="previous case").click()
    assert play.get_by_label("caption 1", exact=True).input_value() == captions[0]  # an edit is kept
    play.get_by_role("button", name="reset case").click()
    assert margins(play) == before and play.get_by_role("button", name="reset case").is_disabled()


def test_an_empty_caption_is_named_below_its_field_and_the_images_stay(play):
    play.get_by_label("caption 2", exact=True).fill("  ")
    message = play.locator("input[aria-label='caption 2'] + .message")
    message.get_by_text("caption 2 is empty").wait_for()
    assert play.locator(".images .image img").count() == 2
    play.get_by_role("button", name="next case").click()
    assert play.locator(".message:not(:empty)").count() == 0 and len(margins(play)) == 2


def test_typed_markup_is_shown_as_text(play):
    play.get_by_label("caption 1", exact=True).fill(EVIL)
    wait_for_scores(play)
    assert play.locator(".two").get_by_text("<img", exact=False).count() > 0
    assert play.locator("img[src=x]").count() == 0 and play.locator(".model b", has_text="<b>after").count() == 1


DROP = """([selector, type, kind, content, name]) => {
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(atob(content), (char) => char.charCodeAt(0))], name, {type: kind}));
    const options = {bubbles: true, cancelable: true};
    const event = type === 'drop' ? new DragEvent('drop', {...options, dataTransfer: data})
        : new ClipboardEvent('paste', {...options, clipboardData: data});
    document.querySelector(selector).dispatchEvent(event);
}"""


def base64_of(path):
    import base64

    return base64.b64encode(path.read_bytes()).decode()


@pytest.mark.parametrize("way", ["drop", "paste", "choose"])
def test_a_new_image_replaces_one_of_the_case(play, image_file, way):
    if way == "choose":
        play.get_by_label("replace image 1").set_input_files(image_file)
    else:
        play.evaluate(DROP, [".images .image input", way, "image/png", base64_of(image_file), "green.png"])
    play.locator(".title", has_text="(edited)").wait_for()
    wait_for_scores(play)
    images = [Image.open(image_file), CASES[0].images[1]]
    assert margins(play)[1] == pytest.approx(expected(images, CASES[0].captions), abs=0.0051)


def test_a_file_that_is_no_image_is_refused_below_the_images(play):
    before = margins(play)
    play.evaluate(DROP, [".images .image input", "drop", "text/plain", "aGVsbG8=", "notes.txt"])
    play.get_by_text("notes.txt is not a readable image").wait_for()
    assert margins(play) == before and play.locator(".images .image img").count() == 2


def test_a_case_is_saved_as_json_and_copied_as_png(play, tmp_path):
    with play.expect_download() as saved:
        play.get_by_role("button", name="save case as JSON").click()
    record = json.loads(saved.value.path().read_text())
    assert record["captions"] == list(CASES[0].captions) and record["id"] == CASES[0].id
    (a, b), _ = record["scores"]["before"]
    assert a - b == pytest.approx(expected(CASES[0].images, CASES[0].captions, True)[0], abs=1e-5)
    play.context.grant_permissions(["clipboard-read", "clipboard-write"])
    play.get_by_role("button", name="copy case as PNG").click()
    play.get_by_text("copied").wait_for()
    width = """async () => (await createImageBitmap(
        await (await navigator.clipboard.read())[0].getType('image/png'))).width"""
    assert play.evaluate(width) > 800


def ranks(page):
    return [number_after_rank(text) for text in page.locator("section > span").all_inner_texts()]


def number_after_rank(text):
    return int(text.split("rank ")[1].split()[0])


def search_scores(text, permuted=False):
    return [expected_score(pair.image, text, permuted) for pair in shades()]


def expected_score(image, text, permuted):
    vector = image_vector(image)
    return float((vector[[1, 2, 0, 3]] if permuted else vector) @ text_vector(text))


@pytest.fixture
def search(play):
    play.get_by_role("tab", name="Search").click()
    play.locator(".search .hit").first.wait_for()
    return play


def test_search_shows_the_rank_of_the_target_for_each_model(search, screenshot):
    for target in (0, 9):
        text = list(shades())[target].short
        search.get_by_label("caption to search for").fill(text)
        search.wait_for_function("() => !document.querySelector('.columns.stale')")
        wanted = []
        for permuted in (True, False):
            scores = search_scores(text, permuted)
            wanted.append(sum(score >= scores[target] for score in scores))
        assert ranks(search) == wanted
    screenshot(search)


def test_typed_text_without_a_target_is_searched_too(search):
    search.get_by_label("caption to search for").fill("something blue")
    search.wait_for_function("() => !document.querySelector('.columns.stale')")
    best = int(np.argmax(search_scores("something blue")))
    first = search.locator("section").nth(1).locator(".hit").first
    assert list(shades())[best].short in first.inner_text() and search.locator("section > span").count() == 0
    search.get_by_label("caption to search for").fill(" ")
    search.locator(".search .message", has_text="empty").wait_for()


def test_clicking_results_searches_by_image_and_back_by_caption(search):
    search.locator("section").nth(1).locator(".hit").first.click()
    search.get_by_text("Click a caption to search by it").wait_for()
    assert (
        search.locator(".query img").is_visible() and search.get_by_label("caption to search for").input_value() == ""
    )
    hit = search.locator("section").nth(1).locator(".hit").first
    caption = hit.get_attribute("aria-label").split(": ", 1)[1].removesuffix(", the target")
    hit.click()
    assert search.get_by_label("caption to search for").input_value() == caption


def test_example_chips_search_and_a_summary_counts_what_changed(search):
    found = [
        [sum(score >= row[j] for score in row) == 1 for j, row in enumerate(rows)]
        for rows in ([search_scores(pair.short, permuted) for pair in shades()] for permuted in (True, False))
    ]
    fixed = sum(after and not before for before, after in zip(*found, strict=True))
    assert f"{fixed} fixed" in search.locator(".search").inner_text() and fixed
    chip = search.locator(".search .chip").first
    chip.click()
    assert search.get_by_label("caption to search for").input_value() == chip.inner_text().lstrip("+\n")
    assert ranks(search)[1] == 1


def test_matrix_cells_show_their_values_and_the_difference(search, screenshot):
    search.get_by_role("tab", name="Matrix").click()
    pairs = list(shades())[:16]
    cells = search.get_by_role("listbox", name="<b>after</b>: cells").get_by_role("option")
    cell = cells.nth(3 * 16 + 9)  # caption 4, image 10
    after, before = (expected_score(pairs[9].image, pairs[3].short, permuted) for permuted in (False, True))
    label = cell.get_attribute("aria-label")
    assert label.startswith("image 10, caption 4") and number(label) == pytest.approx(after, abs=0.0051)
    cell.hover()
    detail = search.locator(".detail")
    assert pairs[3].short in detail.inner_text() and "image 10 with caption 4" in detail.inner_text()
    cell.click()
    search.get_by_role("listbox", name="<b>after</b>: cells").press("ArrowRight")
    search.mouse.move(0, 0)
    assert "image 11 with caption 4" in detail.inner_text()
    screenshot(search)
    search.get_by_role("button", name="difference").click()
    cell = search.get_by_role("option", name="image 10, caption 4:")
    assert number(cell.get_attribute("aria-label").split(": ")[1]) == pytest.approx(after - before, abs=0.0051)


def test_tabs_work_with_the_keyboard(play):
    play.get_by_role("tab", name="Probe").focus()
    play.keyboard.press("ArrowRight")
    assert play.get_by_role("tab", name="Compose").get_attribute("aria-selected") == "true"
    assert play.get_by_role("tabpanel", name="Compose").is_visible()
    play.keyboard.press("ArrowLeft")
    assert play.get_by_role("tabpanel", name="Probe").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [720, 1600])
def test_the_page_fits_the_window_in_both_themes(browser, url, screenshot, scheme, width):
    with tab(browser, url, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        page.locator(".comparison").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        bright = page.evaluate("getComputedStyle(document.querySelector('.vk-play')).backgroundColor")
        assert (bright == "rgb(255, 255, 255)") == (scheme == "light")
        screenshot(page)


def test_without_python_the_page_still_shows_scored_cases_and_says_what_is_missing(browser, tmp_path):
    page = new_page()
    page.score_cases()
    path = tmp_path / "page.html"
    path.write_text(page.html(), encoding="utf-8")
    with tab(browser, path.as_uri()) as opened:
        assert len(margins(opened)) == 2
        opened.get_by_role("button", name="next case").click()
        opened.get_by_label("caption 1", exact=True).fill("a white wall")
        opened.get_by_text("Scoring needs Python").wait_for()
        opened.get_by_role("button", name="reset case").click()
        assert len(margins(opened)) == 2 and opened.locator(".message:not(:empty)").count() == 0


def test_python_that_ends_midway_is_reported_and_browsing_continues(browser):
    with served(new_page()) as address, tab(browser, address) as page:
        page.wait_for_function("() => !document.querySelector('.strip .unscored')")
        page.route("**/message", lambda route: route.abort())
        page.get_by_label("caption 1", exact=True).fill("a white wall")
        page.get_by_text("Python does not answer").wait_for()
        page.get_by_role("button", name="next case").click()
        assert len(margins(page)) == 2


def test_cases_are_chosen_by_category_and_sorted_by_the_margin_of_the_model_after(play, browser):
    play.get_by_role("button", name="worst first").click()
    margins_of = [min(expected(case.images, case.captions)) for case in CASES]
    order = sorted(range(len(CASES)), key=margins_of.__getitem__)
    names = [square.get_attribute("aria-label") for square in play.locator(".strip .square").all()]
    assert [name.split(":")[0] for name in names] == [f"case {number + 1}" for number in order]
    assert play.locator(".title").inner_text().startswith(f"Case {order[0] + 1} of")
    assert play.get_by_label("category", exact=True).count() == 0  # all are of one category
    cases = [dataclasses.replace(case, tags={"collapsed_tag": f"kind {n % 2}"}) for n, case in enumerate(CASES)]
    page = vk.widgets.WinogroundProbe({"sees": ColorEmbedder()}, cases)
    with served(page) as address, tab(browser, address) as opened:
        opened.get_by_label("category", exact=True).select_option(label="kind 1")
        assert opened.locator(".strip .square").count() == len(CASES) // 2
        assert opened.get_by_label("caption 1", exact=True).input_value() == CASES[1].captions[0]
        assert opened.get_by_role("tab").count() == 0


def test_a_sugarcrepe_case_has_one_image_and_one_comparison_for_each_model(browser, image_file, screenshot):
    models = {"before": ColorEmbedder(permuted=True), "after": ColorEmbedder()}
    results = {name: sugarcrepe_result(model) for name, model in models.items()}
    page = vk.widgets.SugarCrepeProbe(models, results)
    with served(page) as address, tab(browser, address) as opened:
        assert opened.locator(".images .image img").count() == 1
        number_of_case = int(opened.locator(".title").inner_text().split()[1]) - 1
        case = page.cases[number_of_case]
        margin = {name: grid[0][0] - grid[0][1] for name, grid in zip(models, page.scores[number_of_case], strict=True)}
        assert [values[0] for values in margins(opened)] == pytest.approx([*margin.values()], abs=0.0051)
        assert [row.inner_text() for row in opened.locator(".model .verdict").all()] == ["✗", "✓"]  # a fixed case first
        opened.get_by_label("replace image 1").set_input_files(image_file)
        opened.get_by_label("caption 2", exact=True).fill(EVIL)
        opened.locator(".title", has_text="(edited)").wait_for()
        wait_for_scores(opened)
        image = Image.open(image_file)
        (scores,) = page.models["after"].similarity([image], [case.captions[0], EVIL])
        assert margins(opened)[1][0] == pytest.approx(scores[0] - scores[1], abs=0.0051)
        screenshot(opened)
