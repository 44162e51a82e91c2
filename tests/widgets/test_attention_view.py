"""Where the summary token looks: what is shown is the model's own attention, read once a picture."""

import html
import re

import numpy as np
import pytest
import torch
from tiny import tiny_embedder, tiny_lvlm

import vladva_kit as vk
from vladva_kit.analysis import read_images
from vladva_kit.embedder.prompts import image_inputs
from vladva_kit.widgets import AttentionView, attention_view

from .conftest import plain, png, put

ROW = re.compile(r'<tr><th scope="row">(\w+)</th><td>([\d.]+)%</td><td>(\d+)% of the patches</td><td>([^<]+)</td></tr>')


@pytest.fixture
def embedder(one_thread):
    return tiny_embedder()


@pytest.fixture
def view(embedder, pictures):
    shown = AttentionView(embedder, pictures[:2])
    shown.work.wait()
    return shown


def eager_map(embedder, picture, layer, head):
    """(8, 8) the summary token's attention over the patches by the family's own eager attention."""
    model, sequences = embedder.lvlm.model, image_inputs(embedder.lvlm.processor, [picture], embedder.image_prompt)
    model.get_decoder().set_attn_implementation("eager")
    with torch.inference_mode():
        attentions = model(**sequences.inputs, output_attentions=True).attentions
    model.get_decoder().set_attn_implementation("sdpa")
    image = sequences.inputs["input_ids"][0] == embedder.lvlm.processor.image_token_id
    return attentions[layer - 1][0, head - 1, int(sequences.summary[0]), image][-64:].reshape(8, 8).numpy()


def test_what_is_shown_is_the_layers_and_heads_own_attention_before_and_after(view, embedder, pictures):
    view.layer.value, view.head.value = 2, 1
    rows = {name: (float(share), int(spread), most) for name, share, spread, most in ROW.findall(view.view.value)}
    with embedder.base():
        before = eager_map(embedder, pictures[0], 2, 1)
    for name, grid in (("before", before), ("after", eager_map(embedder, pictures[0], 2, 1))):
        share, spread, most = rows[name]
        shares = grid / grid.sum()
        assert share == pytest.approx(100 * grid.sum(), abs=0.06)
        assert spread == pytest.approx(100 * np.exp(-(shares * np.log(shares)).sum()) / 64, abs=0.6)
        assert f"({100 * grid.max():.1f}%)" in most
        row, column = divmod(int(grid.argmax()), 8)
        assert most.startswith(
            f"{['upper', 'middle', 'lower'][row * 3 // 8]} {['left', 'center', 'right'][column * 3 // 8]}"
        )
    assert "layer 2 of 2, head 1 of 2" in view.view.value
    view.layer.value = view.head.value = 0
    assert "mean of 2 layers, mean of 2 heads" in view.view.value


def test_each_picture_is_read_once_a_state_and_sliders_read_nothing(view, embedder):
    forwards = []
    hook = embedder.lvlm.model.model.register_forward_hook(lambda *_: forwards.append(embedder.adapted))
    view.layer.value, view.head.value = 1, 2
    assert forwards == []
    view.picture.value = 1
    view.work.wait()
    assert forwards == [False, True]
    view.picture.value = 0
    view.work.wait()
    view.picture.value = 1
    view.work.wait()
    hook.remove()
    assert forwards == [False, True] and view.layer.value == 1


def test_the_plain_function_gives_the_widgets_view(view, embedder, pictures):
    with embedder.base():
        maps = {"before": read_images(embedder, pictures[:1], attention=True).maps[0]}
    maps["after"] = read_images(embedder, pictures[:1], attention=True).maps[0]
    view.layer.value = 2
    assert attention_view(pictures[0], maps, layer=2) == view.view.value


def test_a_baseline_has_one_panel(pictures, one_thread):
    view = AttentionView(vk.Embedder(tiny_lvlm()), pictures[:1])
    view.work.wait()
    assert [name for name, *_ in ROW.findall(view.view.value)] == ["before"]
    assert (view.layer.max, view.head.max) == (2, 2)


def test_an_uploaded_picture_is_looked_at_and_a_file_that_is_none_is_said(view):
    put(view.upload, ("wall.png", png("blue")))
    view.work.wait()
    wall = np.asarray(plain("blue"))
    maps = {}
    with view.embedder.base():
        maps["before"] = read_images(view.embedder, [plain("blue")], attention=True).maps[0]
    maps["after"] = read_images(view.embedder, [plain("blue")], attention=True).maps[0]
    assert view.view.value == attention_view(plain("blue"), maps) and wall.std((0, 1)).max() == 0
    put(view.upload, ("notes.txt", b"no picture"))
    assert "notes.txt is no picture" in view.view.value and 'role="alert"' in view.view.value


def test_what_was_given_last_is_what_is_looked_at(view):
    first = view.view.value
    put(view.upload, ("wall.png", png("blue")))
    view.work.wait()
    view.picture.value = 1
    view.work.wait()
    second = view.view.value
    view.picture.value = 0
    view.work.wait()
    assert view.view.value == first and not view.upload.value
    assert second != first and len(view.maps) == 3


def test_a_picture_that_was_cut_into_tiles_is_said(view, monkeypatch):
    monkeypatch.setattr("vladva_kit.analysis.summary.patch_grid", lambda *_: None)
    view.picture.value = 1
    with pytest.raises(ValueError, match="into tiles"):
        view.work.wait()
    assert 'role="alert"' in view.view.value and "into tiles" in view.view.value


def test_names_are_shown_as_text_and_the_picture_has_words(pictures):
    evil = "<img src=x onerror=alert(1)>"
    shown = attention_view(pictures[0], {evil: np.full((2, 2, 4, 4), 0.05)})
    assert evil not in shown and html.escape(evil) in shown
    (tag,) = re.findall(r"<img [^>]*>", shown)
    assert re.search(r'alt="The picture, and over it the attention of the summary token, mean of 2 layers', tag)


@pytest.mark.parametrize("places", [{"layer": 3}, {"head": -1}])
def test_layers_and_heads_that_are_not_there_are_refused(pictures, places):
    with pytest.raises(ValueError, match="there are 1 to 2, and 0 is the mean"):
        attention_view(pictures[0], {"before": np.full((2, 2, 4, 4), 0.05)}, **places)


def test_maps_of_two_models_and_no_picture_are_refused(pictures, embedder):
    with pytest.raises(ValueError, match=r"before \(2, 2, 4, 4\), after \(3, 2, 4, 4\)"):
        attention_view(pictures[0], {"before": np.zeros((2, 2, 4, 4)), "after": np.zeros((3, 2, 4, 4))})
    with pytest.raises(ValueError, match="no picture to look at"):
        AttentionView(embedder, [])
