"""The weights as they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.optim import Optimizer

from archgrad.bilevel.base import AlphasGradient, BilevelStep
from archgrad.bilevel.passes import Batch, Loss, average_gradients, detached, fixed, pass_loss
from archgrad.supernet import Supernet

__all__ = ["FirstOrder"]


@dataclass(frozen=True)
class FirstOrder(BilevelStep):
    """The gradient of the validation loss at the present weights (Liu et al. 2019, eq. 7 with xi = 0)."""

    def alphas_gradient(
        self, supernet: Supernet, train_batch: Batch, valid_batch: Batch, *, loss: Loss, weights_optimizer: Optimizer
    ) -> AlphasGradient:
        """Return dL_valid(w, a)/da; `train_batch` and `weights_optimizer` are not used."""
        alphas = supernet.alphas
        with fixed(list(supernet.weights.values())):
            valid_loss, outputs = pass_loss(supernet, valid_batch, loss)
            gradients = torch.autograd.grad(valid_loss, list(alphas.values()), allow_unused=True)
        mean, mean_loss = average_gradients(gradients, valid_loss, valid_batch)
        return AlphasGradient(dict(zip(alphas, mean, strict=True)), mean_loss, detached(outputs))
