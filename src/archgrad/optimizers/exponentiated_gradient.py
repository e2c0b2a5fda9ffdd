"""The alphas' optimizer of GAEA."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from archgrad.optimizers.alphas_optimizer import AlphasOptimizer
from archgrad.schedules import Number, check_number

__all__ = ["ExponentiatedGradient"]


@dataclass(frozen=True)
class ExponentiatedGradient(AlphasOptimizer):
    """Each row is multiplied by exp(-learning_rate gradient), cut from below at `floor`, and divided by its sum.

    This is mirror descent on the simplex: rows stay there, and become sparse. It goes with the relaxation `Simplex`.

    Source: Li et al. 2021 (GAEA), section 4; the floor is that of their code.
    """

    learning_rate: Number = 0.1
    """Step size, above 0; a number or a schedule."""
    floor: float = 1e-5
    """Least entry before the division, above 0, so that no candidate is lost for good."""

    domain = "simplex"

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, above=0.0)
        check_number("floor", self.floor, above=0.0)

    def build(self, alphas: Sequence[nn.Parameter], learning_rate: float) -> Optimizer:
        """Return the optimizer."""
        return _Multiplying(alphas, learning_rate, self.floor)


class _Multiplying(Optimizer):
    """The update of `ExponentiatedGradient`, which has no state."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, floor: float) -> None:
        super().__init__(list(parameters), {"lr": lr, "floor": floor})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Move every row that has a gradient; `closure` is not used."""
        for group in self.param_groups:
            for row in group["params"]:
                if row.grad is not None:
                    row.mul_(torch.exp(-group["lr"] * row.grad)).clamp_(min=group["floor"])
                    row.div_(row.sum())
