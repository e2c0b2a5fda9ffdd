"""The alphas' optimizer of DARTS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from archgrad.errors import OptionError
from archgrad.optimizers.alphas_optimizer import AlphasOptimizer
from archgrad.schedules import Number, check_number

__all__ = ["Adam"]


@dataclass(frozen=True)
class Adam(AlphasOptimizer):
    """Adam with coupled weight decay (Liu et al. 2019, section 3.1)."""

    learning_rate: Number = 3e-4
    """Step size, above 0; a number or a schedule."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Of the running means of the gradient and its square; each from 0 to below 1."""
    weight_decay: float = 1e-3
    """Factor of the alphas that is added to their gradient, at least 0."""

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, above=0.0)
        check_number("weight_decay", self.weight_decay, least=0.0)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise OptionError(f"betas must be two numbers from 0 to below 1, but got betas={self.betas!r}.")
        object.__setattr__(self, "betas", tuple(self.betas))

    def build(self, alphas: Sequence[nn.Parameter], learning_rate: float) -> Optimizer:
        """Return torch's Adam."""
        return torch.optim.Adam(list(alphas), learning_rate, betas=self.betas, weight_decay=self.weight_decay)
