"""Shared behavior of all widgets: escaping, uploads in both major versions, background work, missing ipywidgets."""

import io
import re
import sys
import threading
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pytest
from color_encoder import COLORS_RGB, plain, png, put, upload
from PIL import Image
from tiny import tiny_embedder, tiny_lvlm, tiny_pairs
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
    TrainingDashboard,
    winoground_view,
)
from vladva_kit.widgets.base import BackgroundTask, upload_button, uploaded
from vladva_kit.widgets.page import mark_unseen, page, score_text, unseen_words
from vladva_kit.widgets.static_view import WIDGET_VIEW

INPUTS = ("Button", "Checkbox", "Dropdown", "FileUpload", "IntSlider", "Text", "ToggleButton", "ToggleButtons")
OUTPUTS = ("HTML", "IntProgress")
CAPTIONS = [f"a {name} wall" for name in COLORS_RGB]


class FileUpload7(ipywidgets.Button):
    """FileUpload of ipywidgets 7: a read-only dictionary by file name, rebuilt when the counter changes."""

    metadata, data, _counter = List(Dict()), List(Bytes()), Int()
    value = Dict({}, read_only=True)

    def __init__(self, accept="", multiple=False, **keywords):
        super().__init__(**keywords)

    @observe("_counter")
    def _rebuild(self, _):
        files = zip(self.metadata, self.data, strict=True)
        self.set_trait("value", {one["name"]: {"metadata": one, "content": content} for one, content in files})


@pytest.fixture
def walls():
    return [plain(name) for name in COLORS_RGB]


@pytest.fixture
def every_widget(one_thread, colors, walls):
    vectors = np.random.default_rng(0).normal(size=(2, 4, 5))
    base = vk.Embedder(tiny_lvlm())
    widgets = [
        RetrievalBox({"m": colors}, walls, CAPTIONS),
        AttentionView(base, walls),
        SceneComposer({"m": colors}),
        ChatBox(base, walls),
        EmbeddingMap({"m": vectors}, walls, CAPTIONS),
        SimilarityExplorer({"m": np.eye(4)}, walls, CAPTIONS),
        TrainingDashboard(tiny_embedder(), tiny_pairs(8)),
    ]
    for widget in widgets[:3]:
        widget.work.wait()
    return widgets


def controls_of(box):
    for child in box.children:
        yield from controls_of(child) if hasattr(child, "children") else [child]


def test_all_controls_are_core_controls_with_a_label(every_widget):
    for widget in every_widget:
        controls = list(controls_of(widget.box))
        assert widget.view in controls and widget.message in controls
        for control in controls:
            kind = type(control).__name__
            assert kind in INPUTS + OUTPUTS, f"{type(widget).__name__}: {kind}"
            assert kind in OUTPUTS or control.description, f"{type(widget).__name__}: a {kind} without a label"


def test_every_image_has_a_text_alternative(every_widget):
    for widget in every_widget:
        assert all(re.search(r' alt="[^"]+"', tag) for tag in re.findall(r"<img [^>]*>", widget.view.value))
        assert widget.view.value.startswith("<style>") and "vk" in widget.view.value


def test_a_notebook_gets_the_widget_and_its_view_and_colab_only_the_widget(monkeypatch, every_widget):
    for widget in every_widget:
        bundle = widget._repr_mimebundle_()
        assert bundle[WIDGET_VIEW] == {"version_major": 2, "version_minor": 0, "model_id": widget.box.model_id}
        assert bundle["text/html"] == widget.view.value and bundle["text/plain"] == type(widget).__name__
        monkeypatch.setitem(sys.modules, "google.colab", sys)
        assert set(widget._repr_mimebundle_()) == {WIDGET_VIEW, "text/plain"}
        monkeypatch.delitem(sys.modules, "google.colab")


