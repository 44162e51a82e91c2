"""An encoder whose answers are known, and cases of plain colors for it."""

import datetime
import io

import numpy as np
import pytest
from PIL import Image

from vladva_kit.evaluation import Score, SugarCrepeCase, SugarCrepeResult, WinogroundCase

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
COLORS_RGB = {"red": (220, 30, 40), "green": (40, 160, 60), "blue": (30, 60, 220), "white": (250, 250, 250)}


def unit(vector):
    return np.asarray(vector, dtype=np.float32) / np.linalg.norm(vector)


def text_vector(text):
    """The sum of the named colors, and a little of the caption's length so that no two are equal."""
    named = sum((np.array(COLORS_RGB[word]) for word in text.lower().split() if word in COLORS_RGB), np.zeros(3))
    return unit([*named, 10 + len(text)])


def image_vector(image):
    return unit([*np.asarray(image, dtype=np.float64).mean((0, 1)), 20])


class ColorEmbedder:
    """A picture's embedding is its mean color, a caption's the colors it names; keeps what it was asked for."""

    def __init__(self, turned=False):
        self.turned, self.images, self.texts = turned, [], []

    def encode_image(self, images, batch_size=64):
        self.images += list(images)
        vectors = np.array([image_vector(image) for image in images])
        return vectors[:, [1, 2, 0, 3]] if self.turned else vectors

    def encode_text(self, texts, batch_size=64):
        for text in texts:
            if not text.strip():
                raise ValueError("caption 0 is empty")
        self.texts += list(texts)
        return np.array([text_vector(text) for text in texts])


def plain(color):
    return Image.new("RGB", (24, 24), COLORS_RGB[color])


def png(color):
    buffer = io.BytesIO()
    plain(color).save(buffer, "PNG")
    return buffer.getvalue()


def upload(*files):
    """The value of a FileUpload as ipywidgets 8 gives it."""
    return tuple(
        {"name": name, "type": "image/png", "size": len(content), "content": memoryview(content), "last_modified": NOW}
        for name, content in files
    )


def put(control, *files):
    """Gives files to a FileUpload as the front end of its major does."""
    if control.has_trait("_counter"):  # ipywidgets 7 makes the value when the count arrives
        control.metadata = [{"name": name, "type": "image/png", "size": len(content)} for name, content in files]
        control.data = [content for _, content in files]
        control._counter += len(files)
    else:
        control.value = upload(*files)


def sugarcrepe_result(embedder):
    """Four cases of two categories, as the embedder scores them."""
    named = [("red", "green", "swap_att"), ("blue", "red", "add_obj"), ("green", "blue", "swap_att")]
    named.append(("white", "red", "add_obj"))
    cases = []
    for number, (true, false, category) in enumerate(named):
        image, texts = plain(true), (f"a {true} wall", f"a {false} wall")
        scores = np.asarray(embedder.encode_image([image])) @ np.asarray(embedder.encode_text(list(texts))).T
        cases.append(SugarCrepeCase(category, str(number), image, *texts, *scores[0].tolist()))
    score = Score(0.0, 0.0, 0.0, 4, 50.0, 0)
    return SugarCrepeResult({}, {}, score, score, len(cases), 0, tuple(cases))


@pytest.fixture
def colors():
    """Sees colors as they are."""
    return ColorEmbedder()


@pytest.fixture
def confused():
    """Takes each color for another."""
    return ColorEmbedder(turned=True)


@pytest.fixture
def cases():
    """Three cases: two of one category, one of another."""
    named = [("red", "green", "Object"), ("blue", "red", "Relation"), ("green", "blue", "Object")]
    return [
        WinogroundCase(str(n), (f"a {a} wall", f"a {b} wall"), (plain(a), plain(b)), {"collapsed_tag": tag})
        for n, (a, b, tag) in enumerate(named)
    ]
