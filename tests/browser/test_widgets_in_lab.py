"""Every widget in JupyterLab: click, select and type, then check what the page shows."""

import csv
import importlib.util
import re

import pytest

import vladva_kit as vk
from vladva_kit.widgets.base import WidgetBase

from .front_end import SLOW
from .gallery import CELLS, WIDGETS
from .widget_page import (
    EVIL,
    ROUNDING,
    fill,
    first_pixel,
    number,
    press,
    select,
    slide,
    upload,
    wait_for_text,
    wait_until,
)

VISIBLE = "thumbs => [...thumbs.keys()].filter(n => getComputedStyle(thumbs[n]).visibility === 'visible')"
OTHER_IMAGE = "(widget, src) => widget.querySelector('img') && widget.querySelector('img').src !== src"


def test_every_cell_shows_its_widget(gallery):
    gallery.output("end").get_by_text("all cells have run").wait_for()
    for name in WIDGETS:
        output = gallery.output(name)
        assert output.locator(".widget-vbox").count() > 0, name
        output.locator(".vk").first.wait_for(timeout=SLOW)


def test_every_image_has_a_text_alternative_and_every_control_a_label(gallery):
    for name in WIDGETS:
        for image in gallery.output(name).locator("img").all():
            assert image.get_attribute("alt"), name
            assert image.evaluate("image => image.complete && image.naturalWidth > 0"), name
        for drawing in gallery.output(name).locator("svg[role=img]").all():
            assert drawing.get_attribute("aria-label")
        for control in gallery.output(name).locator("select, input[type=text]").all():
            assert control.evaluate("control => control.labels.length > 0 && control.labels[0].innerText.length > 0")


def test_the_explorers_cell_agrees_with_the_exported_matrix(gallery, screenshot):
    explorer = gallery.output("explorer")
    slide(explorer, "image", 3)
    select(explorer, "caption", 4)
    wait_for_text(explorer, "image 3, caption 5")
    wait_for_text(explorer, "They are not a pair.")
    press(explorer, "export")
    wait_for_text(explorer, "saved: similarity.csv")
    with open(gallery.server.folder / "similarity.csv", newline="") as file:
        matrix = [[float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]]
    rows = {row.locator("th").inner_text(): row.locator("td").inner_text() for row in explorer.locator("tr").all()}
    assert number(rows["base"]) == pytest.approx(matrix[2][4], abs=ROUNDING)
    image_rank = sum(row[4] >= matrix[2][4] for row in matrix)
    caption_rank = sum(value >= matrix[2][4] for value in matrix[2])
    assert rows["image’s rank for the caption"] == f"{image_rank} of 12"
    assert rows["caption’s rank for the image"] == f"{caption_rank} of 12"
    screenshot(gallery.cell("explorer"))


def test_the_explorer_switches_models_and_sorts(gallery):
    explorer = gallery.output("explorer")
    heat = explorer.locator("svg image").first
    before, labels = heat.get_attribute("href"), explorer.locator("svg text").all_text_contents()
    press(explorer, "fine-tuned")
    wait_for_text(explorer, re.compile("^fine-tuned: "))
    assert heat.get_attribute("href") != before
    select(explorer, "sort", "highest score first")
    wait_until(
        explorer,
        "(widget, old) => [...widget.querySelectorAll('svg text')].some((one, at) => one.textContent !== old[at])",
        labels,
    )
    select(explorer, "sort", "as given")
    press(explorer, "base")
    wait_for_text(explorer, re.compile("^base: "))
    assert heat.get_attribute("href") == before


def test_no_caption_of_the_matrix_is_cut_off(gallery):
    drawing = gallery.output("explorer").locator("svg[role=img]").first  # the second is the static view, hidden
    assert drawing.locator("text").count() > 12
    outside = drawing.evaluate(
        """drawing => [...drawing.querySelectorAll('text')]
        .filter(text => text.getBBox().x < 0).map(text => text.textContent)"""
    )
    assert outside == []


