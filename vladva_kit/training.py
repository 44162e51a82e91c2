"""The fine-tune: a Trainer that owns only the step, and `fit`, which sets it up from a few settings."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from vladva_kit.data import Pair, check_lengths, load_pairs
from vladva_kit.embedder import Embedder, summary_embeddings
from vladva_kit.losses import contrastive, next_token, same_caption, same_text
from vladva_kit.placement import check_finite
from vladva_kit.progress import Progress
from vladva_kit.prompts import Sequences, caption_ids, image_sequences, text_sequences


@dataclass(frozen=True)
class Settings:
    """How to fine-tune. The paper's own: AdamW, 1e-4, cosine, batch 1,024; a small LVLM wants more and takes less."""

    steps: int = 150
    batch_size: int = 64  # pairs a step: each is the negative of all others
    learning_rate: float = 2e-3
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


@dataclass(frozen=True)
class Batch:
    """What one step sees: pictures with their long captions, short captions, and which rows have a short one."""

    images: Sequences
    texts: Sequences | None
    paired: Tensor  # (n_texts,) rows of `images` that the texts belong to
    not_negative: Tensor | None  # (n_texts, n_texts)
    negatives: Sequences | None
    not_extra: Tensor | None  # (n_texts, n_negatives): where a hard negative is a row's own caption


class Collator:
    """Pairs to a `Batch`: opens pictures, writes sequences; pairs that lack one caption serve with the other."""

    def __init__(self, embedder: Embedder, next_token: bool = True) -> None:
        self.processor = embedder.lvlm.processor
        self.image_prompt, self.text_prompt = embedder.image_prompt, embedder.text_prompt
        self.next_token = next_token

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        tokenizer = self.processor.tokenizer
        longs = [
            [*caption_ids(tokenizer, pair.long), tokenizer.eos_token_id] if self.next_token and pair.long else None
            for pair in pairs
        ]
        images = image_sequences(
            self.processor, [pair.load_image() for pair in pairs], self.image_prompt, longs if any(longs) else None
        )
        paired = [row for row, pair in enumerate(pairs) if pair.short]
        shorts = [pairs[row].short for row in paired]
        negatives = [text for pair in pairs for text in pair.negatives]
        batch = Batch(
            images,
            text_sequences(tokenizer, shorts, self.text_prompt) if shorts else None,
            torch.tensor(paired, dtype=torch.long),
            same_caption(shorts) if shorts else None,
            text_sequences(tokenizer, negatives, self.text_prompt) if negatives else None,
            same_text(shorts, negatives) if shorts and negatives else None,
        )
        return {"batch": batch}  # a dictionary, since the Trainer moves and counts dictionaries


def step_losses(embedder: Embedder, batch: Batch, next_token_weight: float = 1.0) -> dict[str, Tensor]:
    """Both losses from one forward over the pictures and one over the short captions (paper, section 3.2).

    Returns loss, contrastive, next_token, accuracy (in-batch, 0–1).
    """
    model = embedder.lvlm.model
    images = batch.images.to(embedder.device)
    hidden = embedder.hidden_states(images)
    summaries = summary_embeddings(hidden, images)
    zero = hidden.sum().float() * 0.0  # keeps a graph when a batch holds nothing for one of the losses
    figures = {"contrastive": zero, "next_token": zero, "accuracy": zero}
    if batch.texts is not None and len(batch.paired) > 1:
        texts = _text_embeddings(embedder, batch.texts)
        extra = None if batch.negatives is None else _text_embeddings(embedder, batch.negatives)
        paired = summaries[batch.paired.to(summaries.device)]
        figures["contrastive"], figures["accuracy"] = contrastive(
            paired, texts, model.temperature, batch.not_negative, extra, batch.not_extra
        )
    if images.labels is not None and next_token_weight:
        figures["next_token"], _ = next_token(hidden, images.labels, embedder.logits)
    return {"loss": figures["contrastive"] + next_token_weight * figures["next_token"], **figures}


