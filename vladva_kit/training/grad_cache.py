"""Cached gradients: a contrastive batch of any size at the memory of one chunk of it (GradCache, arXiv 2101.06983).

(1) Each chunk is embedded without a graph, and the state of the random numbers before it is noted.
(2) The contrastive loss over all embeddings gives a gradient for each of them.
(3) Each chunk is run again, with a graph and the same random numbers, and passes its embeddings' gradients on to the
    weights. The next-token loss needs no other row, so it joins here, and its logits are those of one chunk.

The gradients are the whole batch's. The vision tower, where it is frozen, runs once and not in (1) and (3).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vladva_kit.embedder.embedder import Embedder, summary_embeddings
from vladva_kit.embedder.prompts import IGNORE_INDEX, ModelInputs
from vladva_kit.models.device import world_size
from vladva_kit.training.collator import Batch
from vladva_kit.training.distributed import any_rank, contrastive_over_ranks, counts_of_all
from vladva_kit.training.features import (
    ImageFeatures,
    encode_image_features,
    take_rows,
    vision_encoder_is_frozen,
    with_features,
)
from vladva_kit.training.losses import next_token

Run = Callable[..., Any]


@dataclass(frozen=True)
class Chunk:
    """Some rows of one tower's batch: `tower` is images, texts or negatives. `counts`: False for one that only keeps
    step with ranks that have more."""

    tower: str
    rows: list[int]
    counts: bool = True


def plainly(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function with nothing around it: how chunks run where the model is not wrapped."""
    return function(*arguments)


