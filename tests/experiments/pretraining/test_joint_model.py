"""The joint model's shared image encoder and oracle patches, and each loss against a plain loop."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from experiments.pretraining.dataset import GRID, IGNORE_INDEX, PretrainDataset, patch_labels
from experiments.pretraining.joint_model import (
    ATTRIBUTE_WORDS,
    ORACLE_WEIGHTS,
    PATCH_LABEL_WEIGHTS,
    JointModel,
    clip_losses,
    next_token_loss,
    oracle_features,
    oracle_patches,
    patch_label_loss,
    position_loss,
)
from experiments.pretraining.tokenizer import token_ids
from vladva_kit.emoji_world.nouns import SEEN_STYLES
from vladva_kit.emoji_world.scenes import validation_scenes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def joint_model():
    torch.manual_seed(0)
    return JointModel().eval()


def labels_of(n):
    return torch.from_numpy(np.stack([patch_labels(scene) for scene in validation_scenes("seen", n)]))


def test_both_models_share_one_image_encoder(joint_model):
    assert joint_model.llava.model.vision_tower is joint_model.clip.vision_model
    assert joint_model.llava.lm_head.weight is joint_model.llava.get_input_embeddings().weight


def test_an_oracle_patch_is_the_sum_of_its_words_row_and_column(joint_model):
    labels = labels_of(2)
    patches, table = oracle_patches(joint_model, labels), joint_model.llava.get_input_embeddings().weight
    positions = joint_model.patch_positions.weight
    for image, patch in ((0, 0), (1, 17), (0, 63), (1, 36)):
        expected = positions[patch // GRID] + positions[GRID + patch % GRID]
        for word, weight in zip(labels[image, patch], ORACLE_WEIGHTS, strict=True):
            expected = expected + (weight * table[word] if word != IGNORE_INDEX else 0)
        assert torch.allclose(patches[image, patch], expected, atol=1e-6)
    features = torch.stack(oracle_features(joint_model, labels).pooler_output)
    assert not features[:, 0].any() and torch.equal(features[:, 1:], patches)


def test_the_patch_label_loss_equals_a_plain_loop(joint_model):
    labels = labels_of(2)
    projected = torch.randn(*labels.shape[:2], 256)
    table = joint_model.llava.get_input_embeddings().weight.detach()
    total = 0.0
    for attribute, words in enumerate(ATTRIBUTE_WORDS):
        losses = []
        choices = [token_ids()[word] for word in words]
        for image, patch in np.ndindex(*labels.shape[:2]):
            word = int(labels[image, patch, attribute])
            if word != IGNORE_INDEX:
                logits = torch.stack([projected[image, patch] @ table[choice] for choice in choices])
                losses.append(F.cross_entropy(logits, torch.tensor(choices.index(word))))
        total += PATCH_LABEL_WEIGHTS[attribute] * float(torch.stack(losses).mean())
    oracle = oracle_patches(joint_model, labels).detach()
    pairs = zip(projected.flatten(0, 1), oracle.flatten(0, 1), strict=True)
    total += float(torch.stack([((p - o) ** 2).sum() / (o**2).sum() for p, o in pairs]).mean())
    for first, last in (("left", "right"), ("top", "bottom")):
        axis = (table[token_ids()[last]] - table[token_ids()[first]]).numpy()
        predicted, true = projected.numpy() @ axis, oracle.numpy() @ axis
        total += float(((predicted - true) ** 2).mean() / true.var(ddof=1))
    loss, accuracies = patch_label_loss(joint_model, projected, labels)
    assert float(loss) == pytest.approx(total, rel=1e-4)
    assert accuracies.shape == (5,) and ((accuracies >= 0) & (accuracies <= 1)).all()


def test_the_patch_label_loss_has_no_gradient_for_the_llms_words(joint_model):
    projected = torch.randn(1, GRID * GRID, 256, requires_grad=True)
    patch_label_loss(joint_model, projected, labels_of(1))[0].backward()
    assert projected.grad.any()
    assert joint_model.llava.get_input_embeddings().weight.grad is None
    assert joint_model.patch_positions.weight.grad is None


@torch.no_grad()
def test_the_patch_label_loss_is_lower_at_the_oracle_patches(joint_model):
    labels = labels_of(1)
    oracle = oracle_patches(joint_model, labels)
    at_oracle, at_zero = (float(patch_label_loss(joint_model, one, labels)[0]) for one in (oracle, oracle * 0))
    assert at_oracle < at_zero - 1


@torch.no_grad()
def test_the_position_loss_is_zero_at_the_oracle_and_two_without_positions(joint_model):
    table, oracle = joint_model.llava.get_input_embeddings().weight, oracle_patches(joint_model, labels_of(1))
    constant = oracle.mean((0, 1), keepdim=True).expand_as(oracle)
    assert float(position_loss(table, oracle, oracle)) == 0
    assert float(position_loss(table, constant, oracle)) == pytest.approx(2, rel=0.05)


def test_the_contrastive_loss_equals_that_of_transformers(joint_model):
    batch = PretrainDataset(0, "clip", 5, 1, SEEN_STYLES, 0.0)[0]
    with torch.no_grad():
        losses, _ = clip_losses(joint_model, batch)
        expected = joint_model.clip(batch["text"]["input_ids"], batch["image"]["pixel_values"], return_loss=True).loss
    assert float(losses["contrastive"]) == pytest.approx(float(expected), rel=1e-4)


def test_the_next_token_loss_equals_a_weighted_mean_over_labels(joint_model):
    batch = PretrainDataset(0, "read", 2, 1, SEEN_STYLES, 0.0)[0]["text"]
    with torch.no_grad():
        logits = joint_model.llava(input_ids=batch["input_ids"]).logits
        loss = next_token_loss(joint_model.llava, batch)
    total = weights = 0.0
    for row, position in np.ndindex(*batch["labels"].shape):
        label = batch["labels"][row, position]
        if position and label != IGNORE_INDEX:
            weight = float(batch["weights"][row, position])
            total += weight * float(F.cross_entropy(logits[row, position - 1], label))
            weights += weight
    assert float(loss) == pytest.approx(total / weights, rel=1e-4)
