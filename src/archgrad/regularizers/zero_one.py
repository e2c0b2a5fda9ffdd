"""The regulariser of FairDARTS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from archgrad.choices import AlphaRow
from archgrad.errors import OptionError
from archgrad.regularizers.regularizer import Regularizer
from archgrad.relaxation import Relaxation
from archgrad.schedules import Number, check_number

__all__ = ["ZeroOne"]


@dataclass(frozen=True)
class ZeroOne(Regularizer):
    """Minus the mean over all gates of (gate - 1/2)^2, or of |gate - 1/2|, which drives gates to 0 or 1.

    The term is negative. Where every gate is 1/2 its gradient is exactly 0.

    Source: Chu et al. 2020 (FairDARTS), the zero-one loss in both of its forms; the mean, over the gates of all rows
    together, is that of their code, whose default is "l2".
    """

    weight: Number = 10.0
    """Factor of the term, at least 0; a number or a schedule."""
    norm: Literal["l2", "l1"] = "l2"
    """The square, or the absolute value, of a gate's distance from 1/2."""

    def __post_init__(self) -> None:
        check_number("weight", self.weight, least=0.0)
        if self.norm not in ("l2", "l1"):
            raise OptionError(f"norm must be 'l2' or 'l1', but got norm={self.norm!r}.")

    def check(self, rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> None:
        """Refuse mixing weights that sum to one, which cannot all go to 0 or 1 by themselves."""
        if relaxation.normalised:
            raise OptionError(
                f"ZeroOne opens or shuts gates that do not depend on each other, but the weights of "
                f"{type(relaxation).__name__} sum to one. Leave it out, or take relaxation=Sigmoid()."
            )

    def value(self, alphas: Mapping[str, Tensor], rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> Tensor:
        """Return the term before its weight."""
        distance = torch.cat([relaxation.expected(alpha, rows[label]) for label, alpha in alphas.items()]) - 0.5
        return -(distance.square() if self.norm == "l2" else distance.abs()).mean()
