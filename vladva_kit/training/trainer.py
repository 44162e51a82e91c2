"""The fine-tune: a Trainer that owns only the step, and `fit`, which sets it up from a few settings."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, set_seed

from vladva_kit.data.pairs import Pair, check_lengths, load_pairs
from vladva_kit.data.streaming import PairStream, load_stream_state, save_stream_state
from vladva_kit.embedder.embedder import Embedder, summary_embeddings
from vladva_kit.embedder.prompts import ModelInputs, encode_caption
from vladva_kit.models.device import check_finite, launched, rank, world_size
from vladva_kit.training.collator import Batch, ByLength, Collator
from vladva_kit.training.distributed import average_gradients, contrastive_over_ranks, inside, mean_over_ranks
from vladva_kit.training.features import with_features
from vladva_kit.training.grad_cache import cached_step, count_target_tokens, plainly
from vladva_kit.training.image_cache import CachedImageFeatures, cache_image_features
from vladva_kit.training.losses import next_token
from vladva_kit.training.progress import Progress
from vladva_kit.training.settings import Settings, last_checkpoint, split_soft_prompt_group, trainer_arguments


def step_losses(embedder: Embedder, batch: Batch, next_token_weight: float = 1.0) -> dict[str, Tensor]:
    """Both losses from one forward over the pictures and one over the short captions (paper, section 3.2).

    Returns loss, contrastive, next_token, accuracy (in-batch, 0–1).
    Over several ranks these are this rank's parts: their mean over the ranks is the global batch's.
    """
    model, device = embedder.lvlm.model, embedder.device
    images = batch.images.to(device)
    if batch.features is not None:
        images = with_features(embedder, batch.images, batch.features, range(len(batch.images.summary)))
    hidden = embedder.hidden_states(images)
    summaries = summary_embeddings(hidden, images)
    zero = hidden.sum().float() * 0.0  # keeps a graph when a batch holds nothing for one of the losses
    paired = summaries[batch.paired.to(device)]
    texts = paired[:0] if batch.texts is None else _text_embeddings(embedder, batch.texts)
    extra = None if batch.negatives is None else _text_embeddings(embedder, batch.negatives)
    contrast, accuracy = contrastive_over_ranks(
        paired, texts, model.temperature, batch.keys, extra, batch.negative_keys
    )
    learned = zero
    if next_token_weight:
        tokens = count_target_tokens(images, device)
        if images.labels is not None and tokens:
            loss, own = next_token(hidden, images.labels, embedder.logits)
            learned = zero + loss * (own * world_size() / tokens)
    figures = {"contrastive": contrast + zero, "next_token": learned, "accuracy": accuracy}
    return {"loss": figures["contrastive"] + next_token_weight * figures["next_token"], **figures}


def _text_embeddings(embedder: Embedder, sequences: ModelInputs) -> Tensor:
    sequences = sequences.to(embedder.device)
    return summary_embeddings(embedder.hidden_states(sequences), sequences)


class VladvaTrainer(Trainer):
    """transformers' Trainer with VladVA's step; data order, schedule, precision, resume and trackers are the Trainer's.

    trainer = VladvaTrainer(embedder=embedder, args=arguments, train_dataset=pairs)
    """

    def __init__(
        self,
        embedder: Embedder,
        next_token_weight: float = 1.0,
        micro_batch_size: int | None = None,
        pictures: CachedImageFeatures | None = None,
        soft_prompt_learning_rate: float | None = None,
        **trainer: Any,
    ) -> None:
        self.embedder, self.next_token_weight, self.micro_batch_size = embedder, next_token_weight, micro_batch_size
        self.soft_prompt_learning_rate = soft_prompt_learning_rate
        self.figures: dict[str, float] = {}  # of the last step
        self.places: dict[int, str] = {}  # where a stream's workers go on
        self.clock: Callable[[], dict[str, float]] = dict  # the seconds so far, for the log
        collator = Collator(embedder, next_token=next_token_weight > 0, pictures=pictures)
        super().__init__(model=embedder.lvlm.adapter, data_collator=collator, **trainer)
        if self.is_fsdp_enabled:
            self._name_layers(self.accelerator.state.fsdp_plugin)

    def _name_layers(self, plugin: Any) -> None:
        """Tells FSDP which layers to shard, unless its config does.

        A family lists its towers' layers whether or not they are in the model, and accelerate refuses one that is not.
        """
        model = self.embedder.lvlm.model
        there = {type(module).__name__ for module in model.modules()}
        if plugin.transformer_cls_names_to_wrap is None:
            plugin.transformer_cls_names_to_wrap = [name for name in model._no_split_modules if name in there]

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The step's loss; its parts are kept in `figures` for the progress bar and the log."""
        with self._precision():
            figures = self._run(model)(step_losses, self.embedder, inputs["batch"], self.next_token_weight)
        self._keep(figures)
        return (figures["loss"], figures) if return_outputs else figures["loss"]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **keywords: Any) -> Tensor:
        """A step in one graph, or with cached gradients; over several ranks, gradients are averaged at its end."""
        if "place" in inputs:
            worker, place = json.loads(inputs["place"])
            self.places[worker] = json.dumps(place)
        if self.micro_batch_size is None:
            loss = super().training_step(model, inputs, *arguments, **keywords)
        elif self.is_deepspeed_enabled:
            raise ValueError("micro_batch_size has not been tried with DeepSpeed: use DDP or FSDP2, or leave it out")
        else:
            model.train()
            figures, self.micro_batch_size = cached_step(
                self.embedder,
                inputs["batch"],
                self.next_token_weight,
                rows=self.micro_batch_size,
                backward=self.accelerator.backward,
                precision=self._precision,
                run=self._run(model),
            )
            self._keep(figures)
            loss = figures["loss"].detach()
        if isinstance(model, DistributedDataParallel) and self.accelerator.sync_gradients:
            average_gradients(model.parameters())  # the step runs beside DDP's forward, whose hooks then stay silent
        return loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's; the soft prompts may have a learning rate of their own."""
        new, optimizer = self.optimizer is None, super().create_optimizer(model)
        if new and self.soft_prompt_learning_rate is not None:
            split_soft_prompt_group(optimizer, self.model if model is None else model, self.soft_prompt_learning_rate)
        return optimizer

    def get_train_dataloader(self) -> DataLoader:
        """The Trainer's; a stream brings its own, which has parted itself between ranks already."""
        if not isinstance(self.train_dataset, PairStream):
            return super().get_train_dataloader()
        self.places = dict(self.train_dataset.places)
        return self.train_dataset.loader()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """The Trainer's; it cannot group pairs by length itself, since their tokens are made in the collator."""
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        batch = self.args.train_batch_size * self.args.world_size
        return ByLength(self.train_dataset if train_dataset is None else train_dataset, batch, self.args.seed)

    def _save_checkpoint(self, *arguments: Any) -> None:
        if isinstance(self.train_dataset, PairStream):
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            save_stream_state(folder, self.places, self.state.global_step)
        super()._save_checkpoint(*arguments)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """As the Trainer's, but peft is told that the embeddings are as they were: it would ask the hub."""
        plain = self.model.save_pretrained
        self.model.save_pretrained = partial(plain, save_embedding_layers=False)
        try:
            super()._save(output_dir, state_dict)
        finally:
            del self.model.save_pretrained

    def _run(self, model: nn.Module) -> Callable[..., Any]:
        return partial(inside, model) if self.is_fsdp_enabled or self.is_deepspeed_enabled else plainly

    def _precision(self) -> AbstractContextManager:
        return torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The Trainer's, behind the clip: gradients run over under a finite loss too, and stop before the weights."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None:
            check_finite(torch.as_tensor(norm), self.embedder.lvlm.model.dtype, "gradients")
        return norm

    def _keep(self, figures: dict[str, Tensor]) -> None:
        check_finite(figures["loss"].detach(), self.embedder.lvlm.model.dtype, "losses")  # before they reach a weight
        self.figures = mean_over_ranks(figures)
        scale = float(self.embedder.lvlm.model.temperature(torch.ones(1, device=self.embedder.device)).detach())
        self.figures["temperature"] = 1 / scale

    def log(self, logs: dict[str, float], *arguments: Any, **keywords: Any) -> None:
        """Adds the step's parts to what is logged."""
        super().log({**logs, **self.figures, **self.clock()} if "loss" in logs else logs, *arguments, **keywords)


