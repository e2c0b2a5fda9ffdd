"""The weights as they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim import Optimizer

from archgrad.bilevel.bilevel_step import AlphasGradient, BilevelStep
from archgrad.bilevel.passes import Batch, Loss, run_pass, without_grad
from archgrad.supernet import Supernet

__all__ = ["FirstOrder", "WithWeights"]


@dataclass(frozen=True)
class FirstOrder(BilevelStep):
    """The gradient of the validation loss at the present weights (Liu et al. 2019, eq. 7 with xi = 0)."""

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
        """Return dL_valid(w, a)/da; `train_batch` and `weights_optimizer` are not used."""
        alphas = supernet.alphas
        with without_grad(list(supernet.weights.values())):
            valid = run_pass(supernet, valid_batch, loss, list(alphas.values()), accumulation=accumulation)
        return AlphasGradient(dict(zip(alphas, valid.gradients, strict=True)), valid.loss, valid.outputs)


class WithWeights(FirstOrder):
    """`FirstOrder` that gives the gradient with respect to the weights as well."""

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
        """Return dL_valid(w, a)/da and dL_valid(w, a)/dw."""
        alphas, weights = supernet.alphas, supernet.weights
        wrt = [*alphas.values(), *weights.values()]
        valid = run_pass(supernet, valid_batch, loss, wrt, accumulation=accumulation)
        own, theirs = valid.gradients[: len(alphas)], valid.gradients[len(alphas) :]
        by_weight = dict(zip(weights, theirs, strict=True))
        return AlphasGradient(dict(zip(alphas, own, strict=True)), valid.loss, valid.outputs, by_weight)
