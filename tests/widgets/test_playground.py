"""The playground's answers to the page: scores, errors at their field, and what is encoded once."""

import base64
import json
import re
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from color_encoder import ColorEmbedder, image_vector, plain, png, text_vector

import vladva_kit as vk
from vladva_kit.widgets import Playground
from vladva_kit.widgets.static_view import WIDGET_VIEW

needs_anywidget = pytest.mark.skipif(find_spec("anywidget") is None, reason="anywidget is not installed")


@pytest.fixture
def pairs():
    return [vk.Pair(plain(color), f"a {color} wall") for color in ("red", "green", "blue")] * 7


@pytest.fixture
def page(colors, confused, cases, pairs):
    return vk.playground({"confused": confused, "sees": colors}, cases, pairs)


def grid(images, captions):
    """Cosines [image][caption]."""
    return np.array([[image_vector(image) @ text_vector(text) for text in captions] for image in images])


def uri(content):
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def as_json(reply):
    """What the page receives; fails for NaN, which JSON does not have."""
    return json.loads(json.dumps(reply, allow_nan=False))


def test_cases_are_scored_once_and_counted_by_what_the_last_model_changes(page, colors, cases):
    reply = as_json(page.handle({"do": "cases", "cases": [0, 2], "id": "v-1"}))
    assert reply["id"] == "v-1" and reply["notes"] == []
    assert np.allclose(reply["scores"]["2"][1], grid(cases[2].images, cases[2].captions), atol=1e-6)
    encoded = len(colors.images), len(colors.texts)
    assert page.handle({"do": "cases", "cases": [0, 2]})["scores"] == reply["scores"]
    assert (len(colors.images), len(colors.texts)) == encoded
    assert page.score_cases() == {"fixed": 3, "broken": 0, "right": 0, "wrong": 0}
    assert Playground({"sees": colors, "confused": page.models["confused"]}, cases, page.pairs).score_cases() == {
        "fixed": 0,
        "broken": 3,
        "right": 0,
        "wrong": 0,
    }


def test_an_edited_case_is_scored_and_only_what_is_new_is_encoded(page, colors, cases):
    page.score_cases()
    images, texts = len(colors.images), len(colors.texts)
    captions = ["a red and blue wall", cases[0].captions[1]]
    ask = {"do": "score", "images": [page.state["cases"][0]["images"][0], uri(png("white"))], "captions": captions}
    reply = as_json(page.handle(ask))
    assert np.allclose(reply["scores"][1], grid([cases[0].images[0], plain("white")], captions), atol=1e-6)
    assert (len(colors.images), colors.texts[texts:]) == (images + 1, ["a red and blue wall"])
    page.handle(ask)
    assert len(colors.images) == images + 1


@pytest.mark.parametrize(
    "change, field, text",
    [
        ({"captions": ["a dog", " "]}, "caption 2", "caption 2 is empty"),
        ({"captions": [None, "a dog"]}, "caption 1", "caption 1 is empty"),
        ({"images": [0, uri(b"no image")]}, "image 2", "image 2 is not a readable image"),
        ({"images": ["nonsense", 1]}, "image 1", "image 1 is not a readable image"),
        ({"images": [0, 99_999]}, "image 2", "number 99999"),
        ({"do": "format"}, None, "unknown request 'format'"),
    ],
)
def test_a_bad_request_is_answered_with_the_field_and_the_next_one_works(page, change, field, text):
    good = {"do": "score", "images": [0, 1], "captions": ["a red wall", "a green wall"], "id": 7}
    reply = as_json(page.handle(good | change))
    assert reply.get("field") == field and text in reply["error"] and reply["id"] == 7
    assert "error" not in page.handle(good)


def test_a_model_that_fails_leaves_the_others_usable(colors, cases, pairs):
    class Broken(ColorEmbedder):
        def encode_text(self, texts, batch_size=64):
            raise ValueError("out of tokens")

    class NotANumber(ColorEmbedder):
        def encode_image(self, images, batch_size=64):
            return np.full((len(images), 4), np.nan, dtype=np.float32)

    page = Playground({"sees": colors, "broken": Broken(), "nan": NotANumber()}, cases, pairs)
    reply = as_json(page.handle({"do": "cases", "cases": [0]}))
    sees, broken, nan = reply["scores"]["0"]
    assert broken is None and nan is None and np.shape(sees) == (2, 2)
    assert any("broken: out of tokens" in note for note in reply["notes"]) and "nan: " in " ".join(reply["notes"])
    assert page.counts() == {"fixed": 0, "broken": 0, "right": 0, "wrong": 0}
    assert page.view().count("<table>") == 1
    as_json(page.handle({"do": "gallery", "start": 16}))
    as_json(page.handle({"do": "search", "text": "a red wall"}))


def test_the_gallery_is_encoded_in_steps_and_ends_with_every_models_matrix(page, pairs, colors):
    first = as_json(page.handle({"do": "gallery", "start": 0}))
    assert first["next"] == 16 and "matrices" not in first
    last = as_json(page.handle({"do": "gallery", "start": 16}))
    matrix = np.frombuffer(base64.b64decode(last["matrices"][1]), "<f4").reshape(21, 21)
    assert np.allclose(matrix, grid([pair.image for pair in pairs], [pair.short for pair in pairs]), atol=1e-6)
    assert len(colors.images) == 3  # equal images are encoded once


