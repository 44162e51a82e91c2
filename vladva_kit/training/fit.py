"""Fine-tune an embedder on image-caption pairs."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME

from vladva_kit.data.hard_batches import (
    HardBatches,
    caption_keys,
    checked_mix,
    groups_of,
    image_keys,
    mine_neighbors,
)
from vladva_kit.data.pairs import Pair, check_lengths, load_pairs
from vladva_kit.data.store import Store
from vladva_kit.data.streaming import PairStream, load_stream_state
from vladva_kit.embedder.adapter import WEIGHTS_FILE, check_adapter_weights, load_adapter_weights
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.identity import content_key, identity_of
from vladva_kit.embedder.prompts import encode_caption
from vladva_kit.models.device import NonFiniteError, rank, rank_from_env
from vladva_kit.models.files import atomic_write, folder_lock
from vladva_kit.models.load import LVLM
from vladva_kit.models.turns import ModelLock
from vladva_kit.training.checkpoints import CompleteCheckpoints, check_run, last_checkpoint, run_record
from vladva_kit.training.collator import Collator, SampledCaptions, planned_batches
from vladva_kit.training.distillation import TeacherScores, candidates_of, score_candidates
from vladva_kit.training.image_cache import CachedImageFeatures, cache_image_features, encode_cached_images
from vladva_kit.training.interruption import Interruption, RunInterrupted
from vladva_kit.training.peers import watching_ranks
from vladva_kit.training.progress import Progress, history_of
from vladva_kit.training.settings import Settings, trainer_arguments
from vladva_kit.training.trainer import Validate, VladvaTrainer

NEIGHBORS = "neighbors.safetensors"  # in a checkpoint, if neighbors are refreshed
GROUPS_SHARE = 0.25  # of a batch, if the pairs have groups and `Settings.batches` does not say otherwise


def fit(
    embedder: Embedder,
    data: Any,
    settings: Settings = Settings(),  # noqa: B008  frozen
    *,
    split: str = "train",
    validation: Any = None,
    on_error: str = "raise",
    callbacks: Sequence[TrainerCallback] = (),
    progress: bool = True,
    deadline: Callable[[], bool] | None = None,
) -> list[dict[str, float]]:
    """Fine-tune what `attach` installed; return the history, one row per step.

        history = fit(embedder, sample("emoji_pairs"), Settings(steps=150, batch_size=64))
        history[-1]     # {"step": 150, "seconds": …, "loss": …, "contrastive": …, "next_token": …, "accuracy": …, …}

    data: an imagefolder, a datasets.Dataset (columns image, short, long), a list of Pair, or `stream_pairs(…)`. Of a
    pair with several short captions, each epoch uses one, sampled by `settings.seed`.
    validation: data of the same kinds (of a folder, its split "validation"), for recall@1 in both directions, or a
    function from an embedder to metrics; it runs every `settings.validate_every` steps, and its metrics are in the
    history as "eval_…". callbacks: transformers' TrainerCallbacks, such as EarlyStoppingCallback. deadline: a function
    that returns True when training has to stop early. With `settings.output_dir` checkpoints are kept, and
    `resume=True` resumes from the last complete one; a run that has done all its steps is loaded and returned
    unchanged. SIGTERM, SIGINT and SIGHUP then end the run after the step, with a checkpoint.
    With `settings.distill_weight` the base model first scores about steps x batch_size x 5 images with captions, once,
    and the history has the column "distill".
    Raises ValueError for a base embedder, for fewer pairs than fill a batch, for a folder in which another run writes,
    and for one that began with other settings or data; BadInput for unusable data; BadAdapter for a checkpoint of
    another adapter; NonFiniteError, naming step and images, for losses that are not finite; MemoryShortage, naming the
    setting to change; RunInterrupted after a signal; RankFailed if another rank fails or dies.
    """
    if embedder.config is None:
        raise ValueError("this embedder has nothing to train: call attach(lvlm) first")
    if settings.batch_size == 1:
        fix = "use batch_size=2 or more; micro_batch_size limits the memory"
        warnings.warn(f"a batch of one pair has no negatives, so its contrastive loss is 0: {fix}", stacklevel=2)
    validate = _validation(validation)
    with _one_run(embedder.lvlm), _run_lock(settings) as check_folder:
        checkpoint = last_checkpoint(settings)
        if isinstance(data, PairStream):
            pairs = _prepare_stream(embedder, data, settings, checkpoint)
        else:
            pairs = _checked_pairs(embedder, load_pairs(data, split=split, on_error=on_error), settings, on_error)
        if settings.output_dir is not None:
            check_run(run_record(embedder, pairs, settings), settings, checkpoint)
        finished = _finished_run(embedder, settings, checkpoint)
        if finished is not None:
            return finished
        visible = progress and rank() == 0
        bar = Progress(settings.steps, settings.batch_size, visible=visible, deadline=deadline)
        with tempfile.TemporaryDirectory() as scratch, watching_ranks():
            trainer = _trainer(embedder, pairs, settings, validate, [bar, *callbacks], scratch, visible)
            trainer.check_folder = check_folder
            _train(trainer, embedder, settings, checkpoint, bar)
    return history_of(trainer.state)


def _run_lock(settings: Settings) -> AbstractContextManager[Callable[[], None]]:
    """Lock the folder of checkpoints for this run; rank 0 does it for all."""
    if settings.output_dir is None or rank_from_env()[0] != 0:
        return nullcontext(lambda: None)
    return folder_lock(Path(settings.output_dir))


def _train(
    trainer: VladvaTrainer, embedder: Embedder, settings: Settings, checkpoint: str | None, bar: Progress
) -> None:
    """Train until the last step, a signal or an error; what was trained so far remains usable."""
    interruption, lock = Interruption(embedder.device), embedder.lvlm.lock
    trainer.add_first_callback(_TakeTurns(lock))
    if settings.output_dir is not None:
        trainer.add_first_callback(interruption)
    with lock, interruption.handling() if settings.output_dir is not None else nullcontext():
        if settings.gradient_checkpointing:
            enable_layer_checkpointing(embedder)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except NonFiniteError as error:
            raise trainer.keep_last_good_weights(error) from error
        finally:
            embedder.lvlm.model.eval()
            if settings.gradient_checkpointing:
                embedder.lvlm.model.activation_checkpointing_disable()
            bar.close()
    if interruption.number:
        interrupted = RunInterrupted(interruption.number, trainer.checkpoint_folder())
        if rank() == 0:
            with suppress(OSError):  # the terminal may be gone
                print(interrupted, flush=True)
        raise interrupted


class _TakeTurns(TrainerCallback):
    """Between two steps, let the threads that wait for the model use it first."""

    def __init__(self, lock: ModelLock) -> None:
        self.lock = lock

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Give the lock to each thread that waits for it now."""
        with self.lock.released():
            pass


