"""Watch a fine-tune: live curves, time left, pause, stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vladva_kit.embedder.embedder import Embedder
from vladva_kit.plots.style import figure_uri
from vladva_kit.plots.training import training_curve
from vladva_kit.training.fit import fit
from vladva_kit.training.progress import VALIDATION, history_of
from vladva_kit.training.settings import Settings
from vladva_kit.training.validation import recall_on
from vladva_kit.widgets.base import WidgetBase, controls, error_text
from vladva_kit.widgets.cached_embedder import training_paused, training_turn
from vladva_kit.widgets.page import View, page

DRAW_INTERVAL = 1.0  # seconds; drawing the curves more often would slow the training down
TRAINING, PAUSING, PAUSED = RUNNING = ("training", "pausing…", "paused")
DEFAULTS = Settings()
RECALL = "eval_text_to_image_r1"  # percent


def training_view(
    history: Sequence[Mapping[str, Any]],
    steps: int,
    state: str = "finished",
    base: Mapping[str, float] | None = None,
) -> View:
    """Show the metrics and curves of a run: `training_view(history, settings.steps)`, with the history of `fit`.

    `base` has validation metrics of the base, which `training_curve` draws. The time left is extrapolated from the
    run's pace, and shown while the run is not over.
    """
    step, logged = history[-1]["step"] if history else 0, [row for row in history if "loss" in row]
    if not logged:
        return page("training_view", state=state, step=step, steps=steps, metrics={}, curve=None)
    last, recalls = logged[-1], [row[RECALL] for row in history if RECALL in row]
    metrics = {"loss": f"{last['loss']:.2f} nats", "in-batch accuracy": f"{last['accuracy']:.0%}"}
    if recalls:
        before = (base or {}).get(RECALL.removeprefix(VALIDATION))
        metrics["validation R@1"] = f"{recalls[-1]:.0f}%" if before is None else f"{before:.0f} → {recalls[-1]:.0f}%"
    metrics["elapsed"] = tqdm.format_interval(last["seconds"])
    if state in RUNNING:
        metrics["time left"] = tqdm.format_interval((steps - last["step"]) * last["seconds"] / last["step"])
    curve = figure_uri(training_curve(history, base=base), dpi=100) if len(history) > 1 else None
    return page("training_view", state=state, step=step, steps=steps, metrics=metrics, curve=curve)


class TrainingDashboard(WidgetBase, TrainerCallback):
    """Fine-tune in a thread and show the progress; after a stop, the embedder keeps what it has learned.

        dashboard = TrainingDashboard(embedder, vk.sample("emoji_pairs"), vk.Settings(steps=150), validation=pairs)
        dashboard.start()           # or press its button
        dashboard.wait()            # join the thread, raise what went wrong, return the history

    With `validation`, the base is validated first, and shown as a dashed line. Further keywords go to `fit`. A
    dashboard is for one run, and is itself the Trainer's callback of that run.
    """

    def __init__(self, embedder: Embedder, data: Any, settings: Settings = DEFAULTS, **fit_keywords: Any) -> None:
        super().__init__()
        self.embedder, self.data, self.settings, self.fit_keywords = embedder, data, settings, fit_keywords
        self.error: Exception | None = None
        self.base: Mapping[str, float] | None = None  # validation metrics with the adapter off
        self.state = "not started"
        self._trainer_state: TrainerState | None = None
        self._thread: threading.Thread | None = None
        self._go, self._stop = threading.Event(), threading.Event()
        self._last_drawn = 0.0
        widgets = controls()
        self.start_button = widgets.Button(description="start", button_style="primary")
        self.pause_button = widgets.ToggleButton(description="pause", disabled=True)
        self.stop_button = widgets.Button(description="stop and keep", disabled=True)
        self.bar = widgets.IntProgress(min=0, max=settings.steps)
        self.start_button.on_click(self.handler(self.start))
        self.stop_button.on_click(self.handler(self.stop))
        self.pause_button.observe(self.handler(self._pause), "value")
        self._assemble([self.start_button, self.pause_button, self.stop_button, self.bar])
        self.refresh()

    @property
    def history(self) -> list[dict[str, float]]:
        """The history of the run so far, as `fit` returns it."""
        return [] if self._trainer_state is None else history_of(self._trainer_state)

    def draw(self) -> View:
        """Show the metrics and curves of the run so far."""
        return training_view(self.history, self.settings.steps, self.state, self.base)

    def start(self) -> None:
        """Start the run, unless it was started before."""
        if self._thread is not None:
            return
        self._go.set()
        self.start_button.disabled, self.pause_button.disabled, self.stop_button.disabled = True, False, False
        self.start_button.button_style = ""
        self._set_state(TRAINING)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the run after the current step, paused or not."""
        self._stop.set()
        self._go.set()

    def wait(self) -> list[dict[str, float]]:
        """Start the run if needed, wait for its end and return the history. Raises the error of the run."""
        self.start()
        cast(threading.Thread, self._thread).join()
        if self.error is not None:
            raise self.error
        return self.history

    def _pause(self) -> None:
        paused = self.pause_button.value
        self.pause_button.description = "resume" if paused else "pause"
        if self.state in RUNNING:
            self.state = PAUSING if paused else TRAINING  # before the event: the thread sets the next state
        if paused:
            self._go.clear()
        else:
            self._go.set()
        self.refresh()

    def _set_state(self, state: str) -> None:
        self.state = state
        self.refresh()

    def _run(self) -> None:
        callbacks = [self, *self.fit_keywords.get("callbacks", ())]
        keywords = {"progress": False, **self.fit_keywords, "callbacks": callbacks}
        try:
            with training_turn():
                self._validate_base()
                fit(self.embedder, self.data, self.settings, **keywords)
            self._set_state("stopped" if self._stop.is_set() else "finished")
        except Exception as error:  # shown here and raised by wait()
            self.error = error
            self._set_state("failed")
            self.message.value = page("message", text=error_text(error))
        finally:
            self.pause_button.disabled = self.stop_button.disabled = True
            self.bar.layout.display = "none"

    def _validate_base(self) -> None:
        validation = self.fit_keywords.get("validation")
        if validation is not None and self.embedder.config is not None:
            validate = validation if callable(validation) else recall_on(validation)
            with self.embedder.base():
                self.base = validate(self.embedder)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Stop the run if asked; while it is paused, let others use the model."""
        if not self._go.is_set():
            with training_paused(self.embedder.lvlm.lock):
                self._set_state(PAUSED)
                self._go.wait()
            self._set_state(TRAINING)
        control.should_training_stop |= self._stop.is_set()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Show the progress, at most once in `DRAW_INTERVAL`."""
        self._trainer_state, self.bar.value = state, state.global_step
        if time.monotonic() - self._last_drawn > DRAW_INTERVAL:
            self.refresh()
            self._last_drawn = time.monotonic()
