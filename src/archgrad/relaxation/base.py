"""What a relaxation must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from archgrad.choices import AlphaRow, Mixture
from archgrad.relaxation.subsets import inclusion_probabilities

__all__ = ["Relaxation"]


class Relaxation(ABC):
    """Turns a row of alphas into the mixture of one forward pass.

    A relaxation holds no alphas and no generator: both are handed in, so that a pass can be repeated with its draw.
    """

    @property
    def temperature(self) -> float | None:
        """The temperature of the present epoch, or None where the relaxation has none."""
        return None

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Set what changes with the epoch (0-based) of a search of `epochs` epochs."""

    def draw(self, row: AlphaRow, generator: torch.Generator) -> Tensor | None:
        """Draw the random numbers of one row for one forward pass on the CPU, or None where there are none."""
        return None

    @abstractmethod
    def mix(self, alpha: Tensor, row: AlphaRow, noise: Tensor | None) -> Mixture:
        """Return the mixture of one forward pass.

        Args:
            alpha: (K,), logits; any real value.
            row: What the K entries stand for, and how many are chosen.
            noise: What `draw` gave, on alpha's device.
        """

    def probabilities(self, alpha: Tensor, row: AlphaRow) -> Tensor:
        """Return (K,), the probability that each candidate is chosen, which ranks them in derivation and reports."""
        return inclusion_probabilities(alpha, row.n_chosen)
