"""The relaxation of SNAS."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Draw, Mixture
from archgrad.relaxation.gumbel import WithGumbelNoise
from archgrad.relaxation.subsets import slot_probabilities

__all__ = ["SoftGumbel"]


@dataclass(frozen=True)
class SoftGumbel(WithGumbelNoise):
    """Every candidate runs, weighted by a random softmax that is nearly one-hot when the temperature is low.

    With g ~ Gumbel(0, 1) the weights are softmax((alpha + g) / temperature), without a hard sample (compare `Gumbel`).
    Where k candidates are chosen, it is the softmax over k-subsets. The temperature falls linearly with the epoch.

    Source: Xie et al. 2019 (SNAS); the temperatures are those of the code of Chen et al. 2021 (DrNAS).
    """

    temperature_max: float = 10.0
    """Temperature of the first epoch, above 0."""
    temperature_min: float = 1.0
    """Temperature that an epoch after the last one would have, above 0."""

    reached = "end"

    def mix(self, alpha: Tensor, row: AlphaRow, draw: Draw) -> Mixture:
        """Return the soft sample; all candidates are active."""
        z = (torch.log_softmax(alpha, 0) + draw["noise"].to(alpha)) / draw["temperature"].to(alpha)
        return Mixture(slot_probabilities(z, row.n_chosen), tuple(range(len(row.names))))