def test_in_jupyter_the_widget_and_a_static_view_that_follows_it_are_two_outputs(monkeypatch, walls):
    shown, updates = [], []
    handle = SimpleNamespace(update=lambda content, raw: updates.append(content))
    monkeypatch.setattr("IPython.display.display", lambda data, raw, **_: shown.append(data) or handle)
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    explorer = SimilarityExplorer({"m": np.eye(4)}, walls, CAPTIONS)
    explorer._ipython_display_()
    live, static = shown
    assert WIDGET_VIEW in live and "text/html" not in live
    assert (
        WIDGET_VIEW not in static and explorer.view.value in static["text/html"] and "vk-static" in static["text/html"]
    )
    explorer.image.value += 1
    assert explorer.view.value in updates[-1]["text/html"] and explorer.view.value not in static["text/html"]
    n_updates = len(updates)
    explorer._ipython_display_()  # displayed again: only the new output follows
    explorer.image.value += 1
    assert len(updates) == 2 * n_updates


@pytest.mark.parametrize("host", ["google.colab", "KAGGLE_KERNEL_RUN_TYPE", None])
def test_elsewhere_a_widget_is_one_output(monkeypatch, walls, host):
    if host is None:
        monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    else:
        monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    if host == "google.colab":
        monkeypatch.setitem(sys.modules, host, sys)
    elif host:
        monkeypatch.setenv(host, "Interactive")
    with pytest.raises(NotImplementedError):  # IPython then displays the bundle
        SimilarityExplorer({"m": np.eye(4)}, walls, CAPTIONS)._ipython_display_()


def test_an_upload_in_either_major_version_gives_the_last_image():
    button = upload_button("your image")
    for value in (
        upload(("a.png", png("red")), ("b.png", png("blue"))),
        {"b.png": {"metadata": {"name": "b.png", "type": "image/png"}, "content": png("blue")}},
    ):
        fake = type("Upload", (), {"value": value})
        assert uploaded(fake).getpixel((0, 0)) == COLORS_RGB["blue"]
    assert uploaded(button) is None
    for value in (upload(("a.txt", b"text")), {"a.txt": {"content": b"text"}}):
        with pytest.raises(BadInput, match=r"a\.txt is not a readable image: upload a PNG"):
            uploaded(type("Upload", (), {"value": value}))


def test_uploads_of_ipywidgets_7_are_taken_and_removed(monkeypatch, one_thread, walls):
    monkeypatch.setattr(ipywidgets, "FileUpload", FileUpload7)
    chat = ChatBox(vk.Embedder(tiny_lvlm()), walls)
    before = chat.view.value
    for _ in range(2):  # a removed file must not come back with the next one
        put(chat.picker.upload, ("w.png", png("white")))
        assert chat.view.value != before and chat.picker.image.getpixel((0, 0)) == COLORS_RGB["white"]
        chat.picker.menu.value = 1 - chat.picker.menu.value
        assert chat.picker.upload.value == {} and chat.picker.image in walls


def test_without_ipywidgets_the_view_functions_work_and_a_widget_names_the_package(monkeypatch, cases):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # makes the import fail
    assert "<img" in winoground_view(cases[0].images, cases[0].captions, {"m": np.eye(2)})
    with pytest.raises(ImportError, match=r"pip install 'vladva-kit\[notebooks\]'"):
        SimilarityExplorer({"m": np.eye(2)}, cases[0].images, cases[0].captions)


def text_boxes(widget):
    """The boxes for captions and questions, not for file names."""
    return [box for box in controls_of(widget.box) if type(box).__name__ == "Text" and box.description != "file"]


def test_every_text_box_marks_words_outside_the_vocabulary(one_thread, every_widget, walls):
    base = vk.Embedder(tiny_lvlm())
    box = RetrievalBox({"m": base}, walls, CAPTIONS)
    box.work.wait()
    widgets = [box, ChatBox(base, walls)]
    assert {type(one) for one in widgets} == {type(one) for one in every_widget if text_boxes(one)}
    for widget in widgets:
        for box in text_boxes(widget):
            before = box.value
            box.value = "a zebra"
            assert re.search("Not in the LVLM’s vocabulary: [^.]*zebra", widget.view.value), box.description
            box.value = before
            assert "zebra" not in widget.view.value


