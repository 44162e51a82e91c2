"""Several processes as one: embeddings gathered with their gradients, and losses whose mean over ranks is the batch's.

Each rank computes its own rows of the loss against everybody's columns, so a rank holds (own, global) logits and never
(global, global). A rank's figure is scaled by `ranks × its share`: the mean over ranks is then what one process would
get on the same global batch, for the loss and for every gradient, the temperature's too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vladva_kit.models.device import rank, world_size
from vladva_kit.training.losses import contrastive


def counts_of_all(counts: Sequence[int], device: torch.device) -> list[list[int]]:
    """Every rank's counts, [rank][which]: `counts_of_all([rows, tokens], device)`."""
    if world_size() == 1:
        return [list(counts)]
    own = torch.tensor(counts, device=device)
    everyone = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(everyone, own)
    return [counts.tolist() for counts in everyone]


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether any rank says so; every rank must ask."""
    return any(said for (said,) in counts_of_all([int(flag)], device))


def mean_over_ranks(figures: dict[str, Tensor]) -> dict[str, float]:
    """Scalars, averaged over the ranks: {"loss": tensor(2.0)} -> {"loss": 2.0}."""
    values = torch.stack([value.detach().float().reshape(()) for value in figures.values()])
    if world_size() > 1:
        dist.all_reduce(values)
        values = values / world_size()
    return dict(zip(figures, values.tolist(), strict=True))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Averages over the ranks what each has in `.grad`, in one call a dtype; a missing gradient counts as 0.

    The kit trains an adapter of a few MB on a frozen base: one call a step costs less than a call a chunk would.
    """
    if world_size() == 1:
        return
    by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            by_dtype.setdefault(parameter.dtype, []).append(parameter)
    for learning in by_dtype.values():
        flat = torch.cat([
            (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).reshape(-1)
            for parameter in learning
        ])  # fmt: skip
        dist.all_reduce(flat)
        flat /= world_size()
        for parameter, part in zip(learning, flat.split([parameter.numel() for parameter in learning]), strict=True):
            parameter.grad = part.view_as(parameter).clone()


def inside(wrapped: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in place of a wrapped model's forward, so that FSDP has gathered the weights when it runs.

    inside(model, step_losses, embedder, batch)

    DDP needs none of this: the kit averages gradients itself (see `average_gradients`).
    """
    inner = getattr(wrapped, "module", wrapped)  # DeepSpeed's engine holds the model, FSDP2 is the model
    inner.forward = lambda *given: function(*given)  # a module set here by itself would become a part of the model
    try:
        return wrapped(*arguments)
    finally:
        del inner.forward


class _GatherRows(torch.autograd.Function):
    """all_gather for ranks with different numbers of rows; torch's own drops gradients and wants equal ones."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        start = sum(counts[: rank()])
        ctx.own = slice(start, start + len(rows))
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)  # every rank's loss has looked at these rows
        return gradient[ctx.own], None


def gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """Everybody's rows, (sum of counts, …), in the ranks' order; a gradient flows back to the rank that owns the row.

    gather_rows(embeddings, counts=[3, 2])      # on two ranks with 3 and 2 rows
    """
    return rows if world_size() == 1 else _GatherRows.apply(rows, counts)


def contrastive_over_ranks(
    images: Tensor,
    texts: Tensor,
    scale: Callable[[Tensor], Tensor],
    keys: Tensor,
    extra_texts: Tensor | None = None,
    extra_keys: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The contrastive loss over all ranks' pairs, and the accuracy: each to be averaged over the ranks.

        contrastive_over_ranks(images, texts, temperature, caption_keys(captions))   # (n, dim), unit length

    keys: (n,) of the captions, so that identical ones are not each other's negatives, whatever rank they are on;
    extra_texts: (m, dim) hard negatives, for the images of all ranks. A rank may have no rows, but must take part.
    With fewer than two pairs in all, the loss is 0.
    """
    extra_texts = texts[:0] if extra_texts is None else extra_texts
    extra_keys = keys[:0] if extra_keys is None else extra_keys
    sizes = counts_of_all([len(images), len(extra_texts)], images.device)
    total = sum(n for n, _ in sizes)
    if total < 2:
        nothing = (images.sum() + texts.sum() + extra_texts.sum()) * 0.0  # keeps the graph
        return nothing, nothing.detach()
    rows = gather_rows(torch.cat([images, texts, extra_texts]), [2 * n + m for n, m in sizes])
    parts = rows.split([size for n, m in sizes for size in (n, n, m)])
    everyone = torch.cat(parts[0::3]), torch.cat(parts[1::3])
    all_keys = gather_rows(torch.cat([keys, extra_keys]).to(images.device), [n + m for n, m in sizes])
    key_parts = all_keys.split([size for n, m in sizes for size in (n, m)])
    first = sum(n for n, _ in sizes[: rank()])
    same = keys.to(images.device)[:, None] == torch.cat(key_parts[0::2])
    same[torch.arange(len(images)), first + torch.arange(len(images))] = False
    own_extra = keys.to(images.device)[:, None] == torch.cat(key_parts[1::2])
    with torch.autocast(images.device.type, enabled=False):  # cosines in bfloat16 would be ties
        loss, accuracy = contrastive(
            images, texts, scale, same, torch.cat(parts[2::3]), own_extra, everyone=everyone, first=first
        )
    share = len(images) * len(sizes) / total
    return loss * share, accuracy * share
