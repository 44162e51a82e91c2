"""The fine-tune: a Trainer that owns only the step, and `fit`, which sets it up from a few settings."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from vladva_kit.cached_gradients import cached_step, learnt_tokens, plainly
from vladva_kit.data import Pair, check_lengths, load_pairs
from vladva_kit.embedder import Embedder, summary_embeddings
from vladva_kit.image_cache import CachedPictures, cache_pictures
from vladva_kit.image_features import ImageFeatures, with_features
from vladva_kit.losses import caption_keys, next_token
from vladva_kit.placement import check_finite
from vladva_kit.progress import Progress
from vladva_kit.prompts import Sequences, behind_pictures, caption_ids, image_sequences, text_sequences
from vladva_kit.ranks import (
    average_gradients,
    contrastive_over_ranks,
    inside,
    launched,
    mean_over_ranks,
    rank,
    world_size,
)
from vladva_kit.streams import PairStream, read_places, write_places


@dataclass(frozen=True)
class Settings:
    """How to fine-tune. The paper's own: AdamW, 1e-4, cosine, batch 1,024; a small LVLM wants more and takes less."""

    steps: int = 150
    batch_size: int = 64  # pairs a step: each is the negative of all others
    learning_rate: float = 1e-3
    warmup: int = 10  # steps
    weight_decay: float = 0.0
    next_token_weight: float = 1.0  # the paper adds the two losses up
    learn_temperature: bool = True
    max_grad_norm: float = 1.0
    bf16: bool | None = None  # None: on a GPU that can, and on a CPU never
    seed: int = 0
    short_limit: int = 30  # tokens; a caption this long is a long one (paper, section 3.2)
    long_limit: int = 500
    output_dir: str | None = None  # checkpoints go here; None keeps none
    resume: bool = False  # go on from the last checkpoint in output_dir
    save_every: int = 50  # steps
    report_to: str = "none"  # or "tensorboard", "wandb", …
    micro_batch_size: int | None = None  # rows in memory at a time: cached gradients; None runs the batch as one
    gradient_checkpointing: bool = False  # the LLM's layers keep no states and are run again: less memory, more time
    cache_images: str | None = None  # "memory" or a folder: the frozen tower runs once over the pictures, and not again


@dataclass(frozen=True)
class Batch:
    """What one step sees: pictures with their long captions, short captions, and which rows have a short one."""

    images: Sequences
    texts: Sequences | None
    paired: Tensor  # (n_texts,) rows of `images` that the texts belong to
    negatives: Sequences | None
    keys: Tensor  # (n_texts,) a number for each caption: the same caption on another rank has the same
    negative_keys: Tensor | None  # (n_negatives,)
    features: ImageFeatures | None = None  # in place of pixels, where they are cached


class Collator:
    """Pairs to a `Batch`: opens pictures, writes sequences; pairs that lack one caption serve with the other."""

    def __init__(self, embedder: Embedder, next_token: bool = True, pictures: CachedPictures | None = None) -> None:
        self.pictures = pictures
        self.processor = embedder.lvlm.processor
        self.image_prompt, self.text_prompt = embedder.image_prompt, embedder.text_prompt
        self.next_token = next_token

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        tokenizer = self.processor.tokenizer
        longs = [
            [*caption_ids(tokenizer, pair.long), tokenizer.eos_token_id] if self.next_token and pair.long else None
            for pair in pairs
        ]
        features, long_ids = None, longs if any(longs) else None
        if self.pictures is not None:
            made, features = self.pictures.batch(pairs)
            images = behind_pictures(tokenizer, made, self.image_prompt, long_ids)
        else:
            images = image_sequences(self.processor, [pair.load_image() for pair in pairs], self.image_prompt, long_ids)
        paired = [row for row, pair in enumerate(pairs) if pair.short]
        shorts = [pairs[row].short for row in paired]
        negatives = [text for pair in pairs for text in pair.negatives]
        batch = Batch(
            images,
            text_sequences(tokenizer, shorts, self.text_prompt) if shorts else None,
            torch.tensor(paired, dtype=torch.long),
            text_sequences(tokenizer, negatives, self.text_prompt) if negatives else None,
            caption_keys(shorts),
            caption_keys(negatives) if negatives else None,
            features,
        )
        return {"batch": batch}  # a dictionary, since the Trainer moves and counts dictionaries


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
    learnt = zero
    if next_token_weight:
        tokens = learnt_tokens(images, device)
        if images.labels is not None and tokens:
            loss, own = next_token(hidden, images.labels, embedder.logits)
            learnt = zero + loss * (own * world_size() / tokens)
    figures = {"contrastive": contrast + zero, "next_token": learnt, "accuracy": accuracy}
    return {"loss": figures["contrastive"] + next_token_weight * figures["next_token"], **figures}


