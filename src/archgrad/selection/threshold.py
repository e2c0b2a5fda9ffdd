"""The selection of FairDARTS."""

from __future__ import annotations

from dataclasses import dataclass

from archgrad.errors import OptionError
from archgrad.selection.selection import Scores, Selection
from archgrad.supernet import Supernet

__all__ = ["Threshold"]


@dataclass(frozen=True)
class Threshold(Selection):
    """Candidates whose probability is below a threshold are left out, so that a node of a cell may keep fewer edges.

    The choices' own rules come first: a cell takes the strongest edges of a node, and of these drops the ones below the
    threshold, but for the strongest. A layer choice always takes its likeliest candidate.

    Source: Chu et al. 2020 (FairDARTS), section 4.2, "threshold_sparse" of their code; there a node may also end
    without an edge.
    """

    threshold: float = 0.85
    """Least probability of a candidate that is taken, above 0 and at most 1."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise OptionError(f"threshold must be above 0 and at most 1, but got threshold={self.threshold}.")

    def scores(self, supernet: Supernet) -> Scores:
        """Return the probabilities, those below the threshold less one."""
        return {
            label: [p if p >= self.threshold else p - 1.0 for p in row]
            for label, row in supernet.probabilities().items()
        }
