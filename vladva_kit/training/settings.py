"""What can be set about a fine-tune, and the Trainer's arguments that follow from it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import TrainingArguments

from vladva_kit.embedder.embedder import Embedder
from vladva_kit.models.device import use_bfloat16


@dataclass(frozen=True)
class Settings:
    """How to fine-tune. The paper's own: AdamW, 1e-4, cosine, batch 1,024; a small LVLM wants more and takes less."""

    steps: int = 150
    batch_size: int = 64  # pairs a step: each is the negative of all others
    learning_rate: float = 5e-4
    soft_prompt_learning_rate: float | None = None  # None: as the rest
    warmup: int = 10  # steps
    weight_decay: float = 0.0
    next_token_weight: float = 1.0  # the paper adds the two losses up
    learn_temperature: bool = True
    max_grad_norm: float = 1.0
    bf16: bool | None = None  # None: on a GPU that can, and on a CPU never (see device_choice.use_bfloat16)
    seed: int = 0
    group_by_length: bool = False  # pairs of like long captions share a batch: less padding, less random batches
    short_limit: int = 30  # tokens; a caption this long is a long one (paper, section 3.2)
    long_limit: int = 500
    output_dir: str | None = None  # checkpoints go here; None keeps none
    resume: bool = False  # go on from the last checkpoint in output_dir
    save_every: int = 50  # steps
    report_to: str = "none"  # or "tensorboard", "wandb", …
    micro_batch_size: int | None = None  # rows in memory at a time: cached gradients; None runs the batch as one
    gradient_checkpointing: bool = False  # the LLM's layers keep no states and are run again: less memory, more time
    cache_images: str | None = None  # "memory" or a folder: the frozen tower runs once over the pictures, and not again


def last_checkpoint(settings: Settings) -> str | None:
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


def trainer_arguments(
    embedder: Embedder, settings: Settings, nowhere: str, streamed: bool = False
) -> TrainingArguments:
    """The Trainer's arguments; what is not settled here is at the Trainer's defaults.

        trainer_arguments(embedder, Settings(steps=150), nowhere="a/folder/to/throw/away").max_steps    # 150

    Raises ValueError for a batch that the ranks cannot share, for bf16 where it cannot be computed, or for a model on
    another GPU than the Trainer's.
    """
    dtype, place = embedder.lvlm.model.dtype, embedder.device
    if place.type == "cuda" and place.index and "LOCAL_RANK" not in os.environ:  # it would be moved without a word
        raise ValueError(
            f"the model is on {place}, but the Trainer works on the first GPU that it sees: leave device out, and "
            f"start Python with CUDA_VISIBLE_DEVICES={place.index}"
        )
    arguments = TrainingArguments(
        output_dir=settings.output_dir or nowhere,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,  # divided by the ranks below
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=use_bfloat16(settings.bf16, embedder.device, dtype),
        fp16=dtype == torch.float16,  # losses are scaled: small gradients would vanish
        use_cpu=embedder.device.type == "cpu",
        seed=settings.seed,
        train_sampling_strategy="group_by_length" if settings.group_by_length and not streamed else "random",
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
    arguments._n_gpu = min(1, arguments.n_gpu)  # on a machine with several, the Trainer would split the model over them
    return arguments


def split_soft_prompt_group(optimizer: torch.optim.Optimizer, model: nn.Module, learning_rate: float) -> None:
    """Parts the soft prompts from the optimizer's other weights: they get a rate of their own, before the schedule.

        split_soft_prompt_group(optimizer, embedder.lvlm.adapter, learning_rate=0.05)

    Raises ValueError where the optimizer has none.
    """
    own = {id(weight) for name, weight in model.named_parameters() if ".soft_prompt." in name}
    found = [(group, [weight for weight in group["params"] if id(weight) in own]) for group in optimizer.param_groups]
    if not any(apart for _, apart in found):
        raise ValueError(
            f"soft_prompt_learning_rate={learning_rate} has nothing to train: "
            "attach(lvlm, soft_prompt=True), or leave it out"
        )
    for group, apart in found:
        if apart:
            group["params"] = [weight for weight in group["params"] if id(weight) not in own]
            optimizer.add_param_group({**group, "params": apart, "lr": learning_rate})
