"""The selection of DARTS."""

from __future__ import annotations

from dataclasses import dataclass

from archgrad.selection.selection import Scores, Selection
from archgrad.supernet import Supernet

__all__ = ["Likeliest"]


@dataclass(frozen=True)
class Likeliest(Selection):
    """The score of a candidate is its probability (Liu et al. 2019, section 2.4)."""

    def scores(self, supernet: Supernet) -> Scores:
        """Return the relaxation's probabilities."""
        return supernet.probabilities()
