import io
import os
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vladva_kit import plots
from vladva_kit.evaluation import Score

FORMULA = r"costs $5_ to $\broken{"  # as a formula it would fail


def pictures(n):
    return [Image.new("RGB", (20 + place, 30), (place, 0, 0)) for place in range(n)]


def history(n=60):
    return [
        {
            "step": step,
            "seconds": 0.5 * step,
            "loss": 5 / step,
            "contrastive": 4 / step,
            "next_token": 1 / step,
            "accuracy": 1 - 1 / step,
            "temperature": 0.07,
            **({"validation_recall": 0.4} if step % 20 == 0 else {}),
        }
        for step in range(1, n + 1)
    ]


def lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_the_first_steps_of_a_training_are_whole_numbers():
    for axes in plots.training_curve(history(2)).axes:
        assert all(tick == round(tick) for tick in axes.get_xticks())


def test_a_training_curve_has_labeled_axes_and_the_time_it_took():
    figure = plots.training_curve(history())
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss (nats)", "right pair first (%)", "temperature"]
    assert "training step (30 s in all)" in figure.get_supxlabel()
    assert list(lines(figure.axes[0])) == ["contrastive", "next token"]


def test_accuracy_is_drawn_in_percent_and_validation_only_where_it_was_measured():
    drawn = lines(plots.training_curve(history(5) + [{"step": 6, "validation_recall": 0.4}]).axes[1])
    np.testing.assert_allclose(drawn["in the batch"].get_ydata(), 100 * (1 - 1 / np.arange(1, 6)))
    assert [*drawn["validation"].get_xdata(), *drawn["validation"].get_ydata()] == [6, 40]


def test_a_noisy_curve_is_drawn_as_it_is_and_as_its_running_mean():
    entries = history(60)
    axes = plots.training_curve(entries).axes[0]
    raw, mean = axes.lines[0].get_ydata(), axes.lines[1].get_ydata()
    np.testing.assert_allclose(raw, [entry["contrastive"] for entry in entries])
    assert len(mean) == len(raw)
    np.testing.assert_allclose(mean[30], raw[28:32].mean())  # 60 // 15 = 4 steps, two of them before


def test_a_history_with_only_a_total_loss_gives_one_panel():
    figure = plots.training_curve([{"step": step, "loss": 1.0} for step in range(3)])
    assert [list(lines(axes)) for axes in figure.axes] == [["total"]]


@pytest.mark.parametrize("nothing", [[], [{"step": 1}], [{"loss": 1.0}]])
def test_a_history_with_nothing_to_draw_is_refused(nothing):
    with pytest.raises(ValueError, match="give what vk.fit returns"):
        plots.training_curve(nothing)


def test_a_matrix_has_a_cell_for_each_score_captions_as_rows():
    scores = np.arange(6.0).reshape(2, 3)
    axes = plots.similarity_matrix(scores).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), scores.T)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("picture", "caption")


def test_each_picture_is_shown_once_and_each_caption_wrapped_on_its_row():
    figure = plots.similarity_matrix(np.eye(3), pictures(3), ["a dog", "word " * 60, FORMULA])
    axes = figure.axes[0]
    assert len(axes.images) == 1 + 3
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "a dog" and labels[1].endswith("…") and labels[1].count("\n") == 2
    assert labels[2] == FORMULA
    figure.savefig(io.BytesIO())  # as a notebook shows it


def test_the_own_picture_is_framed_and_each_picture_chosen_has_a_dot():
    scores = np.array([[0.9, 0.2, 0.5], [0.1, 0.3, 0.5], [0.1, 0.8, 0.4]])  # caption 2 ties pictures 0 and 1
    figure = plots.similarity_matrix(scores)
    axes = figure.axes[0]
    assert len(axes.patches) == 3
    dots = set(zip(*axes.lines[0].get_data(), strict=True))
    assert dots == {(0, 0), (2, 1), (0, 2), (1, 2)}
    assert axes.get_title() == "1 of 3 captions find their picture"


