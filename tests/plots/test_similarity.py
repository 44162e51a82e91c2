"""Heatmaps, histograms and the hardest captions show the scores that they are given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from vladva_kit import plots
from vladva_kit.plots.style import BLUE, VERMILION


def images(n):
    return [Image.new("RGB", (20 + i, 30), (i, 0, 0)) for i in range(n)]


def test_captions_are_rows_and_small_matrices_show_their_values():
    scores = np.arange(-1, 5).reshape(2, 3) / 10
    axes = plots.similarity_matrix(scores).axes[0]
    np.testing.assert_array_equal(axes.collections[0].get_array(), scores.T)
    assert [text.get_text() for text in axes.texts] == ["−0.10", "0.20", "0.00", "0.30", "0.10", "0.40"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("image", "caption")
    assert not plots.similarity_matrix(np.eye(13)).axes[0].texts


def test_each_image_is_a_column_and_each_caption_a_wrapped_label():
    axes = plots.similarity_matrix(np.eye(3), images(3), ["a dog", "word " * 60, "a cat"]).axes[0]
    assert len(axes.images) == 3
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[::2] == ["a dog", "a cat"] and labels[1].endswith("…") and labels[1].count("\n") == 2


@pytest.mark.parametrize("padding", [0, 10])
def test_own_images_are_framed_and_the_best_image_of_each_caption_has_a_dot(padding):
    scores = np.array([[0.9, 0.2, 0.5], [0.1, 0.3, 0.5], [0.1, 0.8, 0.4]])  # caption 2 ties images 0 and 1
    figure = plots.similarity_matrix(np.pad(scores, (0, padding), constant_values=-np.arange(padding + 1)[-1]))
    axes = figure.axes[0]
    assert len(axes.patches) == 3 + padding
    dots = {(int(x), int(y)) for x, y in zip(*axes.lines[0].get_data(), strict=True)}
    assert {dot for dot in dots if dot[1] < 3} == {(0, 0), (2, 1), (0, 2), (1, 2)}
    assert figure.get_suptitle().endswith(f"1 of {3 + padding} captions rank their own image first")


def test_ties_are_not_ranked_first_and_only_square_matrices_have_own_images():
    assert "0 of 4 captions" in plots.similarity_matrix(np.ones((4, 4))).get_suptitle()
    assert plots.similarity_matrix(np.ones((4, 3))).get_suptitle() == "Similarity of images and captions"


def test_before_and_after_show_cosines_on_one_scale_of_standardized_colors():
    generator = np.random.default_rng(0)
    before, after = 0.9 + 0.01 * generator.normal(size=(5, 5)), np.eye(5)
    figure = plots.similarity_before_after(before, after)
    meshes = [axes.collections[0] for axes in figure.axes[:2]]
    for axes, mesh, scores in zip(figure.axes, meshes, (before, after), strict=False):
        np.testing.assert_allclose(mesh.get_array(), ((scores - scores.mean()) / scores.std()).T)
        assert axes.texts[1].get_text() == f"{scores[1, 0]:.2f}"
    assert meshes[0].get_clim() == meshes[1].get_clim()
    assert "standardized" in figure.axes[2].get_ylabel()
    assert figure.axes[0].get_title() == f"before fine-tuning: cosines {before.min():.2f} to {before.max():.2f}"
    n = sum(before[i, i] > max(before[j, i] for j in range(5) if j != i) for i in range(5))
    assert figure.get_suptitle().endswith(f"Captions that rank their own image first: {n} → 5 of 5")


def test_equal_scores_are_drawn_without_a_warning(recwarn):
    plots.as_png(plots.similarity_before_after(np.full((3, 3), 0.1), np.eye(3)))
    assert not recwarn.list


def test_different_shapes_before_and_after_raise_an_error():
    with pytest.raises(ValueError, match="score the same pairs"):
        plots.similarity_before_after(np.eye(3), np.eye(4))


def test_the_histogram_counts_matching_and_other_pairs_in_percent_on_one_axis():
    generator = np.random.default_rng(1)
    before, after = generator.uniform(0.4, 0.6, (5, 5)), generator.uniform(-1, 1, (5, 5))
    figure = plots.pair_similarity_histogram({"before": before, "after": after})
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    matching, others = np.diag(after), [after[i, j] for i in range(5) for j in range(5) if i != j]
    wins = np.mean([a > b for a in matching for b in others])
    title = figure.axes[1].get_title(loc="left")
    assert title == f"after: matching pairs score higher in {100 * wins:.1f} % of comparisons"
    for axes in figure.axes:
        heights = [bar.get_height() for bar in axes.patches]
        assert sum(heights[:60]) == pytest.approx(100) and sum(heights[60:120]) == pytest.approx(100)
    assert [line.get_xdata()[0] for line in figure.axes[1].lines] == pytest.approx([np.mean(others), matching.mean()])
    with pytest.raises(ValueError, match=r"shape \(2, 3\); image i must belong to caption i"):
        plots.pair_similarity_histogram({"after": np.zeros((2, 3))})


def test_the_hardest_captions_are_those_whose_own_image_trails_most(texts_of):
    scores = np.array([[0.9, 0.1, 0.8], [0.2, 0.3, 0.1], [0.1, 0.7, 0.6]])  # [image][caption]
    colors = [Image.new("RGB", (8, 8), name) for name in ("red", "green", "blue")]
    figure = plots.hardest_pairs(scores, colors, ["zero", "one", "two"], k=2)
    texts = texts_of(figure)
    assert "one" in texts and "two" in texts and "zero" not in texts
    rows = [figure.axes[i : i + 3] for i in (0, 3)]
    shown = [[tuple(axes.images[0].get_array()[80, 80]) for axes in row[1:]] for row in rows]
    assert shown == [[(0, 128, 0), (0, 0, 255)], [(0, 0, 255), (255, 0, 0)]]
    assert {"0.300, rank 2 of 3", "0.700, best other", "0.600, rank 2 of 3", "0.800, best other"} <= set(texts)
    assert [to_hex(axes.xaxis.label.get_color()).upper() for axes in rows[0][1:]] == [VERMILION, BLUE]
    assert figure.get_suptitle().endswith("2 of 3 captions score another image at least as high as their own")
