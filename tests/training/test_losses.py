"""The losses against plain loops and against torch's own cross-entropy over all logits."""

import math

import pytest
import torch
from torch.nn import functional as F

from vladva_kit.embedder.prompts import IGNORE_INDEX
from vladva_kit.training.losses import contrastive_loss, next_token_loss, rank_kl_loss, same_caption_mask


def unit_vectors(n, dim, seed):
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def contrastive_by_loop(images, texts, temperature, excluded=(), extra_texts=(), extra_excluded=()):
    """Compute the symmetric loss one row at a time; `excluded` and `extra_excluded` hold index pairs."""
    n, total = len(images), 0.0
    for i in range(n):
        for image_to_text in (True, False):
            scores = {}
            for j in range(n):
                if (i, j) not in excluded:
                    image, text = (images[i], texts[j]) if image_to_text else (images[j], texts[i])
                    scores[j] = float(image @ text) / temperature
            query = images[i] if image_to_text else texts[i]
            negatives = [
                float(query @ t) / temperature for k, t in enumerate(extra_texts) if (i, k) not in extra_excluded
            ]
            all_scores = [*scores.values(), *negatives]
            total -= scores[i] - math.log(sum(math.exp(score) for score in all_scores))
    return total / (2 * n)


def test_contrastive_loss_equals_a_loop():
    images, texts = unit_vectors(5, 8, 0), unit_vectors(5, 8, 1)
    loss, _ = contrastive_loss(images, texts, lambda cosines: cosines / 0.07)
    assert float(loss) == pytest.approx(contrastive_by_loop(images, texts, 0.07), abs=1e-5)


def test_identical_captions_are_not_each_others_negatives():
    images, texts = unit_vectors(4, 8, 0), unit_vectors(4, 8, 1)
    mask = same_caption_mask(["a dog", "a cat", " A  dog", "a car"])
    assert mask.nonzero().tolist() == [[0, 2], [2, 0]]
    loss, _ = contrastive_loss(images, texts, lambda cosines: cosines / 0.1, mask)
    assert float(loss) == pytest.approx(contrastive_by_loop(images, texts, 0.1, {(0, 2), (2, 0)}), abs=1e-5)


def test_hard_negatives_are_negatives_of_images_and_of_captions():
    images, texts, extra = unit_vectors(3, 8, 0), unit_vectors(3, 8, 1), unit_vectors(2, 8, 2)
    loss, _ = contrastive_loss(images, texts, lambda cosines: cosines / 0.1, extra_texts=extra)
    assert float(loss) == pytest.approx(contrastive_by_loop(images, texts, 0.1, extra_texts=extra), abs=1e-5)


def test_a_hard_negative_equal_to_a_rows_own_caption_is_excluded_for_that_row():
    images, texts, extra = unit_vectors(2, 8, 0), unit_vectors(2, 8, 1), unit_vectors(1, 8, 2)
    mask = torch.tensor([[True], [False]])
    loss, _ = contrastive_loss(images, texts, lambda cosines: cosines, None, extra, mask)
    expected = contrastive_by_loop(images, texts, 1.0, extra_texts=extra, extra_excluded={(0, 0)})
    assert float(loss) == pytest.approx(expected, abs=1e-5)
    assert expected < contrastive_by_loop(images, texts, 1.0, extra_texts=extra) - 0.01


def test_accuracy_averages_both_directions():
    images = torch.eye(4)
    texts = torch.eye(4)[[0, 1, 3, 2]]  # the last two are swapped
    _, accuracy = contrastive_loss(images, texts, lambda cosines: cosines)
    assert float(accuracy) == pytest.approx(0.5)


def test_one_pair_raises():
    with pytest.raises(ValueError, match="at least 2 pairs, got 1"):
        contrastive_loss(unit_vectors(1, 4, 0), unit_vectors(1, 4, 1), lambda cosines: cosines)


def hidden_and_labels():
    """Return random states (3, 6, 8) that require gradients, and labels with 5 target tokens."""
    labels = torch.full((3, 6), IGNORE_INDEX)
    labels[0, 2:5], labels[2, 4:] = torch.tensor([1, 7, 3]), torch.tensor([2, 10])
    return torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(), labels


