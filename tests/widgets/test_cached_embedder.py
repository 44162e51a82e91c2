"""Embeddings are computed once, dropped when the weights change, and not computed during a training step."""

import threading

import numpy as np
import pytest
import torch
from color_encoder import image_vector, plain, text_vector
from PIL import Image
from tiny import tiny_embedder, tiny_lvlm

import vladva_kit as vk
from vladva_kit.widgets import CachedEmbedder, ModelBusy, RetrievalBox, SceneComposer, WinogroundProbe
from vladva_kit.widgets.cached_embedder import (
    CachedScorer,
    model_turn,
    tokenizer_of,
    training_paused,
    training_turn,
    with_caches,
)


def test_each_image_and_caption_is_encoded_once_in_any_order(colors):
    model = CachedEmbedder(colors)
    walls, captions = [plain("red"), plain("blue"), plain("red")], ["a red wall", "a red wall", "snow"]
    scores = model.similarity(walls, captions)
    expected = [[image_vector(wall) @ text_vector(caption) for caption in captions] for wall in walls]
    assert np.allclose(scores, expected, atol=1e-6)
    assert np.array_equal(model.similarity(walls[::-1], captions[::-1]), scores[::-1, ::-1])
    assert (len(colors.images), len(colors.texts)) == (2, 2)


def test_an_existing_cache_is_shared(colors, confused):
    model = CachedEmbedder(colors)
    models = with_caches({"sees": model, "confused": confused})
    assert models["sees"] is model and models["confused"].embedder is confused
    assert tokenizer_of(models) is None
    with pytest.raises(ValueError, match="no model given"):
        with_caches({})


def test_encoding_steps_fill_the_cache_in_parts(colors):
    model = CachedEmbedder(colors)
    captions = [f"wall {n}" for n in range(20)]
    steps = model.encoding_steps([plain("red"), plain("blue")], captions)
    assert len(steps) == 3 and not model.has([plain("red")], captions)
    for step in steps:
        step()
    assert model.has([plain("red"), plain("blue")], captions) and colors.texts == captions


def test_the_cache_is_dropped_when_the_adapter_is_trained(one_thread):
    embedder = tiny_embedder()
    model = CachedEmbedder(embedder)
    base = CachedEmbedder(vk.Embedder(embedder.lvlm))
    before, before_base = model.encode_text(["a dog"]), base.encode_text(["a dog"])
    assert model.has([], ["a dog"])
    with torch.no_grad():
        for name, weight in embedder.lvlm.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.1)
    assert not model.has([], ["a dog"])
    assert not np.allclose(model.encode_text(["a dog"]), before)
    assert base.has([], ["a dog"]) and np.array_equal(base.encode_text(["a dog"]), before_base)


def test_inside_base_the_base_is_encoded_and_both_are_kept(one_thread):
    embedder = tiny_embedder()
    model, base = CachedEmbedder(embedder), vk.Embedder(embedder.lvlm)
    adapted = model.encode_text(["a dog"]), model.encode_image([plain("red")])
    with embedder.base():
        assert not model.has([], ["a dog"]) and not model.has([plain("red")], [])
        assert np.allclose(model.encode_text(["a dog"]), base.encode_text(["a dog"]), atol=1e-6)
        assert np.allclose(model.encode_image([plain("red")]), base.encode_image([plain("red")]), atol=1e-6)
    assert model.has([plain("red")], ["a dog"]) and np.array_equal(model.encode_text(["a dog"]), adapted[0])
    assert not np.allclose(adapted[1], base.encode_image([plain("red")]), atol=1e-3)


def test_recolored_palette_images_have_their_own_embeddings(colors):
    walls = [plain(color).quantize() for color in ("red", "blue")]
    vectors = CachedEmbedder(colors).encode_image(walls)
    assert np.allclose(vectors, [image_vector(plain(color)) for color in ("red", "blue")], atol=1e-6)


def test_has_asks_the_model_for_nothing(colors):
    model = CachedEmbedder(colors)
    model.similarity([plain("red")], ["snow"])
    assert model.has([plain("red")], ["snow"]) and model.has([], [])
    assert not model.has([plain("blue")], ["snow"]) and not model.has([plain("red")], ["snow", "sand"])
    assert (len(colors.images), len(colors.texts)) == (1, 1)


def test_the_tokenizer_is_that_of_the_first_lvlm(colors):
    lvlm = tiny_lvlm()
    assert tokenizer_of(with_caches({"colors": colors, "base": vk.Embedder(lvlm)})) is lvlm.processor.tokenizer


