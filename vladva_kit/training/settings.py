"""The settings of a fine-tune, and the TrainingArguments that follow from them."""

from __future__ import annotations

import difflib
import math
import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, cast

import torch
from torch import nn
from transformers import TrainingArguments

from vladva_kit.data.hard_batches import Mining
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.models.device import use_bfloat16

# TrainingArguments that Settings has under another name
RENAMED = {
    "max_steps": "steps",
    "per_device_train_batch_size": "batch_size",
    "warmup_steps": "warmup",
    "save_steps": "save_every",
    "eval_steps": "validate_every",
    "resume_from_checkpoint": "resume",
    "dataloader_num_workers": "workers",
}
LOCAL_TRACKERS = ("all", "tensorboard", "codecarbon")  # they write their logs to output_dir
GPU_WORKERS = 4  # at most, for each rank
SOFT_PROMPT_FACTOR = 50  # a soft prompt is a few vectors and barely moves at LoRA's rate


@dataclass(frozen=True)
class Settings:
    """How to fine-tune: `Settings(steps=200, batch_size=64)`.

    The paper uses AdamW, learning rate 1e-4, cosine schedule and batch 1,024. The defaults were measured on emoji-llava
    and emoji_pairs (docs/results.md): a small LVLM needs a higher rate and a smaller batch; for a large one, set
    learning_rate to 1e-4 and the soft prompt's rate follows. Raises ValueError naming a field with an unusable value,
    the value and the allowed range.
    """

    steps: int = 150
    batch_size: int = 64  # pairs per step; each is a negative for all others
    learning_rate: float = 1e-3
    soft_prompt_learning_rate: float | None = None  # None: SOFT_PROMPT_FACTOR x learning_rate
    warmup: int = 10  # steps
    weight_decay: float = 0.0
    next_token_weight: float = 0.3  # 1 in the paper
    distill_weight: float = 0.0  # of the loss that ranks captions as the base model's likelihood does (rank_kl_loss)
    # of the likelihoods, in nats per token; at CORE's 0.05 emoji-llava is certain (entropy 0.005 nats; at 0.2 0.15)
    distill_temperature: float = 0.2
    distill_cache: str | None = None  # a folder for the likelihoods; None: output_dir/teacher, if there is one
    learn_temperature: bool = True
    max_grad_norm: float = 1.0
    bf16: bool | None = None  # None: on a GPU that supports it, never on a CPU (models.device.use_bfloat16)
    seed: int = 0
    group_by_length: bool = False  # batch pairs with long captions of similar length: less padding, less random batches
    short_limit: int = 30  # tokens; a caption of this length or longer is a long one (paper, section 3.2)
    long_limit: int = 500  # tokens
    output_dir: str | None = None  # folder for checkpoints; None keeps none
    resume: bool = False  # resume from the last checkpoint in output_dir
    resume_anyway: bool = False  # resume although settings or data differ from those that the run began with
    save_every: int = 50  # steps
    validate_every: int = 50  # steps; used if fit gets validation=
    report_to: str = "none"  # or "wandb", …; "tensorboard" writes to output_dir/runs
    # processes that decode and tokenize, the same batches for any number; None: up to 4 on a GPU of Linux, 0 on a CPU
    workers: int | None = None
    micro_batch_size: int | None = None  # rows in memory at a time (cached gradients); None runs the batch at once
    keep_features: bool = True  # False, with micro_batch_size: run a frozen vision encoder twice, for less memory
    gradient_checkpointing: bool = False  # recompute the LLM's layers in the backward pass: less memory, more time
    cache_images: str | None = None  # "memory" or a folder: run the frozen vision encoder once per image
    # {"groups": 0.25, "mined": 0.5, "random": 0.25}; None: a quarter groups if the pairs have groups, otherwise random
    batches: Mapping[str, float] | None = None
    mining: Mining = Mining()  # how the "mined" part of the batches is found
    trainer: Mapping[str, Any] = field(default_factory=dict)  # any other field of transformers.TrainingArguments

    def __post_init__(self) -> None:
        for name, (kind, lowest) in LOWEST.items():
            value = getattr(self, name)
            if value is None and name in ("soft_prompt_learning_rate", "micro_batch_size", "workers"):
                continue
            # bool is a kind of int, and steps=True a mistake; numpy's numbers are registered as Integral and Real
            if isinstance(value, bool) or not isinstance(value, kind) or not lowest <= cast(float, value) < math.inf:
                number = "whole" if kind is Integral else "finite"
                raise ValueError(f"Settings({name}={value!r}): pass a {number} number of at least {lowest}")
        if self.seed >= 2**32:
            raise ValueError(f"Settings(seed={self.seed}): pass a whole number below 2**32")
        if self.long_limit < self.short_limit:
            raise ValueError(
                f"Settings(long_limit={self.long_limit}): a long caption has at least short_limit={self.short_limit} "
                "tokens, so pass a number of at least that"
            )
        if self.distill_temperature == 0:
            raise ValueError("Settings(distill_temperature=0): pass a number above 0, such as 0.2")
        if self.distill_weight and (self.group_by_length or self.mining.refresh_every):
            other = "group_by_length" if self.group_by_length else "mining.refresh_every"
            raise ValueError(
                f"Settings(distill_weight={self.distill_weight}): the teacher scores batches that are known before "
                f"training, so leave {other} out"
            )
        if self.workers and self.mining.refresh_every:
            raise ValueError(
                f"Settings(workers={self.workers}): workers prepare batches in advance, with the neighbors before "
                "mining.refresh_every; use workers=0"
            )
        trackers = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        if self.output_dir is None and any(name in LOCAL_TRACKERS for name in trackers):
            raise ValueError(
                f"Settings(report_to={self.report_to!r}): its logs are written to output_dir, so set output_dir too; a "
                "run without it keeps no files"
            )
        if not isinstance(self.trainer, Mapping):
            raise ValueError(f"Settings(trainer={self.trainer!r}): pass a dict of fields of TrainingArguments")
        _check_overrides(self.trainer)


