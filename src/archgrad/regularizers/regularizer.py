"""What a regulariser must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor

from archgrad.choices import AlphaRow
from archgrad.relaxation import Relaxation
from archgrad.schedules import Number

__all__ = ["Memory", "Regularizer"]

Memory: TypeAlias = "dict[str, Tensor]"
"""What a part remembers from step to step, by name; part of the checkpoint."""


class Regularizer(ABC):
    """A term of the alphas alone that is added to the validation loss; the weights' loss has none of it.

    A subclass is a dataclass with a field `weight`.
    """

    weight: Number
    """Factor of the term; a number or a schedule."""

    def check(self, rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> None:
        """Raise OptionError if it means nothing for these rows, by label, or for this relaxation."""

    def bound(self, cost_of: Callable[[str], Any], memory: Callable[[], Mapping[str, Memory]]) -> Regularizer:
        """Return the term for one supernet of a search; by default itself.

        Args:
            cost_of: Word for a cost -> what the networks of the space cost (see `archgrad.ExpectedCost`).
            memory: Returns what parts remember at present, by part.
        """
        return self

    def remark(self) -> str | None:
        """Return what is to be said when the search begins, or None."""
        return None

    def figures(self, architecture: Any) -> Mapping[str, float]:
        """Return columns for metrics.csv, always the same ones, for the architecture of an epoch; by default none."""
        return {}

    def where(self, architecture: Any) -> Mapping[str, Mapping[str, float]]:
        """Return where costs of an architecture's network sit: word for a cost -> part -> cost; by default nothing."""
        return {}

    def after_epoch(self, architecture: Any) -> Mapping[str, Memory]:
        """Return what is to be remembered, by part, given the architecture of the epoch; by default nothing."""
        return {}

    def broken(self, architecture: Any) -> str | None:
        """Return a warning if the architecture that the search came to is not what was asked for, or None."""
        return None

    @abstractmethod
    def value(self, alphas: Mapping[str, Tensor], rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> Tensor:
        """Return the term before its weight, 0-dimensional, a differentiable function of the alphas.

        Args:
            alphas: (K,) each, by label.
            rows: What each row decides between, by label.
            relaxation: How alphas become mixing weights.
        """
