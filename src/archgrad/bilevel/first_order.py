"""The weights as they are."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from torch.optim import Optimizer

from archgrad.bilevel.bilevel_step import AlphasGradient, BilevelStep
from archgrad.bilevel.passes import Batch, Loss, run_pass, without_grad
from archgrad.supernet import Supernet

__all__ = ["FirstOrder", "FirstOrderWithWeights"]


@dataclass(frozen=True)
class FirstOrder(BilevelStep):
    """The gradient of the validation loss at the present weights (Liu et al. 2019, eq. 7 with xi = 0)."""

    _wants_weights = False

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
        alphas, wanted = supernet.alphas, supernet.weights if self._wants_weights else {}
        wrt = [*alphas.values(), *wanted.values()]
        with nullcontext() if self._wants_weights else without_grad(list(supernet.weights.values())):
            valid = run_pass(supernet, valid_batch, loss, wrt, accumulation=accumulation)
        own, theirs = valid.gradients[: len(alphas)], valid.gradients[len(alphas) :]
        by_weight = dict(zip(wanted, theirs, strict=True)) if self._wants_weights else None
        return AlphasGradient(dict(zip(alphas, own, strict=True)), valid.loss, valid.outputs, by_weight)


class FirstOrderWithWeights(FirstOrder):
    """`FirstOrder` that gives dL_valid(w, a)/dw as well, for rules of the weights' gradient that look at it."""

    _wants_weights = True
