"""End a run at the end of a step when a signal asks for it, with a checkpoint from which it resumes."""

from __future__ import annotations

import builtins
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vladva_kit.training.distributed import gather_counts

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


class RunInterrupted(SystemExit):
    """Raised by `fit` after a signal, when the checkpoint is saved; the exit code is 128 + the signal's number.

    It is a SystemExit, so an uncaught one ends the process with that code: 143 for SIGTERM, 130 for SIGINT, 129 for
    SIGHUP.
    """

    def __init__(self, number: int, checkpoint: str) -> None:
        super().__init__(128 + number)
        self.number, self.checkpoint = number, checkpoint

    def __str__(self) -> str:
        return (
            f"stopped by {signal.Signals(self.number).name}: {self.checkpoint} holds the adapter and the state of the "
            "run; resume it with resume=True (--resume)"
        )


class Interruption(TrainerCallback):
    """Note a signal, and save and stop at the end of the step; a second Ctrl-C stops at once.

    with interruption.handling(): trainer.train()
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.number = device, 0  # number: of the signal, the same on all ranks after a step

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Handle SIGTERM, SIGINT and SIGHUP in the block, and restore their handlers after it.

        Only in the main thread, where Python delivers signals. A signal that is ignored, as SIGHUP under nohup, stays
        so, and in a notebook or at a prompt SIGINT still raises KeyboardInterrupt.
        """
        before: dict[int, Any] = {}
        interactive = hasattr(sys, "ps1") or hasattr(builtins, "__IPYTHON__")
        if threading.current_thread() is threading.main_thread():
            for one in SIGNALS:
                if signal.getsignal(one) is not signal.SIG_IGN and not (interactive and one == signal.SIGINT):
                    before[one] = signal.signal(one, self._note)
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop all ranks after the same step if one of them has a signal; validation is left out."""
        self.number = max(number for (number,) in gather_counts([self.number], self.device))
        if self.number:
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
