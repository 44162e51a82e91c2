"""What the playground asks an LVLM: likelihoods of the best hits."""

import base64
import json

import numpy as np
import pytest
import torch
from color_encoder import plain
from tiny import tiny_embedder

import vladva_kit as vk
from vladva_kit.analysis import probe_images
from vladva_kit.evaluation import WinogroundCase

WALLS = ("red", "green", "blue")


@pytest.fixture
def pairs():
    return [vk.Pair(plain(color), f"a {color} wall") for color in WALLS]


@pytest.fixture
def embedder(one_thread):
    return tiny_embedder()


def page_of(models, pairs):
    case = WinogroundCase("0", ("a red wall", "a blue wall"), (plain("red"), plain("blue")), {})
    return vk.playground(models, [case], pairs)


def as_json(reply):
    """What the page receives; fails for NaN, which JSON does not have."""
    return json.loads(json.dumps(reply, allow_nan=False))


def test_the_best_hits_of_each_model_get_the_base_models_likelihood(embedder, colors, pairs):
    page = page_of({"CLIP": colors, "tiny": embedder}, pairs)
    assert page.state["lvlms"] == [False, True]
    reply = as_json(page.handle({"do": "rerank", "text": "a red wall", "hits": [[2, 0], [1, 2]]}))
    with embedder.base():
        expected = vk.likelihood(embedder, [pair.image for pair in pairs], ["a red wall"])[:, 0].tolist()
    assert reply["scores"][0] == pytest.approx([expected[2], expected[0]], abs=1e-5)
    assert reply["scores"][1] == pytest.approx([expected[1], expected[2]], abs=1e-5)
    assert all(len(pair) == 2 and min(pair) > 0 for pair in reply["seconds"]) and reply["notes"] == []
    assert page.handle({"do": "rerank", "text": " ", "hits": [[0], [0]]})["field"] == "search"


def test_a_model_without_scores_is_left_out_and_without_an_lvlm_nothing_is_ranked(embedder, colors, pairs):
    reply = page_of({"CLIP": colors, "tiny": embedder}, pairs).handle(
        {"do": "rerank", "text": "a dog", "hits": [None, [9]]}
    )
    assert reply["scores"] == [None, None] and len(reply["notes"]) == 1 and "tiny: " in reply["notes"][0]
    alone = page_of({"CLIP": colors}, pairs).handle({"do": "rerank", "text": "a dog", "hits": [[0]]})
    assert alone["scores"] == [None] and "needs an LVLM" in alone["notes"][0]


def test_attention_is_that_of_each_lvlm(embedder, colors, pairs):
    page = page_of({"CLIP": colors, "tiny": embedder}, pairs)
    reply = as_json(page.handle({"do": "attention", "image": 0}))
    found = reply["maps"][1]
    expected = probe_images(embedder, [page.cases[0].images[0]], attention=True, k=1).maps[0]
    values = np.frombuffer(base64.b64decode(found["values"]), "<f4").reshape(found["shape"])
    assert np.allclose(values, expected, atol=1e-6) and reply["maps"][0] is None and reply["notes"] == []
    assert found["image"].startswith("data:image/jpeg;base64,")
    assert "image is number 99" in page.handle({"do": "attention", "image": 99})["error"]


def test_answers_with_the_adapter_on_and_off_are_the_embedders_own(embedder, colors, pairs):
    with torch.no_grad():  # so that the answers differ
        for name, weight in embedder.lvlm.model.named_parameters():
            if "lora_B" in name:
                weight.mul_(40)
    page = page_of({"CLIP": colors, "tiny": embedder}, pairs)
    assert page.state["adapters"] == [False, True]
    ask = {"do": "chat", "model": 1, "image": 0, "question": "what is the zebra?", "turns": [["is it red?", "yes"]]}
    image, turns = page.cases[0].images[0], [("is it red?", "yes")]
    on = as_json(page.handle(ask | {"adapter": True}))
    off = as_json(page.handle(ask | {"adapter": False}))
    assert on["answer"] == embedder.generate(image, ask["question"], turns, max_new_tokens=64)
    with embedder.base():
        assert off["answer"] == embedder.generate(image, ask["question"], turns, max_new_tokens=64)
    assert on["answer"] != off["answer"] and "zebra" in on["unseen"]
    assert page.handle(ask | {"adapter": True, "question": " "})["field"] == "question"
    assert "cannot answer" in page.handle(ask | {"adapter": True, "model": 0})["error"]
