"""End all ranks of a run soon, and with the reason, when one of them fails or dies."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import Any

import torch.distributed as dist

from vladva_kit.models.device import rank_from_env, short_reason

BEAT = 5.0  # seconds between two signs of life
SILENT = 8  # beats without a sign of life, after which a rank is called dead
STORE_TIMEOUT = 20.0  # seconds after which an operation of the store ends
GRACE = 10.0  # seconds for the main thread to notice; it cannot if it waits inside a collective operation
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "NCCL error")
_runs = count()


class RankFailed(ConnectionError):
    """Another rank failed or died; the message names it and its reason."""


@contextmanager
def watching_ranks() -> Iterator[None]:
    """Tell the other ranks why this one fails in the block, and stop this one when another fails or dies.

        with watching_ranks(): trainer.train()

    Without it a rank of several GPUs waits for a dead one until NCCL's timeout, ten minutes. Raises RankFailed; if the
    main thread waits in a collective operation, the process prints the reason and exits with 1. Does nothing for one
    process.
    """
    if rank_from_env()[1] == 1 or "MASTER_ADDR" not in os.environ:
        yield
        return
    watch = _Watch(f"vladva/{next(_runs)}")
    watch.thread.start()
    try:
        yield
    except SystemExit:  # after a signal, which all ranks agree on
        raise
    except BaseException as error:
        if reason := watch.failure(error):
            raise RankFailed(reason) from error
        raise
    finally:
        watch.end()


class _Watch:
    """A thread with its own connection to the ranks' store: it shows that this rank lives, and looks at the others."""

    def __init__(self, prefix: str) -> None:
        self.rank, self.ranks = rank_from_env()
        self.prefix, self.ended = prefix, threading.Event()
        self.store: Any = None  # the ranks' TCPStore, once there is a connection
        self.thread = threading.Thread(target=self._run, name="ranks", daemon=True)

    def _run(self) -> None:
        with suppress(Exception):  # without a store at this address there is nothing to watch
            address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            timeout = timedelta(seconds=STORE_TIMEOUT)
            store = dist.TCPStore(*address, is_master=False, timeout=timeout, wait_for_workers=False)
            self.store = dist.PrefixStore(self.prefix, store)
            reason = self._watch()
            if reason is not None and not self.ended.wait(GRACE):
                print(f"rank {self.rank}: {reason}", file=sys.stderr, flush=True)
                os._exit(1)  # files are written atomically, and the lock of a dead process is taken over

    def _watch(self) -> str | None:
        """Return why the run has to end; None once this rank's part of it has ended."""
        seen: dict[int, Any] = {}
        silent = dict.fromkeys(range(self.ranks), 0)
        for beat in count():
            try:
                self.store.set(f"beat/{self.rank}", str(beat))
                if (reason := self._reason()) is not None:
                    return reason
                for other in range(self.ranks):
                    sign = self._get(f"beat/{other}")
                    silent[other] = silent[other] + 1 if sign == seen.get(other) and sign is not None else 0
                    seen[other] = sign
            except (RuntimeError, OSError):  # the store is in rank 0's process or in its launcher's
                return _sentence("rank 0 no longer answers: its process or machine has died")
            dead = [other for other in silent if silent[other] >= SILENT and seen[other] != b"end"]
            if dead:
                return _sentence(f"rank {dead[0]} no longer answers: its process or machine has died")
            if self.ended.wait(BEAT):
                return None
        return None

    def _get(self, key: str) -> bytes | None:
        return self.store.get(key) if self.store.check([key]) else None

    def _reason(self) -> str | None:
        found = self._get("failed")
        return None if found is None or found.startswith(f"rank {self.rank} ".encode()) else _sentence(found.decode())

    def failure(self, error: BaseException) -> str | None:
        """Return the reason of another rank if it failed first; otherwise leave this rank's own for the others."""
        lost = any(sign in str(error) for sign in LOST)
        with suppress(RuntimeError, OSError):
            if self.store is not None:
                if not lost:
                    self.store.compare_set("failed", "", f"rank {self.rank} failed with {short_reason(error)}")
                if (reason := self._reason()) is not None:
                    return reason
        return _sentence("another rank no longer answers: its process or machine has died") if lost else None

    def end(self) -> None:
        """End the thread, and tell the others that this rank's silence is no failure."""
        self.ended.set()
        # otherwise it could write one more sign of life, and a thread inside the store aborts Python's exit
        self.thread.join(STORE_TIMEOUT + BEAT)
        with suppress(RuntimeError, OSError):
            if self.store is not None:
                self.store.set(f"beat/{self.rank}", "end")


def _sentence(reason: str) -> str:
    return f"{reason}; this rank stops too: correct the cause and resume with resume=True (--resume)"
