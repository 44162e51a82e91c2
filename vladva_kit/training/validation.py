"""Validate during training, stop when the metric no longer improves, and keep the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vladva_kit.data.pairs import Pair, load_pairs
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.models.device import rank_from_env
from vladva_kit.training.progress import VALIDATION, checkpoint_path
from vladva_kit.training.settings import Settings

Validate = Callable[[Embedder], Mapping[str, float]]


def recall_at_1(embedder: Embedder, pairs: Sequence[Pair]) -> dict[str, float]:
    """Compute recall@1 in percent over pairs with short captions, both directions and their mean; ties are misses.

    recall_at_1(embedder, load_pairs(sample("emoji_pairs"), "validation"))["mean_r1"]
    """
    pairs = [pair for pair in pairs if pair.short]
    images = embedder.encode_image([pair.image for pair in pairs])  # decoded a batch at a time
    cosines = embedder.similarity(images, embedder.encode_text([pair.short or "" for pair in pairs]))
    at_least = cosines >= cosines.diagonal()[:, None], cosines.diagonal()[:, None] <= cosines.T
    image_to_text, text_to_image = (100 * float((count.sum(1) == 1).float().mean()) for count in at_least)
    return {
        "mean_r1": (image_to_text + text_to_image) / 2,
        "image_to_text_r1": image_to_text,
        "text_to_image_r1": text_to_image,
    }


def recall_on(source: Any) -> Validate:
    """Read pairs, of a folder its split "validation", and return `recall_at_1` on them: `recall_on("my_pairs")`."""
    return partial(recall_at_1, pairs=load_pairs(source, split="validation"))


def check_early_stopping(patience: int | None, validation: Any, settings: Settings) -> None:
    """Raise ValueError for an unusable patience: `check_early_stopping(3, validation=pairs, settings=Settings())`."""
    if patience is None:
        return
    if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
        raise ValueError(f"early_stopping={patience!r}: pass a number of validations, 1 or more")
    if validation is None:
        raise ValueError(
            f"early_stopping={patience} needs validation=: pairs, or a function from an embedder to metrics"
        )
    if settings.output_dir is None and rank_from_env()[1] > 1:
        raise ValueError(
            f"early_stopping={patience} on several processes needs Settings(output_dir=…), which they share"
        )


def validations_since_best(state: TrainerState) -> int:
    """Count the validations after the best one: `validations_since_best(trainer.state)`.

    The log and the best step are part of a checkpoint, so a resumed run counts on.
    """
    validated = {entry["step"] for entry in state.log_history if any(name.startswith(VALIDATION) for name in entry)}
    return sum(step > (state.best_global_step or 0) for step in validated)


class EarlyStopping(TrainerCallback):
    """Save a checkpoint of each new best validation; stop after `patience` others in a row."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Find the best checkpoint of a resumed run, whose folder may have moved."""
        best = checkpoint_path(args, state.best_global_step)
        if best.is_dir():
            state.best_model_checkpoint = str(best)

    def on_evaluate(  # type: ignore[override]  # the Trainer passes the metrics by name
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float],
        **_: Any,
    ) -> None:
        """Decide after each validation, when its metrics are in the log and before the Trainer notes a new best."""
        metric, best = (args.metric_for_best_model or "").removeprefix(VALIDATION), state.best_metric
        value = metrics.get(VALIDATION + metric)
        if value is not None and (best is None or (value > best if args.greater_is_better else value < best)):
            control.should_save = True
        elif validations_since_best(state) >= self.patience:
            # with this validation in its log, the last checkpoint shows that the run is complete
            control.should_training_stop = control.should_save = True
