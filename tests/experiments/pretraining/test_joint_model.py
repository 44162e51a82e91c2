"""The two models in training: one tower, told patches, and each loss beside a plain loop."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from experiments.pretraining.dataset import GRID, IGNORE_INDEX, PretrainDataset, patch_words
from experiments.pretraining.joint_model import (
    GROUP_WORDS,
    NAMING_WEIGHTS,
    TOLD_WEIGHTS,
    JointModel,
    clip_losses,
    naming,
    next_word_loss,
    told,
    told_features,
)
from experiments.pretraining.train import CLIP_STAGE, READ_STAGE
from vladva_kit.emoji_world.scenes import validation_scenes
from vladva_kit.emoji_world.words import ids


@pytest.fixture(scope="module")
def joint_model():
    torch.manual_seed(0)
    return JointModel().eval()


def test_both_models_share_one_tower(joint_model):
    assert joint_model.llava.model.vision_tower is joint_model.clip.vision_model
    assert joint_model.llava.lm_head.weight is joint_model.llava.get_input_embeddings().weight


def test_a_told_patch_is_the_sum_of_its_words_its_row_and_its_column(joint_model):
    words = torch.from_numpy(np.stack([patch_words(scene) for scene in validation_scenes("seen", 2)]))
    patches, table = told(joint_model, words), joint_model.llava.get_input_embeddings().weight
    for picture, patch in ((0, 0), (1, 17), (0, 63), (1, 36)):
        wanted = joint_model.places.weight[patch // GRID] + joint_model.places.weight[GRID + patch % GRID]
        for word, loud in zip(words[picture, patch], TOLD_WEIGHTS, strict=True):
            wanted = wanted + (loud * table[word] if word != IGNORE_INDEX else 0)
        assert torch.allclose(patches[picture, patch], wanted, atol=1e-6)
    spoken = torch.stack(told_features(joint_model, words).pooler_output)
    assert not spoken[:, 0].any() and torch.equal(spoken[:, 1:], patches)


def test_naming_equals_a_plain_loop_over_patches(joint_model):
    words = torch.from_numpy(np.stack([patch_words(scene) for scene in validation_scenes("seen", 3)]))
    projected = torch.randn(*words.shape[:2], 256)
    table = joint_model.llava.get_input_embeddings().weight
    total = 0.0
    for group, names in enumerate(GROUP_WORDS):
        losses = []
        for picture in range(len(words)):
            for patch in range(words.shape[1]):
                word = int(words[picture, patch, group])
                if word != IGNORE_INDEX:
                    choices = [ids()[name] for name in names]
                    logits = torch.stack([projected[picture, patch] @ table[choice] for choice in choices])
                    losses.append(F.cross_entropy(logits, torch.tensor(choices.index(word))))
        total += NAMING_WEIGHTS[group] * float(torch.stack(losses).mean())
    wanted = told(joint_model, words)
    apart = [
        ((p - w) ** 2).sum() / (w**2).sum() for p, w in zip(projected.flatten(0, 1), wanted.flatten(0, 1), strict=True)
    ]
    total += float(torch.stack(apart).mean())
    for first, last in (("left", "right"), ("top", "bottom")):
        axis = (table[ids()[last]] - table[ids()[first]]).detach().numpy()
        said, true = projected.numpy() @ axis, wanted.detach().numpy() @ axis
        total += float(((said - true) ** 2).mean() / true.var(ddof=1))
    loss, right = naming(joint_model, projected, words)
    assert float(loss) == pytest.approx(total, rel=1e-4)
    assert right.shape == (5,) and ((right >= 0) & (right <= 1)).all()


def test_naming_leaves_the_llms_words_where_they_are(joint_model):
    words = torch.from_numpy(patch_words(validation_scenes("seen", 1)[0]))[None]
    projected = torch.randn(1, GRID * GRID, 256, requires_grad=True)
    naming(joint_model, projected, words)[0].backward()
    assert projected.grad.any()
    assert joint_model.llava.get_input_embeddings().weight.grad is None and joint_model.places.weight.grad is None


def test_a_patch_that_says_what_it_would_be_told_is_no_distance_away(joint_model):
    words = torch.from_numpy(patch_words(validation_scenes("seen", 1)[0]))[None]
    at, off = told(joint_model, words), told(joint_model, words) * 0
    assert float(naming(joint_model, at, words)[0]) < float(naming(joint_model, off, words)[0]) - 1


def test_the_contrastive_loss_is_clips_own(joint_model):
    batch = PretrainDataset(0, "clip", "clip", 5, 1, CLIP_STAGE.styles, 0.0)[0]
    with torch.no_grad():
        ours = clip_losses(joint_model, batch)["contrastive"]
        theirs = joint_model.clip(
            batch["written"]["input_ids"], batch["pictured"]["pixel_values"], return_loss=True
        ).loss
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)


def test_the_next_word_loss_is_a_weighted_mean_over_what_is_learned(joint_model):
    batch = PretrainDataset(0, "read", "read", 2, 1, READ_STAGE.styles, 0.0)[0]["written"]
    with torch.no_grad():
        logits = joint_model.llava(input_ids=batch["input_ids"]).logits
        ours = next_word_loss(joint_model.llava, batch)
    total = weights = 0.0
    for row in range(len(batch["labels"])):
        for at in range(1, batch["labels"].shape[1]):
            if batch["labels"][row, at] != IGNORE_INDEX:
                weight = float(batch["weights"][row, at])
                total += weight * float(F.cross_entropy(logits[row, at - 1], batch["labels"][row, at]))
                weights += weight
    assert float(ours) == pytest.approx(total / weights, rel=1e-4)
