"""An encoder with known embeddings and images of plain color, for tests of widgets."""

import datetime
import io

import numpy as np
from PIL import Image

from vladva_kit.evaluation import Score, SugarCrepeCase, SugarCrepeResult

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
COLORS_RGB = {"red": (220, 30, 40), "green": (40, 160, 60), "blue": (30, 60, 220), "white": (250, 250, 250)}


def unit(vector):
    return np.asarray(vector, dtype=np.float32) / np.linalg.norm(vector)


def text_vector(text):
    """The sum of the named colors, and the caption's length so that no two are equal."""
    named = sum((np.array(COLORS_RGB[word]) for word in text.lower().split() if word in COLORS_RGB), np.zeros(3))
    return unit([*named, 10 + len(text)])


def image_vector(image):
    return unit([*np.asarray(image, dtype=np.float64).mean((0, 1)), 20])


class ColorEmbedder:
    """Embed an image as its mean color and a caption as the colors it names; record what was encoded."""

    def __init__(self, permuted=False):
        self.permuted, self.images, self.texts = permuted, [], []

    def encode_image(self, images, batch_size=64):
        self.images += list(images)
        vectors = np.array([image_vector(image) for image in images])
        return vectors[:, [1, 2, 0, 3]] if self.permuted else vectors

    def encode_text(self, texts, batch_size=64):
        for text in texts:
            if not text.strip():
                raise ValueError("caption 0 is empty")
        self.texts += list(texts)
        return np.array([text_vector(text) for text in texts])


def plain(color):
    return Image.new("RGB", (24, 24), COLORS_RGB[color])


def png(color="white"):
    buffer = io.BytesIO()
    plain(color).save(buffer, "PNG")
    return buffer.getvalue()


def upload(*files):
    """The value of a FileUpload in ipywidgets 8."""
    return tuple(
        {"name": name, "type": "image/png", "size": len(content), "content": memoryview(content), "last_modified": NOW}
        for name, content in files
    )


def put(control, *files):
    """Put files into a FileUpload as the front end of its major version does."""
    if control.has_trait("_counter"):  # ipywidgets 7 builds the value when the counter changes
        control.metadata = [{"name": name, "type": "image/png", "size": len(content)} for name, content in files]
        control.data = [content for _, content in files]
        control._counter += len(files)
    else:
        control.value = upload(*files)


def sugarcrepe_result(embedder):
    """Four cases of two categories, scored with the embedder."""
    colors = [("red", "green", "swap_att"), ("blue", "red", "add_obj"), ("green", "blue", "swap_att")]
    colors.append(("white", "red", "add_obj"))
    cases = []
    for number, (true, false, category) in enumerate(colors):
        image, texts = plain(true), (f"a {true} wall", f"a {false} wall")
        scores = np.asarray(embedder.encode_image([image])) @ np.asarray(embedder.encode_text(list(texts))).T
        cases.append(SugarCrepeCase(category, str(number), image, *texts, *scores[0].tolist()))
    score = Score(0.0, 0.0, 0.0, 4, 50.0, 0)
    return SugarCrepeResult({}, {}, score, score, n=len(cases), cases=tuple(cases))