def fit(
    embedder: Embedder,
    data: Any,
    settings: Settings = Settings(),  # noqa: B008  frozen
    *,
    split: str = "train",
    on_error: str = "raise",
    callbacks: Sequence[TrainerCallback] = (),
    progress: bool = True,
    deadline: Callable[[], bool] | None = None,
) -> list[dict[str, float]]:
    """Fine-tunes what `attach` put in place; returns the history, a row a step.

        history = fit(embedder, sample("emoji_pairs"), Settings(steps=150, batch_size=64))
        history[-1]     # {"step": 150, "seconds": …, "loss": …, "contrastive": …, "next_token": …, "accuracy": …, …}

    data: an imagefolder, a datasets.Dataset (image, short, long), a list of Pair, or `stream_pairs(…)`. deadline: a
    function that says when to stop early. With `output_dir`, checkpoints are kept, and `resume=True` goes on from the
    last one.
    Raises ValueError for a baseline, or for fewer pairs than fill a batch; BadInput for data that cannot be used.
    """
    if embedder.record is None:
        raise ValueError("this embedder is a baseline, nothing in it can learn: call attach(lvlm) first")
    checkpoint = last_checkpoint(settings)
    if isinstance(data, PairStream):
        pairs = _stream(embedder, data, settings, checkpoint)
    else:
        pairs = _checked_pairs(embedder, load_pairs(data, split=split, on_error=on_error), settings, on_error)
    pictures = _cached_pictures(embedder, pairs, settings)
    set_seed(settings.seed)
    temperature = embedder.lvlm.model.temperature.modules_to_save["default"]
    temperature.requires_grad_(settings.learn_temperature)
    progress_bar = Progress(settings.steps, settings.batch_size, shown=progress and rank() == 0, deadline=deadline)
    with tempfile.TemporaryDirectory() as nowhere:
        trainer = VladvaTrainer(
            embedder,
            settings.next_token_weight,
            settings.micro_batch_size,
            pictures,
            settings.soft_prompt_learning_rate,
            args=trainer_arguments(embedder, settings, nowhere, isinstance(pairs, PairStream)),
            train_dataset=pairs,
            callbacks=[progress_bar, *callbacks],
        )
        trainer.clock = progress_bar.clock
        trainer.remove_callback(PrinterCallback)  # the bar says more
        progress_bar.figures = lambda: trainer.figures
        if settings.gradient_checkpointing:
            enable_layer_checkpointing(embedder)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        finally:  # also when it is interrupted: what was learned so far can be used
            embedder.lvlm.model.eval()
            if settings.gradient_checkpointing:
                embedder.lvlm.model.activation_checkpointing_disable()
            progress_bar.close()
    return progress_bar.history


