"""Encoders with known embeddings, and cases of plain colors for them."""

import pytest
from color_encoder import ColorEmbedder, plain

from vladva_kit.evaluation import WinogroundCase


@pytest.fixture
def colors():
    """Recognizes colors."""
    return ColorEmbedder()


@pytest.fixture
def confused():
    """Mistakes each color for another."""
    return ColorEmbedder(permuted=True)


@pytest.fixture
def cases():
    """Three cases: two of one category, one of another."""
    colors = [("red", "green", "Object"), ("blue", "red", "Relation"), ("green", "blue", "Object")]
    return [
        WinogroundCase(str(n), (f"a {a} wall", f"a {b} wall"), (plain(a), plain(b)), {"collapsed_tag": tag})
        for n, (a, b, tag) in enumerate(colors)
    ]