def _text_embeddings(embedder: Embedder, sequences: Sequences) -> Tensor:
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
        pictures: CachedPictures | None = None,
        **trainer: Any,
    ) -> None:
        self.embedder, self.next_token_weight, self.micro_batch_size = embedder, next_token_weight, micro_batch_size
        self.figures: dict[str, float] = {}  # of the last step
        self.places: dict[int, str] = {}  # where a stream's workers go on
        self.clock: Callable[[], dict[str, float]] = dict  # the seconds so far, for the log
        collator = Collator(embedder, next_token=next_token_weight > 0, pictures=pictures)
        super().__init__(model=embedder.lvlm.adapter, data_collator=collator, **trainer)

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

    def get_train_dataloader(self) -> DataLoader:
        """The Trainer's; a stream brings its own, which has parted itself between ranks already."""
        if not isinstance(self.train_dataset, PairStream):
            return super().get_train_dataloader()
        self.places = dict(self.train_dataset.places)
        return self.train_dataset.loader()

    def _save_checkpoint(self, *arguments: Any) -> None:
        if isinstance(self.train_dataset, PairStream):
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            write_places(folder, self.places, self.state.global_step)
        super()._save_checkpoint(*arguments)

    def _run(self, model: nn.Module) -> Callable[..., Any]:
        return partial(inside, model) if self.is_fsdp_enabled or self.is_deepspeed_enabled else plainly

    def _precision(self) -> AbstractContextManager:
        return torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16)

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
    checkpoint = _checkpoint(settings)
    if isinstance(data, PairStream):
        pairs = _stream(embedder, data, settings, checkpoint)
    else:
        pairs = _checked_pairs(embedder, load_pairs(data, split=split, on_error=on_error), settings, on_error)
    pictures = None
    if settings.cache_images is not None and isinstance(pairs, PairStream):
        raise ValueError("cache_images needs all pictures at hand: leave it out for a stream")
    if settings.cache_images is not None:
        pictures = cache_pictures(embedder, pairs, settings.cache_images, settings.micro_batch_size or 32)
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
            args=_arguments(embedder, settings, nowhere, isinstance(pairs, PairStream)),
            train_dataset=pairs,
            callbacks=[progress_bar, *callbacks],
        )
        trainer.clock = progress_bar.clock
        trainer.remove_callback(PrinterCallback)  # the bar says more
        progress_bar.figures = lambda: trainer.figures
        if settings.gradient_checkpointing:
            checkpoint_layers(embedder)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        finally:  # also when it is interrupted: what was learnt so far can be used
            embedder.lvlm.model.eval()
            if settings.gradient_checkpointing:
                embedder.lvlm.model.activation_checkpointing_disable()
            progress_bar.close()
    return progress_bar.history


def checkpoint_layers(embedder: Embedder) -> None:
    """Layers keep their inputs only and are run again for the gradient; `activation_checkpointing_disable` ends it."""
    model = embedder.lvlm.model
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.disable_input_require_grads()  # else a frozen tower would be differentiated too


