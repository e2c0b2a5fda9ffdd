"""What a selection must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence

from archgrad.epoch_end import EpochEnd
from archgrad.relaxation import Relaxation
from archgrad.supernet import Supernet

__all__ = ["Scores", "Selection", "leaving_out"]

Scores = Mapping[str, Sequence[float]]
"""By label, one a candidate: what the rules of the choices compare in the place of probabilities. At least 0; a
negative score marks a candidate that is taken only where a choice must take something and has nothing else."""


def leaving_out(row: Sequence[float], places: Collection[int]) -> list[float]:
    """Return the scores of a row, with those of some candidates below 0: taken only where there is nothing else.

    Args:
        row: One score a candidate.
        places: Of the candidates that are left out.
    """
    return [score - max(row) - 1.0 if k in places else score for k, score in enumerate(row)]


class Selection(ABC):
    """Scores the candidates of every row; the choices then decide by their own rules (`Choice.decide`).

    A selection may need epochs of its own after those of the search: it settles some choices, the supernet is tuned for
    a few epochs, it settles others. All that it knows of what it did is in the supernet, so that a run can be resumed.
    """

    tune_rate = 1.0
    """Learning rate of the weights at the beginning of these epochs, as a share of the search's."""

    def check(self, relaxation: Relaxation) -> None:
        """Raise OptionError if the selection cannot go with a relaxation."""

    @property
    def settles(self) -> bool:
        """Whether it decides choices for good (`settle`)."""
        return type(self).settle is not Selection.settle

    def further_epochs(self, supernet: Supernet) -> int:
        """Return how many epochs come after those of the search; the supernet is at its beginning."""
        return 0

    def settle(self, end: EpochEnd, tuned: int, say: Callable[[str], None] = lambda said: None) -> None:
        """Decide choices for good: prune rows of the supernet, or switch candidates off.

        Args:
            end: Of the search's last epoch, or of one of the further ones.
            tuned: Further epochs that have ended.
            say: Is told of each decision.
        """

    @abstractmethod
    def scores(self, supernet: Supernet) -> Scores:
        """Return the scores at present; the supernet stays as it is."""
