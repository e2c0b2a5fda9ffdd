"""What a selection must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from archgrad.supernet import Supernet

__all__ = ["Scores", "Selection"]

Scores = Mapping[str, Sequence[float]]
"""By label, one a candidate: what the rules of the choices compare in the place of probabilities. At least 0; a
negative score marks a candidate that is taken only where a choice must take something and has nothing else."""


class Selection(ABC):
    """Scores the candidates of every row; the choices then decide by their own rules (`Choice.decide`)."""

    @abstractmethod
    def scores(self, supernet: Supernet) -> Scores:
        """Return the scores at present; the supernet stays as it is."""
