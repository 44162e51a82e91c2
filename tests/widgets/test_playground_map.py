"""The map's points are those of the projection, turned onto the first model's; the DataFrame holds the same points."""

import base64
import importlib.util
import json

import numpy as np
import pytest
from color_encoder import ColorEmbedder, plain
from PIL import Image

import vladva_kit as vk
from vladva_kit.analysis.space import Projection, project_2d
from vladva_kit.widgets.playground_map import align, project_models

needs_anywidget = pytest.mark.skipif(
    importlib.util.find_spec("anywidget") is None, reason="anywidget is not installed: pip install anywidget"
)


def vectors(seed, n=30, dim=6):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(n, dim)) * np.arange(dim, 0, -1)
    return images, images + rng.normal(size=(n, dim)) * 0.3 + 4


@pytest.fixture
def page(colors, confused, cases):
    pairs = [vk.Pair(Image.new("RGB", (8, 8), (3 * i, 250 - 2 * i, i)), f"a red wall {'x' * i}") for i in range(70)]
    return vk.playground({"confused": confused, "sees": colors}, cases, pairs[:3], pairs)


def points(packed):
    return [np.frombuffer(base64.b64decode(packed[kind]), "<f4").reshape(-1, 2) for kind in ("images", "texts")]


def test_a_turned_and_mirrored_map_is_turned_back():
    reference = project_2d(*vectors(0))
    turn = np.array([[np.cos(2), np.sin(2)], [np.sin(2), -np.cos(2)]])
    turned = Projection(reference.images @ turn + 3, reference.texts @ turn + 3, ("a", "b"))
    found = align(turned, reference)
    assert np.allclose(found.images, reference.images) and np.allclose(found.texts, reference.texts)
    other = project_2d(*vectors(1))
    moved = align(other, reference)
    assert np.allclose(
        np.linalg.norm(moved.images - moved.texts, axis=1), np.linalg.norm(other.images - other.texts, axis=1)
    )
    distance = [np.linalg.norm(one.images - reference.images) for one in (moved, other)]
    assert distance[0] <= distance[1]


def test_without_the_gap_the_means_of_images_and_captions_coincide():
    images, texts = vectors(0)
    (found,) = project_models([(images, texts)])
    assert np.allclose(found.images, project_2d(images - images.mean(0), texts - texts.mean(0)).images)
    assert np.allclose(found.images.mean(0), found.texts.mean(0), atol=1e-9)
    (with_gap,) = project_models([(images, texts)], gap=True)
    assert np.allclose(with_gap.images, project_2d(images, texts).images)


def test_pairs_are_encoded_in_steps_and_each_model_has_a_map(page, colors):
    assert page.state["map"][69] == page.map_pairs[69].short
    first = page.handle({"do": "map", "start": 0, "method": "PCA", "gap": False})
    assert first["next"] == 64 and "maps" not in first and len(colors.images) == 64
    reply = json.loads(
        json.dumps(page.handle({"do": "map", "start": 64, "method": "PCA", "gap": False}), allow_nan=False)
    )
    images, texts = (
        np.array(encode([getattr(pair, field) for pair in page.map_pairs]))
        for encode, field in ((colors.encode_image, "image"), (colors.encode_text, "short"))
    )
    wanted = project_2d(images - images.mean(0), texts - texts.mean(0))
    shown = points(reply["maps"][1])
    distances = [np.linalg.norm(one[0][:, None] - one[1], axis=-1) for one in (shown, (wanted.images, wanted.texts))]
    assert np.allclose(*distances, atol=1e-5)
    thumbnail = page.handle({"do": "thumbnail", "pair": 5})["uri"]
    assert thumbnail.startswith("data:image/jpeg;base64,")
    assert "unknown method" in page.handle({"do": "map", "start": 70, "method": "t-SNE", "gap": False})["error"]


def test_a_model_that_fails_has_no_map_and_the_others_do(colors, cases):
    class Broken(ColorEmbedder):
        def encode_text(self, texts, batch_size=64):
            raise ValueError("out of tokens")

    pairs = [vk.Pair(plain(color), f"a {color} wall") for color in ("red", "green", "blue")]
    page = vk.playground({"broken": Broken(), "sees": colors}, cases, pairs)
    reply = page.handle({"do": "map", "start": 0, "method": "PCA", "gap": True})
    assert reply["maps"][0] is None and len(points(reply["maps"][1])[0]) == 3
    assert reply["notes"] == ["broken: out of tokens"] and page.state["map"] is None
    with pytest.raises(ValueError, match="broken has no map: .*out of tokens"):
        page.to_frame("broken")


def test_the_frame_has_a_row_per_point(page):
    pytest.importorskip("pandas")
    frame = page.to_frame()
    assert len(frame) == 140 and list(frame.columns) == ["pair", "kind", "caption", "x", "y", "selected"]
    images, texts = points(page.handle({"do": "map", "start": 70, "method": "PCA", "gap": False})["maps"][1])
    shown = frame[frame.kind == "caption"].set_index("pair")
    assert np.allclose(shown[["x", "y"]], texts, atol=1e-5) and shown.caption[7] == page.map_pairs[7].short
    assert np.allclose(page.to_frame("confused")[:70][["x", "y"]].mean(), images.mean(0), atol=1e-5)
    with pytest.raises(KeyError, match="'CLIP' is no model of this page; choose from confused, sees"):
        page.to_frame("CLIP")


@needs_anywidget
def test_the_selection_comes_back_from_the_page(page):
    pytest.importorskip("pandas")
    assert page.selection == []  # not displayed yet
    page.widget.set_state({"selection": [2, 5]})  # as the front end does
    assert page.selection == [2, 5]
    assert sorted(page.to_frame().query("selected").pair) == [2, 2, 5, 5]