def _checkpoint(settings: Settings) -> str | None:
    """The last whole checkpoint of an interrupted run, or None where there is none yet.

    Raises ValueError when a new run would mix its checkpoints with an older one's, or when there is nowhere to look.
    """
    if settings.output_dir is None:
        if settings.resume:
            raise ValueError("resume=True needs output_dir: the folder that the interrupted run wrote to")
        return None
    # trainer_state.json is written last: a folder without it is half of a checkpoint
    whole = [path.parent for path in Path(settings.output_dir).glob("checkpoint-*/trainer_state.json")]
    if whole and not settings.resume:
        raise ValueError(
            f"{settings.output_dir} holds checkpoints of an earlier run: go on with resume=True, "
            "remove the folder, or name another output_dir"
        )
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def _checked_pairs(embedder: Embedder, pairs: list[Pair], settings: Settings, on_error: str) -> list[Pair]:
    """The pairs after the 30-token rule, by the LVLM's own tokenizer."""
    tokenizer = embedder.lvlm.processor.tokenizer
    pairs = check_lengths(
        pairs, lambda text: len(caption_ids(tokenizer, text)), settings.short_limit, settings.long_limit, on_error
    )
    if len(pairs) < settings.batch_size:
        raise ValueError(
            f"{len(pairs)} pairs do not fill one batch of {settings.batch_size}: give more pairs or lower batch_size"
        )
    return pairs


def _stream(embedder: Embedder, stream: PairStream, settings: Settings, checkpoint: str | None) -> PairStream:
    """The stream with the settings' batches, the 30-token rule and the collator, at the checkpoint's place."""
    tokenizer, ranks = embedder.lvlm.processor.tokenizer, launched()[1]

    def check(pair: Pair) -> Pair:
        limits = settings.short_limit, settings.long_limit
        return check_lengths([pair], lambda text: len(caption_ids(tokenizer, text)), *limits)[0]

    places, begun = read_places(Path(checkpoint)) if checkpoint else ({}, 0)
    return replace(
        stream, batch_size=settings.batch_size // ranks, check=check, places=places, begun=begun,
        collate=lambda batch: Collator(embedder, settings.next_token_weight > 0)(batch)["batch"],
    )  # fmt: skip


def _arguments(embedder: Embedder, settings: Settings, nowhere: str, streamed: bool = False) -> TrainingArguments:
    """The Trainer's arguments; what is not settled here is at the Trainer's defaults."""
    on_cpu = embedder.device.type == "cpu"
    bf16 = settings.bf16 if settings.bf16 is not None else embedder.lvlm.model.dtype == torch.bfloat16 and not on_cpu
    arguments = TrainingArguments(
        output_dir=settings.output_dir or nowhere,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,  # divided by the ranks below
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=bf16,
        fp16=embedder.lvlm.model.dtype == torch.float16,  # losses are scaled: small gradients would vanish
        use_cpu=on_cpu,
        seed=settings.seed,
        dataloader_drop_last=True,  # a last batch of few pairs has few negatives
        remove_unused_columns=False,
        ignore_data_skip=streamed,  # a stream goes on at its own place
        ddp_broadcast_buffers=False,  # they are constants
        logging_steps=1,
        save_strategy="steps" if settings.output_dir else "no",
        save_steps=settings.save_every,
        save_total_limit=2,
        report_to=settings.report_to,
        disable_tqdm=True,  # the kit's own bar says more
        label_names=[],
    )
    if settings.batch_size % arguments.world_size:
        raise ValueError(
            f"a batch of {settings.batch_size} pairs cannot be shared by {arguments.world_size} ranks: "
            f"take a multiple of {arguments.world_size}"
        )
    arguments.per_device_train_batch_size = settings.batch_size // arguments.world_size
    arguments._n_gpu = min(1, arguments.n_gpu)  # on a machine with several, the step uses the model's own
    return arguments
