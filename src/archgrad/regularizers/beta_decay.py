"""The regulariser of beta-DARTS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from archgrad.choices import AlphaRow
from archgrad.errors import OptionError
from archgrad.regularizers.regularizer import Regularizer
from archgrad.relaxation import Relaxation
from archgrad.schedules import Linear, Number, check_number

__all__ = ["BetaDecay"]


@dataclass(frozen=True)
class BetaDecay(Regularizer):
    """The mean over rows of log sum_o exp(alpha_o), which keeps the softmax from deciding early.

    Its gradient is softmax(alpha) divided by the number of rows: it pushes large alphas down more.

    Source: Ye et al. 2022, eq. 12; the weight grows from 0 towards 50, as in their code.
    """

    weight: Number = field(default=Linear(0.0, 50.0, "end"))
    """Factor of the term, at least 0; a number or a schedule."""

    def __post_init__(self) -> None:
        check_number("weight", self.weight, least=0.0)

    def check(self, rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> None:
        """Refuse alphas that are no logits."""
        if relaxation.domain != "logits":
            raise OptionError(
                f"BetaDecay is a function of logits, but the alphas of {type(relaxation).__name__} lie on the simplex. "
                f"Leave it out, or take a relaxation of logits such as Softmax."
            )

    def value(self, alphas: Mapping[str, Tensor], rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> Tensor:
        """Return the mean over rows."""
        return torch.stack([torch.logsumexp(alpha, 0) for alpha in alphas.values()]).mean()
