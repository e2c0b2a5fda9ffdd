"""What a stopping rule must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archgrad.epoch_end import EpochEnd

__all__ = ["Stop", "Stopping"]


@dataclass(frozen=True)
class Stop:
    """The decision to end a search.

    Attributes:
        epoch: The epoch whose architecture is the result, 0-based; the last one or an earlier one.
        reason: What was seen, in a sentence.
    """

    epoch: int
    reason: str


class Stopping(ABC):
    """Ends a search before its last epoch.

    `probe` measures and `decide` decides, from nothing but what is measured: so a search that is resumed stops where
    one that was never interrupted does.
    """

    def remark(self, epochs: int) -> str | None:
        """Return what should be known about this rule in a search of so many epochs, in a sentence; None by default."""
        return None

    def probe(self, end: EpochEnd) -> Mapping[str, float | None]:
        """Return what is measured at the end of an epoch: further columns of metrics.csv, the same ones every time.

        It leaves the supernet as it is.
        """
        return {}

    @abstractmethod
    def decide(self, history: Sequence[Mapping[str, Any]]) -> Stop | None:
        """Return whether to stop after the last epoch of the history; a pure function.

        Args:
            history: One row an epoch, as in metrics.csv, the columns of `probe` among it.
        """