LOWEST: dict[str, tuple[type, float]] = {  # the kind and the lowest value of each number in Settings
    **dict.fromkeys(("steps", "batch_size", "save_every", "validate_every", "micro_batch_size"), (Integral, 1)),
    **dict.fromkeys(("short_limit", "long_limit"), (Integral, 1)),
    **dict.fromkeys(("warmup", "seed", "workers"), (Integral, 0)),
    **dict.fromkeys(("learning_rate", "soft_prompt_learning_rate", "weight_decay"), (Real, 0)),
    **dict.fromkeys(("next_token_weight", "distill_weight", "distill_temperature"), (Real, 0)),
    "max_grad_norm": (Real, 0),  # 0 does not clip
}


def trainer_arguments(
    embedder: Embedder,
    settings: Settings,
    scratch: str,
    streamed: bool = False,
    validated: bool = False,
    keep_best: bool = False,
) -> TrainingArguments:
    """Translate settings to the Trainer's arguments; everything else keeps the Trainer's defaults.

        trainer_arguments(embedder, Settings(steps=150), scratch="a/temporary/folder").max_steps    # 150

    Raises ValueError for a batch that the ranks cannot share, for bf16 where it cannot be computed, or for a model on
    another GPU than the Trainer's.
    """
    dtype, device = embedder.lvlm.model.dtype, embedder.device
    if device.type == "cuda" and device.index and "LOCAL_RANK" not in os.environ:  # it would be moved silently
        raise ValueError(
            f"the model is on {device}, but the Trainer uses the first visible GPU: leave device out, and "
            f"start Python with CUDA_VISIBLE_DEVICES={device.index}"
        )
    values: dict[str, Any] = {
        "output_dir": settings.output_dir or scratch,
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.batch_size,  # divided by the ranks below
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "bf16": use_bfloat16(settings.bf16, embedder.device, dtype),
        "fp16": dtype == torch.float16,  # losses are scaled: small gradients would vanish
        "use_cpu": embedder.device.type == "cpu",
        "seed": settings.seed,
        "train_sampling_strategy": "group_by_length" if settings.group_by_length and not streamed else "random",
        "dataloader_drop_last": True,  # a small last batch has few negatives
        "dataloader_num_workers": loader_workers(settings, device),
        "remove_unused_columns": False,
        "ignore_data_skip": streamed,  # a stream resumes at its own position
        "ddp_broadcast_buffers": False,  # they are constant
        "logging_steps": 1,
        "save_strategy": "steps" if settings.output_dir or keep_best else "no",
        "save_steps": settings.save_every if settings.output_dir else settings.steps,
        "save_total_limit": 2 if settings.output_dir else 1,  # without the best
        "eval_strategy": "steps" if validated else "no",
        "eval_steps": settings.validate_every,
        "report_to": settings.report_to,
        "disable_tqdm": True,  # the kit's own bar shows more
        "label_names": [],
    }
    arguments = TrainingArguments(**{**values, **settings.trainer})
    if settings.batch_size % arguments.world_size:
        raise ValueError(
            f"a batch of {settings.batch_size} pairs cannot be divided between {arguments.world_size} ranks: "
            f"use a multiple of {arguments.world_size}"
        )
    arguments.per_device_train_batch_size = settings.batch_size // arguments.world_size
    arguments._n_gpu = min(1, arguments.n_gpu)  # with several GPUs the Trainer would replicate the model
    return arguments


