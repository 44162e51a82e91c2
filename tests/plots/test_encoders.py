"""The figures of the towers show the numbers that they were given."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from vladva_kit import plots
from vladva_kit.analysis import NearestWords, PartWeights, Piece

TOWERS = {
    "the picture": [Piece("<image>", "picture", 65), Piece("word", "prompt"), Piece("<assistant>", "summary token")],
    "the caption": [Piece(f"$long_{place}$", "caption") for place in range(30)],
}


def texts(figure):
    figure.draw_without_rendering()
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_every_token_has_a_box_with_its_text_inside_the_figure():
    figure = plots.input_sequences(TOWERS)
    (axes,) = figure.axes
    said = texts(figure)
    assert [text for text in said if text in ("<image> × 65", "word", "<assistant>")] == [
        "<image> × 65",
        "word",
        "<assistant>",
    ]
    assert sum(text.startswith("$long_") for text in said) == 30
    assert len(axes.patches) == 33
    assert all(box.get_x() + box.get_width() <= axes.get_xlim()[1] for box in axes.patches)
    boxes = [(box.get_x(), box.get_y(), box.get_width()) for box in axes.patches]
    for (left, top, width), (right, below, _) in zip(boxes, boxes[1:], strict=False):
        assert below > top or right >= left + width, "boxes overlap"
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "picture",
        "prompt",
        "summary token",
        "caption",
    }
    with pytest.raises(ValueError, match="without tokens"):
        plots.input_sequences({"the picture": []})


def test_words_stand_at_bars_of_their_probability():
    words = np.array([["dog", "cat"], ["sun", ""]])
    figure = plots.top_next_tokens(words, [[0.5, 0.25], [0.9, 0.01]], ["a picture", "a caption"])
    for axes, row, wanted in zip(figure.axes, words, ([50, 25], [90, 1]), strict=True):
        assert [bar.get_width() for bar in axes.patches] == pytest.approx(wanted)
        assert [label.get_text() for label in axes.get_yticklabels()] == [word or "␣" for word in row]
    with pytest.raises(ValueError, match=r"words \(2, 2\), probabilities \(1, 2\)"):
        plots.top_next_tokens(words, [[0.5, 0.25]], ["a"])


def test_the_diagram_names_each_part_with_its_weights_and_the_share_that_learns():
    parts = [
        PartWeights("tower", 600),
        PartWeights("language model", 390),
        PartWeights("LoRA", 0, 9),
        PartWeights("temperature", 0, 1),
    ]
    figure = plots.trainable_summary(parts)
    assert isinstance(figure, Figure) and figure.get_suptitle().endswith("1.00% of 1,000 weights learn")
    said = texts(figure)
    assert {"tower\n600", "language model\n390", "LoRA\n9", "temperature\n1"} <= set(said)
    assert [box.get_hatch() for box in figure.axes[0].patches].count("///") == 2
    with pytest.raises(ValueError, match="no parts"):
        plots.trainable_summary([])


def test_rows_that_read_as_another_word_are_counted_and_named():
    nearest = NearestWords(
        ("one", "word"), np.array([["one", "two"], ["sun", "word"]]), np.array([[0.9, 0.1], [0.4, 0.3]])
    )
    figure = plots.prompt_rows(nearest)
    (axes,) = figure.axes
    assert axes.get_title() == "1 of 2 rows still read as they were written"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one  →  one", "word  →  sun"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.9, 0.4])
    colors = [bar.get_facecolor() for bar in axes.patches]
    assert colors[0] != colors[1]