@contextmanager
def _one_run(lvlm: LVLM) -> Iterator[None]:
    """Raise ValueError if another thread trains the LVLM: the steps of both runs would change the same weights."""
    with lvlm.lock:
        if lvlm.lock.training:
            raise ValueError(f"{lvlm.name} is being trained in another thread: wait for it, or load the LVLM again")
        lvlm.lock.training = True
    try:
        yield
    finally:
        lvlm.lock.training = False


def _finished_run(embedder: Embedder, settings: Settings, checkpoint: str | None) -> list[dict[str, float]] | None:
    """Load the adapter of a checkpoint that has all steps, and return its history; None if there is more to train.

    Raises BadAdapter for a checkpoint of another adapter.
    """
    if checkpoint is None:
        return None
    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    if not (Path(checkpoint) / WEIGHTS_FILE).is_file():  # sharded by FSDP: only the Trainer reads it
        return None
    if state.global_step < settings.steps:
        check_adapter_weights(embedder.lvlm, checkpoint)  # a sentence instead of torch's error with every tensor
        return None
    best = state.best_model_checkpoint if settings.trainer.get("load_best_model_at_end") else None
    folder = best if best is not None and (Path(best) / WEIGHTS_FILE).is_file() else checkpoint
    load_adapter_weights(embedder.lvlm, folder)
    if rank() == 0:
        print(f"{checkpoint} has all {settings.steps} steps of this run: its adapter is loaded, nothing is trained")
    return history_of(state)


