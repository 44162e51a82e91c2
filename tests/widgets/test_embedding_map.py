"""The map: what is seen of it is right, and what was made is kept."""

import re
import sys

import numpy as np
import pytest
from fake_umap import FakeUmap

from vladva_kit.plots.space import LEFT_OVER, PALETTE
from vladva_kit.widgets import EmbeddingMap, flat_map, map_view
from vladva_kit.widgets.embedding_map import PICTURED

from .conftest import plain

N = 12
CAPTIONS = [f"wall {n}" for n in range(N)]
GROUNDS = ["grass", "sand", "snow"] * 4


@pytest.fixture
def embeddings():
    generator = np.random.default_rng(0)
    return {name: (generator.normal(size=(N, 8)), generator.normal(size=(N, 8)) + 1) for name in ("before", "after")}


@pytest.fixture
def walls():
    return [plain("red")] * N


@pytest.fixture
def umap(monkeypatch):
    library = FakeUmap()
    monkeypatch.setitem(sys.modules, "umap", library)
    return library


def circles(view):
    found = re.findall(r'<circle id="\w+" cx="([\d.]+)" cy="([\d.]+)" r="4.5" fill="(#\w+)"', view)
    return np.array([(float(x), float(y)) for x, y, _ in found]), [color for *_, color in found]


def test_distances_on_the_page_are_those_of_the_map(embeddings, walls):
    places = flat_map(*embeddings["before"])
    pixels, _ = circles(map_view(places, walls, CAPTIONS))

    def apart(points):
        return np.linalg.norm(points[:, None] - points[None], axis=-1)[np.triu_indices(N, 1)]

    ratio = apart(pixels) / apart(places.images)
    assert np.allclose(ratio, ratio.mean(), rtol=0.02)
    assert pixels[places.images[:, 1].argmax(), 1] == pixels[:, 1].min()  # upwards is up


def test_choices_change_the_view_and_no_map_is_made_twice(embeddings, walls, umap):
    map_ = EmbeddingMap(embeddings, walls, CAPTIONS, {"ground": GROUNDS})
    first, colors = circles(map_.view.value)
    assert colors == [PALETTE[GROUNDS.index(ground)] for ground in GROUNDS] and "before, PCA" in map_.view.value
    map_.method.value = "UMAP"
    map_.work.wait()
    assert "before, UMAP" in map_.view.value and not np.allclose(circles(map_.view.value)[0], first)
    map_.model.value = "after"
    map_.work.wait()
    map_.model.value, map_.color.value = "before", "one color"
    assert len(umap.asked) == 2 and set(circles(map_.view.value)[1]) == {PALETTE[0]}
    map_.pair.value = 7
    assert 'alt="ImageRecord 8: wall 7"' in map_.view.value
    assert "stroke-opacity" in map_.view.value
    map_.links.value = False
    assert "stroke-opacity" not in map_.view.value


def test_canceling_goes_back_to_pca_at_once_and_keeps_the_map_that_came(embeddings, walls, umap):
    map_ = EmbeddingMap(embeddings, walls, CAPTIONS)
    umap.during = map_.work.cancel.click
    map_.method.value = "UMAP"
    map_.work.wait()
    assert map_.method.value == "PCA" and "before, PCA" in map_.view.value
    assert ("before", "UMAP") in map_.maps


def test_a_choice_made_while_a_map_is_made_does_not_make_it_twice(embeddings, walls, umap):
    map_ = EmbeddingMap(embeddings, walls, CAPTIONS, {"ground": GROUNDS})
    umap.during = lambda: setattr(map_.pair, "value", 5)
    map_.method.value = "UMAP"
    map_.work.wait()
    assert len(umap.asked) == 1 and "before, UMAP" in map_.view.value and 'alt="ImageRecord 6' in map_.view.value


def test_without_umap_learn_the_way_out_is_said(embeddings, walls, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    map_ = EmbeddingMap(embeddings, walls, CAPTIONS)
    map_.method.value = "UMAP"
    with pytest.raises(ImportError, match="or choose PCA"):
        map_.work.wait()
    assert "UMAP needs umap-learn" in map_.view.value
    map_.method.value = "PCA"
    assert "before, PCA" in map_.view.value


def test_captions_and_values_are_shown_as_text_and_many_values_end_in_others(embeddings, walls):
    evil = [*CAPTIONS[1:], "<img src=x onerror=alert(1)>"]
    places = flat_map(*embeddings["before"])
    view = map_view(places, walls, evil, ["<b>"] * 5 + list("abcdefg"), chosen=N - 1)
    assert "<img src=x" not in view and "<b>" not in view and "&lt;b&gt;" in view
    assert "others" in view and circles(view)[1].count(LEFT_OVER) == 1
    with pytest.raises(ValueError, match="give as many"):
        map_view(places, walls, CAPTIONS[:3])
    with pytest.raises(ValueError, match="no method 't-SNE'"):
        flat_map(*embeddings["before"], "t-SNE")


def test_pictures_lie_behind_the_points_of_a_map_that_is_not_too_large(embeddings, walls):
    view = map_view(flat_map(*embeddings["before"]), walls, CAPTIONS)
    assert view.count('class="thumb"') == N and re.search(r"p3:hover ~ #map\w+t3", view)
    many = PICTURED + 1
    generator = np.random.default_rng(1)
    places = flat_map(generator.normal(size=(many, 4)), generator.normal(size=(many, 4)))
    assert 'class="thumb"' not in map_view(places, [plain("red")] * many, ["a"] * many)
