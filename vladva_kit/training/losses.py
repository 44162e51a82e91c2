"""The two losses of VladVA, each a plain function on tensors (paper, sections 3.2 and 3.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vladva_kit.embedder.prompts import IGNORE_INDEX

MAX_LOGITS_PER_CHUNK = (
    2**25
)  # numbers that are held at a time: 128 MB in float32, and as much again for what is made of them


def same_caption_mask(captions: Sequence[str]) -> Tensor:
    """(n, n) bool: where two rows carry the same caption, the diagonal left out.

    same_caption_mask(["a dog", "a cat", "A dog "])    # True at (0, 2) and (2, 0)
    """
    return same_text_mask(captions, captions) & ~torch.eye(len(captions), dtype=torch.bool)


def same_text_mask(one: Sequence[str], other: Sequence[str]) -> Tensor:
    """(n, m) bool: where two texts are the same, whatever their case and spaces."""
    return caption_keys(one)[:, None] == caption_keys(other)


def caption_keys(captions: Sequence[str]) -> Tensor:
    """(n,) int64: a number for each caption, the same for the same words; ranks exchange these, not texts.

    caption_keys(["A dog", "a  dog"])    # twice the same number
    """
    plain = [" ".join(caption.lower().split()).encode("utf-8", "replace") for caption in captions]
    digests = [hashlib.blake2b(caption, digest_size=8).digest() for caption in plain]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.long)


def contrastive(
    images: Tensor,
    texts: Tensor,
    scale: Callable[[Tensor], Tensor],
    not_negative: Tensor | None = None,
    extra_texts: Tensor | None = None,
    not_extra: Tensor | None = None,
    everyone: tuple[Tensor, Tensor] | None = None,
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """Symmetric cross-entropy over a batch's cosines; returns the loss and the in-batch accuracy, 0–1.

        contrastive(images, texts, lambda cosines: cosines / 0.07)      # images, texts (n, dim), unit length

    scale: cosines to logits (a temperature). not_negative: (n, n) bool, pairs that count neither way, such as identical
    captions. extra_texts: (m, dim) hard negatives, for the images only; not_extra: (n, m) bool, where one of
    them is a row's own caption. everyone: the images and texts (global, dim) of all ranks, of which these rows are
    those from `first` on; masks then have that many columns.
    Raises ValueError when there are fewer than two pairs: with nothing to tell apart the loss is 0.
    """
    all_images, all_texts = everyone or (images, texts)
    if len(all_images) < 2:
        raise ValueError(f"a contrastive loss over {len(all_images)} pair: at least 2 are needed, more teach more")
    by_image = _masked(scale(images @ all_texts.T), not_negative)
    by_text = _masked(scale(texts @ all_images.T), not_negative)
    if extra_texts is not None and len(extra_texts):
        by_image = torch.cat([by_image, _masked(scale(images @ extra_texts.T), not_extra)], dim=1)
    targets = first + torch.arange(len(images), device=images.device)
    rows = max(len(images), 1)  # a rank may have none
    loss = F.cross_entropy(by_image, targets, reduction="sum") + F.cross_entropy(by_text, targets, reduction="sum")
    right = (by_image.argmax(1) == targets).float().sum() + (by_text.argmax(1) == targets).float().sum()
    return loss / (2 * rows), right.detach() / (2 * rows)


def _masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    return logits if mask is None else logits.masked_fill(mask.to(logits.device), float("-inf"))


def next_token(
    hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], chunk: int | None = None
) -> tuple[Tensor, int]:
    """Mean cross-entropy of the long captions' tokens; returns the loss and the number of tokens.

        next_token(hidden, labels, model.lm_head)    # hidden (n, length, dim), labels (n, length)

    Only states that predict a caption token meet the head, `chunk` at a time (None: as many as give MAX_LOGITS_PER_CHUNK numbers), so
    that logits are never held for prompts, pictures and padding, nor for more than one chunk, however many words the
    LVLM knows. A batch without long captions gives a loss of 0.
    """
    learned = labels[:, 1:] != IGNORE_INDEX
    states, targets = hidden[:, :-1][learned], labels[:, 1:][learned]
    if not len(targets):
        return hidden.sum() * 0.0, 0
    with torch.enable_grad():
        none = head(states[:0].detach())  # no logits: only how many there would be, and whether the head itself learns
    chunk = chunk or max(1, MAX_LOGITS_PER_CHUNK // none.shape[-1])
    if none.requires_grad:
        summed = hidden.new_zeros((), dtype=torch.float32)
        for part in range(0, len(targets), chunk):
            rows = slice(part, part + chunk)
            summed = summed + checkpoint(_summed, states[rows], targets[rows], head, use_reentrant=False)
    else:
        summed = _ThroughFrozenHead.apply(states, targets, head, chunk)
    return summed / len(targets), len(targets)


def _summed(states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    return F.cross_entropy(head(states).float(), targets, reduction="sum")


class _ThroughFrozenHead(torch.autograd.Function):
    """The summed cross-entropy of states (n, dim) behind a head that does not learn, a chunk of logits at a time.

    What goes back to a state depends on its own logits only, so it is computed while they are there: none are kept for
    the way back, and none are computed twice.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], chunk: int) -> Tensor:
        summed, gradients = states.new_zeros((), dtype=torch.float32), []
        for part in range(0, len(targets), chunk):
            rows, learns = slice(part, part + chunk), ctx.needs_input_grad[0]
            with torch.set_grad_enabled(learns):
                own = states[rows].detach().requires_grad_(learns)
                loss = _summed(own, targets[rows], head)
            if learns:
                gradients += torch.autograd.grad(loss, own)
            summed += loss.detach()
        ctx.save_for_backward(*gradients)
        return summed

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        return torch.cat(ctx.saved_tensors) * upstream[0], None, None, None
