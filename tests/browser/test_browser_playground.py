"""The playground without Python: one file, whose text encoder in JavaScript gives Python's scores."""

import runpy
import time

import numpy as np
import pytest
import torch

import vladva_kit as vk
from vladva_kit.evaluation.winoground import load_winoground

from .front_end import ROOT, SOON
from .widget_page import number

SCRIPT = runpy.run_path(str(ROOT / "docs" / "browser_playground.py"))
TYPED = [
    "a red dog to the left of a blue cat",
    "TWO cats, near a zebra!",
    "a",
    "the dog?? un\u00e9 caf\u00e9_x 3 \u4e2d\u6587 <pad> it's",
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "playground.html"
    with torch.inference_mode():
        path.write_bytes(SCRIPT["html"]().encode())
    assert path.stat().st_size <= SCRIPT["MAX_BYTES"]
    return path


@pytest.fixture
def play(browser, file):
    context = browser.new_context(viewport={"width": 1060, "height": 900})
    page = context.new_page()
    page.set_default_timeout(SOON)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: errors.append(request.url) if request.url.startswith("http") else None)
    try:
        page.goto(file.as_uri())
        yield page
        assert errors == []
    finally:
        context.close()


@pytest.fixture(scope="module")
def tuned():
    return vk.Embedder.from_pretrained("emoji-llava-vladva")


def cases():
    found = load_winoground(vk.sample("winoground_mini") / "unseen_style")
    return found[:: len(found) // SCRIPT["N_CASES"]]


def test_embeddings_and_scores_of_typed_texts_equal_pythons(play, tuned):
    seconds = time.perf_counter()
    found = play.evaluate(
        "texts => Promise.all(texts.map(async (t) => [...await vladva.encodeText('fine-tuned', t)]))", TYPED
    )
    print(f"{time.perf_counter() - seconds:.1f} s to load and embed {len(TYPED)} texts")
    before = play.evaluate(
        "texts => Promise.all(texts.map(async (t) => [...await vladva.encodeText('base', t)]))", TYPED
    )
    with tuned.base():
        base = tuned.encode_text(TYPED).numpy()
    expected = {"fine-tuned": tuned.encode_text(TYPED).numpy(), "base": base}
    for name, vectors in {"fine-tuned": found, "base": before}.items():
        difference = np.abs(np.array(vectors) - expected[name]).max()
        print(f"{name}: largest difference of an embedding {difference:.1e}")
        assert difference < 1e-4
    captions, images = (
        [text for case in cases() for text in case.captions],
        [image for case in cases() for image in case.images],
    )
    python = tuned.similarity(images, captions).numpy()
    for row in range(0, len(images), 2):
        request = {"do": "score", "images": [row, row + 1], "captions": captions[row : row + 2]}
        scores = play.evaluate(
            "async (r) => (await vladva.answer(r, {models: ['fine-tuned'], pairs: []})).scores[0]", request
        )
        assert np.abs(np.array(scores) - python[row : row + 2, row : row + 2]).max() < 1e-4


def test_the_page_opens_on_a_fixed_case_with_the_counts_and_scores_what_is_typed(play, tuned):
    assert "fixed, " in play.locator(".intro").inner_text() and "broken" in play.locator(".intro").inner_text()
    assert play.get_by_role("tab").all_inner_texts() == ["Probe", "Search", "Matrix", "Map"]
    assert not play.locator(".strip .unscored").count()
    case = play.locator(".probe .title").inner_text()
    at = int(case.split()[1]) - 1
    captions = ["a big dog near a red car", cases()[at].captions[1]]
    play.get_by_label("caption 1").fill(captions[0])
    play.locator(".models:not(.stale)").wait_for()
    play.wait_for_function(
        "() => document.querySelector('.probe').innerText.includes('no score: see the message below')"
    )
    scores = tuned.similarity(list(cases()[at].images), captions).numpy()
    shown = [number(text) for text in play.locator(".model:not(.head)").last.locator(".comparison b").all_inner_texts()]
    margins = [
        scores[0, 0] - scores[0, 1],
        scores[1, 1] - scores[1, 0],
        scores[0, 0] - scores[1, 0],
        scores[1, 1] - scores[0, 1],
    ]
    assert np.allclose(shown, margins, atol=0.0051)
    assert "CLIP: what you type is scored by the LVLM only" in play.locator(".probe").inner_text()


def test_an_empty_caption_an_unknown_word_and_an_image_are_answered_in_place(play, tmp_path):
    play.get_by_label("caption 1").fill("a dog above a zebra")
    play.get_by_text("Not in the LVLM’s vocabulary: zebra").wait_for()
    play.get_by_label("caption 1").fill(" \u200b ")
    play.get_by_text("caption 1 is empty: type some words").wait_for()
    play.get_by_role("button", name="reset case").click()
    (tmp_path / "own.png").write_bytes((cases()[0].images[0]).read_bytes())
    play.get_by_label("replace image 1", exact=True).set_input_files(tmp_path / "own.png")
    play.get_by_text("images need Python: only what you type is scored on this page").wait_for()


def test_search_scores_a_typed_caption_and_the_other_tabs_are_filled(play):
    play.get_by_role("tab", name="Search").click()
    play.get_by_text(f"of {SCRIPT['N_PAIRS']} images:").first.wait_for()
    play.get_by_label("caption to search for").fill("a yellow banana")
    play.locator(".columns[aria-busy=false]").first.wait_for()
    play.get_by_text("CLIP: what you type is scored by the LVLM only").last.wait_for()
    assert play.get_by_role("region", name="fine-tuned").locator("li").count() == 6
    play.get_by_role("tab", name="Matrix").click()
    assert play.locator(".matrix").count() == 3
    play.get_by_role("tab", name="Map").click()
    play.locator("canvas[role=application]").wait_for()


def test_a_browser_that_cannot_unpack_the_encoder_says_so_and_still_browses(browser, file):
    page = browser.new_page()
    page.add_init_script("delete globalThis.DecompressionStream")
    page.goto(file.as_uri())
    page.get_by_label("caption 1").fill("a dog")
    page.get_by_text("this browser cannot unpack the text encoder").wait_for()
    page.get_by_role("button", name="next case").click()
    page.close()
