"""Each widget in a real JupyterLab: clicked, chosen from and typed into; what the page then shows is what must be."""

import csv
import importlib.util
import re

import pytest

import vladva_kit as vk

from .front_end import SLOW
from .gallery import CELLS, WIDGETS
from .widget_page import EVIL, chosen, first_pixel, number, pressed, says, slid, until, uploaded, written


def test_every_cell_has_run_and_shows_the_widget_itself(gallery):
    gallery.output("end").get_by_text("all cells have run").wait_for()
    for name in WIDGETS:
        output = gallery.output(name)
        assert output.locator(".widget-vbox").count() > 0, name
        output.locator(".vk").first.wait_for(timeout=SLOW)


def test_every_picture_has_words_and_every_control_a_name(gallery):
    for name in WIDGETS:
        for image in gallery.output(name).locator("img").all():
            assert image.get_attribute("alt"), name
            assert image.evaluate("image => image.complete && image.naturalWidth > 0"), name
        for drawing in gallery.output(name).locator("svg[role=img]").all():
            assert drawing.get_attribute("aria-label")
        for control in gallery.output(name).locator("select, input[type=text]").all():
            assert control.evaluate("control => control.labels.length > 0 && control.labels[0].innerText.length > 0")


def test_the_explorers_cell_is_what_the_exported_matrix_holds(gallery, keep):
    shown = gallery.output("explorer")
    slid(shown, "picture", 3)
    chosen(shown, "caption", 4)
    says(shown, "picture 3, caption 5")
    says(shown, "They do not belong together.")
    pressed(shown, "export")
    says(shown, "written: similarity.csv")
    with open(gallery.server.folder / "similarity.csv", newline="") as file:
        matrix = [[float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]]
    rows = {row.locator("th").inner_text(): row.locator("td").inner_text() for row in shown.locator("tr").all()}
    assert number(rows["base"]) == pytest.approx(matrix[2][4], abs=1e-4)
    better = sum(row[4] >= matrix[2][4] for row in matrix), sum(value >= matrix[2][4] for value in matrix[2])
    assert rows["picture’s rank for the caption"] == f"{better[0]} of 12"
    assert rows["caption’s rank for the picture"] == f"{better[1]} of 12"
    keep(gallery.cell("explorer"))


def test_the_explorer_switches_between_models_and_sorts(gallery):
    shown = gallery.output("explorer")
    heat = shown.locator("svg image").first
    before, labels = heat.get_attribute("href"), shown.locator("svg text").all_text_contents()
    pressed(shown, "fine-tuned")
    says(shown, re.compile("^fine-tuned: "))
    assert heat.get_attribute("href") != before
    chosen(shown, "sort", "highest score first")
    until(
        shown,
        "(shown, before) => [...shown.querySelectorAll('svg text')].some((one, at) => one.textContent !== before[at])",
        labels,
    )
    chosen(shown, "sort", "as given")
    pressed(shown, "base")
    says(shown, re.compile("^base: "))
    assert heat.get_attribute("href") == before


def test_no_caption_of_the_matrix_is_cut_by_its_edge(gallery):
    drawing = gallery.output("explorer").locator("svg[role=img]")
    assert drawing.locator("text").count() > 12
    outside = drawing.evaluate(
        """drawing => [...drawing.querySelectorAll('text')]
        .filter(text => text.getBBox().x < 0).map(text => text.textContent)"""
    )
    assert outside == []


def test_the_map_shows_a_picture_under_the_hand_and_the_pair_that_is_chosen(gallery, keep):
    shown = gallery.output("map")
    chosen(shown, "pair", 2)
    says(shown, "pair 3, ringed in the map")
    gallery.page.mouse.move(0, 0)
    assert shown.locator("svg .thumb").evaluate_all(VISIBLE) == []
    shown.locator("svg path[id]").last.hover()  # the one that lies on top of all others
    assert shown.locator("svg .thumb").evaluate_all(VISIBLE) == [11]
    keep(gallery.cell("map"))
    assert shown.locator("svg > line").count() == 12
    shown.get_by_label("link picture and caption").uncheck()
    until(shown, "shown => shown.querySelectorAll('svg > line').length === 0")
    shown.get_by_label("link picture and caption").check()