def cached_step(
    embedder: Embedder,
    batch: Batch,
    next_token_weight: float = 1.0,
    *,
    rows: int,
    backward: Callable[[Tensor], Any] = Tensor.backward,
    precision: Callable[[], AbstractContextManager] = nullcontext,
    run: Run = plainly,
) -> tuple[dict[str, Tensor], int]:
    """A whole step's losses, with its gradients left in `.grad`; returns the losses and the chunk that fitted.

        figures, rows = cached_step(embedder, batch, rows=32)     # loss, contrastive, next_token, accuracy
        optimizer.step()

    rows: of a chunk. Where memory runs out, the step begins again with half of that, on every rank, and says so; the
    contrastive batch stays as it is. backward: how a loss is sent back (accelerator.backward scales it). precision:
    the context for forwards, such as autocast. run: calls a function inside a wrapped model's forward.
    Raises what the model raised where not even one row fits.
    """
    learning = [parameter for parameter in embedder.lvlm.model.parameters() if parameter.requires_grad]
    before = [None if parameter.grad is None else parameter.grad.clone() for parameter in learning]
    begun = _random_state(embedder.device)
    while True:
        figures, shortage = _Step(embedder, batch, next_token_weight, rows, backward, precision, run).figures()
        if shortage is None:
            return figures, rows
        if rows == 1:
            raise shortage
        rows //= 2
        warnings.warn(
            f"out of memory: begun again with chunks of {rows} rows; "
            f"the contrastive batch stays at {len(batch.images.summary)} pairs",
            stacklevel=2,
        )
        for parameter, gradient in zip(learning, before, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        if embedder.device.type == "cuda":
            torch.cuda.empty_cache()
        _set_random_state(begun, embedder.device)


class _Step:
    """One try at a step with chunks of a size."""

    def __init__(
        self,
        embedder: Embedder,
        batch: Batch,
        weight: float,
        rows: int,
        backward: Callable[[Tensor], Any],
        precision: Callable[[], AbstractContextManager],
        run: Run,
    ) -> None:
        self.embedder, self.weight, self.backward, self.precision, self.run = embedder, weight, backward, precision, run
        self.model, self.device = embedder.lvlm.model, embedder.device
        self.towers = {"images": batch.images, "texts": batch.texts, "negatives": batch.negatives}
        self.batch, self.size = batch, rows
        self.image_token = getattr(self.model.config, "image_token_id", None)
        self.features: ImageFeatures | None = batch.features
        self.states: list[tuple] = []

    def figures(self) -> tuple[dict[str, Tensor], RuntimeError | None]:
        """The step's losses, and the shortage of memory that stopped it, here or on another rank."""
        chunks = self._chunks()
        embeddings, shortage = self._agreed(lambda: self._embed(chunks))
        if shortage is not None:
            return {}, shortage
        figures, gradients = self._contrastive(embeddings)
        share = world_size() / max(1, count_target_tokens(self.towers["images"], self.device))
        learned, shortage = self._agreed(lambda: self._send_back(chunks, gradients, share))
        if shortage is not None:
            return {}, shortage
        figures["next_token"] = learned
        return {"loss": figures["contrastive"] + self.weight * learned, **figures}, None

    def _agreed(self, part: Callable[[], Any]) -> tuple[Any, RuntimeError | None]:
        result, shortage = None, None
        try:
            result = part()
        except RuntimeError as error:
            if not _is_shortage(error):
                raise
            shortage = error.with_traceback(None)  # a traceback would keep the chunk's tensors alive
        if any_rank(shortage is not None, self.device) and shortage is None:
            shortage = RuntimeError("another rank ran out of memory")
        return result, shortage

    def _chunks(self) -> list[Chunk]:
        """Rows of like length together, so that little is padded; as many on every rank, for FSDP's gathers."""
        chunks: list[Chunk] = []
        for tower, sequences in self.towers.items():
            if sequences is not None:
                order = sequences.inputs["attention_mask"].sum(1).argsort(stable=True).tolist()
                chunks += [Chunk(tower, order[at : at + self.size]) for at in range(0, len(order), self.size)]
        return chunks + [Chunk("images", [0], counts=False)] * self._missing(len(chunks))

    def _missing(self, runs: int) -> int:
        """By how many runs this rank has fewer than another; 0 where ranks run by themselves."""
        if self.run is plainly:
            return 0
        return max(count for (count,) in counts_of_all([runs], self.device)) - runs

    def _embed(self, chunks: list[Chunk]) -> dict[str, Tensor]:
        """(1): every row's embedding, (n, dim) a tower, without a graph."""
        if self.features is None and vision_encoder_is_frozen(self.model):
            self.features = self._picture_features()
        embeddings: dict[str, Tensor] = {}
        for chunk in chunks:
            self.states.append(_random_state(self.device))
            with torch.no_grad():
                found, _ = self.run(self._forward, chunk, False)
            if not chunk.counts:
                continue
            if chunk.tower not in embeddings:
                embeddings[chunk.tower] = found.new_zeros(len(self.towers[chunk.tower].summary), found.shape[1])
            embeddings[chunk.tower][chunk.rows] = found
        return embeddings

    def _picture_features(self) -> ImageFeatures | None:
        n, found = len(self.towers["images"].summary), []
        parts = [range(at, min(at + self.size, n)) for at in range(0, n, self.size)]
        for part in parts + [range(1)] * self._missing(len(parts)):
            images = take_rows(self.towers["images"], part, self.image_token)
            with self.precision():
                found.append(self.run(encode_image_features, self.embedder, images))
        if found[0] is None:
            return None
        return ImageFeatures([row for features in found[: len(parts)] for row in features.rows], found[0].form)

    def _forward(self, chunk: Chunk, learns: bool) -> tuple[Tensor, Tensor]:
        """A chunk's embeddings, (rows, dim), and the sum of its next-token losses, 0 where that is not asked for."""
        sequences = take_rows(self.towers[chunk.tower], chunk.rows, self.image_token)
        with self.precision():
            if chunk.tower == "images" and self.features is not None:
                sequences = with_features(self.embedder, sequences, self.features, chunk.rows)
            else:
                sequences = sequences.to(self.device)
            hidden = self.embedder.hidden_states(sequences)
            learned = hidden.new_zeros((), dtype=torch.float32)
            if learns and sequences.labels is not None and self.weight:
                loss, count = next_token(hidden, sequences.labels, self.embedder.logits)
                learned = loss * count
            return summary_embeddings(hidden, sequences), learned

    def _contrastive(self, embeddings: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(2): the loss over all ranks' rows, and the gradient of each of this rank's embeddings."""
        leaves = {tower: found.requires_grad_() for tower, found in embeddings.items()}
        paired = leaves["images"][self.batch.paired.to(self.device)]
        texts = leaves.get("texts", paired[:0])
        self.scale = self.run(self.model.temperature, torch.ones(1, device=self.device)).detach().requires_grad_()
        loss, accuracy = contrastive_over_ranks(
            paired, texts, lambda cosines: cosines.float() * self.scale, self.batch.keys,
            leaves.get("negatives"), self.batch.negative_keys,
        )  # fmt: skip
        *found, self.scale_gradient = torch.autograd.grad(loss, [*leaves.values(), self.scale], allow_unused=True)
        return {"contrastive": loss.detach(), "accuracy": accuracy}, dict(zip(leaves, found, strict=True))

    def _send_back(self, chunks: list[Chunk], gradients: dict[str, Tensor | None], share: float) -> Tensor:
        """(3): every chunk again, with a graph; returns the next-token loss, scaled for a mean over ranks."""
        learned = torch.zeros((), device=self.device)
        for chunk, state in zip(chunks, self.states, strict=True):
            gradient = gradients.get(chunk.tower)
            with _same_randomness(state, self.device):
                found, summed = self.run(self._forward, chunk, True)
                loss = summed * share * self.weight
                if gradient is not None:
                    loss = loss + (found * gradient[chunk.rows]).sum()
                if loss.requires_grad:
                    self.backward(loss if chunk.counts else loss * 0.0)
            if chunk.counts:
                learned += summed.detach() * share
        scale = self.run(self.model.temperature, torch.ones(1, device=self.device))
        if self.scale_gradient is not None and scale.requires_grad:
            self.backward((scale * self.scale_gradient).sum())
        return learned


def count_target_tokens(images: ModelInputs, device: torch.device) -> int:
    """How many long captions' tokens the step learns, over all ranks; every rank must ask."""
    own = 0 if images.labels is None else int((images.labels[:, 1:] != IGNORE_INDEX).sum())
    return sum(count for (count,) in counts_of_all([own], device))


def _is_shortage(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


@contextmanager
def _same_randomness(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """The random numbers that came after `state`, again; those of the outside go on as if nothing had been drawn."""
    now = _random_state(device)
    _set_random_state(state, device)
    try:
        yield
    finally:
        _set_random_state(now, device)