def test_captions_that_find_their_picture_are_counted_strictly():
    assert plots.similarity_matrix(np.ones((4, 4))).axes[0].get_title() == "0 of 4 captions find their picture"
    assert plots.similarity_matrix(np.ones((4, 3))).axes[0].get_title() == ""


def test_before_and_after_share_a_scale_of_standardized_values():
    generator = np.random.default_rng(0)
    before, after = 0.9 + 0.01 * generator.normal(size=(5, 5)), generator.normal(size=(5, 5))
    figure = plots.similarity_before_after(before, after)
    drawn = [axes.images[0] for axes in figure.axes[:2]]
    for image, scores in zip(drawn, (before, after), strict=True):
        np.testing.assert_allclose(image.get_array(), ((scores - scores.mean()) / scores.std()).T)
    assert drawn[0].get_clim() == drawn[1].get_clim()
    assert "standardized" in figure.axes[2].get_ylabel()
    assert f"cosines {before.min():.2f} to {before.max():.2f}" in figure.axes[0].get_title()


def test_a_matrix_of_equal_scores_is_drawn_without_a_warning(recwarn):
    plots.as_png(plots.similarity_before_after(np.full((3, 3), 0.1), np.eye(3)))
    assert not recwarn.list


@pytest.mark.parametrize("scores", [np.zeros(3), np.zeros((0, 2)), np.full((2, 2), np.nan)])
def test_what_is_no_matrix_of_numbers_is_refused(scores):
    with pytest.raises(ValueError, match="n_images, n_texts"):
        plots.similarity_matrix(scores)


def test_another_number_of_pictures_or_another_shape_after_is_refused():
    with pytest.raises(ValueError, match="2 images for scores of shape"):
        plots.similarity_matrix(np.eye(3), images=pictures(2))
    with pytest.raises(ValueError, match="score the same pairs"):
        plots.similarity_before_after(np.eye(3), np.eye(4))


def test_a_winoground_case_shows_both_captions_each_models_numbers_and_verdict(texts_of):
    scores = {"base": [[0.5, 0.6], [0.1, 0.7]], "tuned": [[0.9, 0.1], [0.2, 0.8]]}
    said = texts_of(plots.winoground_case(pictures(2), ["a dog over a cat", FORMULA], scores))
    assert "caption 1: a dog over a cat" in said and f"caption 2: {FORMULA}" in said
    assert {"base", "tuned", "0.50", "0.60", "0.90", "picture 1", "caption 2"} <= set(said)
    assert [text for text in said if text.startswith("text ")] == [
        "text ✗   image ✓   group ✗",
        "text ✓   image ✓   group ✓",
    ]


def test_a_score_grid_has_captions_as_rows_and_pictures_as_columns():
    figure = plots.winoground_case(pictures(2), ["a", "b"], {"base": [[0.1, 0.2], [0.3, 0.4]]})
    numbers = [text.get_text() for text in figure.axes[2].texts]
    assert numbers == ["0.10", "0.30", "0.20", "0.40"]


def test_what_is_no_case_is_refused():
    for images, scores in ((pictures(1), {"base": np.eye(2)}), (pictures(2), {}), (pictures(2), {"base": np.eye(3)})):
        with pytest.raises(ValueError, match="two images, two captions"):
            plots.winoground_case(images, ["a", "b"], scores)


def test_different_numbers_look_different_and_equal_ones_get_few_decimals():
    assert plots.decimals([0.3121, 0.3118]) == 4
    assert plots.decimals([0.5, 0.5]) == 2
    assert plots.decimals([0.1, 0.1 + 1e-12]) == 6