def test_an_empty_text_box_keeps_the_images_and_is_named_in_the_message(one_thread, walls, colors):
    box = RetrievalBox({"m": colors}, walls, CAPTIONS)
    box.work.wait()
    for widget in [box]:
        images = widget.view.value.count("<img ")
        for box in text_boxes(widget):
            before = box.value
            box.value = " "
            assert f"the field &#39;{box.description}&#39; is empty" in widget.message.value
            assert widget.view.value.count("<img ") == images
            box.value = before
            assert widget.message.value == ""


def test_a_bad_upload_keeps_the_images_and_shows_a_message(every_widget):
    shown = 0
    for widget in every_widget:
        for button in controls_of(widget.box):
            if type(button).__name__ == "FileUpload":
                images = widget.view.value.count("<img ")
                put(button, ("notes.txt", b"text"))
                assert "notes.txt is not a readable image" in widget.message.value
                assert widget.view.value.count("<img ") == images > 0
                shown += 1
    assert shown == 3


def count_draws(widget):
    """Return a list that grows by one item with every draw in this thread."""
    draws, draw, here = [], widget.draw, threading.current_thread()

    def count_and_draw():
        if threading.current_thread() is here:
            draws.append(1)
        return draw()

    widget.draw = count_and_draw
    return draws


def test_one_action_redraws_once(one_thread, colors, walls):
    box, chat = RetrievalBox({"m": colors}, walls, CAPTIONS), ChatBox(vk.Embedder(tiny_lvlm()), walls)
    box.work.wait()
    for widget in (box, chat):
        put(widget.picker.upload, ("w.png", png()))
        draws = count_draws(widget)
        widget.picker.menu.value = 1
        assert len(draws) == 1 and not widget.picker.upload.value
    composer = SceneComposer({"m": colors})
    composer.work.wait()
    draws = count_draws(composer)
    composer.swap.value = "sizes"  # which changes a size as well
    assert len(draws) == 1
    composer.work.wait()


def test_a_failed_batch_of_changes_does_not_block_later_redraws(walls):
    explorer = SimilarityExplorer({"m": np.eye(4)}, walls, CAPTIONS)
    with pytest.raises(OSError, match="halfway"), explorer.batched():
        raise OSError("halfway")
    draws = count_draws(explorer)
    explorer.image.value = 2
    assert len(draws) == 1


def test_an_unexpected_error_is_shown_with_its_type_and_the_view_stays(walls):
    explorer = SimilarityExplorer({"m": np.eye(4)}, walls, CAPTIONS)
    before = explorer.view.value

    def fail():
        raise KeyError("<b>")

    explorer.draw = fail
    explorer.image.value = 2
    assert "KeyError: &#39;&lt;b&gt;&#39;" in explorer.message.value and explorer.view.value == before


def test_new_work_cancels_the_old_and_an_error_is_raised_once():
    task, done = BackgroundTask(), []
    assert task.box.layout.display == "none"

    def fail():
        raise RuntimeError("the <disk> is full")

    task.start([lambda: done.append("old")] * 10_000_000, "endless")
    task.start([fail, lambda: done.append("after the error")])
    with pytest.raises(RuntimeError, match="disk"):
        task.wait()
    task.wait()
    assert "RuntimeError: the &lt;disk&gt; is full" in task.status.value and task.box.layout.display == ""
    assert len(done) < 10_000_000 and "after the error" not in done


def test_the_bar_is_hidden_when_work_ends():
    task, seen = BackgroundTask(), []
    task.start([lambda: seen.append((task.bar.layout.display, task.cancel.disabled))] * 3, "counting")
    task.wait()
    assert seen == [("", False)] * 3 and task.bar.value == task.bar.max == 3
    assert task.box.layout.display == "none" and task.cancel.disabled
    task.start([task.cancel.click, lambda: seen.append("after cancel")])
    task.wait()
    assert "canceled after 1 of 2 steps" in task.status.value and len(seen) == 3
    assert task.box.layout.display == "" and task.bar.layout.display == "none"


