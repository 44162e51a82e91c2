"""The CLIP trained on: its loss is transformers' own, it learns, the seed fixes it, and bad pairs are refused."""

import pytest
import torch

import vladva_kit as vk
from experiments.paper.clip_training import clip_loss, fit_clip


@pytest.fixture
def clip():
    return vk.ClipEmbedder("emoji-clip")


def test_the_loss_is_that_of_transformers(clip, pairs):
    assert len({pair.short for pair in pairs}) == len(pairs)
    pixels = clip.image_processor([pair.image for pair in pairs], return_tensors="pt")
    ids = clip.tokenizer([pair.short for pair in pairs], padding=True, return_tensors="pt")
    own = clip.model(**pixels, **ids, return_loss=True).loss
    loss, accuracy = clip_loss(clip, pairs)
    assert float(loss.detach()) == pytest.approx(float(own.detach()), rel=1e-4)
    assert 0 <= float(accuracy) <= 1


def test_it_learns_the_batch_it_sees_and_goes_back_to_inference(clip, pairs):
    before = clip.encode_text([pairs[0].short])
    history = fit_clip(clip, pairs, steps=6, batch_size=12, learning_rate=3e-4, warmup=1)
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["contrastive"] < history[0]["contrastive"]
    assert not clip.model.training and not torch.equal(before, clip.encode_text([pairs[0].short]))


def test_the_same_seed_gives_the_same_figures_and_another_seed_others(pairs):
    runs = [fit_clip(vk.ClipEmbedder(), pairs, 2, 4, warmup=1, seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_pairs_that_cannot_serve_are_named(clip, pairs):
    with pytest.raises(ValueError, match="pair 1 has no short caption"):
        fit_clip(clip, [pairs[0], vk.Pair(pairs[1].image, long=pairs[1].long)], 1, 2)
    with pytest.raises(ValueError, match="12 pairs do not fill one batch of 64"):
        fit_clip(clip, pairs, 1)
