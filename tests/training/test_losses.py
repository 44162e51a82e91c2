"""The losses, against plain loops."""

import math

import pytest
import torch
from torch.nn import functional as F

from vladva_kit.embedder.prompts import IGNORE_INDEX
from vladva_kit.training.losses import contrastive, next_token, same_caption_mask, same_text_mask


def unit(n, dim, seed):
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def looped(images, texts, temperature, skipped, extra=()):
    """The symmetric loss by the book, a pair at a time."""
    n, total = len(images), 0.0
    for i in range(n):
        for forward in (True, False):
            scores = []
            for j in range(n):
                if (i, j) not in skipped:
                    pair = (images[i], texts[j]) if forward else (images[j], texts[i])
                    scores.append((j == i, float(pair[0] @ pair[1]) / temperature))
            scores += [(False, float(images[i] @ text) / temperature) for text in extra] if forward else []
            total -= next(s for own, s in scores if own) - math.log(sum(math.exp(s) for _, s in scores))
    return total / (2 * n)


def test_contrastive_equals_a_plain_loop():
    images, texts = unit(5, 8, 0), unit(5, 8, 1)
    loss, _ = contrastive(images, texts, lambda cosines: cosines / 0.07)
    assert float(loss) == pytest.approx(looped(images, texts, 0.07, set()), abs=1e-5)


def test_identical_captions_are_not_each_others_negatives():
    captions = ["a dog", "a cat", " A  dog", "a car"]
    images, texts = unit(4, 8, 0), unit(4, 8, 1)
    mask = same_caption_mask(captions)
    assert mask.nonzero().tolist() == [[0, 2], [2, 0]]
    loss, _ = contrastive(images, texts, lambda cosines: cosines / 0.1, mask)
    assert float(loss) == pytest.approx(looped(images, texts, 0.1, {(0, 2), (2, 0)}), abs=1e-5)


def test_hard_negatives_stand_beside_the_captions_for_the_images_only():
    images, texts, extra = unit(3, 8, 0), unit(3, 8, 1), unit(2, 8, 2)
    loss, _ = contrastive(images, texts, lambda cosines: cosines / 0.1, extra_texts=extra)
    assert float(loss) == pytest.approx(looped(images, texts, 0.1, set(), list(extra)), abs=1e-5)


def test_a_hard_negative_that_is_a_rows_own_caption_does_not_count_for_that_row():
    images, texts, extra = unit(2, 8, 0), unit(2, 8, 1), unit(1, 8, 2)
    own = same_text_mask(["A dog", "a cat"], ["a dog"])
    assert own.tolist() == [[True], [False]]
    loss, _ = contrastive(images, texts, lambda cosines: cosines / 0.1, None, extra, own)
    whole = looped(images, texts, 0.1, set(), list(extra)) * 4
    first = torch.cat([images[:1] @ texts.T, images[:1] @ extra.T], 1)[0] / 0.1
    without = whole - float(first.logsumexp(0) - first[:2].logsumexp(0))
    assert float(loss) == pytest.approx(without / 4, abs=1e-5)


def test_accuracy_is_the_share_found_both_ways():
    images = torch.eye(4)
    texts = torch.eye(4)[[0, 1, 3, 2]]  # the last two are exchanged
    _, accuracy = contrastive(images, texts, lambda cosines: cosines)
    assert float(accuracy) == pytest.approx(0.5)


def test_one_pair_alone_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        contrastive(unit(1, 4, 0), unit(1, 4, 1), lambda cosines: cosines)


def long_captions():
    """Random states (3, 6, 8) that learn, and labels with 5 tokens among them."""
    labels = torch.full((3, 6), IGNORE_INDEX)
    labels[0, 2:5], labels[2, 4:] = torch.tensor([1, 7, 3]), torch.tensor([2, 10])
    return torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(), labels


@pytest.mark.parametrize("learns", [False, True], ids=["a frozen head", "a head that learns"])
@pytest.mark.parametrize("chunk", [1, 3, 100, None])
def test_next_token_and_its_gradients_are_those_of_all_logits_whatever_the_chunk(chunk, learns):
    (hidden, labels), head = long_captions(), torch.nn.Linear(8, 11).requires_grad_(learns)
    given = [hidden, *head.parameters()] if learns else [hidden]
    loss, n = next_token(hidden, labels, head, chunk)
    whole = F.cross_entropy(head(hidden)[:, :-1].reshape(-1, 11), labels[:, 1:].reshape(-1), ignore_index=IGNORE_INDEX)
    assert n == 5 and torch.allclose(loss, whole, atol=1e-6)
    for ours, theirs in zip(torch.autograd.grad(3 * loss, given), torch.autograd.grad(3 * whole, given), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6) and float(theirs.abs().max()) > 0


def test_without_a_way_back_next_token_is_the_same():
    (hidden, labels), head = long_captions(), torch.nn.Linear(8, 11).requires_grad_(False)
    expected = float(next_token(hidden, labels, head)[0])
    with torch.no_grad():
        assert float(next_token(hidden, labels, head)[0]) == pytest.approx(expected)
    with torch.inference_mode():
        assert float(next_token(hidden.detach(), labels, head, 2)[0]) == pytest.approx(expected)


def test_in_bfloat16_gradients_keep_their_kind_and_are_near():
    (hidden, labels), head = long_captions(), torch.nn.Linear(8, 11).requires_grad_(False)
    (exact,) = torch.autograd.grad(next_token(hidden, labels, head, 2)[0], hidden)
    rounded = hidden.detach().bfloat16().requires_grad_()
    (near,) = torch.autograd.grad(next_token(rounded, labels, head.bfloat16(), 2)[0], rounded)
    assert near.dtype == torch.bfloat16 and torch.allclose(near.float(), exact, atol=0.02)


def test_the_head_meets_caption_positions_only_once_and_a_chunk_at_a_time():
    (hidden, labels), met = long_captions(), []

    def head(states):
        met.append(len(states))
        return states @ torch.ones(8, 11)

    loss, _ = next_token(hidden, labels, head, chunk=2)
    loss.backward()
    assert [rows for rows in met if rows] == [2, 2, 1]


def test_the_wider_the_vocabulary_the_fewer_states_meet_it_at_once(monkeypatch):
    monkeypatch.setattr("vladva_kit.training.losses.MAX_LOGITS_PER_CHUNK", 44)
    (hidden, labels), met = long_captions(), []
    next_token(hidden, labels, lambda states: met.append(len(states)) or states @ torch.ones(8, 11))
    assert [rows for rows in met if rows] == [4, 1]


def test_a_batch_without_long_captions_costs_nothing():
    loss, n = next_token(torch.randn(2, 5, 4), torch.full((2, 5), IGNORE_INDEX), torch.nn.Linear(4, 3))
    assert n == 0 and float(loss) == 0.0
