"""What all widgets share: escaping, uploads of both majors, work in a thread, and doing without ipywidgets."""

import re
import sys

import ipywidgets
import numpy as np
import pytest
from traitlets import Bytes, Dict, Int, List, observe

import vladva_kit as vk
from vladva_kit.models.images import BadInput
from vladva_kit.widgets import (
    AttentionView,
    ChatBox,
    EmbeddingMap,
    RetrievalBox,
    SceneComposer,
    SimilarityExplorer,
    SugarCrepeProbe,
    TrainingDashboard,
    WinogroundProbe,
    winoground_view,
)
from vladva_kit.widgets.base import WIDGET_VIEW, Work, uploaded
from vladva_kit.widgets.page import marked, page, unseen_words

from .conftest import COLORS_RGB, plain, png, put, sugarcrepe_result, upload

KINDS = ("Button", "Checkbox", "Dropdown", "FileUpload", "IntSlider", "Text", "ToggleButton", "ToggleButtons")
SHOWN = ("HTML", "IntProgress")


class UploadOf7(ipywidgets.Button):
    """FileUpload as ipywidgets 7 has it: a read-only dictionary by the files' names, made when the count changes."""

    metadata, data, _counter = List(Dict()), List(Bytes()), Int()
    value = Dict({}, read_only=True)

    def __init__(self, accept="", multiple=False, **keywords):
        super().__init__(**keywords)

    @observe("_counter")
    def _made(self, _):
        files = zip(self.metadata, self.data, strict=True)
        self.set_trait("value", {told["name"]: {"metadata": told, "content": content} for told, content in files})


@pytest.fixture
def every_widget(colors, cases, lvlm, pairs):
    walls, captions = [plain(name) for name in COLORS_RGB], list(COLORS_RGB)
    vectors = np.random.default_rng(0).normal(size=(2, 4, 5))
    box = RetrievalBox({"m": colors}, walls, captions)
    view = AttentionView(vk.Embedder(lvlm), [pairs[0].image])
    composer = SceneComposer({"m": colors})
    for widget in (box, view, composer):
        widget.work.wait()
    return [
        box,
        view,
        ChatBox(vk.Embedder(lvlm), walls),
        EmbeddingMap({"m": vectors}, walls, captions),
        composer,
        SimilarityExplorer({"m": np.eye(4)}, walls, captions),
        SugarCrepeProbe({"m": colors}, {"m": sugarcrepe_result(colors)}),
        TrainingDashboard(vk.Embedder(lvlm), pairs),
        WinogroundProbe({"m": colors}, cases),
    ]


def controls_of(box):
    for child in box.children:
        yield from controls_of(child) if hasattr(child, "children") else [child]


def test_every_control_is_a_core_one_that_the_keyboard_reaches_and_says_what_it_is(every_widget):
    for widget in every_widget:
        found = list(controls_of(widget.box))
        assert widget.view in found
        for control in found:
            kind = type(control).__name__
            assert kind in KINDS or kind in SHOWN, f"{type(widget).__name__}: {kind}"
            assert kind in SHOWN or control.description, f"{type(widget).__name__}: a {kind} without a name"


def test_every_picture_of_every_view_has_words(every_widget):
    for widget in every_widget:
        assert all(re.search(r' alt="[^"]+"', tag) for tag in re.findall(r"<img [^>]*>", widget.view.value))
        assert widget.view.value.startswith("<style>") and "vk" in widget.view.value


def test_a_notebook_gets_the_widget_and_its_view_and_colab_the_widget_alone(monkeypatch, every_widget):
    for widget in every_widget:
        bundle = widget._repr_mimebundle_()
        assert bundle[WIDGET_VIEW] == {"version_major": 2, "version_minor": 0, "model_id": widget.box.model_id}
        assert bundle["text/html"] == widget.view.value and bundle["text/plain"] == type(widget).__name__
        monkeypatch.setitem(sys.modules, "google.colab", sys)
        assert set(widget._repr_mimebundle_()) == {WIDGET_VIEW, "text/plain"}
        monkeypatch.delitem(sys.modules, "google.colab")


def test_uploads_of_both_majors_give_the_last_picture():
    of_8 = upload(("a.png", png("red")), ("b.png", png("blue")))
    of_7 = {"b.png": {"metadata": {"name": "b.png", "type": "image/png"}, "content": png("blue")}}
    for value in (of_8, of_7):
        assert uploaded(value).getpixel((0, 0)) == COLORS_RGB["blue"]
    assert uploaded(()) is None and uploaded({}) is None
    for value in (upload(("a.txt", b"text")), {"a.txt": {"content": b"text"}}):
        with pytest.raises(BadInput, match="a.txt is no picture"):
            uploaded(value)


