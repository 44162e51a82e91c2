"""The two models in training: one tower, told patches, and each loss beside a plain loop."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vladva_kit.emoji_world.exam import exam_scenes
from vladva_kit.emoji_world.lessons import GRID, IGNORED, Lessons, patch_words
from vladva_kit.emoji_world.pretrain import CLIP_STAGE, READ_STAGE
from vladva_kit.emoji_world.pupil import (
    GROUP_WORDS,
    NAMING_WEIGHTS,
    TOLD_WEIGHTS,
    Pupil,
    clip_losses,
    naming,
    next_word_loss,
    told,
    told_features,
)
from vladva_kit.emoji_world.words import ids


@pytest.fixture(scope="module")
def pupil():
    torch.manual_seed(0)
    return Pupil().eval()


def test_both_models_share_one_tower(pupil):
    assert pupil.llava.model.vision_tower is pupil.clip.vision_model
    assert pupil.llava.lm_head.weight is pupil.llava.get_input_embeddings().weight


def test_a_told_patch_is_the_sum_of_its_words_its_row_and_its_column(pupil):
    words = torch.from_numpy(np.stack([patch_words(scene) for scene in exam_scenes("seen", 2)]))
    patches, table = told(pupil, words), pupil.llava.get_input_embeddings().weight
    for picture, patch in ((0, 0), (1, 17), (0, 63), (1, 36)):
        wanted = pupil.places.weight[patch // GRID] + pupil.places.weight[GRID + patch % GRID]
        for word, loud in zip(words[picture, patch], TOLD_WEIGHTS, strict=True):
            wanted = wanted + (loud * table[word] if word != IGNORED else 0)
        assert torch.allclose(patches[picture, patch], wanted, atol=1e-6)
    spoken = torch.stack(told_features(pupil, words).pooler_output)
    assert not spoken[:, 0].any() and torch.equal(spoken[:, 1:], patches)


def test_naming_equals_a_plain_loop_over_patches(pupil):
    words = torch.from_numpy(np.stack([patch_words(scene) for scene in exam_scenes("seen", 3)]))
    projected = torch.randn(*words.shape[:2], 256)
    table = pupil.llava.get_input_embeddings().weight
    total = 0.0
    for group, names in enumerate(GROUP_WORDS):
        losses = []
        for picture in range(len(words)):
            for patch in range(words.shape[1]):
                word = int(words[picture, patch, group])
                if word != IGNORED:
                    choices = [ids()[name] for name in names]
                    logits = torch.stack([projected[picture, patch] @ table[choice] for choice in choices])
                    losses.append(F.cross_entropy(logits, torch.tensor(choices.index(word))))
        total += NAMING_WEIGHTS[group] * float(torch.stack(losses).mean())
    wanted = told(pupil, words)
    apart = [
        ((p - w) ** 2).sum() / (w**2).sum() for p, w in zip(projected.flatten(0, 1), wanted.flatten(0, 1), strict=True)
    ]
    total += float(torch.stack(apart).mean())
    for first, last in (("left", "right"), ("top", "bottom")):
        axis = (table[ids()[last]] - table[ids()[first]]).detach().numpy()
        said, true = projected.numpy() @ axis, wanted.detach().numpy() @ axis
        total += float(((said - true) ** 2).mean() / true.var(ddof=1))
    loss, right = naming(pupil, projected, words)
    assert float(loss) == pytest.approx(total, rel=1e-4)
    assert right.shape == (5,) and ((right >= 0) & (right <= 1)).all()


def test_naming_leaves_the_llms_words_where_they_are(pupil):
    words = torch.from_numpy(patch_words(exam_scenes("seen", 1)[0]))[None]
    projected = torch.randn(1, GRID * GRID, 256, requires_grad=True)
    naming(pupil, projected, words)[0].backward()
    assert projected.grad.any()
    assert pupil.llava.get_input_embeddings().weight.grad is None and pupil.places.weight.grad is None


def test_a_patch_that_says_what_it_would_be_told_is_no_distance_away(pupil):
    words = torch.from_numpy(patch_words(exam_scenes("seen", 1)[0]))[None]
    at, off = told(pupil, words), told(pupil, words) * 0
    assert float(naming(pupil, at, words)[0]) < float(naming(pupil, off, words)[0]) - 1


def test_the_contrastive_loss_is_clips_own(pupil):
    batch = Lessons(0, "clip", "clip", 5, 1, CLIP_STAGE.styles, 0.0)[0]
    with torch.no_grad():
        ours = clip_losses(pupil, batch)["contrastive"]
        theirs = pupil.clip(batch["written"]["input_ids"], batch["pictured"]["pixel_values"], return_loss=True).loss
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)


def test_the_next_word_loss_is_a_weighted_mean_over_what_is_learnt(pupil):
    batch = Lessons(0, "read", "read", 2, 1, READ_STAGE.styles, 0.0)[0]["written"]
    with torch.no_grad():
        logits = pupil.llava(input_ids=batch["input_ids"]).logits
        ours = next_word_loss(pupil.llava, batch)
    total = weights = 0.0
    for row in range(len(batch["labels"])):
        for at in range(1, batch["labels"].shape[1]):
            if batch["labels"][row, at] != IGNORED:
                weight = float(batch["weights"][row, at])
                total += weight * float(F.cross_entropy(logits[row, at - 1], batch["labels"][row, at]))
                weights += weight
    assert float(ours) == pytest.approx(total / weights, rel=1e-4)
