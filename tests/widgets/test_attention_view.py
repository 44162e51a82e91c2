"""The attention view shows the model's own attention, computed once per image."""

import html
import re

import numpy as np
import pytest
import torch
from color_encoder import plain, png, put
from PIL import Image
from tiny import tiny_embedder, tiny_lvlm

import vladva_kit as vk
from vladva_kit.analysis import probe_images
from vladva_kit.embedder.prompts import image_inputs
from vladva_kit.widgets import AttentionView, attention_view

ROW = re.compile(r'<tr><th scope="row">(\w+)</th><td>([\d.]+)%</td><td>(\d+)% of the patches</td><td>([^<]+)</td></tr>')
NOISE = [np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8) for seed in range(2)]


@pytest.fixture
def images():
    return [Image.fromarray(pixels) for pixels in NOISE]


@pytest.fixture
def embedder(one_thread):
    return tiny_embedder()


@pytest.fixture
def view(embedder, images):
    shown = AttentionView(embedder, images)
    shown.work.wait()
    return shown


def eager_map(embedder, image, layer, head):
    """(8, 8) attention of the summary token over the patches, by transformers' eager attention."""
    model, inputs = embedder.lvlm.model, image_inputs(embedder.lvlm.processor, [image], embedder.image_prompt)
    model.get_decoder().set_attn_implementation("eager")
    with torch.inference_mode():
        attentions = model(**inputs.inputs, output_attentions=True).attentions
    model.get_decoder().set_attn_implementation("sdpa")
    is_image = inputs.inputs["input_ids"][0] == embedder.lvlm.processor.image_token_id
    return attentions[layer - 1][0, head - 1, int(inputs.summary_positions[0]), is_image][-64:].reshape(8, 8).numpy()


def test_the_view_shows_the_attention_of_the_layer_and_head_before_and_after(view, embedder, images):
    view.layer.value, view.head.value = 2, 1
    rows = {name: (float(share), int(spread), peak) for name, share, spread, peak in ROW.findall(view.view.value)}
    with embedder.base():
        before = eager_map(embedder, images[0], 2, 1)
    for name, grid in (("before", before), ("after", eager_map(embedder, images[0], 2, 1))):
        share, spread, peak = rows[name]
        shares = grid / grid.sum()
        assert share == pytest.approx(100 * grid.sum(), abs=0.06)
        assert spread == pytest.approx(100 * np.exp(-(shares * np.log(shares)).sum()) / 64, abs=0.6)
        assert f"({100 * grid.max():.1f}%)" in peak
        row, column = divmod(int(grid.argmax()), 8)
        names = ["upper", "middle", "lower"][row * 3 // 8], ["left", "center", "right"][column * 3 // 8]
        assert peak.startswith(" ".join(names))
    assert "layer 2 of 2, head 1 of 2" in view.view.value
    view.layer.value = view.head.value = 0
    assert "mean of 2 layers, mean of 2 heads" in view.view.value


def test_each_image_runs_once_per_state_and_the_sliders_run_nothing(view, embedder):
    forwards = []
    hook = embedder.lvlm.model.model.register_forward_hook(lambda *_: forwards.append(embedder.adapted))
    view.layer.value, view.head.value = 1, 2
    assert forwards == []
    for index in (1, 0, 1):
        view.picker.menu.value = index
        view.work.wait()
    hook.remove()
    assert forwards == [False, True] and view.layer.value == 1


def test_the_plain_function_gives_the_widgets_view(view, embedder, images):
    with embedder.base():
        maps = {"before": probe_images(embedder, images[:1], attention=True).maps[0]}
    maps["after"] = probe_images(embedder, images[:1], attention=True).maps[0]
    view.layer.value = 2
    assert attention_view(images[0], maps, layer=2) == view.view.value


def test_a_base_embedder_has_one_panel(images, one_thread):
    view = AttentionView(vk.Embedder(tiny_lvlm()), images[:1])
    view.work.wait()
    assert [name for name, *_ in ROW.findall(view.view.value)] == ["before"]
    assert (view.layer.max, view.head.max) == (2, 2)


def test_an_uploaded_image_is_read(view):
    put(view.picker.upload, ("wall.png", png("blue")))
    view.work.wait()
    maps = {}
    with view.embedder.base():
        maps["before"] = probe_images(view.embedder, [plain("blue")], attention=True).maps[0]
    maps["after"] = probe_images(view.embedder, [plain("blue")], attention=True).maps[0]
    assert view.view.value == attention_view(plain("blue"), maps)


def test_the_latest_choice_of_image_counts(view):
    first = view.view.value
    put(view.picker.upload, ("wall.png", png("blue")))
    view.work.wait()
    view.picker.menu.value = 1
    view.work.wait()
    second = view.view.value
    view.picker.menu.value = 0
    view.work.wait()
    assert view.view.value == first and not view.picker.upload.value
    assert second != first and len(view.maps) == 3


def test_an_image_cut_into_tiles_is_shown_alone_with_the_reason(view, monkeypatch):
    monkeypatch.setattr("vladva_kit.analysis.summary.patch_grid", lambda *_: None)
    view.picker.menu.value = 1
    with pytest.raises(ValueError, match="tiles"):
        view.work.wait()
    assert 'role="alert"' in view.work.status.value and "tiles" in view.work.status.value
    assert view.view.value.count("<img ") == 1 and "<table" not in view.view.value


def test_names_are_escaped_and_the_image_has_a_text_alternative(images):
    evil = "<img src=x onerror=alert(1)>"
    shown = attention_view(images[0], {evil: np.full((2, 2, 4, 4), 0.05)})
    assert evil not in shown and html.escape(evil) in shown
    (tag,) = re.findall(r"<img [^>]*>", shown)
    assert re.search(r'alt="The image with the attention of the summary token on top, mean of 2 layers', tag)


@pytest.mark.parametrize("choice", [{"layer": 3}, {"head": -1}])
def test_a_missing_layer_or_head_is_an_error(images, choice):
    with pytest.raises(ValueError, match="there are 1 to 2, and 0 is the mean"):
        attention_view(images[0], {"before": np.full((2, 2, 4, 4), 0.05)}, **choice)


def test_maps_of_two_models_or_no_images_are_an_error(images, embedder):
    with pytest.raises(ValueError, match=r"before \(2, 2, 4, 4\), after \(3, 2, 4, 4\)"):
        attention_view(images[0], {"before": np.zeros((2, 2, 4, 4)), "after": np.zeros((3, 2, 4, 4))})
    with pytest.raises(ValueError, match="no image to look at"):
        AttentionView(embedder, [])
