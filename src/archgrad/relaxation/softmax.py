"""The relaxation of DARTS."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from archgrad.choices import AlphaRow, Draw, Mixture
from archgrad.relaxation.relaxation import Relaxation
from archgrad.relaxation.subsets import slot_probabilities

__all__ = ["Softmax"]


@dataclass(frozen=True)
class Softmax(Relaxation):
    """Every candidate runs, weighted by the softmax of the alphas (Liu et al. 2019, eq. 2).

    Where k candidates are chosen, it is the softmax over k-subsets (see `archgrad.relaxation.subsets`).
    """

    def mix(self, alpha: Tensor, row: AlphaRow, draw: Draw) -> Mixture:
        """Return the softmax weights; all candidates are active."""
        return Mixture(slot_probabilities(alpha, row.n_chosen), tuple(range(len(row.names))))
