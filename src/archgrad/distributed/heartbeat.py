"""The watch over the other processes, so that a process that dies stops the run and is named."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress

from torch.distributed import Store

from archgrad.terminal import Output

__all__ = ["Heartbeat", "reason_of_end"]

_INTERVAL_SECONDS = 1.0
_PATIENCE_SECONDS = 40.0
_GRACE_SECONDS = 10.0
_ALARM = "alarm"

_current: Heartbeat | None = None


class Heartbeat:
    """Gives signs of life, watches the next process, and ends this one when another has died.

    A message to a dead process fails at once or never, depending on backend and network; a wait that never ends is what
    this is for. Each process writes a growing number to the store and reads that of the next one, so the store is asked
    three times an interval by each process. Whoever finds its neighbour silent, or leaves by an error, raises the alarm
    for all. They then have a time of grace to notice by themselves and leave in good order, and are ended after it.

    Args:
        store: Shared by the processes, a connection of its own.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        global _current
        self._store, self._rank, self._world_size = store, rank, world_size
        self._left = threading.Event()
        self.reason: str | None = None
        """Why the run ends, as far as is known."""
        store.set(f"beat/{rank}", "0")
        self._thread = threading.Thread(target=self._watch, name="archgrad-heartbeat", daemon=True)
        self._thread.start()
        _current = self

    def raise_alarm(self, reason: str) -> None:
        """Tell all processes why the run ends; the first reason stays."""
        with suppress(RuntimeError):  # the store may have gone with the process that held it; all see that
            self._store.compare_set(_ALARM, "", reason)

    def look(self) -> str | None:
        """Return why the run ends, if an alarm was raised by now."""
        if self.reason is None:
            try:
                if self._store.check([_ALARM]):
                    self.reason = self._store.get(_ALARM).decode(errors="replace")
            except RuntimeError:
                self.reason = "process 0 is gone"
        return self.reason

    def stop(self) -> None:
        """Watch no more."""
        global _current
        self._left.set()
        self._thread.join(timeout=5 * _INTERVAL_SECONDS)
        _current = None

    def _watch(self) -> None:
        neighbour = (self._rank + 1) % self._world_size
        beat, last, changed = 0, b"", time.monotonic()
        while not self._left.wait(_INTERVAL_SECONDS):
            beat += 1
            try:
                self._store.set(f"beat/{self._rank}", str(beat))
                theirs = self._store.get(f"beat/{neighbour}")
            except RuntimeError:
                self.reason = "process 0 is gone"
                break
            now = time.monotonic()
            if theirs != last:
                last, changed = theirs, now
            elif now - changed > _PATIENCE_SECONDS:
                self.raise_alarm(f"process {neighbour} has given no sign of life for {_PATIENCE_SECONDS:g} s")
            if self.look() is not None:
                break
        if not self._left.wait(_GRACE_SECONDS):
            message = f"Error: The run ends because {self.reason}. Go on from its last checkpoint.\n"
            output = Output(sys.__stderr__)
            output.write(message)
            output.flush()
            os._exit(1)  # the main thread waits for a message that will not come


def reason_of_end() -> str | None:
    """Return why the run of this process ends, if another process has said so."""
    return None if _current is None else _current.look()