def _trainer(
    embedder: Embedder,
    pairs: list[Pair] | PairStream,
    settings: Settings,
    validate: Validate | None,
    callbacks: Sequence[TrainerCallback],
    scratch: str,
    progress: bool = False,
) -> VladvaTrainer:
    """Build the trainer with its sampler and cached features, and set the seed."""
    image_features = cache(partial(_image_features, embedder, pairs, settings))  # mining uses them too
    sampler = batch_sampler(embedder, pairs, settings, image_features)
    # starts the process group under a launcher, so that ranks can share the teacher's work
    arguments = trainer_arguments(embedder, settings, scratch, isinstance(pairs, PairStream), validate is not None)
    dataset, sampled = pairs, []
    if not isinstance(pairs, PairStream) and any(len(pair.captions) > 1 for pair in pairs):
        sampled = [dataset := SampledCaptions(pairs, settings.seed)]
    teacher = _teacher(embedder, dataset, settings, sampler, progress)
    set_seed(settings.seed)
    temperature = embedder.lvlm.model.temperature.modules_to_save["default"]
    with embedder.lvlm.lock:  # another thread restores this flag when it switches the adapter on again
        temperature.requires_grad_(settings.learn_temperature)
    refresh = _refresh(embedder, pairs, settings, sampler, image_features())
    trainer = VladvaTrainer(
        embedder,
        settings.next_token_weight,
        settings.micro_batch_size,
        image_features(),
        settings.soft_prompt_learning_rate,
        validate,
        sampler,
        settings.distill_weight,
        teacher,
        args=arguments,
        train_dataset=dataset,
        callbacks=[
            *callbacks,
            *sampled,
            *refresh,
            CompleteCheckpoints(),
        ],
    )
    for callback in refresh:
        callback.mine = partial(trainer.run_whole, callback.mine)
    trainer.remove_callback(PrinterCallback)  # the progress bar shows more
    return trainer


def enable_layer_checkpointing(embedder: Embedder) -> None:
    """Store only each layer's input and recompute the layer in the backward pass.

    Disable it with `activation_checkpointing_disable`.
    """
    model = embedder.lvlm.model
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.disable_input_require_grads()  # otherwise a frozen vision encoder would be differentiated too


def recall_at_1(embedder: Embedder, pairs: Sequence[Pair]) -> dict[str, float]:
    """Compute recall@1 in percent in both directions over pairs with short captions; ties count as misses.

    recall_at_1(embedder, load_pairs(sample("emoji_pairs"), "validation"))["text_to_image_r1"]
    """
    pairs = [pair for pair in pairs if pair.short]
    images = embedder.encode_image([pair.image for pair in pairs])  # decoded a batch at a time
    cosines = embedder.similarity(images, embedder.encode_text([pair.short for pair in pairs]))
    at_least = cosines >= cosines.diagonal()[:, None], cosines.diagonal()[:, None] <= cosines.T
    image_to_text, text_to_image = (100 * float((count.sum(1) == 1).float().mean()) for count in at_least)
    return {"image_to_text_r1": image_to_text, "text_to_image_r1": text_to_image}


def _validation(source: Any) -> Validate | None:
    if source is None or callable(source):
        return source
    return partial(recall_at_1, pairs=load_pairs(source, split="validation"))


def _checked_pairs(embedder: Embedder, pairs: list[Pair], settings: Settings, on_error: str) -> list[Pair]:
    """Apply the 30-token rule with the LVLM's own tokenizer."""
    tokenizer = embedder.lvlm.processor.tokenizer
    pairs = check_lengths(
        pairs, lambda text: len(encode_caption(tokenizer, text)), settings.short_limit, settings.long_limit, on_error
    )
    if len(pairs) < settings.batch_size:
        raise ValueError(
            f"{len(pairs)} pairs do not fill one batch of {settings.batch_size}: give more pairs or lower batch_size"
        )
    if not any(pair.short for pair in pairs):
        warnings.warn("no pair has a short caption: the contrastive loss is 0 and trains nothing", stacklevel=3)
    return pairs


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


