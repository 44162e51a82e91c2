"""The figures of the model's inputs and parts show what they are given."""

import numpy as np
import pytest

from vladva_kit import plots
from vladva_kit.analysis import NearestTokens, ParameterCount, Piece

PIECES = {
    "image": [Piece("<image>", "image", 65), Piece("word", "prompt"), Piece("<assistant>", "summary token")],
    "text": [Piece(f"$long_{i}$", "caption") for i in range(30)],
}


def test_every_token_has_a_box_inside_the_figure_and_no_two_overlap(texts_of):
    figure = plots.input_sequences(PIECES)
    texts = texts_of(figure)
    assert {"image input", "<image> × 65", "word", "<assistant>", "text input"} <= set(texts)
    assert sum(text.startswith("$long_") for text in texts) == 30
    figure.draw_without_rendering()
    boxes = [text.get_bbox_patch().get_window_extent() for text in figure.axes[0].texts if text.get_bbox_patch()]
    assert len(boxes) == 33 and all(box.x1 <= figure.bbox.x1 for box in boxes)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
    parts = {text.get_text() for text in figure.legends[0].get_texts()}
    assert parts == {"image", "prompt", "summary token", "caption"}
    assert figure.get_suptitle() == "Model inputs\nImage input: 67 tokens, text input: 30 tokens"
    with pytest.raises(ValueError, match="without tokens"):
        plots.input_sequences({"image": []})


def test_the_diagram_names_each_part_with_its_parameters(texts_of):
    parts = [
        ParameterCount("vision", 600),
        ParameterCount("language model", 390),
        ParameterCount("LoRA", 0, 9),
        ParameterCount("temperature", 0, 1),
    ]
    figure = plots.trainable_parts(parts)
    assert figure.get_suptitle().endswith("1.00 % of 1,000 parameters are trainable")
    assert {"vision\n600", "language model\n390", "LoRA\n9", "temperature\n1"} <= set(texts_of(figure))
    assert [box.get_hatch() for box in figure.axes[0].patches].count("///") == 2
    with pytest.raises(ValueError, match="no parts"):
        plots.trainable_parts([])


def test_prompt_embeddings_nearest_to_another_token_are_counted_and_colored():
    tokens = np.array([["one", "two"], ["sun", "word"]])
    figure = plots.nearest_token_bars(NearestTokens(("one", "word"), tokens, np.array([[0.9, 0.1], [0.4, 0.3]])))
    (axes,) = figure.axes
    assert figure.get_suptitle().endswith("1 of 2 embeddings are still nearest to their hand-written token")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one  →  one", "word  →  sun"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.9, 0.4])
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()