VISIBLE = "thumbs => [...thumbs.keys()].filter(n => getComputedStyle(thumbs[n]).visibility === 'visible')"


def test_the_map_is_made_anew_for_another_model_and_by_umap(gallery, keep):
    if importlib.util.find_spec("umap") is None:
        pytest.skip("umap-learn is not installed")
    shown = gallery.output("map")
    pressed(shown, "base")
    says(shown, "base, PCA")
    place = shown.locator("svg circle[id]").first.get_attribute("cx")
    pressed(shown, "UMAP")
    says(shown, "base, UMAP")
    assert shown.locator("svg circle[id]").first.get_attribute("cx") != place
    says(shown, "UMAP 1 (no unit)")
    keep(gallery.cell("map"))
    pressed(shown, "PCA")
    says(shown, "base, PCA")
    assert shown.locator("svg circle[id]").first.get_attribute("cx") == place


def test_the_search_box_finds_pictures_best_first_and_as_many_as_asked(gallery, keep):
    shown = gallery.output("search")
    says(shown, "Best first, of 12")
    caption = shown.get_by_label("caption", exact=True).input_value()
    slid(shown, "show", 3)
    until(shown, "shown => shown.querySelectorAll('figure.small').length === 9")
    scores = [number(text) for text in shown.locator("figcaption").all_inner_texts()]
    for start in range(0, 9, 3):
        assert scores[start : start + 3] == sorted(scores[start : start + 3], reverse=True)
    owned = shown.locator("figure.chosen").all_inner_texts()
    assert owned and all("its own" in words and caption in words for words in owned)
    written(shown, "caption", "a red car and a zebra")
    says(shown, "“a red car and a zebra”")
    assert shown.locator("mark").all_inner_texts() == ["zebra"]
    assert shown.locator("figure.chosen").count() == 0
    keep(gallery.cell("search"))


def test_the_search_box_finds_captions_for_a_picture_chosen_or_given(gallery, picture_file, keep):
    shown = gallery.output("search")
    says(shown, "Best first, of 12")
    slid(shown, "show", 3)
    chosen(shown, "or by", "picture 2")
    says(shown, "Which captions fit this picture?")
    scores = [number(text) for text in shown.locator("li").all_inner_texts()]
    assert len(scores) == 9 and scores[:3] == sorted(scores[:3], reverse=True)
    keep(gallery.cell("search"))
    uploaded(shown, "your picture", picture_file)
    until(
        shown, "(shown, src) => shown.querySelector('img').src !== src", shown.locator("img").first.get_attribute("src")
    )
    assert first_pixel(shown.locator("img").first) == pytest.approx([10, 160, 70], abs=3)
    written(shown, "caption", "a blue key")  # what was asked last is what is answered
    says(shown, "“a blue key”")


def test_a_training_is_watched_paused_and_stopped_and_others_wait_meanwhile(gallery, keep):
    shown, chat = gallery.output("training"), gallery.output("chat")
    says(shown, "400 steps to make")
    pressed(shown, "start")
    says(shown, re.compile(r": step \d+ of 400"))
    says(shown, "time left")
    says(shown, "validation R@1")
    written(chat, "question", "what is there?")
    pressed(chat, "ask")
    says(chat, "the model is being trained: pause or stop the training")
    pressed(shown, "pause")
    says(shown, re.compile(r"^paused"))
    paused = shown.locator("p").first.inner_text()
    keep(gallery.cell("training"))
    pressed(chat, "ask")  # a training that rests lets others in
    says(chat, "done")
    assert shown.locator("p").first.inner_text() == paused
    pressed(shown, "pause")
    says(shown, re.compile("^training"))
    pressed(shown, "stop and keep")
    says(shown, "stopped, and kept")
    until(shown, "shown => shown.querySelectorAll('button:disabled').length >= 2")
    curve = shown.locator("img.plot")
    assert curve.evaluate("image => image.naturalWidth") > 400
    keep(gallery.cell("training"), "-stopped")
    pressed(chat, "begin anew")


