"""The regulariser of DrNAS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from archgrad.choices import AlphaRow
from archgrad.errors import OptionError
from archgrad.regularizers.regularizer import Regularizer
from archgrad.relaxation import Dirichlet, Relaxation
from archgrad.relaxation.dirichlet import concentration
from archgrad.schedules import Number, check_number

__all__ = ["DirichletKL", "kl_to_ones"]


@dataclass(frozen=True)
class DirichletKL(Regularizer):
    """The sum over rows of KL(Dir(c) || Dir(1)), which holds `Dirichlet` near the even distribution.

    It takes the place of the alphas' weight decay: the authors set that to 0 along with it.

    Source: Chen et al. 2021 (DrNAS), and their code ("kl"); the default of their code is weight decay
    alone ("l2").
    """

    weight: Number = 1e-3
    """Factor of the term, at least 0; a number or a schedule."""

    def __post_init__(self) -> None:
        check_number("weight", self.weight, least=0.0)

    def check(self, rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> None:
        """Refuse every relaxation but Dirichlet."""
        if not isinstance(relaxation, Dirichlet):
            raise OptionError(
                f"DirichletKL is a distance of Dirichlet distributions, but {type(relaxation).__name__} has none. "
                f"Leave it out, or take relaxation=Dirichlet()."
            )

    def value(self, alphas: Mapping[str, Tensor], rows: Mapping[str, AlphaRow], relaxation: Relaxation) -> Tensor:
        """Return the sum over rows."""
        return torch.stack([kl_to_ones(concentration(alpha)) for alpha in alphas.values()]).sum()


def kl_to_ones(c: Tensor) -> Tensor:
    """Return KL(Dir(c) || Dir(1)), 0-dimensional, of a concentration (K,) above 0."""
    total = c.sum()
    even = torch.lgamma(torch.tensor(float(len(c)), dtype=c.dtype, device=c.device))
    slope = torch.digamma(c) - torch.digamma(total)
    return torch.lgamma(total) - torch.lgamma(c).sum() - even + ((c - 1.0) * slope).sum()
