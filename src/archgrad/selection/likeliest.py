"""The selection of DARTS."""

from __future__ import annotations

from dataclasses import dataclass

from archgrad.cell import Cell
from archgrad.errors import OptionError
from archgrad.selection.selection import Scores, Selection, leaving_out
from archgrad.supernet import Supernet

__all__ = ["Likeliest"]


@dataclass(frozen=True)
class Likeliest(Selection):
    """The score of a candidate is its probability (Liu et al. 2019, section 2.4)."""

    none: bool = True
    """Whether edges of cells may be derived as "none", or another candidate that passes nothing on, where the space
    allows it. They are searched all the same."""

    def __post_init__(self) -> None:
        if not isinstance(self.none, bool):
            raise OptionError(f"none must be True or False, but got {self.none!r}.")

    def scores(self, supernet: Supernet) -> Scores:
        """Return the relaxation's probabilities; without `none`, negative scores for what is not to be derived."""
        scores = dict(supernet.probabilities())
        for entry in () if self.none else supernet.choices:
            cut = entry.choice.passing_nothing(entry.label) if isinstance(entry.choice, Cell) else {}
            for row, names in cut.items():
                places = [k for k, name in enumerate(supernet.rows[row].names) if name in names]
                scores[row] = leaving_out(scores[row], places)
        return scores