def test_the_chat_answers_with_the_adapter_on_and_off_and_another_picture_begins_anew(gallery, picture_file, keep):
    shown = gallery.output("chat")
    for place, question in enumerate(["what is in the picture?", "and where is the zebra?"], start=1):
        written(shown, "question", question)
        pressed(shown, "ask")
        until(
            shown,
            "(shown, n) => { const rows = shown.querySelectorAll('tbody tr');"
            "return rows.length === n && !rows[n - 1].innerText.includes('—'); }",
            place,
        )
        assert all(answer.strip() for answer in shown.locator("tbody tr").last.locator("td").all_inner_texts())
    assert shown.locator("thead th").all_inner_texts() == ["you", "adapter on", "adapter off"]
    says(shown, re.compile("Words the LVLM has never seen: .*zebra"))
    keep(gallery.cell("chat"))
    uploaded(shown, "your picture", picture_file)
    says(shown, "Nothing was asked yet.")
    assert first_pixel(shown.locator("img")) == pytest.approx([10, 160, 70], abs=3)
    chosen(shown, "about", "picture 2")  # what was chosen last is what is talked about
    until(shown, "(shown, src) => shown.querySelector('img').src !== src", shown.locator("img").get_attribute("src"))


def test_the_attention_view_shows_another_head_and_another_picture(gallery, picture_file, keep):
    shown = gallery.output("attention")
    says(shown, "mean")
    overlay = shown.locator("img.plot")
    assert overlay.evaluate("image => image.naturalWidth") > 400
    slid(shown, "layer", 2)
    slid(shown, "head", 1)
    until(shown, "shown => /layer 2 of \\d+, head 1 of \\d+/.test(shown.querySelector('img').alt)")
    shares = [number(row.locator("td").first.inner_text()) for row in shown.locator("tbody tr").all()]
    assert len(shares) == 2 and all(0 <= share <= 100 for share in shares)
    keep(gallery.cell("attention"))
    before = overlay.get_attribute("src")
    uploaded(shown, "your picture", picture_file)
    until(shown, "(shown, src) => shown.querySelector('img') && shown.querySelector('img').src !== src", before)
    own = overlay.get_attribute("src")
    chosen(shown, "look at", "picture 2")  # what was given last is what is looked at
    until(
        shown,
        "(shown, given) => shown.querySelector('img') && !given.includes(shown.querySelector('img').src)",
        [before, own],
    )


@pytest.mark.parametrize(
    ("name", "label"), [("probe", "caption 1"), ("search", "caption"), ("chat", "question")], ids=lambda value: value
)
def test_markup_that_is_typed_is_shown_as_text_and_nothing_runs(gallery, name, label, keep):
    shown = gallery.output(name)
    if name == "search":
        chosen(shown, "or by", "search by caption")
    written(shown, label, EVIL)
    if name == "chat":
        pressed(shown, "ask")
    says(shown, re.compile(re.escape("<img src=x")))
    gallery.page.wait_for_timeout(500)  # time for it to run, if it could
    assert shown.locator('img[src="x"]').count() == 0
    keep(gallery.cell(name))


def test_every_widget_that_there_is_was_shown():
    made = {name for name in vk.widgets.__all__ if isinstance(getattr(vk.widgets, name), type)}
    made = {name for name in made if issubclass(getattr(vk.widgets, name), vk.widgets.shell.WidgetBase)}
    assert {name for name in made if not any(f"widgets.{name}(" in source for source in CELLS.values())} == set()