def test_the_probe_takes_uploads_as_ipywidgets_7_gives_them(monkeypatch, colors, cases):
    monkeypatch.setattr(ipywidgets, "FileUpload", UploadOf7)
    probe = WinogroundProbe({"m": colors}, cases)
    before = probe.view.value
    for _ in range(2):  # what was taken out does not come back with the next
        put(probe.upload_0, ("w.png", png("white")))
        assert probe.view.value != before and "your own" in probe.view.value
        probe.next.click()
        assert probe.upload_0.value == {} and "your own" not in probe.view.value


def test_without_ipywidgets_the_plain_functions_work_and_a_widget_says_what_to_install(monkeypatch, colors, cases):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # an import of None fails as a missing one does
    assert "<img" in winoground_view(cases[0].images, cases[0].captions, {"m": np.eye(2)})
    with pytest.raises(ImportError, match=r"pip install 'vladva-kit\[notebooks\]'"):
        WinogroundProbe({"m": colors}, cases)


def boxes_of(widget):
    """The text boxes in which a sentence is written; a file's name is none."""
    return [box for box in controls_of(widget.box) if type(box).__name__ == "Text" and box.description != "file"]


def test_in_every_text_box_a_word_that_the_lvlm_never_saw_is_marked(every_widget, lvlm, colors, cases):
    base, walls = vk.Embedder(lvlm), [plain(name) for name in COLORS_RGB]
    found = RetrievalBox({"m": base}, walls, list(COLORS_RGB))
    found.work.wait()
    crepe = SugarCrepeProbe({"m": base}, {"m": sugarcrepe_result(colors)})
    written = [found, crepe, WinogroundProbe({"m": base}, cases), ChatBox(base, walls)]
    assert {type(one) for one in written} == {type(one) for one in every_widget if boxes_of(one)}
    for widget in written:
        for box in boxes_of(widget):
            before = box.value
            box.value = "a zebra"
            assert ">zebra</mark>" in widget.view.value or "never seen: zebra" in widget.view.value, box.description
            box.value = before
            assert "zebra" not in widget.view.value


def drawn(widget):
    """Counts how often a widget draws from here on."""
    times, draw = [], widget.draw
    widget.draw = lambda: times.append(1) or draw()
    return times


def test_one_deed_draws_once_however_many_controls_it_changes(colors, cases, lvlm):
    walls, captions = [plain(name) for name in COLORS_RGB], list(COLORS_RGB)
    probe, crepe = (
        WinogroundProbe({"m": colors}, cases),
        SugarCrepeProbe({"m": colors}, {"m": sugarcrepe_result(colors)}),
    )
    box, chat = RetrievalBox({"m": colors}, walls, captions), ChatBox(vk.Embedder(lvlm), walls)
    box.work.wait()
    for widget in (probe, crepe):
        times = drawn(widget)
        widget.next.click()
        widget.category.value = widget.category.options[1]
        assert len(times) == 2
    for widget in (box, chat):
        put(widget.upload, ("w.png", png("white")))
        times = drawn(widget)
        widget.picture.value = 1
        assert len(times) == 1 and not widget.upload.value
    with pytest.raises(OSError, match="amidst"), probe.laying():
        raise OSError("amidst")
    times = drawn(probe)
    probe.caption_0.value = "a red and blue wall"
    assert len(times) == 1  # a change that failed leaves the gate open


def test_new_work_cancels_the_old_and_an_error_is_raised_once():
    work, done = Work(), []
    assert work.box.layout.display == "none"  # a bar without work is only in the way

    def endless():
        while True:
            yield

    def failing():
        yield
        raise OSError("the <disk> is full")

    work.start(endless(), 5, lambda: done.append("endless"))
    work.start(failing(), 2, lambda: done.append("failing"))
    with pytest.raises(OSError, match="disk"):
        work.wait()
    assert "OSError: the &lt;disk&gt; is full" in work.said.value
    work.start(iter(range(3)), 3, lambda: done.append("three"), "counting")
    work.wait()
    assert done == ["three"] and work.bar.value == 3 and work.cancel.disabled and not work.box.layout.display


def test_texts_are_escaped_around_the_marked_words(lvlm):
    tokenizer = lvlm.processor.tokenizer
    text = 'a <b>dog</b> & a "zebra"'
    unseen = unseen_words(tokenizer, text)
    assert "zebra" in unseen and not {"a", "dog"} & unseen
    shown = marked(text, {"zebra"})
    assert "&lt;b&gt;dog&lt;/b&gt; &amp; a" in shown and ">zebra</mark>" in shown and "<b>" not in shown
    assert unseen_words(None, "zebra") == frozenset()
    assert "<script>" not in page("message", text="<script>")
