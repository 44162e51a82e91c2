"""Fine-tune an embedder on image-caption pairs."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from vladva_kit.data.pairs import Pair, check_lengths, load_pairs
from vladva_kit.data.streaming import PairStream, load_stream_state
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.prompts import count_tokens
from vladva_kit.models.device import NonFiniteError, rank, rank_from_env
from vladva_kit.models.files import folder_lock
from vladva_kit.models.load import LVLM
from vladva_kit.models.turns import ModelLock
from vladva_kit.training.batches import batch_sampler, refresh_callbacks, score_planned_batches
from vladva_kit.training.checkpoints import (
    CompleteCheckpoints,
    check_run,
    last_checkpoint,
    load_finished_run,
    run_record,
)
from vladva_kit.training.collator import Batch, Collator, SampledCaptions
from vladva_kit.training.image_cache import CachedImageFeatures, cache_image_features
from vladva_kit.training.interruption import Interruption, RunInterrupted
from vladva_kit.training.peers import watching_ranks
from vladva_kit.training.progress import Progress, history_of
from vladva_kit.training.settings import Settings, trainer_arguments
from vladva_kit.training.trainer import VladvaTrainer
from vladva_kit.training.validation import (
    EarlyStopping,
    Validate,
    check_early_stopping,
    recall_on,
)


def fit(
    embedder: Embedder,
    data: Any,
    settings: Settings = Settings(),  # noqa: B008  frozen
    *,
    split: str = "train",
    validation: Any = None,
    early_stopping: int | None = None,
    on_error: str = "raise",
    callbacks: Sequence[TrainerCallback] = (),
    progress: bool = True,
    deadline: Callable[[], bool] | None = None,
) -> list[dict[str, float]]:
    """Fine-tune what `attach` installed; return the history, one row per step.

        history = fit(embedder, sample("emoji_pairs"), Settings(steps=150, batch_size=64))
        history[-1]     # {"step": 150, "seconds": …, "loss": …, "contrastive": …, "next_token": …, "accuracy": …, …}

    data: anything that `load_pairs` takes, such as an imagefolder, a hub id, a DataFrame, a torch Dataset or a list of
    (image, short, long), or `stream_pairs(…)`. Name its columns by `load_pairs`. Of a pair with several short captions,
    each epoch uses one, sampled by `settings.seed`.
    validation: data of the same kinds (of a folder, its split "validation"), for recall@1 in both directions, or a
    function from an embedder to metrics, such as `metrics_on(sample("winoground_mini"))`; it runs every
    `settings.validate_every` steps, and its metrics are in the history as "eval_…".
    early_stopping: stop after this many validations in a row without a new best of the first metric, and end with the
    best adapter, kept with or without `output_dir`; a number above that of all validations only keeps the best. A
    metric whose name ends in "loss" is best when low; `Settings(trainer={"metric_for_best_model": …})` names another.
    callbacks: transformers' TrainerCallbacks. deadline: a function that returns True when training has to stop early.
    With `settings.output_dir` checkpoints are kept, and `resume=True` resumes from the last complete one; a run that
    is complete is loaded and returned unchanged. SIGTERM, SIGINT and SIGHUP then end the run after the step, with a
    checkpoint. With `settings.distill_weight` the base model first scores about steps x batch_size x 5 images with
    captions, once, and the history has the column "distill".
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
    check_early_stopping(early_stopping, validation, settings)
    validate = validation if validation is None or callable(validation) else recall_on(validation)
    with _one_run(embedder.lvlm), _run_lock(settings) as check_folder:
        checkpoint = last_checkpoint(settings)
        if isinstance(data, PairStream):
            pairs: list[Pair] | PairStream = _prepare_stream(embedder, data, settings, checkpoint)
        else:
            pairs = _checked_pairs(embedder, load_pairs(data, split=split, on_error=on_error), settings, on_error)
        if settings.output_dir is not None:
            check_run(run_record(embedder, pairs, settings), settings, checkpoint)
        finished = load_finished_run(embedder, settings, checkpoint, early_stopping)
        if finished is not None:
            return finished
        visible = progress and rank() == 0
        bar = Progress(settings.steps, settings.batch_size, visible=visible, deadline=deadline)
        with tempfile.TemporaryDirectory() as scratch, watching_ranks():
            trainer = _trainer(embedder, pairs, settings, validate, [bar, *callbacks], scratch, visible, early_stopping)
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
            raise trainer.keep_last_good_weights(error, settings.output_dir is not None) from error
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