def test_models_are_compared_with_interval_chance_and_a_word_where_one_is_missing(texts_of):
    table = {
        "R@1": {"base": Score(10.0, 8.0, 12.5, 1.0, 100, 0), "tuned": {"percent": 60.0, "low": 55.0, "high": 66.0}},
        "group": {"base": None, "tuned": {"percent": 50.0, "chance": 16.7}},
    }
    figure = plots.model_comparison(table)
    axes = figure.axes[0]
    spans = [tuple(line.get_xdata()) for line in axes.lines]
    for expected in ((8.0, 12.5), (10.0,), (55.0, 66.0), (60.0,), (50.0, 50.0), (1.0, 1.0), (16.7, 16.7)):
        assert expected in spans
    assert [label.get_text() for label in axes.get_yticklabels()] == ["R@1", "group"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["base", "tuned", "guessing"]
    assert texts_of(figure).count("not measured") == 1
    assert "(%)" in axes.get_xlabel()


def test_a_comparison_without_models_is_refused():
    with pytest.raises(ValueError, match="no model"):
        plots.model_comparison({"R@1": {}})


def test_a_figure_is_saved_as_png_and_svg_the_same_bytes_each_time(tmp_path):
    first = plots.save(plots.similarity_matrix(np.eye(2)), tmp_path / "v0.1")
    assert [path.name for path in first] == ["v0.1.png", "v0.1.svg"]
    assert Image.open(first[0]).format == "PNG"
    assert ElementTree.parse(first[1]).getroot().tag.endswith("svg")
    second = plots.save(plots.similarity_matrix(np.eye(2)), tmp_path / "again")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_figure_that_cannot_be_drawn_leaves_neither_file(tmp_path, monkeypatch):
    drawn = Figure.savefig

    def fails_for_svg(figure, target, format, **options):
        if format == "svg":
            raise MemoryError
        drawn(figure, target, format=format, **options)

    monkeypatch.setattr(Figure, "savefig", fails_for_svg)
    with pytest.raises(MemoryError):
        plots.save(plots.similarity_matrix(np.eye(2)), tmp_path / "figure")
    assert not os.listdir(tmp_path)


LONG = "a rather long caption about a dog to the left of a cat on grass"
MODELS = {name: Score(50.0, 40.0, 60.0, 25.0, 100, 0) for name in ("emoji-clip", "base", "fine-tuned")}


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda: plots.training_curve(history()), id="training"),
        pytest.param(lambda: plots.training_curve([{"step": 1, "seconds": 2, "loss": 1.0}] * 60), id="one panel"),
        pytest.param(lambda: plots.similarity_matrix(np.eye(2), pictures(2), [LONG] * 2), id="small matrix"),
        pytest.param(lambda: plots.similarity_matrix(np.eye(8), pictures(8), [LONG] * 8), id="matrix"),
        pytest.param(lambda: plots.similarity_matrix(np.eye(40)), id="large matrix"),
        pytest.param(
            lambda: plots.similarity_before_after(np.eye(8), np.eye(8), pictures(8), [LONG] * 8), id="two matrices"
        ),
        pytest.param(
            lambda: plots.winoground_case(pictures(2), [LONG] * 2, dict.fromkeys(MODELS, np.eye(2))), id="case"
        ),
        pytest.param(lambda: plots.model_comparison(dict.fromkeys((LONG, "Winoground\ngroup"), MODELS)), id="models"),
    ],
)
def test_no_text_is_cut_off_at_the_edge_or_lies_over_another(draw, monkeypatch):
    boxes, draw_text = [], Text.draw

    def noting(text, renderer):  # labels of ticks out of sight exist too, but are never drawn
        if text.get_text() and text.get_visible():
            boxes.append((text.get_text(), text.get_window_extent(renderer)))
        draw_text(text, renderer)

    monkeypatch.setattr(Text, "draw", noting)
    figure = draw()
    figure.draw_without_rendering()
    edge = figure.bbox.padded(1)
    assert boxes
    for said, box in boxes:
        assert edge.x0 <= box.x0 and box.x1 <= edge.x1 and edge.y0 <= box.y0 and box.y1 <= edge.y1, said
    for place, (said, box) in enumerate(boxes):
        over = [other for other, other_box in boxes[place + 1 :] if box.padded(-1).overlaps(other_box.padded(-1))]
        assert not over, said
