"""Compute the losses of a step, and run steps in transformers' Trainer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from vladva_kit.data.pairs import Pair
from vladva_kit.data.streaming import PairStream, save_stream_state
from vladva_kit.embedder.adapter import CONFIG_FILE, AdapterConfig
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.models.device import NonFiniteError, check_finite, memory_advice, rank, world_size
from vladva_kit.models.files import write_errors
from vladva_kit.training.collator import Batch, ByLength, Collator
from vladva_kit.training.distillation import BatchScores, TeacherScores
from vladva_kit.training.distributed import (
    average_gradients,
    contrastive_over_ranks,
    first_ranks,
    mean_over_ranks,
    rank_kl_over_ranks,
    run_directly,
    run_in_forward,
)
from vladva_kit.training.encode import EncodedBatch, encode_batch, non_finite_rows
from vladva_kit.training.grad_cache import cached_step
from vladva_kit.training.image_cache import CachedImageFeatures
from vladva_kit.training.memory import train_estimate
from vladva_kit.training.progress import VALIDATION, checkpoint_path, history_of, seconds_of
from vladva_kit.training.settings import refuse_accumulation, split_soft_prompt_group
from vladva_kit.training.validation import Validate


def step_losses(
    embedder: Embedder,
    batch: Batch,
    next_token_weight: float = 1.0,
    encoded: EncodedBatch | None = None,
    distill_weight: float = 0.0,
) -> dict[str, Tensor]:
    """Compute the losses of one step: contrastive on short captions, next-token on long ones (paper, section 3.2).

        step_losses(embedder, batch)["loss"].backward()

    encoded: the batch's embeddings if they are computed already, as with cached gradients; otherwise one forward pass
    over the images with their long captions and one over the short captions compute them.
    distill_weight: of the distillation loss (`rank_kl_loss`), for a batch with the teacher's scores.
    Returns loss, contrastive, next_token and accuracy (in-batch, 0 to 1), and distill if it has a weight. With several
    ranks these are this rank's parts: their mean over the ranks is the global batch's.
    """
    if encoded is None:
        encoded = encode_batch(embedder, batch, next_token=next_token_weight > 0)
    images = encoded.images[batch.paired.to(encoded.images.device)]
    contrastive, accuracy = contrastive_over_ranks(
        images, encoded.texts, encoded.scale, batch.keys, encoded.negatives, batch.negative_keys
    )
    contrastive = contrastive + encoded.images.sum() * 0.0  # keeps the graph if no image has a short caption
    loss = contrastive + next_token_weight * encoded.next_token
    parts = {"contrastive": contrastive, "next_token": encoded.next_token, "accuracy": accuracy}
    if distill_weight:
        parts["distill"] = rank_kl_over_ranks(images, encoded.texts, batch.keys[:, 0], cast(BatchScores, batch.teacher))
        loss = loss + distill_weight * parts["distill"]
    return {"loss": loss, **parts}


class VladvaTrainer(Trainer):
    """transformers' Trainer with VladVA's step; data order, schedule, precision, resume and trackers are the Trainer's.

        arguments = TrainingArguments("runs/trainer", max_steps=150, per_device_train_batch_size=64)
        VladvaTrainer(embedder, next_token_weight=0.3, args=arguments, train_dataset=load_pairs("my_pairs")).train()

    `fit` builds one from Settings, and does more: see the guide on training. The arguments are those of `Settings`;
    validate: a function from an embedder to metrics. sampler: the order of the pairs, such as `batch_sampler(…)`.
    image_features, teacher: computed in advance by `cache_image_features` and `score_candidates`. Keyword arguments are
    the Trainer's. Raises ValueError for gradient accumulation, which does not enlarge a contrastive batch.
    """

    def __init__(
        self,
        embedder: Embedder,
        next_token_weight: float = 1.0,
        micro_batch_size: int | None = None,
        image_features: CachedImageFeatures | None = None,
        soft_prompt_learning_rate: float | None = None,
        validate: Validate | None = None,
        sampler: Sampler | None = None,
        distill_weight: float = 0.0,
        teacher: TeacherScores | None = None,
        keep_features: bool = True,
        **trainer: Any,
    ) -> None:
        self.embedder, self.next_token_weight, self.micro_batch_size = embedder, next_token_weight, micro_batch_size
        self.keep_features = keep_features
        self.soft_prompt_learning_rate, self.validate, self.sampler = soft_prompt_learning_rate, validate, sampler
        self.losses = partial(step_losses, distill_weight=distill_weight)
        self.step_metrics: dict[str, float] = {}  # of the last step, for the log
        self.stream_state: dict[int, str] = {}  # by worker: where a stream resumes
        self.check_folder: Callable[[], None] = lambda: None  # raises OSError if output_dir was removed or renamed
        self.started: float | None = None  # time.perf_counter() at which training started, less earlier runs' seconds
        collator = Collator(embedder, next_token_weight > 0, image_features, teacher)
        super().__init__(model=embedder.lvlm.adapter, data_collator=collator, eval_dataset=validate, **trainer)
        refuse_accumulation(self.args.gradient_accumulation_steps)
        if self.is_fsdp_enabled:
            self._name_layers(self.accelerator.state.fsdp_plugin)

    def _name_layers(self, plugin: Any) -> None:
        """Tell FSDP which layers to shard, unless its config does.

        A family lists the layers of all its possible encoders, and accelerate refuses a layer that the model lacks.
        """
        model = self.embedder.lvlm.model
        present = {type(module).__name__ for module in model.modules()}
        if plugin.transformer_cls_names_to_wrap is None:
            plugin.transformer_cls_names_to_wrap = [name for name in model._no_split_modules or () if name in present]

    def train(self, *arguments: Any, **keywords: Any) -> Any:
        """Train as the Trainer does, counting the seconds."""
        self.started = None
        return super().train(*arguments, **keywords)

    def add_first_callback(self, callback: TrainerCallback) -> None:
        """Add a callback that is called before all but the Trainer's own: `trainer.add_first_callback(bar)`."""
        self.callback_handler.callbacks.insert(1, callback)  # the first decides whether to save and to stop

    def checkpoint_folder(self) -> str:
        """Return the folder of the checkpoint after the last step."""
        return str(checkpoint_path(self.args, self.state.global_step))

    def keep_last_good_weights(self, error: NonFiniteError, save: bool = True) -> NonFiniteError:
        """Save a checkpoint of the weights before the step that failed; return the error with the step and the folder.

        The weights are those of the last update: the step failed before its own.
        """
        step, kept = self.state.global_step, ""
        save &= self.args.save_strategy != SaveStrategy.NO and world_size() == 1  # other ranks may not fail
        if save and step:
            if not Path(self.checkpoint_folder()).is_dir():
                self._save_checkpoint(self.model, None)
                self.control = self.callback_handler.on_save(self.args, self.state, self.control)
            kept = f"; {self.checkpoint_folder()} holds the weights before it"
        return NonFiniteError(f"step {step + 1}: {error}{kept}")

    def compute_loss(  # type: ignore[override]  # the Trainer passes its fourth argument, a count of tokens, by name
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Compute the step's loss; its parts go to the log."""
        with self._precision():
            metrics = self._runner(model)(self.losses, self.embedder, inputs["batch"], self.next_token_weight)
        self._record_metrics(metrics)
        return (metrics["loss"], metrics) if return_outputs else metrics["loss"]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **keywords: Any) -> Tensor:
        """Run a step in one graph or with cached gradients; with several ranks, average the gradients."""
        self._start_clock()
        try:
            with memory_advice(lambda: self._memory_advice(inputs["batch"])):
                loss = self._step(model, inputs, *arguments, **keywords)
        except NonFiniteError as error:
            # a forward pass of a wrapped model needs all ranks
            rows = non_finite_rows(self.embedder, inputs["batch"]) if self._runner(model) is run_directly else ""
            raise NonFiniteError(f"{error}{f' ({rows})' if rows else ''}") from error
        if "stream_state" in inputs:  # after the step: a run that fails in it resumes with this batch
            worker, position = json.loads(inputs["stream_state"])
            self.stream_state[worker] = json.dumps(position)
        return loss

    def _memory_advice(self, step: Batch) -> str:
        batch, rows = self.args.per_device_train_batch_size, self.micro_batch_size
        if rows is None:
            fix = f"micro_batch_size={max(1, batch // 4)} (--micro-batch-size) computes the same step in parts"
        else:
            fix = "not even one row fits: gradient_checkpointing=True and load_lvlm(max_pixels=…) need less"
        needed = train_estimate(self.embedder, step, rows or batch)
        return f"with batch_size={batch} and micro_batch_size={rows}{needed}; {fix}"

    def _step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **keywords: Any) -> Tensor:
        if self.micro_batch_size is None:
            loss = super().training_step(model, inputs, *arguments, **keywords)
        elif self.is_deepspeed_enabled:
            raise ValueError("micro_batch_size is not supported with DeepSpeed: use DDP or FSDP2, or leave it out")
        else:
            model.train()
            metrics, self.micro_batch_size = cached_step(
                self.losses,
                self.embedder,
                inputs["batch"],
                self.next_token_weight,
                rows=self.micro_batch_size,
                backward=self.accelerator.backward,
                precision=self._precision,
                run=self._runner(model),
                keep_features=self.keep_features,
            )
            self._record_metrics(metrics)
            loss = metrics["loss"].detach()
        if isinstance(model, DistributedDataParallel) and self.accelerator.sync_gradients:
            average_gradients(model.parameters())  # the step bypasses DDP's forward, so DDP's hooks stay silent
        return loss

    def run_whole(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that runs the model between two steps, such as `trainer.run_whole(validate, embedder)`.

        Under FSDP it runs in a forward pass of the wrapped model, in which the weights are gathered.
        """
        run = self._runner(self.model_wrapped) if self.is_fsdp_enabled else run_directly
        return run(function, *arguments)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Run the validation function; its metrics are logged with the prefix "eval_"."""
        values = first_ranks(self.run_whole(cast(Callable, self.validate), self.embedder))
        metrics = {f"{VALIDATION}{name}": value for name, value in values.items()}
        if self.args.load_best_model_at_end and self.args.metric_for_best_model is None:
            if not metrics:
                raise ValueError("validation returned no metric: return a dict, as {'score': 0.5}")
            self.args.metric_for_best_model = first = next(iter(metrics))
            self.args.greater_is_better = not first.endswith("loss")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the Trainer's optimizer; soft prompts have a separate learning rate."""
        is_new, optimizer = self.optimizer is None, super().create_optimizer(model)
        if is_new:
            whole, rate = cast(nn.Module, self.model if model is None else model), self.soft_prompt_learning_rate
            split_soft_prompt_group(optimizer, whole, self.args.learning_rate, rate)
        return optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both, but keep the learning rates and weight decay of the settings, which `resume_anyway` may change."""
        optimizer, scheduler = cast(Optimizer, self.optimizer), cast(Any, self.lr_scheduler)
        rates = list(getattr(scheduler, "base_lrs", ()))
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        for group, decay in zip(optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay
        if checkpoint is not None and rates and rates != list(scheduler.base_lrs):
            scheduler.base_lrs, done = rates, scheduler.last_epoch
            factors = [factor(done) for factor in scheduler.lr_lambdas]
            for group, rate, factor in zip(optimizer.param_groups, rates, factors, strict=True):
                group["initial_lr"], group["lr"] = rate, rate * factor

    def get_train_dataloader(self) -> DataLoader:
        """Return the Trainer's loader; a stream has its own, which is divided between ranks already."""
        if not isinstance(self.train_dataset, PairStream):
            return super().get_train_dataloader()
        self.stream_state = dict(self.train_dataset.stream_state)
        return self.train_dataset.loader(self.args.dataloader_num_workers)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """Return the kit's sampler for hard batches or for grouping by length, otherwise the Trainer's."""
        if self.sampler is not None:
            return self.sampler
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        batch = self.args.train_batch_size * self.args.world_size
        pairs = cast("Sequence[Pair]", self.train_dataset if train_dataset is None else train_dataset)
        return ByLength(pairs, batch, self.args.seed)

    def _save_checkpoint(self, *arguments: Any) -> None:
        self.check_folder()
        folder, limit = Path(self.checkpoint_folder()), self.args.save_total_limit
        self.args.save_total_limit = None  # CompleteCheckpoints removes the oldest when this one is complete
        try:
            with write_errors(folder):
                if isinstance(self.train_dataset, PairStream):
                    save_stream_state(folder, self.stream_state, self.state.global_step)
                super()._save_checkpoint(*arguments)
                if rank() == 0:  # with it, Embedder.from_pretrained loads the checkpoint
                    (folder / CONFIG_FILE).write_text(cast(AdapterConfig, self.embedder.config).to_json())
        finally:
            self.args.save_total_limit = limit

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save as the Trainer does, but tell peft that the embeddings are unchanged: it would ask the hub."""
        model = cast(Any, self.model)
        model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
        try:
            super()._save(output_dir, state_dict)
        finally:
            del model.save_pretrained

    def _runner(self, model: nn.Module) -> Callable[..., Any]:
        wrapped = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return partial(run_in_forward, model) if wrapped else run_directly

    def _precision(self) -> AbstractContextManager:
        return torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Stop before the update if a gradient overflowed, which can happen under a finite loss.

        A loss scaler finds its scale by overflowing: it leaves the step out and halves the scale. Only an overflow
        that no scale above 1 avoids is an error.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is None or bool(torch.as_tensor(norm).isfinite().all()):
            return norm
        scaler = self.accelerator.scaler
        if scaler is None or not scaler.is_enabled() or scaler.get_scale() < 1:
            check_finite(torch.as_tensor(norm), self.embedder.lvlm.model.dtype, "gradients")
        return norm

    def _record_metrics(self, metrics: dict[str, Tensor]) -> None:
        check_finite(metrics["loss"].detach(), self.embedder.lvlm.model.dtype, "losses")  # before it reaches a weight
        temperature = cast(nn.Module, self.embedder.lvlm.model.temperature)
        scale = temperature(torch.ones(1, device=self.embedder.device)).detach()
        self.step_metrics = {**mean_over_ranks(metrics), "temperature": 1 / float(scale)}

    def _start_clock(self) -> None:
        """Start at the first step; the seconds of an interrupted run count too."""
        if self.started is None:
            self.started = time.perf_counter() - seconds_of(history_of(self.state))

    def log(self, logs: dict[str, float], *arguments: Any, **keywords: Any) -> None:
        """Log the step's metrics and the seconds of training so far with what the Trainer logs."""
        if "loss" in logs and self.started is not None:
            logs = {**logs, **self.step_metrics, "seconds": round(time.perf_counter() - self.started, 2)}
        super().log(logs, *arguments, **keywords)
