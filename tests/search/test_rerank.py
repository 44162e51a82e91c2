"""Re-ranked hits are those of the search, in the order of their likelihood."""

import math

import pytest
from PIL import Image
from tiny import tiny_embedder, tiny_pairs

import vladva_kit as vk
from vladva_kit.models.images import BadInput

HITS = [(0.9, "b"), (0.8, "a"), (0.7, "d"), (0.6, "c")]


class Named:
    """A scorer that scores an image by its width."""

    def __init__(self, scores):
        self.scores = scores

    def score_pairs(self, images, captions):
        assert captions == ["a dog"] * len(images)
        return [self.scores[image.width] for image in images]


def images():
    return {name: Image.new("RGB", (width, 4)) for width, name in enumerate("abcd", start=1)}


def test_hits_are_ordered_by_the_base_models_likelihood(tmp_path):
    embedder, pairs = tiny_embedder(), tiny_pairs(4)
    for number, pair in enumerate(pairs):
        pair.image.save(tmp_path / f"{number}.png")
    names = [str(tmp_path / f"{number}.png") for number in range(4)]
    with embedder.base():
        expected = vk.likelihood(embedder, names, ["two red cats"])[:, 0].tolist()
    found = vk.rerank(embedder, "two red cats", [(0.5, name) for name in names])
    assert [name for _, name in found] == [names[i] for i in sorted(range(4), key=lambda i: -expected[i])]
    assert [score for score, _ in found] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
    of_base = vk.rerank(embedder.lvlm, "two red cats", [(0.5, name) for name in names])
    assert [name for _, name in of_base] == [name for _, name in found]
    assert [score for score, _ in of_base] == pytest.approx([score for score, _ in found])
    assert vk.rerank(embedder, "two red cats", []) == []


def test_nan_ranks_last_and_equal_scores_keep_their_order():
    scores = {1: math.nan, 2: -1.0, 3: -1.0, 4: -0.5}
    found = vk.rerank(None, "a dog", HITS, images(), Named(scores))
    assert [name for _, name in found] == ["d", "b", "c", "a"] and math.isnan(found[-1][0])


def test_unusable_hits_are_explained(tmp_path):
    embedder = tiny_embedder()
    with pytest.raises(KeyError, match="images lack 'd', which is a hit: pass the images that were embedded"):
        vk.rerank(embedder, "a dog", HITS, {name: image for name, image in images().items() if name != "d"})
    with pytest.raises(ValueError, match="caption 0 is empty"):
        vk.rerank(embedder, " ", HITS, images())
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"image 0 \(.*broken.png\) cannot be read"):
        vk.rerank(embedder, "a dog", [(0.5, str(tmp_path / "broken.png"))])