def test_search_scores_all_pairs_by_text_and_by_image(page, pairs):
    by_text = as_json(page.handle({"do": "search", "text": "a blue wall"}))["scores"][1]
    assert np.allclose(by_text, grid([pair.image for pair in pairs], ["a blue wall"])[:, 0], atol=1e-6)
    by_image = as_json(page.handle({"do": "search", "image": uri(png("red"))}))["scores"][1]
    assert np.allclose(by_image, grid([plain("red")], [pair.short for pair in pairs])[0], atol=1e-6)
    empty = page.handle({"do": "search", "text": ""})
    assert empty["field"] == "search" and "search is empty" in empty["error"]


def test_the_page_holds_all_cases_and_escapes_them(colors, pairs, cases):
    evil = "</script><img src=x onerror=alert(1)>"
    page = Playground({evil: colors}, cases, [*pairs, vk.Pair(plain("white"), evil)])
    page.score_cases()
    html = page.html()
    state = json.loads(re.search(r'<script type="application/json" id="state">(.*?)</script>', html, re.S)[1])
    assert state["models"] == [evil] and state["pairs"][-1]["caption"] == evil
    assert [case["captions"] for case in state["cases"]] == [list(case.captions) for case in cases]
    assert set(state["scores"]) == {"0", "1", "2"} and "<img" not in html.replace("<img>", "")
    assert not re.search(r"""(src|href)=["']?(http|//)""", html)  # self-contained


def test_bad_arguments_are_rejected(colors, cases, pairs):
    with pytest.raises(ValueError, match="no model given"):
        Playground({}, cases, pairs)
    with pytest.raises(ValueError, match="0 cases and 21 captioned pairs"):
        Playground({"sees": colors}, [], pairs)
    with pytest.raises(TypeError, match="wrong: no encode_image"):
        Playground({"wrong": object()}, cases, pairs)


def test_the_static_view_shows_a_fixed_case_and_the_counts(page):
    assert "case 1 of 3" in page.view() and "fixed" not in page.view()
    page.score_cases()
    assert "3 fixed, 0 broken, 0 right, 0 wrong" in page.view() and page.view().count("<img ") == 2


@needs_anywidget
def test_the_widget_answers_messages_and_a_notebook_stores_a_static_view(page, cases):
    sent = []
    page.widget.send = sent.append
    page.widget._handle_custom_msg({"do": "cases", "cases": [1], "id": 3}, [])
    assert sent[0]["id"] == 3 and np.shape(sent[0]["scores"]["1"]) == (2, 2, 2)
    bundle = page._repr_mimebundle_()
    assert bundle[WIDGET_VIEW]["model_id"] == page.widget.model_id
    assert cases[0].captions[0] in bundle["text/html"] or cases[1].captions[0] in bundle["text/html"]
    json.dumps(page.widget.get_state(), allow_nan=False)


def test_without_anywidget_the_static_view_names_what_to_install(page, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "anywidget", None)
    vk.widgets.playground._widget_class.cache_clear()
    bundle = page._repr_mimebundle_()
    assert WIDGET_VIEW not in bundle and "pip install" in bundle["text/html"] and "<table>" in bundle["text/html"]
    vk.widgets.playground._widget_class.cache_clear()


@needs_anywidget
def test_the_static_view_follows_the_case_that_the_page_shows_and_its_edits(page, cases, monkeypatch):
    updates = []
    handle = SimpleNamespace(update=lambda content, raw: updates.append(content["text/html"]))
    monkeypatch.setattr("IPython.display.display", lambda data, raw, **_: handle)
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    page._ipython_display_()
    page.widget.send = lambda reply: None
    page.widget.shown = {"case": 2, "edited": False}
    assert "case 3 of 3" in updates[-1] and cases[2].captions[0] in updates[-1] and "vk-static" in updates[-1]
    page.widget.shown = {"case": 1, "edited": True}
    captions = ["a <b>green sky", "a red wall"]
    page.widget._handle_custom_msg({"do": "score", "images": [0, 1], "captions": captions, "case": 1}, [])
    assert "case 2 of 3: edited" in updates[-1] and "a &lt;b&gt;green sky" in updates[-1]
    page.widget.shown = {"case": 1, "edited": False}
    assert "edited" not in updates[-1] and cases[1].captions[0] in updates[-1]


def test_a_page_with_some_tabs_needs_only_what_they_show(colors, cases, pairs):
    page = vk.playground({"sees": colors}, cases, tabs=["probe"])
    assert page.state["tabs"] == ["probe"] and page.state["pairs"] == [] and len(page.state["cases"]) == 3
    page = vk.playground({"sees": colors}, pairs=pairs, tabs=["matrix", "search"])
    assert page.state["tabs"] == ["search", "matrix"] and page.state["cases"] == []
    with pytest.raises(ValueError, match="tabs probe, serach: choose from probe, compose, search"):
        vk.playground({"sees": colors}, cases, pairs, tabs=["probe", "serach"])
    with pytest.raises(ValueError, match="0 cases and 0 captioned pairs"):
        vk.playground({"sees": colors}, pairs=[], tabs=["search"])
