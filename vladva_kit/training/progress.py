"""Show the progress of a fine-tune, and read its history from the Trainer's log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

HISTORY_KEYS = ("step", "seconds", "loss", "contrastive", "next_token", "distill", "accuracy", "temperature")
VALIDATION = "eval_"  # prefix of validation metrics, as in the Trainer


def checkpoint_path(args: TrainingArguments, step: int | None) -> Path:
    """Return the folder in which the Trainer saves a step: `checkpoint_path(args, state.global_step)`."""
    return Path(str(args.output_dir)) / f"checkpoint-{step}"


def history_of(state: TrainerState) -> list[dict[str, float]]:
    """Return one row per logged step, including those of an interrupted run before it was resumed.

    history_of(trainer.state)[-1]["loss"]

    Validation metrics are in the row of the step that they follow. If that step was not logged (`logging_steps` above
    1), they have a row of their own, without losses.
    """
    rows: dict[int, dict[str, float]] = {}
    for entry in state.log_history:
        kept = {k: v for k, v in entry.items() if k in HISTORY_KEYS or k.startswith(VALIDATION)}
        if "contrastive" in entry:
            rows[int(entry["step"])] = {key: kept[key] for key in (*HISTORY_KEYS, *kept) if key in kept}
        elif "step" in entry and (entry["step"] in rows or any(name.startswith(VALIDATION) for name in kept)):
            rows.setdefault(int(entry["step"]), {}).update(kept)
    return [rows[step] for step in sorted(rows)]


def seconds_of(history: list[dict[str, float]]) -> float:
    """Return the seconds of training up to the last logged step: `seconds_of(history_of(trainer.state))`."""
    return max((row.get("seconds", 0.0) for row in history), default=0.0)


class Progress(TrainerCallback):
    """Show loss, in-batch accuracy and pairs per second in a progress bar; stop training at a deadline."""

    def __init__(
        self, steps: int, batch_size: int, visible: bool = True, deadline: Callable[[], bool] | None = None
    ) -> None:
        self.steps, self.batch_size, self.visible, self.deadline = steps, batch_size, visible, deadline
        self.bar: tqdm | None = None
        self.first_step, self.first_seconds = 0, 0.0  # of this run; later than 0 for a resumed one

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Open the bar at the step from which the run starts or resumes."""
        self.first_step = state.global_step
        self.first_seconds = seconds_of(history_of(state))
        self.bar = tqdm(total=self.steps, initial=state.global_step, disable=not self.visible, unit="step")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Advance the bar; stop the run if its deadline has passed."""
        cast(tqdm, self.bar).update(1)
        if self.deadline and self.deadline():
            control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Show the metrics of the step that was logged."""
        if not logs or "contrastive" not in logs or self.bar is None:
            return
        seconds = max(logs["seconds"] - self.first_seconds, 1e-9)
        rate = self.batch_size * (state.global_step - self.first_step) / seconds
        self.bar.set_postfix_str(
            f"loss {logs['loss']:.2f}, in-batch accuracy {logs['accuracy']:.0%}, {rate:.0f} pairs/s"
        )

    def close(self) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
