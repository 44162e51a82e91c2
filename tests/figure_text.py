"""Check the text of a figure, for the tests of plots and of the study's figures."""

from matplotlib.text import Text


def assert_text_is_readable(draw, monkeypatch):
    """Assert that no text of the figure that `draw()` returns is cut off or overlaps another."""
    boxes, draw_text = [], Text.draw

    def record(text, renderer):  # hidden tick labels exist as well, but are never drawn
        if text.get_text() and text.get_visible():
            boxes.append((text.get_text(), text.get_window_extent(renderer)))
        draw_text(text, renderer)

    monkeypatch.setattr(Text, "draw", record)
    figure = draw()
    figure.draw_without_rendering()
    edge = figure.bbox.padded(1)
    assert boxes
    for text, box in boxes:
        assert edge.x0 <= box.x0 and box.x1 <= edge.x1 and edge.y0 <= box.y0 and box.y1 <= edge.y1, text
    for i, (text, box) in enumerate(boxes):
        overlaps = [other for other, other_box in boxes[i + 1 :] if box.padded(-1).overlaps(other_box.padded(-1))]
        assert not overlaps, text
