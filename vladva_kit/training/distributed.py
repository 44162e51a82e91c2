"""Train on several processes: gather embeddings with their gradients; the mean of the losses is the global loss.

Each rank computes its own rows of the loss against the columns of all ranks, so it holds (own, global) logits and never
(global, global). A rank's loss is scaled by `ranks × its share of the rows`: the mean over ranks is then what one
process would compute on the same global batch, for the loss and for every gradient, including the temperature's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vladva_kit.models.device import rank, world_size
from vladva_kit.training.distillation import BatchScores
from vladva_kit.training.losses import contrastive_loss, rank_kl_loss


def gather_counts(counts: Sequence[int], device: torch.device) -> list[list[int]]:
    """Gather every rank's counts, [rank][which]: `gather_counts([n_rows, n_tokens], device)`."""
    if world_size() == 1:
        return [list(counts)]
    local = torch.tensor(counts, device=device)
    gathered = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(gathered, local)
    return [counts.tolist() for counts in gathered]


def any_rank(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set on any rank; call it on every rank."""
    return any(value for (value,) in gather_counts([int(flag)], device))


def first_ranks(value: Any) -> Any:
    """Return rank 0's value on every rank, so that all decide alike: `first_ranks({"score": 0.5})`."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def mean_over_ranks(metrics: dict[str, Tensor]) -> dict[str, float]:
    """Average scalars over the ranks: {"loss": tensor(2.0)} -> {"loss": 2.0}."""
    values = torch.stack([value.detach().float().reshape(()) for value in metrics.values()])
    if world_size() > 1:
        dist.all_reduce(values)
        values = values / world_size()
    return dict(zip(metrics, values.tolist(), strict=True))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average `.grad` over the ranks, with one call per dtype; a missing gradient counts as 0.

    Only the adapter is trained, a few MB: one call per step costs less than one call per chunk.
    """
    if world_size() == 1:
        return
    by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            by_dtype.setdefault(parameter.dtype, []).append(parameter)
    for group in by_dtype.values():
        flat = torch.cat([
            (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).reshape(-1)
            for parameter in group
        ])  # fmt: skip
        dist.all_reduce(flat)
        flat /= world_size()
        for parameter, part in zip(group, flat.split([parameter.numel() for parameter in group]), strict=True):
            parameter.grad = part.view_as(parameter).clone()


def run_in_forward(wrapped: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function as the wrapped model's forward, so that FSDP gathers the weights.

    run_in_forward(model, step_losses, embedder, batch)

    DDP does not need this: the kit averages gradients itself (`average_gradients`).
    """
    inner = getattr(wrapped, "module", wrapped)  # DeepSpeed's engine holds the model, FSDP2 is the model
    inner.forward = lambda *inputs: function(*inputs)  # an nn.Module assigned here would be registered as a submodule
    try:
        return wrapped(*arguments)
    finally:
        del inner.forward


def run_directly(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function directly: how a step runs if the model is not wrapped."""
    return function(*arguments)


class _GatherRows(torch.autograd.Function):
    """all_gather for ranks with different numbers of rows; torch's own drops gradients and needs equal sizes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        start = sum(counts[: rank()])
        ctx.local = slice(start, start + len(rows))
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)  # every rank's loss uses these rows
        return gradient[ctx.local], None


def gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """Gather the rows of all ranks, (sum of counts, …), in rank order; each gradient flows back to the row's owner.

    gather_rows(embeddings, counts=[3, 2])      # two ranks with 3 and 2 rows
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
    """Compute this rank's part of the contrastive loss and accuracy; their means over the ranks are the global values.

        contrastive_over_ranks(images, texts, temperature, batch.keys)   # (n, dim), unit length

    keys: (n, 2) caption and image keys: pairs with the same caption or the same image are not each other's negatives,
    whatever rank they are on. extra_texts: (m, dim) hard negatives for the images of all ranks, with their caption keys
    (m,). A rank may have no rows but must take part. The loss is 0 if there are fewer than two pairs in total.
    """
    extra_texts = texts[:0] if extra_texts is None else extra_texts
    extra_keys = keys[:0, 0] if extra_keys is None else extra_keys
    sizes = gather_counts([len(images), len(extra_texts)], images.device)
    total = sum(n for n, _ in sizes)
    if total < 2:
        zero = (images.sum() + texts.sum() + extra_texts.sum()) * 0.0  # keeps the graph
        return zero, zero.detach()
    rows = gather_rows(torch.cat([images, texts, extra_texts]), [2 * n + m for n, m in sizes])
    parts = rows.split([size for n, m in sizes for size in (n, n, m)])
    gathered = torch.cat(parts[0::3]), torch.cat(parts[1::3])
    keys, extra_keys = keys.to(images.device), extra_keys.to(images.device)
    all_keys, all_extra_keys = gather_rows(keys, [n for n, _ in sizes]), gather_rows(extra_keys, [m for _, m in sizes])
    row_offset = sum(n for n, _ in sizes[: rank()])
    duplicates = (keys[:, None] == all_keys).any(-1)
    duplicates[torch.arange(len(images)), row_offset + torch.arange(len(images))] = False
    extra_duplicates = keys[:, None, 0] == all_extra_keys
    with torch.autocast(images.device.type, enabled=False):  # cosines in bfloat16 would tie
        loss, accuracy = contrastive_loss(
            images, texts, scale, duplicates, torch.cat(parts[2::3]), extra_duplicates, gathered, row_offset
        )
    share = len(images) * len(sizes) / total
    return loss * share, accuracy * share


def rank_kl_over_ranks(images: Tensor, texts: Tensor, captions: Tensor, teacher: BatchScores) -> Tensor:
    """Compute this rank's part of the distillation loss; its mean over the ranks is the global value.

        rank_kl_over_ranks(images, texts, batch.keys[:, 0], batch.teacher)    # (n, dim), unit length

    captions: (n,) caption keys; a caption that several pairs share is one candidate, whatever rank they are on. Each
    image's candidates may be on any rank. A rank may have no rows but must take part.
    """
    sizes = [n for (n,) in gather_counts([len(images)], images.device)]
    all_texts, all_captions = gather_rows(texts, sizes), gather_rows(captions.to(images.device), sizes)
    with torch.autocast(images.device.type, enabled=False):  # cosines in bfloat16 would tie
        cosines = images @ all_texts.T
        loss, n = rank_kl_loss(cosines, teacher.dense(len(images), all_captions))
    total = sum(rows for (rows,) in gather_counts([n], images.device))
    return loss * (n * len(sizes) / max(total, 1))
