"""Let one thread at a time use a model: the adapter's switch and train mode are states of the model, not of a call."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn


class ModelLock:
    """A lock that its thread may take again, and that waiting threads get in the order in which they asked.

        with lock: ...              # switch + forward + backward
        with lock.released(): ...   # in a block that holds it: whoever waits has its turn first

    `threading.RLock` has no order: a training loop that releases it between steps takes it again before others wake up.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: deque[object] = deque()
        self._owner: int | None = None
        self._depth = 0
        self.training = False  # whether `fit` trains the model: a second run would mix its steps with the first's

    def __enter__(self) -> None:
        self._acquire(1)

    def __exit__(self, *_: object) -> None:
        self._release(1)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Give up the lock for the block, however often this thread has taken it."""
        depth = self._depth if self._owner == threading.get_ident() else 0
        if depth:
            self._release(depth)
        try:
            yield
        finally:
            if depth:
                self._acquire(depth)

    def _acquire(self, depth: int) -> None:
        own = threading.get_ident()
        with self._condition:
            if self._owner != own:
                ticket = object()
                self._waiting.append(ticket)
                try:
                    while self._owner is not None or self._waiting[0] is not ticket:
                        self._condition.wait()
                    self._owner = own
                finally:  # also after Ctrl-C
                    self._waiting.remove(ticket)
                    self._condition.notify_all()
            self._depth += depth

    def _release(self, depth: int) -> None:
        with self._condition:
            self._depth -= depth
            if self._depth == 0:
                self._owner = None
                self._condition.notify_all()


_locks: WeakKeyDictionary[nn.Module, ModelLock] = WeakKeyDictionary()
_registry = threading.Lock()


def model_lock(model: nn.Module) -> ModelLock:
    """Return the one lock of a model: `with model_lock(lvlm.model): ...`; `lvlm.lock` is the same."""
    with _registry:
        return _locks.setdefault(model, ModelLock())