def _text_embeddings(embedder: Embedder, sequences: Sequences) -> Tensor:
    sequences = sequences.to(embedder.device)
    return summary_embeddings(embedder.hidden_states(sequences), sequences)


class VladvaTrainer(Trainer):
    """transformers' Trainer with VladVA's step; data order, schedule, precision, resume and trackers are the Trainer's.

    trainer = VladvaTrainer(embedder=embedder, args=arguments, train_dataset=pairs)
    """

    def __init__(self, embedder: Embedder, next_token_weight: float = 1.0, **trainer: Any) -> None:
        self.embedder, self.next_token_weight = embedder, next_token_weight
        self.figures: dict[str, float] = {}  # of the last step
        self.clock: Callable[[], dict[str, float]] = dict  # the seconds so far, for the log
        collator = Collator(embedder, next_token=next_token_weight > 0)
        super().__init__(model=embedder.lvlm.adapter, data_collator=collator, **trainer)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The step's loss; its parts are kept in `figures` for the progress bar and the log."""
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
            figures = step_losses(self.embedder, inputs["batch"], self.next_token_weight)
        check_finite(figures["loss"].detach(), self.embedder.lvlm.model.dtype, "losses")  # before they reach a weight
        self.figures = {name: float(value.detach()) for name, value in figures.items()}
        scale = float(self.embedder.lvlm.model.temperature(torch.ones(1, device=self.embedder.device)).detach())
        self.figures["temperature"] = 1 / scale
        return (figures["loss"], figures) if return_outputs else figures["loss"]

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

    data: an imagefolder, a datasets.Dataset (image, short, long) or a list of Pair. deadline: a function that says
    when to stop early. With `output_dir`, checkpoints are kept, and `resume=True` goes on from the last one.
    Raises ValueError for a baseline, or for fewer pairs than fill a batch; BadInput for data that cannot be used.
    """
    if embedder.record is None:
        raise ValueError("this embedder is a baseline, nothing in it can learn: call attach(lvlm) first")
    pairs = _checked_pairs(embedder, load_pairs(data, split=split, on_error=on_error), settings, on_error)
    set_seed(settings.seed)
    temperature = embedder.lvlm.model.temperature.modules_to_save["default"]
    temperature.requires_grad_(settings.learn_temperature)
    progress_bar = Progress(settings.steps, settings.batch_size, shown=progress, deadline=deadline)
    with tempfile.TemporaryDirectory() as nowhere:
        trainer = VladvaTrainer(
            embedder,
            settings.next_token_weight,
            args=_arguments(embedder, settings, nowhere),
            train_dataset=pairs,
            callbacks=[progress_bar, *callbacks],
        )
        trainer.clock = progress_bar.clock
        trainer.remove_callback(PrinterCallback)  # the bar says more
        progress_bar.figures = lambda: trainer.figures
        try:
            trainer.train(resume_from_checkpoint=_checkpoint(settings))
        finally:  # also when it is interrupted: what was learnt so far can be used
            embedder.lvlm.model.eval()
            progress_bar.close()
    return progress_bar.history


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


def _arguments(embedder: Embedder, settings: Settings, nowhere: str) -> TrainingArguments:
    """The Trainer's arguments; what is not settled here is at the Trainer's defaults."""
    on_cpu = embedder.device.type == "cpu"
    bf16 = settings.bf16 if settings.bf16 is not None else embedder.lvlm.model.dtype == torch.bfloat16 and not on_cpu
    arguments = TrainingArguments(
        output_dir=settings.output_dir or nowhere,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
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
        logging_steps=1,
        save_strategy="steps" if settings.output_dir else "no",
        save_steps=settings.save_every,
        save_total_limit=2,
        report_to=settings.report_to,
        disable_tqdm=True,  # the kit's own bar says more
        label_names=[],
    )
    if arguments.world_size > 1:
        raise ValueError(f"{arguments.world_size} ranks: this version trains on one; start it without torchrun")
    arguments._n_gpu = min(1, arguments.n_gpu)  # on a machine with several, the step uses the model's own
    return arguments
