"""The two losses of VladVA (paper, sections 3.2 and 3.3) and the distillation loss, plain functions on tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vladva_kit.data.hard_batches import caption_keys
from vladva_kit.embedder.activations import MAX_LOGITS_PER_CHUNK
from vladva_kit.embedder.prompts import IGNORE_INDEX

RANK_TEMPERATURE = 0.05  # of the student's cosines (tau in CORE, arXiv 2609.04083)


def same_caption_mask(captions: Sequence[str]) -> Tensor:
    """Mark pairs of rows that have the same caption: (n, n) bool, False on the diagonal.

    same_caption_mask(["a dog", "a cat", "A dog "])    # True at (0, 2) and (2, 0)
    """
    keys = caption_keys(captions)
    return (keys[:, None] == keys) & ~torch.eye(len(keys), dtype=torch.bool)


def contrastive_loss(
    images: Tensor,
    texts: Tensor,
    scale: Callable[[Tensor], Tensor],
    duplicate_mask: Tensor | None = None,
    extra_texts: Tensor | None = None,
    extra_mask: Tensor | None = None,
    gathered: tuple[Tensor, Tensor] | None = None,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Compute the symmetric cross-entropy over cosine similarities; return the loss and the in-batch accuracy (0 to 1).

        contrastive_loss(images, texts, lambda cosines: cosines / 0.07)      # images, texts: (n, dim), unit length

    scale: maps cosines to logits, such as a temperature. duplicate_mask: (n, n) bool, pairs that are excluded in both
    directions, such as identical captions. extra_texts: (m, dim) hard negative captions, which both an image and its
    caption have to be less similar to than to each other; extra_mask: (n, m) bool, True where one of them is the row's
    own caption. gathered: images and texts (global, dim) of all ranks;
    this rank's rows start at `row_offset`, and the masks then have that many columns.
    Raises ValueError for fewer than two pairs: without negatives the loss is 0.
    """
    all_images, all_texts = gathered or (images, texts)
    if len(all_images) < 2:
        raise ValueError(f"a contrastive loss needs at least 2 pairs, got {len(all_images)}: use a larger batch")
    by_image = _masked(scale(images @ all_texts.T), duplicate_mask)
    by_text = _masked(scale(texts @ all_images.T), duplicate_mask)
    if extra_texts is not None and len(extra_texts):
        by_image = torch.cat([by_image, _masked(scale(images @ extra_texts.T), extra_mask)], dim=1)
        by_text = torch.cat([by_text, _masked(scale(texts @ extra_texts.T), extra_mask)], dim=1)
    targets = row_offset + torch.arange(len(images), device=images.device)
    n_rows = max(len(images), 1)  # a rank may have no rows
    loss = F.cross_entropy(by_image, targets, reduction="sum") + F.cross_entropy(by_text, targets, reduction="sum")
    correct = (by_image.argmax(1) == targets).float().sum() + (by_text.argmax(1) == targets).float().sum()
    return loss / (2 * n_rows), correct.detach() / (2 * n_rows)


def _masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    return logits if mask is None else logits.masked_fill(mask.to(logits.device), float("-inf"))


def rank_kl_loss(cosines: Tensor, teacher_logits: Tensor, temperature: float = RANK_TEMPERATURE) -> tuple[Tensor, int]:
    """Compute Rank-KL, how far images rank captions from how a teacher does; return the loss and the number of images.

        rank_kl_loss(images @ texts.T, teacher_scores / 0.2)    # both (n_images, n_captions); NaN: not a candidate

    The loss is the mean over the images i with at least two candidates C_i of

        KL(p_i || q_i), with p_i the softmax of the teacher's logits and q_i that of cosines / temperature, over C_i

    Other rows contribute nothing; without any the loss is 0. The student learns how much better one caption fits than
    another, where a contrastive loss only learns which is right. Source: CORE (arXiv 2609.04083), section 3.4,
    equations 1 to 4, with both temperatures 0.05 and lists of five (appendix A.2). There a text ranks five images by
    the score of a reranker made of the same backbone; here an image ranks captions by their likelihood, whose scale is
    another, so the teacher's temperature is a setting. In CORE, a contrastive loss on the same lists lowers the
    embedder's score from .604 to .553, and Rank-KL raises it to .641 (table 6).
    """
    is_candidate = ~teacher_logits.isnan()
    rows = is_candidate.sum(1) >= 2
    n, excluded = int(rows.sum()), ~is_candidate[rows]
    if not n:
        return cosines.sum() * 0.0, 0
    teacher, student = (
        _masked(logits[rows].float(), excluded).log_softmax(1).masked_fill(excluded, 0.0)
        for logits in (teacher_logits, cosines / temperature)
    )
    return (teacher.exp().masked_fill(excluded, 0.0) * (teacher - student)).sum() / n, n


def next_token_loss(
    hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], chunk: int | None = None
) -> tuple[Tensor, int]:
    """Compute the mean cross-entropy of the long captions' tokens; return the loss and the number of tokens.

        next_token_loss(hidden, labels, model.lm_head)    # hidden: (n, length, dim), labels: (n, length)

    Only states that predict a caption token pass through the head, `chunk` at a time (by default as many as give
    MAX_LOGITS_PER_CHUNK logits). Logits are never computed for prompts, images and padding, and at most one chunk is in
    memory whatever the vocabulary size. The loss is 0 for a batch without long captions.
    """
    is_target = labels[:, 1:] != IGNORE_INDEX
    states, targets = hidden[:, :-1][is_target], labels[:, 1:][is_target]
    if not len(targets):
        return hidden.sum() * 0.0, 0
    with torch.enable_grad():
        empty = head(states[:0].detach())  # no rows: shows the vocabulary size and whether the head is trainable
    chunk = chunk or max(1, MAX_LOGITS_PER_CHUNK // empty.shape[-1])
    if empty.requires_grad:
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(targets), chunk):
            rows = slice(start, start + chunk)
            total = total + checkpoint(_summed_cross_entropy, states[rows], targets[rows], head, use_reentrant=False)
    else:
        total = _FrozenHeadCrossEntropy.apply(states, targets, head, chunk)
    return total / len(targets), len(targets)


def _summed_cross_entropy(states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    return F.cross_entropy(head(states).float(), targets, reduction="sum")


class _FrozenHeadCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of states (n, dim) through a frozen head, one chunk of logits at a time.

    Each gradient depends only on its own logits, so it is computed in the forward pass: logits are neither stored for
    the backward pass nor computed twice.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], chunk: int) -> Tensor:
        total, gradients = states.new_zeros((), dtype=torch.float32), list[Tensor]()
        needs_gradient = ctx.needs_input_grad[0]
        for start in range(0, len(targets), chunk):
            rows = slice(start, start + chunk)
            with torch.set_grad_enabled(needs_gradient):
                leaf = states[rows].detach().requires_grad_(needs_gradient)
                loss = _summed_cross_entropy(leaf, targets[rows], head)
            if needs_gradient:
                gradients += torch.autograd.grad(loss, leaf)
            total += loss.detach()
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        return torch.cat(ctx.saved_tensors) * upstream[0], None, None, None
