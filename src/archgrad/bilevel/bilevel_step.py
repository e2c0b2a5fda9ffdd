"""What a bilevel step must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from archgrad.bilevel.passes import Batch, Loss
from archgrad.supernet import Supernet

__all__ = ["AlphasGradient", "BilevelStep"]


@dataclass(frozen=True)
class AlphasGradient:
    """The gradient of the validation loss with respect to the alphas.

    Attributes:
        gradients: By label, (K,) each; None for a row that the pass did not use.
        valid_loss: The validation loss that was differentiated, 0-dimensional.
        valid_outputs: What the supernet returned for the validation batch, without graph.
        weights_gradients: The same gradient with respect to the weights, by name, where it was asked for.
    """

    gradients: dict[str, Tensor | None]
    valid_loss: Tensor
    valid_outputs: Any
    weights_gradients: dict[str, Tensor | None] | None = None


class BilevelStep(ABC):
    """Computes the alphas' gradient of the validation loss, weights being what training makes of them."""

    looks_ahead = False
    """Whether it looks along the gradient of the weights' pass; then that pass must not be perturbed."""

    @property
    def differentiates_twice(self) -> bool:
        """Whether gradients are differentiated once more, of which float16 has too few numbers."""
        return False

    def check(self, optimizer: Optimizer) -> None:
        """Raise OptionError if the step cannot look through this weights' optimizer."""

    @abstractmethod
    def alphas_gradient(
        self,
        supernet: Supernet,
        train_batch: Batch,
        valid_batch: Batch,
        *,
        loss: Loss,
        weights_optimizer: Optimizer,
        accumulation: int = 1,
    ) -> AlphasGradient:
        """Return the gradient; weights, alphas and optimizer stay as they are.

        Args:
            supernet: In training mode.
            train_batch: (inputs, targets) that the weights learn from next.
            valid_batch: (inputs, targets) that the alphas are judged by.
            loss: Function of (outputs, targets) (see `archgrad.losses.Loss`).
            weights_optimizer: The optimizer of the weights, with its present state and learning rate.
            accumulation: Parts that each batch is cut into, one after the other (see `passes.run_pass`).
        """
