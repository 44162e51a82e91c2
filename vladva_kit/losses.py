"""The two losses of VladVA, each a plain function on tensors (paper, sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vladva_kit.prompts import IGNORED


def same_caption(captions: Sequence[str]) -> Tensor:
    """(n, n) bool: where two rows carry the same caption, the diagonal left out.

    same_caption(["a dog", "a cat", "A dog "])    # True at (0, 2) and (2, 0)
    """
    return same_text(captions, captions) & ~torch.eye(len(captions), dtype=torch.bool)


def same_text(one: Sequence[str], other: Sequence[str]) -> Tensor:
    """(n, m) bool: where two texts are the same, whatever their case and spaces."""
    plain = [[" ".join(text.lower().split()) for text in texts] for texts in (one, other)]
    return torch.tensor([[first == second for second in plain[1]] for first in plain[0]], dtype=torch.bool)


def contrastive(
    images: Tensor,
    texts: Tensor,
    scale: Callable[[Tensor], Tensor],
    not_negative: Tensor | None = None,
    extra_texts: Tensor | None = None,
    not_extra: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Symmetric cross-entropy over a batch's cosines; returns the loss and the in-batch accuracy, 0–1.

        contrastive(images, texts, lambda cosines: cosines / 0.07)      # images, texts (n, dim), unit length

    scale: cosines to logits (a temperature). not_negative: (n, n) bool, pairs that count neither way, such as identical
    captions. extra_texts: (m, dim) hard negatives, for the images only; not_extra: (n, m) bool, where one of
    them is a row's own caption.
    Raises ValueError when there are fewer than two pairs: with nothing to tell apart the loss is 0.
    """
    if len(images) < 2:
        raise ValueError(f"a contrastive loss over {len(images)} pair: at least 2 are needed, more teach more")
    logits = scale(images @ texts.T)
    if not_negative is not None:
        logits = logits.masked_fill(not_negative.to(logits.device), float("-inf"))
    by_image = logits
    if extra_texts is not None:
        extra = scale(images @ extra_texts.T)
        if not_extra is not None:
            extra = extra.masked_fill(not_extra.to(extra.device), float("-inf"))
        by_image = torch.cat([logits, extra], dim=1)
    targets = torch.arange(len(images), device=logits.device)
    loss = (F.cross_entropy(by_image, targets) + F.cross_entropy(logits.T, targets)) / 2
    right = (by_image.argmax(1) == targets).float().mean() + (logits.argmax(0) == targets).float().mean()
    return loss, right.detach() / 2


def next_token(
    hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], chunk: int = 8192
) -> tuple[Tensor, int]:
    """Mean cross-entropy of the long captions' tokens; returns the loss and the number of tokens.

        next_token(hidden, labels, model.lm_head)    # hidden (n, length, dim), labels (n, length)

    Only states that predict a caption token meet the head, `chunk` at a time, so that logits are never held for
    prompts, pictures and padding. A batch without long captions gives a loss of 0.
    """
    learnt = labels[:, 1:] != IGNORED
    states, targets = hidden[:, :-1][learnt], labels[:, 1:][learnt]
    if not len(targets):
        return hidden.sum() * 0.0, 0
    summed = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(targets), chunk):
        logits = head(states[start : start + chunk]).float()
        summed = summed + F.cross_entropy(logits, targets[start : start + chunk], reduction="sum")
    return summed / len(targets), len(targets)