def _teacher(
    embedder: Embedder,
    pairs: list[Pair] | SampledCaptions | PairStream,
    settings: Settings,
    sampler: HardBatches | None,
    progress: bool,
) -> TeacherScores | None:
    """Score the candidates of the run's batches with the base model, if the settings distill its likelihoods."""
    if not settings.distill_weight:
        return None
    if isinstance(pairs, PairStream):
        raise ValueError("distill_weight needs all pairs in advance: leave it out for a stream")
    own = Path(settings.output_dir) / "teacher" if settings.output_dir else None
    candidates = candidates_of(planned_batches(pairs, sampler, settings.steps))
    cache, batch_size = settings.distill_cache or own, settings.micro_batch_size or 64
    return score_candidates(embedder, candidates, settings.distill_temperature, cache, batch_size, progress)


def _mine(embedder: Embedder, pairs: list[Pair], settings: Settings, features: CachedImageFeatures | None) -> Tensor:
    mining = settings.mining
    encode_images = partial(encode_cached_images, embedder, features) if features is not None else None
    options = {"by": mining.by, "margin": mining.margin, "encode_images": encode_images}
    return mine_neighbors(embedder, pairs, k=4 * mining.group_size, **options)


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


class _Refresh(TrainerCallback):
    """Mine neighbors again every few steps, with the embedder as trained so far; keep them in the checkpoints."""

    def __init__(self, sampler: HardBatches, mine: Callable[[], Tensor], every: int) -> None:
        self.sampler, self.mine, self.every = sampler, mine, every
        self.due = False  # whether the neighbors of this step are still to be mined

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Restore the neighbors of the checkpoint from which a run resumes, or mine those that it left out."""
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / NEIGHBORS
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
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / NEIGHBORS
            atomic_write({path: save({"neighbors": self.sampler.neighbors})})


def _refresh(
    embedder: Embedder,
    pairs: list[Pair] | PairStream,
    settings: Settings,
    sampler: HardBatches | None,
    features: CachedImageFeatures | None,
) -> list[_Refresh]:
    every = settings.mining.refresh_every
    if sampler is None or sampler.neighbors is None or every is None:
        return []
    return [_Refresh(sampler, lambda: _mine(embedder, pairs, settings, features), every)]


def _image_features(
    embedder: Embedder, pairs: list[Pair] | PairStream, settings: Settings
) -> CachedImageFeatures | None:
    """Cache the frozen vision encoder's features of all images, if the settings ask for it."""
    if settings.cache_images is None:
        return None
    if isinstance(pairs, PairStream):
        raise ValueError("cache_images needs all images in advance: leave it out for a stream")
    return cache_image_features(embedder, pairs, settings.cache_images, settings.micro_batch_size or 32)


def _prepare_stream(embedder: Embedder, stream: PairStream, settings: Settings, checkpoint: str | None) -> PairStream:
    """Give the stream the settings' batch size, the 30-token rule and the collator; resume it at the checkpoint."""
    tokenizer, n_ranks = embedder.lvlm.processor.tokenizer, rank_from_env()[1]

    def check(pair: Pair) -> Pair:
        limits = settings.short_limit, settings.long_limit
        return check_lengths([pair], lambda text: len(encode_caption(tokenizer, text)), *limits)[0]

    stream_state, batches_done = load_stream_state(Path(checkpoint)) if checkpoint else ({}, 0)
    return replace(
        stream, batch_size=settings.batch_size // n_ranks, check=check, stream_state=stream_state,
        batches_done=batches_done,
        collate=lambda batch: Collator(embedder, settings.next_token_weight > 0)(batch)["batch"],
    )  # fmt: skip
