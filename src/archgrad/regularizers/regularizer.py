"""What a regulariser must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from archgrad.choices import AlphaRow
from archgrad.relaxation import Relaxation
from archgrad.schedules import Number

__all__ = ["Regularizer"]


class Regularizer(ABC):
    """A term of the alphas alone that is added to the validation loss; the weights' loss has none of it.

    A subclass is a dataclass with a field `weight`.
    """

    weight: Number
    """Factor of the term; a number or a schedule."""

    def check(self, rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> None:
        """Raise OptionError if it means nothing for these rows, by label, or for this relaxation."""

    @abstractmethod
    def value(self, alphas: Mapping[str, Tensor], rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> Tensor:
        """Return the term before its weight, 0-dimensional, a differentiable function of the alphas.

        Args:
            alphas: (K,) each, by label.
            rows: What each row decides between, by label.
            relaxation: How alphas become mixing weights.
        """
