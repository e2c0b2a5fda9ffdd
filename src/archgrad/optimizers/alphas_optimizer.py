"""What an optimizer of the alphas must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from archgrad.schedules import Number, Progress, value_of

__all__ = ["AlphasOptimizer"]


class AlphasOptimizer(ABC):
    """Says how the alphas move along their gradient.

    A subclass is a dataclass with a field `learning_rate`.
    """

    domain = "logits"
    """Where the alphas live that it keeps where they are (see `Relaxation.domain`)."""

    learning_rate: Number
    """Step size, above 0; a number or a schedule."""

    @abstractmethod
    def build(self, alphas: Sequence[nn.Parameter], learning_rate: float) -> Optimizer:
        """Return an optimizer of the alphas.

        Args:
            alphas: (K,) each.
            learning_rate: That of the first epoch.
        """

    def first(self, alphas: Sequence[nn.Parameter]) -> Optimizer:
        """Return the optimizer as it is in the first epoch."""
        return self.build(alphas, value_of(self.learning_rate, Progress(0, 1), "learning_rate"))

    def set_learning_rate(self, optimizer: Optimizer, progress: Progress) -> None:
        """Give the optimizer the learning rate of the running epoch."""
        for group in optimizer.param_groups:
            group["lr"] = value_of(self.learning_rate, progress, "learning_rate")