def test_the_map_shows_the_image_under_the_mouse_and_the_selected_pair(gallery, screenshot):
    shown = gallery.output("map")
    select(shown, "pair", 2)
    wait_for_text(shown, "pair 3, circled in the map")
    gallery.page.mouse.move(0, 0)
    assert shown.locator("svg .thumb").evaluate_all(VISIBLE) == []
    shown.locator("svg path[id]").last.hover()  # the topmost point
    assert shown.locator("svg .thumb").evaluate_all(VISIBLE) == [11]
    screenshot(gallery.cell("map"))
    assert shown.locator("svg > line").count() == 12
    shown.get_by_label("link image and caption").uncheck()
    wait_until(shown, "widget => widget.querySelectorAll('svg > line').length === 0")
    shown.get_by_label("link image and caption").check()


def test_the_map_switches_models_and_methods(gallery, screenshot):
    if importlib.util.find_spec("umap") is None:
        pytest.skip("umap-learn is not installed")
    shown = gallery.output("map")
    press(shown, "base")
    wait_for_text(shown, "base, PCA")
    x = shown.locator("svg circle[id]").first.get_attribute("cx")
    press(shown, "UMAP")
    wait_for_text(shown, "base, UMAP")
    assert shown.locator("svg circle[id]").first.get_attribute("cx") != x
    screenshot(gallery.cell("map"))
    press(shown, "PCA")
    wait_for_text(shown, "base, PCA")
    assert shown.locator("svg circle[id]").first.get_attribute("cx") == x


def test_the_search_box_shows_the_best_images_in_order(gallery, screenshot):
    search = gallery.output("search")
    wait_for_text(search, "Best first, of 12")
    caption = search.get_by_label("caption", exact=True).input_value()
    slide(search, "show", 3)
    wait_until(search, "widget => widget.querySelectorAll('figure.small').length === 9")
    scores = [number(text) for text in search.locator("figcaption").all_inner_texts()]
    for start in range(0, 9, 3):
        assert scores[start : start + 3] == sorted(scores[start : start + 3], reverse=True)
    matches = search.locator("figure.chosen").all_inner_texts()
    assert matches and all("match" in text and caption in text for text in matches)
    fill(search, "caption", "a red car and a zebra")
    wait_for_text(search, "“a red car and a zebra”")
    assert search.locator("mark").all_inner_texts() == ["zebra"]
    assert search.locator("figure.chosen").count() == 0
    screenshot(gallery.cell("search"))


def test_the_search_box_finds_captions_for_a_chosen_or_uploaded_image(gallery, image_file, screenshot):
    search = gallery.output("search")
    wait_for_text(search, "Best first, of 12")
    slide(search, "show", 3)
    select(search, "or by", "image 2")
    wait_for_text(search, "Captions for this image")
    scores = [number(text) for text in search.locator("li").all_inner_texts()]
    assert len(scores) == 9 and scores[:3] == sorted(scores[:3], reverse=True)
    screenshot(gallery.cell("search"))
    before = search.locator("img").first.get_attribute("src")
    upload(search, "your image", image_file)
    wait_until(search, OTHER_IMAGE, before)
    assert first_pixel(search.locator("img").first) == pytest.approx([10, 160, 70], abs=3)
    fill(search, "caption", "a blue key")  # the latest query counts
    wait_for_text(search, "“a blue key”")


def test_a_training_can_be_watched_paused_and_stopped_and_blocks_other_widgets(gallery, screenshot):
    training, chat = gallery.output("training"), gallery.output("chat")
    wait_for_text(training, "400 steps")
    press(training, "start")
    wait_for_text(training, re.compile(r": step \d+ of 400"))
    wait_for_text(training, "time left")
    wait_for_text(training, "validation R@1")
    fill(chat, "question", "what is there?")
    press(chat, "ask")
    wait_for_text(chat, "the model is being trained: pause or stop the training")
    press(training, "pause")
    wait_for_text(training, re.compile(r"^paused"))
    paused = training.locator("p").first.inner_text()
    screenshot(gallery.cell("training"))
    press(chat, "ask")  # a paused training lets others use the model
    wait_until(chat, "chat => { const row = chat.querySelector('tbody tr'); return row && !/—/.test(row.innerText); }")
    assert training.locator("p").first.inner_text() == paused
    press(training, "resume")
    wait_for_text(training, re.compile("^training"))
    press(training, "stop and keep")
    wait_for_text(training, re.compile("^stopped"))
    wait_until(training, "widget => widget.querySelectorAll('button:disabled').length >= 2")
    assert training.locator("img.plot").evaluate("image => image.naturalWidth") > 400
    screenshot(gallery.cell("training"), "-stopped")
    press(chat, "new chat")