@pytest.mark.parametrize("trainable", [False, True], ids=["frozen head", "trainable head"])
@pytest.mark.parametrize("chunk", [1, 3, 100, None])
def test_next_token_loss_and_gradients_equal_cross_entropy_over_all_logits(chunk, trainable):
    (hidden, labels), head = hidden_and_labels(), torch.nn.Linear(8, 11).requires_grad_(trainable)
    leaves = [hidden, *head.parameters()] if trainable else [hidden]
    loss, n = next_token_loss(hidden, labels, head, chunk)
    expected = F.cross_entropy(
        head(hidden)[:, :-1].reshape(-1, 11), labels[:, 1:].reshape(-1), ignore_index=IGNORE_INDEX
    )
    assert n == 5 and torch.allclose(loss, expected, atol=1e-6)
    gradients, expected_gradients = (torch.autograd.grad(3 * value, leaves) for value in (loss, expected))
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, expected_gradient, atol=1e-6) and float(expected_gradient.abs().max()) > 0


def test_next_token_loss_is_the_same_without_gradients():
    (hidden, labels), head = hidden_and_labels(), torch.nn.Linear(8, 11).requires_grad_(False)
    expected = float(next_token_loss(hidden, labels, head)[0].detach())
    with torch.no_grad():
        assert float(next_token_loss(hidden, labels, head)[0]) == pytest.approx(expected)
    with torch.inference_mode():
        assert float(next_token_loss(hidden.detach(), labels, head, 2)[0]) == pytest.approx(expected)


def test_bfloat16_gradients_keep_their_dtype_and_are_close_to_float32():
    (hidden, labels), head = hidden_and_labels(), torch.nn.Linear(8, 11).requires_grad_(False)
    (exact,) = torch.autograd.grad(next_token_loss(hidden, labels, head, 2)[0], hidden)
    rounded = hidden.detach().bfloat16().requires_grad_()
    (gradient,) = torch.autograd.grad(next_token_loss(rounded, labels, head.bfloat16(), 2)[0], rounded)
    assert gradient.dtype == torch.bfloat16 and torch.allclose(gradient.float(), exact, atol=0.02)


def rows_through_head(hidden, labels, **options):
    """Return the number of states in each call of a frozen head, during the loss and its backward pass."""
    rows = []

    def head(states):
        rows.append(len(states))
        return states @ torch.ones(8, 11)

    next_token_loss(hidden, labels, head, **options)[0].backward()
    return [n for n in rows if n]


def test_each_target_state_passes_through_the_head_once_in_chunks():
    assert rows_through_head(*hidden_and_labels(), chunk=2) == [2, 2, 1]


def test_chunk_size_follows_from_vocabulary_size(monkeypatch):
    monkeypatch.setattr("vladva_kit.training.losses.MAX_LOGITS_PER_CHUNK", 44)  # 4 states of 11 logits
    assert rows_through_head(*hidden_and_labels()) == [4, 1]


def test_next_token_loss_is_0_without_long_captions():
    loss, n = next_token_loss(torch.randn(2, 5, 4), torch.full((2, 5), IGNORE_INDEX), torch.nn.Linear(4, 3))
    assert n == 0 and float(loss) == 0.0


def rank_kl_by_loop(cosines, scores, temperature):
    total, n = 0.0, 0
    for cosine_row, score_row in zip(cosines.tolist(), scores.tolist(), strict=True):
        known = [(c / temperature, s) for c, s in zip(cosine_row, score_row, strict=True) if not math.isnan(s)]
        if len(known) < 2:
            continue
        z, y = (sum(math.exp(value) for value in column) for column in zip(*known, strict=True))
        for student, teacher in known:
            total += math.exp(teacher) / y * (teacher - math.log(y) - student + math.log(z))
        n += 1
    return total / n


def test_rank_kl_equals_a_loop_and_its_gradient_leaves_other_captions_alone():
    generator = torch.Generator().manual_seed(0)
    cosines = (2 * torch.rand(5, 7, generator=generator) - 1).requires_grad_()
    scores = 3 * torch.randn(5, 7, generator=generator)
    unknown = torch.rand(5, 7, generator=generator) < 0.5
    unknown[0], unknown[1] = True, torch.arange(7) != 3  # without a candidate, and with one
    scores = scores.masked_fill(unknown, math.nan)
    loss, n = rank_kl_loss(cosines, scores)
    assert n == 3 and float(loss) == pytest.approx(rank_kl_by_loop(cosines, scores, 0.05), rel=1e-5)
    loss.backward()
    used = ~unknown & torch.tensor([False, False, True, True, True])[:, None]
    assert torch.equal(cosines.grad != 0, used)


def test_rank_kl_is_0_where_the_student_ranks_like_the_teacher_and_without_candidates():
    cosines = torch.rand(3, 4, requires_grad=True)
    assert float(rank_kl_loss(cosines, cosines.detach() / 0.05)[0]) == pytest.approx(0, abs=1e-6)
    loss, n = rank_kl_loss(cosines, torch.full((3, 4), math.nan))
    loss.backward()
    assert n == 0 and float(loss) == 0 and not cosines.grad.any()
