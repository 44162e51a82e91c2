"""Fine-tuning a CLIP: the loss equals transformers', training is deterministic, unusable pairs are errors."""

import pytest
import torch

import vladva_kit as vk
from vladva_kit.data.hard_batches import HardBatches
from vladva_kit.data.pairs import sample_caption
from vladva_kit.evaluation import clip_training
from vladva_kit.evaluation.clip_training import clip_loss, fit_clip


@pytest.fixture
def clip():
    return vk.ClipEmbedder("emoji-clip")


def test_loss_equals_transformers(clip, pairs):
    assert len({pair.short for pair in pairs}) == len(pairs)
    pixels = clip.image_processor([pair.image for pair in pairs], return_tensors="pt")
    ids = clip.tokenizer([pair.short for pair in pairs], padding=True, return_tensors="pt")
    expected = clip.model(**pixels, **ids, return_loss=True).loss
    loss, accuracy = clip_loss(clip, pixels["pixel_values"], [pair.short for pair in pairs])
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert 0 <= float(accuracy) <= 1


def test_training_lowers_the_loss_and_returns_to_eval_mode(clip, pairs):
    before = clip.encode_text([pairs[0].short])
    history = fit_clip(clip, pairs, steps=6, batch_size=12, learning_rate=3e-4, warmup=1)
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["contrastive"] < history[0]["contrastive"]
    assert not clip.model.training and not torch.equal(before, clip.encode_text([pairs[0].short]))


def test_seed_determines_the_history(pairs):
    histories = [fit_clip(vk.ClipEmbedder(), pairs, 3, 10, warmup=1, seed=seed) for seed in (0, 0, 1)]
    assert histories[0] == histories[1] != histories[2]


def test_unusable_pairs_are_errors(clip, pairs):
    with pytest.raises(ValueError, match="pair 1 has no short caption"):
        fit_clip(clip, [pairs[0], vk.Pair(pairs[1].image, long=pairs[1].long)], 1, 2)
    with pytest.raises(ValueError, match="12 pairs do not fill a batch of 64"):
        fit_clip(clip, pairs, 1)


def test_a_sampler_decides_which_pairs_share_a_batch(pairs):
    rows, groups = {"groups": 4, "mined": 0, "random": 0}, [[0, 1], [2, 3]]
    grouped = HardBatches(4, rows, groups, seed=0)
    same_set = fit_clip(vk.ClipEmbedder(), pairs[:4], 1, 4, warmup=1)[0]["contrastive"]
    history = fit_clip(vk.ClipEmbedder(), pairs, 3, 4, warmup=1, sampler=grouped)  # only the first four pairs
    assert history[0]["contrastive"] == pytest.approx(same_set, rel=1e-4) and len(history) == 3


def test_each_epoch_uses_the_captions_that_fit_samples(clip, pairs, monkeypatch):
    several = [vk.Pair(pair.image, captions=[pair.short, "a dog", "two cats", "a tree"]) for pair in pairs[:4]]
    seen = []
    monkeypatch.setattr(clip_training, "clip_loss", lambda *args: seen.append(args[2]) or clip_loss(*args))
    fit_clip(clip, several, steps=3, batch_size=4, seed=5)
    for epoch, captions in enumerate(seen):
        assert sorted(captions) == sorted(sample_caption(one, f"5 {epoch} {i}").short for i, one in enumerate(several))


def test_validation_metrics_are_in_the_history_and_leave_training_unchanged(pairs):
    plain = fit_clip(vk.ClipEmbedder(), pairs, 4, 8, warmup=1)
    seen = []

    def validate(clip):
        seen.append(clip.model.training)
        return {"n": float(len(seen))}

    history = fit_clip(vk.ClipEmbedder(), pairs, 4, 8, warmup=1, validate=validate, validate_every=2)
    assert [row.pop("eval_n", None) for row in history] == [None, 1.0, None, 2.0]
    assert history == plain and seen == [False, False]
