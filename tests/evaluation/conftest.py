"""Encoders with known scores: one constant, one random, one that knows the right answers."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

import vladva_kit as vk
from vladva_kit.embedder.identity import describe
from vladva_kit.evaluation.results import save_results

TAGS = ("Object", "Relation", "Both")


class FakeEmbedder:
    """Encodes an image by its color, and a text, with `vector`; records its inputs and batch sizes."""

    def __init__(self, vector):
        self.vector, self.images, self.texts, self.batches = vector, [], [], []

    def encode_image(self, images, batch_size=64):
        assert all(image.mode == "RGB" for image in images)
        colors = [image.getpixel((0, 0)) for image in images]
        self.images += colors
        self.batches.append(len(colors))
        return self.unit(colors)

    def encode_text(self, texts, batch_size=64):
        self.texts += texts
        return self.unit(texts)

    def unit(self, items):
        vectors = torch.tensor(np.array([self.vector(item) for item in items]), dtype=torch.float32)
        return torch.nn.functional.normalize(vectors, dim=-1)


def random_vector(item):
    seed = int.from_bytes(hashlib.sha256(repr(item).encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=16)


@pytest.fixture
def constant_encoder():
    """All images and texts have the same embedding."""
    return FakeEmbedder(lambda item: np.array([0.3, 0.5, 0.7]))


@pytest.fixture
def random_encoder():
    """Every image and text has its own random embedding."""
    return FakeEmbedder(random_vector)


@pytest.fixture
def oracle():
    """`oracle(meaning)` encodes a text like the color `meaning[text]`; unknown texts have random embeddings."""

    def make(meaning):
        return FakeEmbedder(lambda item: random_vector(meaning.get(item, item) if isinstance(item, str) else item))

    return make


class Answers:
    """A Generator that answers with `answer(image, prompt, history)`; records prompts and batch sizes."""

    def __init__(self, answer):
        self.answer, self.prompts, self.batches = answer, [], []

    def generate_batch(self, images, prompts, histories=None, max_new_tokens=128):
        self.prompts += prompts
        self.batches.append(len(prompts))
        return [self.answer(*row) for row in zip(images, prompts, histories or [()] * len(prompts), strict=True)]


@pytest.fixture
def answers():
    """`answers(function)`: a Generator that answers with `function(image, prompt, history)`."""
    return Answers


class SeededEncoder(FakeEmbedder):
    """Every image and text has a random embedding that depends on the seed."""

    def __init__(self, seed):
        super().__init__(lambda item: random_vector((seed, item)))
        self.fingerprint = f"seed {seed}"


@pytest.fixture(scope="session")
def winoground(tmp_path_factory):
    """A Winoground folder with 60 cases of three tags."""
    folder = tmp_path_factory.mktemp("winoground")
    (folder / "images").mkdir()
    rows = []
    for case in range(60):
        for index in range(2):
            Image.new("RGB", (2, 2), (case, index, 0)).save(folder / "images" / f"ex_{case}_img_{index}.png")
        images = {f"image_{index}": f"ex_{case}_img_{index}" for index in range(2)}
        captions = {f"caption_{index}": f"case {case} caption {index}" for index in range(2)}
        rows.append({"id": case, **images, **captions, "collapsed_tag": TAGS[case % 3]})
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def runs(winoground, tmp_path_factory):
    """The folder with the runs "first" and "second" of two random encoders, and their results."""
    folder, results = tmp_path_factory.mktemp("runs"), {}
    for name, seed in (("first", 1), ("second", 2)):
        encoder = SeededEncoder(seed)
        results[name] = vk.evaluate_winoground(encoder, winoground)
        metadata = {"command": "vladva eval", "seed": 3}
        save_results(folder / name, {name: {"winoground": results[name]}}, {name: describe(encoder)}, metadata)
    return folder, results


@pytest.fixture(scope="session")
def seeded_encoder():
    """`seeded_encoder(seed)`: random embeddings that depend on the seed."""
    return SeededEncoder