def loader_workers(settings: Settings, device: torch.device) -> int:
    """Return the number of loader processes: `loader_workers(Settings(), torch.device("cpu")) == 0`.

    On a CPU they would take the cores that train; with cached features there is nothing to decode. Where processes are
    not forked, a script without `if __name__ == "__main__":` would start itself again in each.
    """
    if settings.workers is not None:
        return settings.workers
    start = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if device.type == "cpu" or start != "fork" or settings.cache_images is not None or settings.mining.refresh_every:
        return 0
    return min(GPU_WORKERS, max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1))


def refuse_accumulation(steps: int) -> None:
    """Raise ValueError for gradient accumulation: `refuse_accumulation(1)` passes."""
    if steps != 1:
        raise ValueError(
            f"gradient_accumulation_steps={steps} does not enlarge a contrastive batch, since each part has only its "
            "own negatives: use Settings(batch_size=…, micro_batch_size=…), which does"
        )


def _check_overrides(trainer: Mapping[str, Any]) -> None:
    """Raise ValueError for a key that is no field of TrainingArguments, or that Settings has itself."""
    known, own = {item.name for item in fields(TrainingArguments)}, {item.name for item in fields(Settings)}
    for name, value in trainer.items():
        if name in RENAMED or name in own:
            raise ValueError(
                f"trainer={{{name!r}: {value!r}}} repeats a setting: use Settings({RENAMED.get(name, name)}={value!r})"
            )
        if name not in known:
            close = difflib.get_close_matches(name, known, 3) or ["see transformers.TrainingArguments"]
            raise ValueError(f"trainer={{{name!r}: …}}: TrainingArguments has no such field; close: {', '.join(close)}")
    refuse_accumulation(trainer.get("gradient_accumulation_steps", 1))


def split_soft_prompt_group(
    optimizer: torch.optim.Optimizer, model: nn.Module, learning_rate: float, rate: float | None
) -> None:
    """Move the soft prompts into optimizer groups with a separate learning rate, before the schedule is created.

        split_soft_prompt_group(optimizer, embedder.lvlm.adapter, learning_rate=1e-3, rate=0.05)

    rate: of the soft prompts; None is SOFT_PROMPT_FACTOR x learning_rate. Raises ValueError for a rate without soft
    prompts.
    """
    soft_ids = {id(weight) for name, weight in model.named_parameters() if ".soft_prompt." in name}
    groups = [
        (group, [weight for weight in group["params"] if id(weight) in soft_ids]) for group in optimizer.param_groups
    ]
    if rate is not None and not any(soft for _, soft in groups):
        raise ValueError(
            f"soft_prompt_learning_rate={rate} has nothing to train: attach(lvlm, soft_prompt=True), or leave it out"
        )
    rate = SOFT_PROMPT_FACTOR * learning_rate if rate is None else rate
    for group, soft in groups:
        if soft:
            group["params"] = [weight for weight in group["params"] if id(weight) not in soft_ids]
            optimizer.add_param_group({**group, "params": soft, "lr": rate})
