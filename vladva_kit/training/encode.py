"""Encode a training batch: one forward pass for the images with their long captions, one for the short captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from vladva_kit.embedder.embedder import Embedder, summary_embeddings
from vladva_kit.embedder.prompts import IGNORE_INDEX, ModelInputs, text_inputs
from vladva_kit.models.device import world_size
from vladva_kit.training.collator import Batch
from vladva_kit.training.distributed import any_rank, gather_counts
from vladva_kit.training.features import take_rows, with_features
from vladva_kit.training.losses import next_token_loss


@dataclass(frozen=True)
class EncodedBatch:
    """Embeddings and next-token loss of one batch: the input of `step_losses`."""

    images: Tensor  # (n_images, dim) unit length
    texts: Tensor  # (n_texts, dim) unit length
    negatives: Tensor | None  # (n_negatives, dim) unit length
    next_token: Tensor  # scalar: this rank's part of the next-token loss; the mean over ranks is the global batch's
    scale: Callable[[Tensor], Tensor]  # cosines to logits


def encode_batch(embedder: Embedder, batch: Batch, next_token: bool = True) -> EncodedBatch:
    """Encode all rows of a batch in one graph (paper, section 3.2).

    encode_batch(embedder, batch).images    # (n_images, dim)

    The summary token's state gives the image embedding, and the states of the long caption after it give the next-token
    loss, from the same forward pass.
    """
    if batch.features is None:
        inputs = batch.images.to(embedder.device)
    else:
        inputs = with_features(embedder, batch.images, batch.features, range(len(batch.images.summary_positions)))
    images, loss, n_targets = encode_rows(embedder, inputs, next_token)
    part = images.sum() * 0.0  # keeps the graph if the batch has no long captions
    if next_token and (total := count_target_tokens(inputs, embedder.device)):
        part = part + loss * (n_targets * world_size() / total)
    texts, negatives = _encode_texts(embedder, batch.texts), _encode_texts(embedder, batch.negatives)
    temperature = cast(nn.Module, embedder.lvlm.model.temperature)
    return EncodedBatch(images, images[:0] if texts is None else texts, negatives, part, temperature)


def _encode_texts(embedder: Embedder, texts: ModelInputs | None) -> Tensor | None:
    """Encode texts; None if no rank has any.

    Under FSDP every rank takes part in every forward pass, so a rank without texts encodes a placeholder.
    """
    if not any_rank(texts is not None, embedder.device):
        return None
    inputs = texts or text_inputs(embedder.lvlm.processor.tokenizer, [""], embedder.text_prompt)
    vectors = encode_rows(embedder, inputs.to(embedder.device))[0]
    return vectors[:0] if texts is None else vectors


def encode_rows(embedder: Embedder, inputs: ModelInputs, next_token: bool = False) -> tuple[Tensor, Tensor, int]:
    """Run one forward pass; return summary embeddings (batch, dim), the mean next-token loss and its token count.

    encode_rows(embedder, inputs.to(embedder.device), next_token=True)
    """
    hidden = embedder.hidden_states(inputs)
    loss, n_targets = hidden.new_zeros((), dtype=torch.float32), 0
    if next_token and inputs.labels is not None:
        loss, n_targets = next_token_loss(hidden, inputs.labels, embedder.logits)
    return summary_embeddings(hidden, inputs), loss, n_targets


@torch.no_grad()
def non_finite_rows(embedder: Embedder, batch: Batch) -> str:
    """Name the pairs of a batch whose image or captions alone give values that are not finite; empty if none does.

    non_finite_rows(embedder, batch)    # "image 2 (train/metadata.jsonl, line 3)"
    """
    image_token, found, n = getattr(embedder.lvlm.model.config, "image_token_id", None), [], len(batch.names)
    owners = {"image": list(range(n)), "short caption": batch.paired.tolist()}
    for kind, inputs in (("image", batch.images), ("short caption", batch.texts)):
        if inputs is None:
            continue
        for row in range(len(inputs.summary_positions)):
            one = take_rows(inputs, [row], image_token)
            if kind == "image" and batch.features is not None:
                one = with_features(embedder, one, batch.features, [row])
            vectors, loss, _ = encode_rows(embedder, one.to(embedder.device), next_token=True)
            if not bool(vectors.isfinite().all() and loss.isfinite()):
                found.append(f"{kind} {owners[kind][row]} ({batch.names[owners[kind][row]]})")
    if len(found) == n + len(batch.paired):
        return "every image and caption of the batch: a weight is not finite"
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def count_target_tokens(images: ModelInputs, device: torch.device) -> int:
    """Count the long captions' target tokens over all ranks; call it on every rank."""
    local = 0 if images.labels is None else int((images.labels[:, 1:] != IGNORE_INDEX).sum())
    return sum(count for (count,) in gather_counts([local], device))
