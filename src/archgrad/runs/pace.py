"""Where the time of a run goes, and when it is time for a checkpoint."""

from __future__ import annotations

import time
from dataclasses import dataclass

from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.options import Options
from archgrad.sizes import check_whole

__all__ = ["CheckpointSchedule", "Clock"]


@dataclass(frozen=True, kw_only=True)
class CheckpointSchedule(Options):
    """When checkpoints are written, besides the one after each epoch.

    Raises:
        OptionError: A value is outside its range.
    """

    checkpoint_minutes: float = 10.0
    """Time between checkpoints within an epoch, above 0; each epoch ends with one."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints within an epoch, at least 1; None goes by time alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        minutes = self.checkpoint_minutes
        if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not minutes > 0:
            raise OptionError(
                f"checkpoint_minutes must be a number above 0, but got checkpoint_minutes={shown(minutes)}."
            )
        if self.checkpoint_steps is not None:
            check_whole("checkpoint_steps", self.checkpoint_steps, least=1)

    def is_due(self, *, steps: int, seconds: float) -> bool:
        """Return whether to write one, so many steps and seconds after the last."""
        by_steps = self.checkpoint_steps is not None and steps >= self.checkpoint_steps
        return by_steps or seconds >= 60 * self.checkpoint_minutes


@dataclass
class Clock:
    """Seconds spent, those before an interruption included; from a clock that nobody sets."""

    total: float = 0.0
    """On the whole run."""
    epoch: float = 0.0
    """On the current epoch."""
    evaluating: float = 0.0
    """Of the epoch: on the test set."""
    saving: float = 0.0
    """Of the epoch: on checkpoints, that after the epoch before included."""
    waiting: float = 0.0
    """Of the epoch: for data."""

    def __post_init__(self) -> None:
        self._last = time.perf_counter()

    def tick(self) -> float:
        """Add the time since the last tick to run and epoch, and return it."""
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        self.total += passed
        self.epoch += passed
        return passed

    def start_epoch(self) -> None:
        """Begin an epoch at zero."""
        self.epoch = self.evaluating = self.saving = self.waiting = 0.0

    @property
    def training(self) -> float:
        """Seconds of the epoch spent neither on the test set nor on checkpoints; above 0."""
        return max(self.epoch - self.evaluating - self.saving, 1e-9)
