"""The progress bar and the history of a fine-tune."""

from __future__ import annotations

import time
from collections.abc import Callable

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

KEPT = ("step", "seconds", "loss", "contrastive", "next_token", "accuracy", "temperature")


class Progress(TrainerCallback):
    """Shows loss, in-batch accuracy and pairs a second, and keeps a row a step in `history`."""

    def __init__(
        self, steps: int, batch_size: int, shown: bool = True, deadline: Callable[[], bool] | None = None
    ) -> None:
        self.steps, self.batch_size, self.shown, self.deadline = steps, batch_size, shown, deadline
        self.history: list[dict[str, float]] = []
        self.figures: Callable[[], dict[str, float]] = dict
        self.bar: tqdm | None = None
        self.begun = 0.0
        self.first, self.before = 0, 0.0  # the step it went on from, and the seconds until then

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Takes up the rows of an interrupted run, and starts the clock."""
        rows = [row for row in state.log_history if "contrastive" in row]
        self.history = [{key: row[key] for key in KEPT if key in row} for row in rows]
        self.begun = time.perf_counter() - (self.history[-1].get("seconds", 0.0) if self.history else 0.0)
        self.first, self.before = state.global_step, time.perf_counter() - self.begun
        self.bar = tqdm(total=self.steps, initial=state.global_step, disable=not self.shown, unit="step")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Adds a row, and stops the run when its deadline has passed."""
        figures, clock = self.figures(), self.clock()
        self.history.append({"step": state.global_step, **clock, **figures})
        rate = self.batch_size * (state.global_step - self.first) / max(clock["seconds"] - self.before, 1e-9)
        self.bar.update(1)
        self.bar.set_postfix_str(
            f"loss {figures['loss']:.2f}, in-batch accuracy {figures['accuracy']:.0%}, {rate:.0f} pairs/s"
        )
        if self.deadline and self.deadline():
            control.should_training_stop = True

    def clock(self) -> dict[str, float]:
        """Seconds of training so far, an interrupted run's counted in."""
        return {"seconds": round(time.perf_counter() - self.begun, 2)}

    def close(self) -> None:
        """Takes the bar down."""
        if self.bar is not None:
            self.bar.close()
