"""Tiny encoders whose answers are known: one sees nothing, one sees all, one guesses."""

import hashlib

import numpy as np
import pytest
import torch


class FakeEmbedder:
    """Gives each image (told by its color) and each text the vector that `vector` makes of it, and keeps count."""

    def __init__(self, vector):
        self.vector, self.images, self.texts, self.batches = vector, [], [], []

    def encode_image(self, images, batch_size=64):
        assert all(image.mode == "RGB" for image in images)
        colors = [image.getpixel((0, 0)) for image in images]
        self.images += colors
        self.batches.append(len(colors))
        return self._unit(colors)

    def encode_text(self, texts, batch_size=64):
        self.texts += texts
        return self._unit(texts)

    def _unit(self, things):
        vectors = torch.tensor(np.array([self.vector(thing) for thing in things]), dtype=torch.float32)
        return torch.nn.functional.normalize(vectors, dim=-1)


def guess(thing):
    seed = int.from_bytes(hashlib.sha256(repr(thing).encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=16)


@pytest.fixture
def blind():
    """All images and texts look the same to it."""
    return FakeEmbedder(lambda thing: np.array([0.3, 0.5, 0.7]))


@pytest.fixture
def guessing():
    """Every image and text has a random vector of its own."""
    return FakeEmbedder(guess)


@pytest.fixture
def knowing():
    """`knowing(meaning)`: an encoder for which a text means the color `meaning[text]`; unknown texts mean nothing."""

    def make(meaning):
        return FakeEmbedder(lambda thing: guess(meaning.get(thing, thing) if isinstance(thing, str) else thing))

    return make
