"""The weights at the minimum that training goes to, by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from archgrad.bilevel.bilevel_step import AlphasGradient, BilevelStep
from archgrad.bilevel.passes import Batch, Loss, frozen_buffers, run_pass
from archgrad.bilevel.second_derivative import SecondDerivative
from archgrad.errors import OptionError
from archgrad.supernet import Supernet

__all__ = ["Implicit"]

Vector = list[Tensor]


@dataclass(frozen=True, kw_only=True)
class Implicit(BilevelStep):
    """dL_valid/da - (d2 L_train/da dw) H^-1 dL_valid/dw at the present weights, H = d2 L_train/dw2 + damping.

    Products with second derivatives are exact, by differentiating the gradient once more; each is one more backward
    pass (with `accumulation`, forward and twice backward). Weights that the optimizer does not hold count as constants.
    All passes of the training batch share a draw and dropout masks, and no pass moves a buffer.
    """

    solver: Literal["neumann", "cg"] = "neumann"
    """How H^-1 v is found: "neumann", the series r sum_j (I - r H)^j v, which converges if 0 < r H < 2; or "cg",
    conjugate gradients from 0, exact after as many iterations as there are weights, for which H must be positive."""
    iterations: int = 5
    """Products with H: at least 0 for "neumann", where 0 takes r v; at least 1 for "cg"."""
    neumann_rate: float | None = None
    """r of "neumann", above 0; None takes that of the weights' optimizer, group by group. "cg" has none."""
    damping: float = 0.0
    """Added to the diagonal of H, at least 0."""

    looks_ahead = True
    differentiates_twice = True

    def __post_init__(self) -> None:
        if self.solver not in ("neumann", "cg"):
            raise OptionError(f"solver must be 'neumann' or 'cg', but got solver={self.solver!r}.")
        least = 1 if self.solver == "cg" else 0
        if not self.iterations >= least:
            raise OptionError(f"iterations must be at least {least} for {self.solver}, but got {self.iterations}.")
        if self.neumann_rate is not None and (self.solver == "cg" or not self.neumann_rate > 0):
            raise OptionError(
                f"neumann_rate must be above 0 and goes with solver='neumann' only, "
                f"but got neumann_rate={self.neumann_rate} with solver={self.solver!r}."
            )
        if not self.damping >= 0:
            raise OptionError(f"damping must be at least 0, but got damping={self.damping}.")

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
        """Return the gradient.

        Raises:
            OptionError: "cg" met negative curvature.
        """
        lr = {id(p): float(group["lr"]) for group in weights_optimizer.param_groups for p in group["params"]}
        weights = [w for w in supernet.weights.values() if id(w) in lr]
        rates = [lr[id(w)] if self.neumann_rate is None else self.neumann_rate for w in weights]
        alphas: list[Tensor] = list(supernet.alphas.values())
        with supernet.same_draw(), frozen_buffers(supernet):
            valid = run_pass(supernet, valid_batch, loss, [*weights, *alphas], accumulation=accumulation)
            v = _filled(valid.gradients[: len(weights)], weights)
            second = SecondDerivative(supernet, train_batch, loss, weights, accumulation=accumulation)

            def times(u: Vector) -> Vector:
                return [
                    h + self.damping * x for h, x in zip(_filled(second.along(u, weights), weights), u, strict=True)
                ]

            solved = self._neumann(times, v, rates) if self.solver == "neumann" else self._cg(times, v)
            implicit = second.along(solved, alphas, last=True)
        gradients = {
            label: d if h is None else -h if d is None else d - h
            for label, d, h in zip(supernet.alphas, valid.gradients[len(weights) :], implicit, strict=True)
        }
        return AlphasGradient(gradients, valid.loss, valid.outputs)

    def _neumann(self, times: Callable[[Vector], Vector], v: Vector, rates: Sequence[float]) -> Vector:
        term = [r * x for r, x in zip(rates, v, strict=True)]
        total = term
        for _ in range(self.iterations):
            term = [t - r * h for t, r, h in zip(term, rates, times(term), strict=True)]
            total = [a + t for a, t in zip(total, term, strict=True)]
        return total

    def _cg(self, times: Callable[[Vector], Vector], v: Vector) -> Vector:
        x, r, p = [torch.zeros_like(a) for a in v], v, v
        square = first = _dot(r, r)
        for _ in range(self.iterations):
            if not square > first * 1e-30:
                break
            h = times(p)
            curvature = _dot(p, h)
            if not curvature > 0:
                raise OptionError(
                    f"Conjugate gradients need a positive Hessian of the training loss, but met the curvature "
                    f"{curvature / _dot(p, p):.3g}. Raise damping above its size (it is {self.damping}), or take "
                    f"solver='neumann'."
                )
            size = square / curvature
            x = [a + size * b for a, b in zip(x, p, strict=True)]
            r = [a - size * b for a, b in zip(r, h, strict=True)]
            before, square = square, _dot(r, r)
            p = [a + square / before * b for a, b in zip(r, p, strict=True)]
        return x


def _filled(found: Sequence[Tensor | None], like: Sequence[Tensor]) -> Vector:
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, like, strict=True)]


def _dot(a: Vector, b: Vector) -> float:
    return float(cast(Tensor, sum((x * y).sum() for x, y in zip(a, b, strict=True))))