def test_a_model_is_busy_while_it_is_trained_and_free_while_the_training_is_paused():
    started, pause, paused, resume = (threading.Event() for _ in range(4))

    def train():
        with training_turn():
            started.set()
            pause.wait(60)
            with training_paused():
                paused.set()
                resume.wait(60)

    thread = threading.Thread(target=train)
    thread.start()
    assert started.wait(60)
    with pytest.raises(ModelBusy, match="pause or stop"), model_turn():
        pass
    pause.set()
    assert paused.wait(60)
    turns = []
    with model_turn():
        turns.append("paused")
    resume.set()
    thread.join(60)
    with model_turn():
        turns.append("finished")
    assert len(turns) == 2 and not thread.is_alive()


class ColorScorer:
    """Score an image with a caption by the color encoder's cosine; record what was scored."""

    def __init__(self):
        self.scored = []

    def similarity(self, images, texts):
        self.scored.append((len(images), len(texts)))
        return torch.tensor([[image_vector(image) @ text_vector(text) for text in texts] for image in images])

    def score_pairs(self, images, texts):
        return self.similarity(images, texts).diagonal()


def test_a_scorer_scores_each_image_with_each_caption_once():
    scorer = ColorScorer()
    model = CachedScorer(scorer)
    walls, captions = [plain("red"), plain("blue")], ["a red wall", "snow", "a blue wall"]
    scores = model.similarity(walls, captions[:2])
    assert np.allclose(scores, scorer.similarity(walls, captions[:2]), atol=1e-6)
    assert not model.has(walls, captions)
    assert np.array_equal(model.similarity(walls, captions)[:, :2], scores)
    assert model.has(walls, captions) and scorer.scored == [(2, 2), (2, 2), (2, 1)]
    model.similarity(walls[::-1], captions)
    assert len(scorer.scored) == 3


def test_a_scorer_refuses_a_gallery_in_a_sentence():
    with pytest.raises(ValueError, match="9 images x 8 captions: a scorer needs .* vk.rerank"):
        CachedScorer(ColorScorer()).similarity(
            [Image.new("L", (8, 8), n) for n in range(9)], [f"{n}" for n in range(8)]
        )
    with pytest.raises(ValueError, match="asked: a scorer needs 2 forward passes for one query"):
        RetrievalBox({"asked": ColorScorer()}, [plain("red"), plain("blue")], ["a", "b"])


def test_a_model_that_neither_embeds_nor_scores_is_an_error():
    with pytest.raises(TypeError, match="wrong: no encode_image.. and no score_pairs"):
        with_caches({"wrong": object()})


def test_probes_the_composer_and_the_playground_compare_a_scorer_with_embedders(colors, cases):
    models = {"sees": colors, "asked": ColorScorer()}
    probe = WinogroundProbe(models, cases)
    probe.score_cases()
    assert all(np.allclose(*grids, atol=1e-6) for grids in probe.scores.values()) and len(probe.scores) == 3
    edited = {"do": "score", "images": [0, 1], "captions": ["a white wall", "a red wall"]}
    assert None not in probe.handle(edited)["scores"]
    composer = SceneComposer(models)
    composer.work.wait()
    assert composer.correct()["asked"] == composer.correct()["sees"]
    page = vk.playground(models, cases, [vk.Pair(plain("red"), f"a red wall {n}") for n in range(9)])
    assert page.score_cases() == {"fixed": 0, "broken": 0, "right": 3, "wrong": 0}
    answer = page.handle({"do": "gallery", "start": 0})
    assert answer["matrices"][0] is not None and answer["matrices"][1] is None
    assert "asked: 9 images x 9 captions: a scorer needs a forward pass for each pair" in answer["notes"][0]
    with pytest.raises(ValueError, match="a ColorScorer scores pairs and has no embeddings"):
        page.models["asked"].encode_text(["a dog"])


def test_likelihoods_of_the_base_and_of_the_trained_model_are_kept_apart(one_thread):
    embedder = tiny_embedder()
    model = CachedScorer(vk.LikelihoodScorer(embedder))
    image, captions = Image.new("RGB", (64, 64), (9, 99, 200)), ["a dog", "a cat"]
    scores = model.similarity([image], captions)
    assert np.allclose(scores, vk.likelihood(embedder, [image], captions, progress=False), atol=1e-5)
    with torch.no_grad():
        for name, weight in embedder.lvlm.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.1)
    assert not model.has([image], captions)
    assert not np.allclose(model.similarity([image], captions), scores)
