"""Cached gradients: a contrastive batch of any size in the memory of one chunk (GradCache, arXiv 2101.06983).

(1) Encode each chunk without a graph; remember the random state before it.
(2) Compute the losses over all embeddings, with the same function as a plain step, and the gradient of each embedding.
(3) Encode each chunk again, with a graph and the same random state, and backpropagate its embeddings' gradients. The
    next-token loss needs no other row, so it is added here and its logits are those of one chunk.

The gradients equal the full batch's. A frozen vision encoder runs once, not in both (1) and (3), unless its
features take too much memory (`keep_features`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vladva_kit.embedder.embedder import Embedder
from vladva_kit.models.device import is_memory_shortage, world_size
from vladva_kit.training.collator import Batch
from vladva_kit.training.distributed import any_rank, gather_counts, run_directly
from vladva_kit.training.encode import EncodedBatch, count_target_tokens, encode_rows
from vladva_kit.training.features import (
    ImageFeatures,
    encode_image_features,
    take_rows,
    vision_encoder_is_frozen,
    with_features,
)

Losses = Callable[..., dict[str, Tensor]]  # trainer.step_losses


@dataclass(frozen=True)
class Chunk:
    """Some rows of one part of the batch: images, texts or negatives.

    counted: False for a chunk that only keeps this rank in step with ranks that have more chunks.
    """

    part: str
    rows: list[int]
    counted: bool = True


def cached_step(
    losses: Losses,
    embedder: Embedder,
    batch: Batch,
    next_token_weight: float = 1.0,
    *,
    rows: int,
    backward: Callable[[Tensor], Any] = Tensor.backward,
    precision: Callable[[], AbstractContextManager] = nullcontext,
    run: Callable[..., Any] = run_directly,
    keep_features: bool = True,
) -> tuple[dict[str, Tensor], int]:
    """Run a complete step in chunks, leaving its gradients in `.grad`; return the metrics and the chunk size that fit.

        metrics, rows = cached_step(step_losses, embedder, batch, rows=32)     # loss, contrastive, next_token, accuracy
        optimizer.step()

    losses: the function that assembles the losses of an encoded batch (`step_losses`); it must be linear in
    `next_token`. rows: chunk size. If memory runs out, the step restarts with half of it, on every rank, with a
    warning; the contrastive batch keeps its size. backward: how a loss is backpropagated (accelerator.backward scales
    it). precision: the context for forward passes, such as autocast. run: calls a function in a wrapped forward.
    keep_features: False runs a frozen vision encoder in both passes and keeps none of its output: slower, and the
    memory no longer grows by the features of each image.
    Raises the model's own error if not even one row fits.
    """
    trainable = [weight for weight in embedder.lvlm.model.parameters() if weight.requires_grad]
    gradients_before = [None if weight.grad is None else weight.grad.clone() for weight in trainable]
    random_state = _random_state(embedder.device)
    while True:
        attempt = _Attempt(losses, embedder, batch, next_token_weight, rows, backward, precision, run, keep_features)
        metrics, shortage = attempt.run_step()
        if shortage is None:
            return metrics, rows
        if rows == 1:
            raise shortage
        rows //= 2
        warnings.warn(
            f"out of memory: restarting the step with chunks of {rows} rows; "
            f"the contrastive batch stays at {len(batch.images.summary_positions)} pairs",
            stacklevel=2,
        )
        for weight, gradient in zip(trainable, gradients_before, strict=True):
            weight.grad = None if gradient is None else gradient.clone()
        if embedder.device.type == "cuda":
            torch.cuda.empty_cache()
        _set_random_state(random_state, embedder.device)


@dataclass
class _Attempt:
    """One attempt at a step with chunks of a given size."""

    losses: Losses
    embedder: Embedder
    batch: Batch
    next_token_weight: float
    rows: int
    backward: Callable[[Tensor], Any]
    precision: Callable[[], AbstractContextManager]
    run: Callable[..., Any]
    keep_features: bool
    random_states: list[tuple] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device, self.model = self.embedder.device, self.embedder.lvlm.model
        self.image_token = getattr(self.model.config, "image_token_id", None)
        self.features: ImageFeatures | None = self.batch.features

    def run_step(self) -> tuple[dict[str, Tensor], RuntimeError | MemoryError | None]:
        """Run the three phases; return the metrics, and the memory shortage that ended the attempt on any rank."""
        chunks = self._chunks()
        embeddings, shortage = self._agree(lambda: self._encode(chunks))
        if shortage is not None:
            return {}, shortage
        metrics, gradients = self._differentiate(embeddings)
        del embeddings  # only their gradients are needed from here
        next_token, shortage = self._agree(lambda: self._backpropagate(chunks, gradients))
        if shortage is not None:
            return {}, shortage
        loss = metrics["loss"] + gradients["next_token"] * next_token
        return {**metrics, "loss": loss, "next_token": next_token}, None

    def _agree(self, phase: Callable[[], Any]) -> tuple[Any, RuntimeError | MemoryError | None]:
        """Run a phase; every rank learns whether memory ran out on any rank."""
        result, shortage = None, None
        try:
            result = phase()
        except (RuntimeError, MemoryError) as error:
            if not is_memory_shortage(error):
                raise
            shortage = error.with_traceback(None)  # a traceback would keep the chunk's tensors alive
        if any_rank(shortage is not None, self.device) and shortage is None:
            shortage = RuntimeError("another rank ran out of memory")
        return result, shortage

    def _chunks(self) -> list[Chunk]:
        """Group rows of similar length, so that little is padded; equally many on every rank, for FSDP's gathers."""
        chunks: list[Chunk] = []
        for part in ("images", "texts", "negatives"):
            if (inputs := getattr(self.batch, part)) is not None:
                order = inputs.inputs["attention_mask"].sum(1).argsort(stable=True).tolist()
                chunks += [Chunk(part, order[start : start + self.rows]) for start in range(0, len(order), self.rows)]
        return chunks + [Chunk("images", [0], counted=False)] * self._n_missing(len(chunks))

    def _n_missing(self, n_runs: int) -> int:
        """Return how many runs this rank has fewer than another; 0 if ranks run independently."""
        if self.run is run_directly:
            return 0
        return max(count for (count,) in gather_counts([n_runs], self.device)) - n_runs

    def _encode(self, chunks: list[Chunk]) -> dict[str, Tensor]:
        """Phase 1: every row's embedding, (n, dim) per part, without a graph."""
        if self.keep_features and self.features is None and vision_encoder_is_frozen(self.model):
            self.features = self._image_features()
        embeddings: dict[str, Tensor] = {}
        for chunk in chunks:
            self.random_states.append(_random_state(self.device))
            with torch.no_grad():
                vectors, _ = self.run(self._forward, chunk, False)
            if not chunk.counted:
                continue
            if chunk.part not in embeddings:
                embeddings[chunk.part] = vectors.new_zeros(
                    len(getattr(self.batch, chunk.part).summary_positions), vectors.shape[1]
                )
            embeddings[chunk.part][chunk.rows] = vectors
        return embeddings

    def _image_features(self) -> ImageFeatures | None:
        n, computed = len(self.batch.images.summary_positions), []
        ranges = [range(start, min(start + self.rows, n)) for start in range(0, n, self.rows)]
        for rows in ranges + [range(1)] * self._n_missing(len(ranges)):
            images = take_rows(self.batch.images, rows, self.image_token)
            with self.precision():
                computed.append(self.run(encode_image_features, self.embedder, images))
        if computed[0] is None:
            return None
        kept = [row for features in computed[: len(ranges)] for row in features.rows]
        return ImageFeatures(kept, computed[0].layout)

    def _forward(self, chunk: Chunk, next_token: bool) -> tuple[Tensor, Tensor]:
        """Encode a chunk: embeddings (rows, dim), and the sum of its next-token losses (0 unless asked for)."""
        inputs = take_rows(getattr(self.batch, chunk.part), chunk.rows, self.image_token)
        with self.precision():
            if chunk.part == "images" and self.features is not None:
                inputs = with_features(self.embedder, inputs, self.features, chunk.rows)
            else:
                inputs = inputs.to(self.device)
            vectors, loss, n_targets = encode_rows(self.embedder, inputs, next_token)
            return vectors, loss * n_targets

    def _differentiate(self, embeddings: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
        """Phase 2: the losses of all rows, and their gradient for each embedding, the scale and the next-token loss."""
        leaves = {part: vectors.requires_grad_() for part, vectors in embeddings.items()}
        ones = torch.ones(1, device=self.device)
        leaves["scale"] = self.run(self.model.temperature, ones).detach().requires_grad_()
        leaves["next_token"] = torch.zeros((), device=self.device, requires_grad=True)  # its value follows in phase 3
        encoded = EncodedBatch(
            leaves["images"],
            leaves.get("texts", leaves["images"][:0]),
            leaves.get("negatives"),
            leaves["next_token"],
            lambda cosines: cosines.float() * leaves["scale"],
        )
        metrics = self.losses(self.embedder, self.batch, self.next_token_weight, encoded)
        gradients = torch.autograd.grad(metrics["loss"], list(leaves.values()), allow_unused=True)
        detached = {name: value.detach() for name, value in metrics.items()}
        return detached, dict(zip(leaves, gradients, strict=True))

    def _backpropagate(self, chunks: list[Chunk], gradients: Mapping[str, Tensor | None]) -> Tensor:
        """Phase 3: every chunk again, with a graph; return the next-token loss, scaled for a mean over ranks."""
        next_token = torch.zeros((), device=self.device)
        share = world_size() / max(1, count_target_tokens(self.batch.images, self.device))
        for chunk, state in zip(chunks, self.random_states, strict=True):
            gradient = gradients.get(chunk.part)
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                _set_random_state(state, self.device)  # repeat the random numbers of phase 1
                vectors, summed = self.run(self._forward, chunk, self.next_token_weight > 0)
                loss = summed * share * gradients["next_token"]
                if gradient is not None:
                    loss = loss + (vectors * gradient[chunk.rows]).sum()
                if loss.requires_grad:
                    self.backward(loss if chunk.counted else loss * 0.0)
            if chunk.counted:
                next_token += summed.detach() * share
        scale = self.run(self.model.temperature, torch.ones(1, device=self.device))
        if gradients["scale"] is not None and scale.requires_grad:
            self.backward((scale * gradients["scale"]).sum())
        return next_token


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