def test_the_chat_answers_with_the_adapter_on_and_off_and_another_image_starts_a_new_chat(
    gallery, image_file, screenshot
):
    chat = gallery.output("chat")
    for number_of_rows, question in enumerate(["what is in the picture?", "and where is the zebra?"], start=1):
        fill(chat, "question", question)
        press(chat, "ask")
        wait_until(
            chat,
            "(widget, n) => { const rows = widget.querySelectorAll('tbody tr');"
            "return rows.length === n && !rows[n - 1].innerText.includes('—'); }",
            number_of_rows,
        )
        assert all(answer.strip() for answer in chat.locator("tbody tr").last.locator("td").all_inner_texts())
    assert chat.locator("thead th").all_inner_texts() == ["question", "adapter on", "adapter off"]
    wait_for_text(chat, re.compile("Not in the LVLM’s vocabulary: .*zebra"))
    screenshot(gallery.cell("chat"))
    upload(chat, "your image", image_file)
    wait_for_text(chat, "No questions yet.")
    assert first_pixel(chat.locator("img")) == pytest.approx([10, 160, 70], abs=3)
    before = chat.locator("img").get_attribute("src")
    select(chat, "about", "image 2")  # the latest choice counts
    wait_until(chat, OTHER_IMAGE, before)


def test_the_attention_view_switches_heads_and_images(gallery, image_file, screenshot):
    attention = gallery.output("attention")
    wait_for_text(attention, "mean")
    overlay = attention.locator("img.plot")
    assert overlay.evaluate("image => image.naturalWidth") > 400
    slide(attention, "layer", 2)
    slide(attention, "head", 1)
    wait_until(attention, "widget => /layer 2 of \\d+, head 1 of \\d+/.test(widget.querySelector('img').alt)")
    shares = [number(row.locator("td").first.inner_text()) for row in attention.locator("tbody tr").all()]
    assert len(shares) == 2 and all(0 <= share <= 100 for share in shares)
    screenshot(gallery.cell("attention"))
    other_plot = (
        "(widget, old) => { const plot = widget.querySelector('img.plot'); return plot && !old.includes(plot.src); }"
    )
    sources = [overlay.get_attribute("src")]
    upload(attention, "your image", image_file)
    wait_until(attention, other_plot, sources)
    sources.append(overlay.get_attribute("src"))
    select(attention, "look at", "image 2")  # the latest choice counts
    wait_until(attention, other_plot, sources)


@pytest.mark.parametrize(("name", "label"), [("search", "caption"), ("chat", "question")], ids=lambda value: value)
def test_typed_markup_is_shown_as_text_and_does_not_run(gallery, name, label, screenshot):
    widget = gallery.output(name)
    if name == "search":
        select(widget, "or by", "search by caption")
    fill(widget, label, EVIL)
    if name == "chat":
        press(widget, "ask")
    wait_for_text(widget, re.compile(re.escape("<img src=x")))
    gallery.page.wait_for_timeout(500)  # time for a script to run
    assert widget.locator('img[src="x"]').count() == 0
    screenshot(gallery.cell(name))


def test_the_gallery_has_every_widget():
    classes = {name: value for name, value in vars(vk.widgets).items() if isinstance(value, type)}
    widgets = {name for name, value in classes.items() if issubclass(value, WidgetBase)}
    assert {name for name in widgets if not any(f"widgets.{name}(" in source for source in CELLS.values())} == set()
