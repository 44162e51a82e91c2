"""The map keeps distances, and computes each projection once."""

import re
import sys

import numpy as np
import pytest
from color_encoder import plain
from fake_umap import FakeUmap

from vladva_kit.analysis.space import project_2d
from vladva_kit.plots.space import OTHER_COLOR, PALETTE
from vladva_kit.widgets import EmbeddingMap, map_view
from vladva_kit.widgets.embedding_map import MAX_THUMBNAILS

N = 12
CAPTIONS = [f"wall {n}" for n in range(N)]
GROUNDS = ["grass", "sand", "snow"] * 4
WALLS = [plain("red")] * N


@pytest.fixture
def embeddings():
    generator = np.random.default_rng(0)
    return {name: (generator.normal(size=(N, 8)), generator.normal(size=(N, 8)) + 1) for name in ("before", "after")}


@pytest.fixture
def umap(monkeypatch):
    library = FakeUmap()
    monkeypatch.setitem(sys.modules, "umap", library)
    return library


def circles(view):
    found = re.findall(r'<circle id="\w+" cx="([\d.]+)" cy="([\d.]+)" r="4.5" fill="(#\w+)"', view)
    return np.array([(float(x), float(y)) for x, y, _ in found]), [color for *_, color in found]


def test_distances_in_pixels_are_those_of_the_projection(embeddings):
    points = project_2d(*embeddings["before"])
    pixels, _ = circles(map_view(points, WALLS, CAPTIONS))

    def distances(xy):
        return np.linalg.norm(xy[:, None] - xy[None], axis=-1)[np.triu_indices(N, 1)]

    ratio = distances(pixels) / distances(points.images)
    assert np.allclose(ratio, ratio.mean(), rtol=0.02)
    assert pixels[points.images[:, 1].argmax(), 1] == pixels[:, 1].min()  # y points up


def test_choices_change_the_view_and_each_projection_is_computed_once(embeddings, umap):
    widget = EmbeddingMap(embeddings, WALLS, CAPTIONS, {"ground": GROUNDS})
    first, colors = circles(widget.view.value)
    assert colors == [PALETTE[GROUNDS.index(ground)] for ground in GROUNDS] and "before, PCA" in widget.view.value
    widget.method.value = "UMAP"
    widget.work.wait()
    assert "before, UMAP" in widget.view.value and not np.allclose(circles(widget.view.value)[0], first)
    widget.model.value = "after"
    widget.work.wait()
    widget.model.value, widget.color.value = "before", "one color"
    assert len(umap.asked) == 2 and set(circles(widget.view.value)[1]) == {PALETTE[0]}
    widget.pair.value = 7
    assert 'alt="Image 8: wall 7"' in widget.view.value
    assert "stroke-opacity" in widget.view.value
    widget.links.value = False
    assert "stroke-opacity" not in widget.view.value


def test_canceling_returns_to_pca_at_once_and_keeps_the_projection(embeddings, umap):
    widget = EmbeddingMap(embeddings, WALLS, CAPTIONS)
    umap.during = widget.work.cancel.click
    widget.method.value = "UMAP"
    widget.work.wait()
    assert widget.method.value == "PCA" and "before, PCA" in widget.view.value
    assert ("before", "UMAP") in widget.maps


def test_a_choice_made_while_umap_runs_does_not_start_it_again(embeddings, umap):
    widget = EmbeddingMap(embeddings, WALLS, CAPTIONS, {"ground": GROUNDS})
    umap.during = lambda: setattr(widget.pair, "value", 5)
    widget.method.value = "UMAP"
    widget.work.wait()
    assert len(umap.asked) == 1 and "before, UMAP" in widget.view.value and 'alt="Image 6' in widget.view.value


def test_the_last_map_stays_while_umap_runs(embeddings, umap):
    widget, seen = EmbeddingMap(embeddings, WALLS, CAPTIONS), []
    umap.during = lambda: seen.append(widget.view.value)
    before = widget.view.value
    widget.method.value = "UMAP"
    widget.work.wait()
    assert seen == [before] != [widget.view.value]


def test_without_umap_learn_the_message_names_the_package_and_pca_remains(embeddings, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    widget = EmbeddingMap(embeddings, WALLS, CAPTIONS)
    widget.method.value = "UMAP"
    with pytest.raises(ImportError, match="PCA"):
        widget.work.wait()
    assert "UMAP needs umap-learn" in widget.work.status.value
    widget.method.value = "PCA"
    assert "before, PCA" in widget.view.value


def test_captions_and_values_are_escaped_and_rare_values_are_others(embeddings):
    evil = [*CAPTIONS[1:], "<img src=x onerror=alert(1)>"]
    points = project_2d(*embeddings["before"])
    view = map_view(points, WALLS, evil, ["<b>"] * 5 + list("abcdefg"), selected=N - 1)
    assert "<img src=x" not in view and "<b>" not in view and "&lt;b&gt;" in view
    assert "others" in view and circles(view)[1].count(OTHER_COLOR) == 1


@pytest.mark.parametrize(
    "arguments", [(WALLS, CAPTIONS[:3]), (WALLS, CAPTIONS, GROUNDS[:3]), (WALLS, CAPTIONS, None, N)]
)
def test_numbers_that_do_not_match_are_an_error(embeddings, arguments):
    with pytest.raises(ValueError, match="pass as many of each"):
        map_view(project_2d(*embeddings["before"]), *arguments)


def test_a_map_that_is_not_too_large_has_a_thumbnail_per_point(embeddings):
    view = map_view(project_2d(*embeddings["before"]), WALLS, CAPTIONS)
    assert view.count('class="thumb"') == N and re.search(r"p3:hover ~ #map\w+t3", view)
    many = MAX_THUMBNAILS + 1
    generator = np.random.default_rng(1)
    points = project_2d(generator.normal(size=(many, 4)), generator.normal(size=(many, 4)))
    assert 'class="thumb"' not in map_view(points, [plain("red")] * many, ["a"] * many)