def enable_layer_checkpointing(embedder: Embedder) -> None:
    """Layers keep their inputs only and are run again for the gradient; `activation_checkpointing_disable` ends it."""
    model = embedder.lvlm.model
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.disable_input_require_grads()  # else a frozen tower would be differentiated too


def _checked_pairs(embedder: Embedder, pairs: list[Pair], settings: Settings, on_error: str) -> list[Pair]:
    """The pairs after the 30-token rule, by the LVLM's own tokenizer."""
    tokenizer = embedder.lvlm.processor.tokenizer
    pairs = check_lengths(
        pairs, lambda text: len(encode_caption(tokenizer, text)), settings.short_limit, settings.long_limit, on_error
    )
    if len(pairs) < settings.batch_size:
        raise ValueError(
            f"{len(pairs)} pairs do not fill one batch of {settings.batch_size}: give more pairs or lower batch_size"
        )
    return pairs


def _cached_pictures(
    embedder: Embedder, pairs: list[Pair] | PairStream, settings: Settings
) -> CachedImageFeatures | None:
    """The frozen tower's features of all pictures, where the settings want them kept over the run."""
    if settings.cache_images is None:
        return None
    if isinstance(pairs, PairStream):
        raise ValueError("cache_images needs all pictures at hand: leave it out for a stream")
    return cache_image_features(embedder, pairs, settings.cache_images, settings.micro_batch_size or 32)


def _stream(embedder: Embedder, stream: PairStream, settings: Settings, checkpoint: str | None) -> PairStream:
    """The stream with the settings' batches, the 30-token rule and the collator, at the checkpoint's place."""
    tokenizer, ranks = embedder.lvlm.processor.tokenizer, launched()[1]

    def check(pair: Pair) -> Pair:
        limits = settings.short_limit, settings.long_limit
        return check_lengths([pair], lambda text: len(encode_caption(tokenizer, text)), *limits)[0]

    places, begun = load_stream_state(Path(checkpoint)) if checkpoint else ({}, 0)
    return replace(
        stream, batch_size=settings.batch_size // ranks, check=check, places=places, begun=begun,
        collate=lambda batch: Collator(embedder, settings.next_token_weight > 0)(batch)["batch"],
    )  # fmt: skip