def test_text_is_escaped_around_marked_words():
    tokenizer = tiny_lvlm().processor.tokenizer
    text = 'a <b>dog</b> & a "zebra"'
    unseen = unseen_words(tokenizer, text)
    assert "zebra" in unseen and not {"a", "dog"} & unseen
    shown = mark_unseen(text, {"zebra"})
    assert "&lt;b&gt;dog&lt;/b&gt; &amp; a" in shown and ">zebra</mark>" in shown and "<b>" not in shown
    assert unseen_words(None, "zebra") == frozenset()
    assert "<script>" not in page("message", text="<script>")


def test_numbers_have_two_decimals_and_a_true_minus_sign():
    assert [score_text(value) for value in (0.5, -0.126, -0.001)] == ["0.50", "−0.13", "0.00"]
    assert [score_text(value, "+") for value in (0.1, -0.126, 0.0)] == ["+0.10", "−0.13", "+0.00"]


def fail(*_, **__):
    raise RuntimeError("injected <error>")


def break_retrieval_box(widget):
    widget.picker.clear = fail
    widget.caption.value = "a blue wall"


def break_attention_view(widget):
    widget.work.start = fail
    put(widget.picker.upload, ("w.png", png()))


def break_scene_composer(widget):
    widget.models["m"].has = fail
    widget.seed.value = 3


def break_chat_box(widget):
    widget.work.start = fail
    widget.question.value = "what is it?"
    widget.ask_button.click()


def break_embedding_map(widget):
    widget.work.start = fail
    widget.method.value = "UMAP"


def break_similarity_explorer(widget):
    widget.export = fail
    widget.export_button.click()


def break_training_dashboard(widget):
    widget._set_state = fail
    widget.start_button.click()


def test_every_widget_shows_an_error_in_its_own_work_and_keeps_its_view(every_widget):
    breaks = [
        break_retrieval_box,
        break_attention_view,
        break_scene_composer,
        break_chat_box,
        break_embedding_map,
        break_similarity_explorer,
        break_training_dashboard,
    ]
    for widget, inject in zip(every_widget, breaks, strict=True):
        view = widget.view.value
        inject(widget)
        assert "RuntimeError: injected &lt;error&gt;" in widget.message.value, type(widget).__name__
        assert widget.view.value and (
            inject is break_scene_composer or "<img" not in view or "<img" in widget.view.value
        )


def test_damaged_uploads_of_every_kind_are_named(one_thread, walls):
    chat = ChatBox(vk.Embedder(tiny_lvlm()), walls)
    whole = png()
    for content in (
        b"",
        whole[:40],
        whole[:55],
        whole[:45] + b"\0\0\0\0" + whole[49:],
        b"GIF89a",
        b"\xff\xd8\xff\xe0",
    ):
        put(chat.picker.upload, ("broken.png", content))
        assert "broken.png is not a readable image" in chat.message.value
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), -9, np.float32)).save(buffer, "TIFF")
    put(chat.picker.upload, ("depth.tiff", buffer.getvalue()))
    assert "depth.tiff is not a readable image (float gray values" in chat.message.value


def test_half_a_character_is_shown_as_an_error_and_never_sent_to_a_front_end(one_thread, walls):
    lvlm, half = tiny_lvlm(), "a dog \ud83d"
    base = vk.Embedder(lvlm)
    box, chat = RetrievalBox({"base": base}, walls, CAPTIONS), ChatBox(base, walls)
    box.work.wait()
    box.caption.value = half
    assert "holds half a character" in box.message.value
    chat.question.value = half
    chat.ask_button.click()
    with pytest.raises(BadInput, match="half a character"):
        chat.work.wait()
    for html in (box.message, box.view, chat.view, chat.work.status):
        html.value.encode("utf-8")
