"""The alphas where the validation loss is flat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from archgrad.bilevel.bilevel_step import AlphasGradient, BilevelStep
from archgrad.bilevel.passes import Batch, Loss, Pass, frozen_buffers, repeated_random, run_pass, without_grad
from archgrad.errors import OptionError
from archgrad.full_precision import full_precision
from archgrad.supernet import Supernet

__all__ = ["Flat"]


@dataclass(frozen=True, kw_only=True)
class Flat(BilevelStep):
    """The gradient that A2M (FlatDARTS) takes, from four passes of the alphas at the present weights.

    With g(a) = dL_valid(w, a)/da, d1 = g(a) and d2 = g(a + rho d1), the gradient is
    d2 + rho [g(a + e d2) - g(a - e d2)] / (2 e). The passes share one draw and move no buffer.
    """

    rho: float = 0.1
    """How far along its gradient the alphas are moved, at least 0; 0 is first order."""
    radius: float = 0.01
    """e, the radius of the finite difference, above 0."""

    def __post_init__(self) -> None:
        if not self.rho >= 0:
            raise OptionError(f"rho must be at least 0, but got rho={self.rho}.")
        if not self.radius > 0:
            raise OptionError(f"radius must be above 0, but got radius={self.radius}.")

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
        """Return the gradient; `train_batch` and `weights_optimizer` are not used. Loss and outputs are those at a."""
        alphas = list(supernet.alphas.values())
        start = [alpha.detach().clone() for alpha in alphas]
        random = repeated_random(alphas[0].device)

        def at(direction: Sequence[Tensor | None], size: float) -> Pass:
            with torch.no_grad():
                for alpha, a, d in zip(alphas, start, direction, strict=True):
                    alpha.copy_(a if d is None else a + size * d)
            with random:
                return run_pass(supernet, valid_batch, loss, alphas, accumulation=accumulation)

        try:
            with supernet.same_draw(), frozen_buffers(supernet), without_grad(list(supernet.weights.values())):
                here = at([None] * len(alphas), 0.0)
                d2 = at(here.gradients, self.rho).gradients
                with full_precision(alphas[0]):
                    plus, minus = (at(d2, sign * self.radius).gradients for sign in (1.0, -1.0))
        finally:
            with torch.no_grad():
                for alpha, a in zip(alphas, start, strict=True):
                    alpha.copy_(a)
        gradients = {
            label: d if d is None or p is None or m is None else d + self.rho * (p - m) / (2.0 * self.radius)
            for label, d, p, m in zip(supernet.alphas, d2, plus, minus, strict=True)
        }
        return AlphasGradient(gradients, here.loss, here.outputs)
