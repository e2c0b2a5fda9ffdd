"""A search that ends in the middle of its schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archgrad.sizes import check_whole
from archgrad.stopping.stopping import Stop, Stopping

__all__ = ["EpochLimit"]


@dataclass(frozen=True)
class EpochLimit(Stopping):
    """Stop after a number of epochs, while every schedule follows the length that the search was planned for.

    So with epochs=20 and EpochLimit(10) the weights' learning rate is in the middle of its cosine when the search ends;
    with epochs=10 it has come down. Lengths of stages, too, are those of the planned search.
    """

    epochs: int = 10
    """Epochs after which the search ends, at least 1; the result is the architecture of the last of them."""

    def __post_init__(self) -> None:
        check_whole("epochs", self.epochs, least=1)

    def remark(self, epochs: int) -> str | None:
        """Return a warning if the search ends before the limit."""
        if self.epochs <= epochs:
            return None
        return f"EpochLimit(epochs={self.epochs}) cannot stop a search of {epochs} epochs. Lower it, or leave it out."

    def longest(self, epochs: int) -> int:
        """Return the limit, where it comes before the planned end."""
        return min(epochs, self.epochs)

    def decide(self, history: Sequence[Mapping[str, Any]]) -> Stop | None:
        """Stop at the limit."""
        if len(history) < self.epochs:
            return None
        return Stop(int(history[-1]["epoch"]), f"its limit is {self.epochs} epochs")
