"""Choose which pairs share a batch: the sampler of hard batches, mined neighbors, and the teacher's candidates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vladva_kit.data.hard_batches import (
    HardBatches,
    caption_keys,
    checked_mix,
    groups_of,
    image_keys,
    mine_neighbors,
)
from vladva_kit.data.pairs import Pair
from vladva_kit.data.store import Store
from vladva_kit.data.streaming import PairStream
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.identity import content_key, identity_of
from vladva_kit.models.device import rank
from vladva_kit.models.files import atomic_write
from vladva_kit.training.collator import SampledCaptions, planned_batches
from vladva_kit.training.distillation import TeacherScores, candidates_of, score_candidates
from vladva_kit.training.image_cache import CachedImageFeatures, encode_cached_images
from vladva_kit.training.progress import checkpoint_path
from vladva_kit.training.settings import Settings

NEIGHBORS = "neighbors.safetensors"  # in a checkpoint, if neighbors are refreshed
GROUPS_SHARE = 0.25  # of a batch, if the pairs have groups and `Settings.batches` does not say otherwise


def batch_sampler(
    embedder: Embedder,
    pairs: list[Pair] | PairStream,
    settings: Settings,
    image_features: Callable[[], CachedImageFeatures | None] = lambda: None,
) -> HardBatches | None:
    """Build the sampler for `settings.batches`; None if batches are random and the Trainer's own sampler serves.

        next(iter(batch_sampler(embedder, pairs, Settings(batches={"groups": 0.5, "random": 0.5}))))

    Neighbors are mined with the base embedder. image_features: returns features of the frozen vision encoder that are
    computed already. Raises ValueError for batches that the pairs cannot fill.
    """
    if isinstance(pairs, PairStream):
        if settings.batches is not None:
            raise ValueError(
                "batches needs all pairs in advance: leave it out for a stream, which keeps groups together"
            )
        return None
    if settings.batches is not None and settings.group_by_length:
        raise ValueError("batches and group_by_length both decide which pairs share a batch: use one of them")
    groups, neighbors = ([], None) if settings.group_by_length else (groups_of(pairs), None)
    if settings.batches is None and not groups and not settings.distill_weight:
        return None
    share = max(GROUPS_SHARE, max(map(len, groups), default=0) / settings.batch_size)
    default = {"groups": share, "random": 1 - share} if groups else {"random": 1.0}
    rows = checked_mix(settings.batches or default, settings.batch_size, groups)
    if rows["mined"]:
        features = image_features()  # with the adapter on: only then is a trainable vision encoder seen
        with embedder.base():
            neighbors = _mine_once(embedder, pairs, settings, features)
    return HardBatches(len(pairs), rows, groups, neighbors, settings.mining.group_size, settings.seed)


def score_planned_batches(
    embedder: Embedder,
    pairs: list[Pair] | SampledCaptions | PairStream,
    settings: Settings,
    sampler: HardBatches | None,
    progress: bool,
) -> TeacherScores | None:
    """Score the candidates of the run's batches with the base model; None if the settings do not distill.

    score_planned_batches(embedder, pairs, Settings(distill_weight=0.5), sampler, progress=False)
    """
    if not settings.distill_weight:
        return None
    if isinstance(pairs, PairStream):
        raise ValueError("distill_weight needs all pairs in advance: leave it out for a stream")
    own = Path(settings.output_dir) / "teacher" if settings.output_dir else None
    candidates = candidates_of(planned_batches(pairs, cast(HardBatches, sampler), settings.steps))
    cache, batch_size = settings.distill_cache or own, settings.micro_batch_size or 64
    return score_candidates(embedder, candidates, settings.distill_temperature, cache, batch_size, progress)


def _mine(embedder: Embedder, pairs: list[Pair], settings: Settings, features: CachedImageFeatures | None) -> Tensor:
    mining = settings.mining
    encode_images = partial(encode_cached_images, embedder, features) if features is not None else None
    k = 4 * mining.group_size
    return mine_neighbors(embedder, pairs, k=k, by=mining.by, margin=mining.margin, encode_images=encode_images)


def _mine_once(
    embedder: Embedder, pairs: list[Pair], settings: Settings, features: CachedImageFeatures | None
) -> Tensor:
    """Mine, or read the neighbors that an earlier run on the same model and data kept in `mining.cache`."""
    mining = settings.mining
    if mining.cache is None:
        return _mine(embedder, pairs, settings, features)
    captions, images = caption_keys([pair.short or "" for pair in pairs]), image_keys(pairs)
    manifest = {
        "model": identity_of(embedder),
        "pairs": content_key(torch.stack([captions, images]).numpy().tobytes()),
        "mining": [mining.by, mining.margin, mining.group_size],
    }
    store = Store.open(mining.cache, manifest, "neighbors")
    if 0 not in store and rank() == 0:
        store.write(0, {"neighbors": _mine(embedder, pairs, settings, features)})
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # rank 0 wrote the neighbors
    return store.read(0)["neighbors"]


class Refresh(TrainerCallback):
    """Mine neighbors again every few steps, with the embedder as trained so far; keep them in the checkpoints."""

    def __init__(self, sampler: HardBatches, mine: Callable[[], Tensor], every: int) -> None:
        self.sampler, self.mine, self.every = sampler, mine, every
        self.due = False  # whether the neighbors of this step are still to be mined

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Restore the neighbors of the checkpoint from which a run resumes, or mine those that it left out."""
        path = checkpoint_path(args, state.global_step) / NEIGHBORS
        if path.is_file():
            self.sampler.neighbors = load_file(path)["neighbors"]
        elif state.global_step:
            self.on_step_end(args, state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mine again if it is time."""
        self.due = state.global_step % self.every == 0 and state.global_step < state.max_steps
        if self.due and not control.should_training_stop:  # a run that was told to stop ends within seconds
            self.sampler.neighbors, self.due = self.mine(), False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the neighbors into the checkpoint."""
        if rank() == 0 and not self.due:
            path = checkpoint_path(args, state.global_step) / NEIGHBORS
            atomic_write({path: save({"neighbors": cast(Tensor, self.sampler.neighbors)})})


def refresh_callbacks(
    embedder: Embedder,
    pairs: list[Pair] | PairStream,
    settings: Settings,
    sampler: HardBatches | None,
    features: CachedImageFeatures | None,
) -> list[Refresh]:
    """Return the callback that mines neighbors again, in a list; an empty one if the settings do not refresh them.

    refresh_callbacks(embedder, pairs, Settings(mining=Mining(refresh_every=50)), sampler, features=None)
    """
    every = settings.mining.refresh_every
    if sampler is None or sampler.neighbors is None or every is None:
        return []
    return [Refresh(sampler, lambda: _mine(embedder, cast("list[Pair]", pairs), settings, features), every)]