def _trainer(
    embedder: Embedder,
    pairs: list[Pair] | PairStream,
    settings: Settings,
    validate: Validate | None,
    callbacks: Sequence[TrainerCallback],
    scratch: str,
    progress: bool = False,
    early_stopping: int | None = None,
) -> VladvaTrainer:
    """Build the trainer with its sampler and cached features, and set the seed."""
    image_features = cache(partial(_image_features, embedder, pairs, settings))  # mining uses them too
    sampler = batch_sampler(embedder, pairs, settings, image_features)
    # starts the process group under a launcher, so that ranks can share the teacher's work
    arguments = trainer_arguments(
        embedder, settings, scratch, isinstance(pairs, PairStream), validate is not None, early_stopping is not None
    )
    dataset: list[Pair] | SampledCaptions | PairStream = pairs
    sampled: list[SampledCaptions] = []
    if not isinstance(pairs, PairStream) and any(len(pair.captions) > 1 for pair in pairs):
        dataset = SampledCaptions(pairs, settings.seed)
        sampled = [dataset]
    teacher = score_planned_batches(embedder, dataset, settings, sampler, progress)
    set_seed(settings.seed)
    temperature = cast(Any, embedder.lvlm.model.temperature).modules_to_save["default"]
    with embedder.lvlm.lock:  # another thread restores this flag when it switches the adapter on again
        temperature.requires_grad_(settings.learn_temperature)
    refresh = refresh_callbacks(embedder, pairs, settings, sampler, image_features())
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
        settings.keep_features,
        args=arguments,
        train_dataset=dataset,
        callbacks=[
            *callbacks,
            *sampled,
            *refresh,
            *([EarlyStopping(early_stopping)] if early_stopping is not None else ()),
            CompleteCheckpoints(),
        ],
    )
    for callback in refresh:
        callback.mine = partial(trainer.run_whole, callback.mine)
    if early_stopping is not None:
        arguments.load_best_model_at_end = True  # set late: the first validation tells the metric's name
    trainer.remove_callback(PrinterCallback)  # the progress bar shows more
    return trainer


def enable_layer_checkpointing(embedder: Embedder) -> None:
    """Store only each layer's input and recompute the layer in the backward pass.

    Disable it with `activation_checkpointing_disable`.
    """
    model = embedder.lvlm.model
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.disable_input_require_grads()  # otherwise a frozen vision encoder would be differentiated too


def _checked_pairs(embedder: Embedder, pairs: list[Pair], settings: Settings, on_error: str) -> list[Pair]:
    """Apply the 30-token rule with the LVLM's own tokenizer."""
    pairs = _apply_token_limits(embedder.lvlm.processor.tokenizer, pairs, settings, on_error)
    if len(pairs) < settings.batch_size:
        raise ValueError(
            f"{len(pairs)} pairs do not fill one batch of {settings.batch_size}: give more pairs or lower batch_size"
        )
    if not any(pair.short for pair in pairs):
        warnings.warn("no pair has a short caption: the contrastive loss is 0 and trains nothing", stacklevel=3)
    return pairs


def _apply_token_limits(
    tokenizer: PreTrainedTokenizerBase, pairs: list[Pair], settings: Settings, on_error: str = "raise"
) -> list[Pair]:
    texts = (text for pair in pairs for text in (*pair.captions, pair.long, *pair.negatives) if text is not None)
    counts = count_tokens(tokenizer, texts)
    return check_lengths(pairs, counts.__getitem__, settings.short_limit, settings.long_limit, on_error)


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
        return _apply_token_limits(tokenizer, [pair], settings)[0]

    if settings.workers and stream.workers:
        raise ValueError(
            f"Settings(workers={settings.workers}) and stream_pairs(workers={stream.workers}): use one of them"
        )
    stream_state, batches_done = load_stream_state(Path(checkpoint)) if checkpoint else ({}, 0)
    return replace(
        stream, batch_size=settings.batch_size // n_ranks, check=check, stream_state=stream_state,
        batches_done=batches_done,
        collate=partial(_collate, Collator(embedder, settings.next_token_weight > 0)),
    )  # fmt: skip


def _collate(collator: Collator, pairs: Sequence[Pair]) -> Batch:
    return collator(pairs)["batch"]
