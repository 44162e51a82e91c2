"""The search finds what sorting the cosines finds, and encodes the gallery once."""

import re
import time

import numpy as np
import pytest
from color_encoder import image_vector, plain, png, put, text_vector

from vladva_kit.widgets import RetrievalBox, found_images_view
from vladva_kit.widgets.cached_embedder import STEP_SIZE

NAMES = ["red", "green", "blue", "white"]
CAPTIONS = [f"a {name} wall" for name in NAMES]


@pytest.fixture
def box(colors):
    widget = RetrievalBox({"sees": colors}, [plain(name) for name in NAMES], CAPTIONS, k=3)
    widget.work.wait()
    return widget


def found(view):
    return re.findall(r'alt="Rank \d+: ([^"]*)"', view) or re.findall(r"<li>(.*?) <span", view)


def test_a_typed_caption_finds_the_images_with_the_highest_cosines(box):
    box.caption.value = "something blue and white"
    cosines = [image_vector(plain(name)) @ text_vector("something blue and white") for name in NAMES]
    assert found(box.view.value) == [CAPTIONS[index] for index in np.argsort(cosines)[::-1][:3]]
    assert f"{max(cosines):.2f}" in box.view.value and "match" not in box.view.value
    box.caption.value = "a green wall"
    assert found(box.view.value)[0] == "a green wall" and box.view.value.count("match") == 1
    box.k.value = 1
    assert len(found(box.view.value)) == 1


def test_a_chosen_or_uploaded_image_finds_captions(box):
    box.picker.menu.value = 2
    assert found(box.view.value)[0] == "a blue wall" and "match" in box.view.value
    put(box.picker.upload, ("white.png", png("white")))
    cosines = [image_vector(plain("white")) @ text_vector(text) for text in CAPTIONS]
    assert found(box.view.value) == [CAPTIONS[index] for index in np.argsort(cosines)[::-1][:3]]
    assert "match" not in box.view.value


def test_the_latest_query_counts(box):
    put(box.picker.upload, ("white.png", png("white")))
    assert found(box.view.value)[0] == "a white wall"
    box.picker.menu.value = 2
    assert found(box.view.value)[0] == "a blue wall"
    put(box.picker.upload, ("white.png", png("white")))
    box.caption.value = "a green wall"
    assert "“a green wall”" in box.view.value and found(box.view.value)[0] == "a green wall"
    assert not box.picker.upload.value and box.picker.image is None


def test_the_gallery_is_encoded_once(box, colors):
    assert len(colors.images) == len(colors.texts) == 4
    for caption in ("a red wall", "snow", "snow", "a red wall"):
        box.caption.value = caption
    box.picker.menu.value = 1
    assert len(colors.images) == 4 and colors.texts[4:] == ["snow"]


def test_a_saved_notebook_waits_shortly_for_the_first_result(colors, monkeypatch):
    quick = colors.encode_text
    monkeypatch.setattr(colors, "encode_text", lambda texts: (time.sleep(0.3), quick(texts))[1])
    widget = RetrievalBox({"sees": colors}, [plain(name) for name in NAMES], CAPTIONS, k=3)
    assert not widget.ready  # the captions are still being encoded
    assert found(widget._repr_mimebundle_()["text/html"])[0] == "a red wall"


def test_canceled_encoding_continues_with_what_is_missing(colors):
    walls = [plain("red").resize((8 + n, 8)) for n in range(3 * STEP_SIZE)]
    box = RetrievalBox({"sees": colors}, walls[:2], ["a", "b"])
    box.work.wait()
    encode = colors.encode_image

    def cancel_and_encode(images, batch_size=64):
        colors.encode_image = encode
        box.work.cancel.click()
        return encode(images)

    box.images, box.captions, box.ready = walls, [f"wall {n}" for n in range(len(walls))], False
    colors.encode_image = cancel_and_encode
    box.encode()
    box.work.wait()
    assert "canceled after 1 of 7" in box.work.status.value and not box.ready
    assert len(colors.images) == STEP_SIZE
    box.encode()
    box.work.wait()
    assert box.ready and len(colors.images) == len(walls)


def test_typed_text_is_escaped(box):
    box.caption.value = "<img src=x onerror=alert(1)> white"
    assert "<img src=x" not in box.view.value and "&lt;img src=x onerror" in box.view.value
    assert all("alt=" in tag for tag in re.findall(r"<img [^>]*>", box.view.value))


def test_the_plain_function_gives_the_widgets_view_and_checks_shapes(box):
    scores = {"sees": [image_vector(plain(name)) @ text_vector(CAPTIONS[0]) for name in NAMES]}
    assert found_images_view(CAPTIONS[0], scores, box.images, CAPTIONS, 3) == box.view.value
    with pytest.raises(ValueError, match=r"sees \(3,\)"):
        found_images_view("a", {"sees": [1, 2, 3]}, box.images, CAPTIONS)
    with pytest.raises(ValueError, match="one caption"):
        RetrievalBox(box.models, box.images, CAPTIONS[:2])


def test_equal_scores_keep_their_order(box):
    view = found_images_view("x", {"sees": [0.5, 0.9, 0.9, 0.1]}, box.images, CAPTIONS, k=3)
    assert re.findall(r'alt="Rank \d: (.*?)"', view) == [CAPTIONS[1], CAPTIONS[2], CAPTIONS[0]]
