"""Embeddings are made once, forgotten when the weights change, and never made while the model is trained."""

import threading

import numpy as np
import pytest
import torch

import vladva_kit as vk
from vladva_kit.widgets import CachedEmbedder, ModelBusy
from vladva_kit.widgets.cached_embedder import cached_embedder, model_turn, training_rests, training_turn

from .conftest import image_vector, plain, text_vector


def test_each_picture_and_caption_is_encoded_once_whatever_the_order(colors):
    memory = CachedEmbedder(colors)
    walls, captions = [plain("red"), plain("blue"), plain("red")], ["a red wall", "a red wall", "snow"]
    found = memory.similarity(walls, captions)
    expected = [[image_vector(wall) @ text_vector(caption) for caption in captions] for wall in walls]
    assert np.allclose(found, expected, atol=1e-6)
    assert np.array_equal(memory.similarity(walls[::-1], captions[::-1]), found[::-1, ::-1])
    assert (len(colors.images), len(colors.texts)) == (2, 2)


def test_a_memory_is_shared_by_whoever_is_given_it(colors, confused):
    memory = CachedEmbedder(colors)
    models = cached_embedder({"sees": memory, "confused": confused})
    assert models["sees"] is memory and models["confused"].embedder is confused
    assert memory.tokenizer is None
    with pytest.raises(ValueError, match="no model to ask"):
        cached_embedder({})


def test_what_was_remembered_is_forgotten_when_the_adapter_learns(lvlm):
    embedder = vk.attach(lvlm)
    memory = CachedEmbedder(embedder)
    before, of_base = memory.encode_text(["a dog"]), CachedEmbedder(vk.Embedder(lvlm)).encode_text(["a dog"])
    with torch.no_grad():
        for name, weight in lvlm.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.1)
    assert not np.allclose(memory.encode_text(["a dog"]), before)
    assert np.array_equal(CachedEmbedder(vk.Embedder(lvlm)).encode_text(["a dog"]), of_base)


def test_a_training_keeps_others_out_except_while_it_rests():
    began, rest, rests, go_on = (threading.Event() for _ in range(4))

    def train():
        with training_turn():
            began.set()
            rest.wait(60)
            with training_rests():
                rests.set()
                go_on.wait(60)

    thread = threading.Thread(target=train)
    thread.start()
    assert began.wait(60)
    with pytest.raises(ModelBusy, match="pause or stop"), model_turn():
        pass
    rest.set()
    assert rests.wait(60)
    asked = []
    with model_turn():
        asked.append("while it rests")
    go_on.set()
    thread.join(60)
    with model_turn():
        asked.append("when it is over")
    assert len(asked) == 2 and not thread.is_alive()


def test_it_says_what_it_knows_without_asking_and_knows_nothing_of_a_model_that_has_learned(colors, lvlm):
    memory = CachedEmbedder(colors)
    memory.similarity([plain("red")], ["snow"])
    assert memory.knows([plain("red")], ["snow"]) and memory.knows([], [])
    assert not memory.knows([plain("blue")], ["snow"]) and not memory.knows([plain("red")], ["snow", "sand"])
    assert (len(colors.images), len(colors.texts)) == (1, 1)
    learner = CachedEmbedder(vk.attach(lvlm))
    learner.encode_text(["a dog"])
    assert learner.knows([], ["a dog"])
    with torch.no_grad():
        next(weight for name, weight in lvlm.model.named_parameters() if "lora_B" in name).add_(0.1)
    assert not learner.knows([], ["a dog"])
