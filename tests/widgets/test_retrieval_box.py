"""The search: what is found is what a plain sort of the cosines finds, and the gallery is encoded once."""

import re
import time

import numpy as np
import pytest

from vladva_kit.widgets import RetrievalBox, found_pictures_view
from vladva_kit.widgets.retrieval_box import AT_ONCE, best

from .conftest import image_vector, plain, png, put, text_vector

NAMES = ["red", "green", "blue", "white"]
CAPTIONS = [f"a {name} wall" for name in NAMES]


@pytest.fixture
def box(colors):
    made = RetrievalBox({"sees": colors}, [plain(name) for name in NAMES], CAPTIONS, k=3)
    made.work.wait()
    return made


def found(view):
    return re.findall(r'alt="Rank \d+: ([^"]*)"', view) or re.findall(r"<li>(.*?) <span", view)


def test_a_typed_caption_finds_the_pictures_with_the_highest_cosines(box):
    box.caption.value = "something blue and white"
    cosines = [image_vector(plain(name)) @ text_vector("something blue and white") for name in NAMES]
    assert found(box.view.value) == [CAPTIONS[place] for place in np.argsort(cosines)[::-1][:3]]
    assert f"{max(cosines):.3f}" in box.view.value and "its own" not in box.view.value
    box.caption.value = "a green wall"
    assert found(box.view.value)[0] == "a green wall" and box.view.value.count("its own") == 1
    box.k.value = 1
    assert len(found(box.view.value)) == 1


def test_a_chosen_or_uploaded_picture_finds_captions(box):
    box.picture.value = 2
    assert found(box.view.value)[0] == "a blue wall" and "its own" in box.view.value
    put(box.upload, ("white.png", png("white")))
    cosines = [image_vector(plain("white")) @ text_vector(text) for text in CAPTIONS]
    assert found(box.view.value) == [CAPTIONS[place] for place in np.argsort(cosines)[::-1][:3]]
    assert "its own" not in box.view.value
    put(box.upload, ("notes.txt", b"none"))
    assert "notes.txt is no picture" in box.view.value


def test_what_was_given_last_is_what_is_looked_for(box):
    put(box.upload, ("white.png", png("white")))
    assert found(box.view.value)[0] == "a white wall"
    box.picture.value = 2
    assert found(box.view.value)[0] == "a blue wall"
    put(box.upload, ("white.png", png("white")))
    box.caption.value = "a green wall"
    assert "“a green wall”" in box.view.value and found(box.view.value)[0] == "a green wall"
    assert not box.upload.value and box.picture.value == -1


def test_the_gallery_is_encoded_once(box, colors):
    assert len(colors.images) == len(colors.texts) == 4
    for caption in ("a red wall", "snow", "snow", "a red wall"):
        box.caption.value = caption
    box.picture.value = 1
    assert len(colors.images) == 4 and colors.texts[4:] == ["snow"]


def test_what_is_nearly_found_is_found_in_the_file_that_is_kept(colors, monkeypatch):
    quick = colors.encode_text
    monkeypatch.setattr(colors, "encode_text", lambda texts: (time.sleep(0.3), quick(texts))[1])
    made = RetrievalBox({"sees": colors}, [plain(name) for name in NAMES], CAPTIONS, k=3)
    assert not made.ready  # the captions are still being encoded
    assert found(made._repr_mimebundle_()["text/html"])[0] == "a red wall"


def test_encoding_can_be_cancelled_and_goes_on_with_what_is_left(colors):
    walls = [plain("red").resize((8 + n, 8)) for n in range(3 * AT_ONCE)]
    slow = colors.encode_image
    once = []

    def canceling(images, batch_size=64):
        if not once:
            once.append(box.work.cancel.click())
        return slow(images)

    colors.encode_image = lambda images, batch_size=64: slow(images)
    box = RetrievalBox({"sees": colors}, walls[:2], ["a", "b"])
    box.work.wait()
    box.pictures, box.captions, box.ready = walls, [f"wall {n}" for n in range(len(walls))], False
    colors.encode_image = canceling
    box.encode()
    box.work.wait()
    assert "cancelled after 1 of 6" in box.work.said.value and not box.ready
    assert len(colors.images) == AT_ONCE
    box.encode()
    box.work.wait()
    assert box.ready and len(colors.images) == len(walls)


def test_what_is_typed_is_shown_as_text(box):
    box.caption.value = "<img src=x onerror=alert(1)> white"
    assert "<img src=x" not in box.view.value and "&lt;img src=x onerror" in box.view.value
    assert all("alt=" in tag for tag in re.findall(r"<img [^>]*>", box.view.value))
    box.caption.value = " "
    assert 'role="alert"' in box.view.value


def test_the_plain_function_gives_the_view_and_refuses_what_does_not_fit(box):
    scores = {"sees": [image_vector(plain(name)) @ text_vector(CAPTIONS[0]) for name in NAMES]}
    assert found_pictures_view(CAPTIONS[0], scores, box.pictures, CAPTIONS, 3) == box.view.value
    with pytest.raises(ValueError, match=r"sees \(3,\)"):
        found_pictures_view("a", {"sees": [1, 2, 3]}, box.pictures, CAPTIONS)
    with pytest.raises(ValueError, match="one caption"):
        RetrievalBox(box.models, box.pictures, CAPTIONS[:2])
    assert best([0.5, 0.9, 0.9, 0.1], 3) == [1, 2, 0]
