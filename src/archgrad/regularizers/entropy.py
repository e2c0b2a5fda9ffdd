"""The regulariser of DU-DARTS."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from archgrad.choices import AlphaRow
from archgrad.errors import OptionError
from archgrad.regularizers.regularizer import Regularizer
from archgrad.relaxation import Relaxation
from archgrad.schedules import Number, check_number

__all__ = ["Entropy"]


@dataclass(frozen=True)
class Entropy(Regularizer):
    """The sum over rows of -sum_o p_o log p_o / log K, which drives every row to decide.

    p are the expected mixing weights of a row's K candidates, divided by the number k of those that are chosen: a row
    counts 1 where it is undecided, and log k / log K, which is 0 for k = 1, where it is decided. A row of one candidate
    counts 0.

    Source: DU-DARTS, which divides a row's term by the weight of its edge as well; here edges have no weight of their
    own, so that it is 1.
    """

    weight: Number = 1.0
    """Factor of the term, at least 0; a number or a schedule."""

    def __post_init__(self) -> None:
        check_number("weight", self.weight, least=0.0)

    def check(self, rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> None:
        """Refuse mixing weights that do not sum to one, which are no distribution."""
        if not relaxation.normalised:
            raise OptionError(
                f"Entropy is that of mixing weights that sum to one, but those of {type(relaxation).__name__} do not. "
                f"Leave it out, or take relaxation=Softmax()."
            )

    def value(self, alphas: Mapping[str, Tensor], rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> Tensor:
        """Return the sum over rows, from 0 to their number."""
        return torch.stack(
            [_of_row(relaxation.expected(a, rows[label]), rows[label]) for label, a in alphas.items()]
        ).sum()


def _of_row(expected: Tensor, row: AlphaRow) -> Tensor:
    p = expected / row.n_chosen
    logs = p.clamp_min(torch.finfo(p.dtype).tiny).log()  # where p is 0, so is its term
    return -(p * logs).sum() / (math.log(len(p)) if len(p) > 1 else 1.0)
