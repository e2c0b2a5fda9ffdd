"""The weights one training step ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from archgrad.bilevel.base import AlphasGradient, BilevelStep
from archgrad.bilevel.lookahead import check_optimizer, look_ahead
from archgrad.bilevel.passes import (
    Batch,
    Loss,
    average_gradients,
    detached,
    fixed,
    frozen_buffers,
    pass_loss,
    repeated_random,
)
from archgrad.errors import OptionError
from archgrad.supernet import Supernet

__all__ = ["Unrolled"]

HVP = Literal["finite-difference", "exact"]


@dataclass(frozen=True, kw_only=True)
class Unrolled(BilevelStep):
    """The gradient through one step of the weights' optimizer (Liu et al. 2019, eq. 7 and 8).

    With g = dL_train(w, a)/dw, w' = w - U(g) (momentum and weight decay included, g not clipped),
    v = dL_valid(w', a)/dw' and u = dU/dg v, the gradient is dL_valid(w', a)/da - d<g, u>/da. For SGD u is the learning
    rate times v. Look-ahead passes run on other weights than the live ones and move no buffer.
    """

    hvp: HVP = "finite-difference"
    """How d<g, u>/da is computed: "finite-difference" as the authors do, from two passes at w + e u and w - e u, or
    "exact" by differentiating g once more. On networks with kinks (ReLU, max pool) the first is a rough estimate."""
    finite_difference_radius: float = 0.01
    """Radius r above 0; the perturbation of w is r u / ||u||, the norm taken over all weights together."""

    def __post_init__(self) -> None:
        if self.hvp not in ("finite-difference", "exact"):
            raise OptionError(f"hvp must be 'finite-difference' or 'exact', but got hvp={self.hvp!r}.")
        if not self.finite_difference_radius > 0:
            raise OptionError(
                f"finite_difference_radius must be above 0, "
                f"but got finite_difference_radius={self.finite_difference_radius}."
            )

    def check(self, optimizer: Optimizer) -> None:
        """Raise OptionError unless the optimizer's look-ahead is known (SGD, Adam, AdamW)."""
        check_optimizer(optimizer)

    def alphas_gradient(
        self, supernet: Supernet, train_batch: Batch, valid_batch: Batch, *, loss: Loss, weights_optimizer: Optimizer
    ) -> AlphasGradient:
        """Return dL_valid(w'(a), a)/da."""
        weights, alphas = supernet.weights, list(supernet.alphas.values())
        exact = self.hvp == "exact"
        random = repeated_random(alphas[0].device)
        with supernet.same_draw(), frozen_buffers(supernet):
            with random, fixed([] if exact else alphas):
                train_loss, _ = pass_loss(supernet, train_batch, loss)
                live = torch.autograd.grad(train_loss, list(weights.values()), create_graph=exact, allow_unused=True)
            mean, _ = average_gradients([None if g is None else g.detach() for g in live], train_loss, train_batch)
            ahead = look_ahead(weights_optimizer, weights, dict(zip(weights, mean, strict=True)))

            places = {name: weight.clone().requires_grad_() for name, weight in ahead.weights.items()}
            valid_loss, outputs = pass_loss(supernet, valid_batch, loss, weights=places)
            both = torch.autograd.grad(valid_loss, [*places.values(), *alphas], allow_unused=True)
            both_mean, valid_loss = average_gradients(both, valid_loss, valid_batch)
            direct = both_mean[len(places) :]
            direction = ahead.pull_back(dict(zip(places, both_mean, strict=False)))

            if exact:
                implicit = _differentiate(live, list(direction.values()), alphas)
                implicit, _ = average_gradients(implicit, train_loss, train_batch)
            else:
                implicit = self._difference(supernet, train_batch, loss, weights, direction, random)
        gradients = {
            label: d if h is None else -h if d is None else d - h
            for label, d, h in zip(supernet.alphas, direct, implicit, strict=True)
        }
        return AlphasGradient(gradients, valid_loss, detached(outputs))

    def _difference(
        self,
        supernet: Supernet,
        batch: Batch,
        loss: Loss,
        weights: Mapping[str, Tensor],
        direction: Mapping[str, Tensor | None],
        random: repeated_random,
    ) -> list[Tensor | None]:
        """Return d<g, u>/da from alphas' gradients on both sides of w along u; one message for both."""
        alphas = list(supernet.alphas.values())
        norm = torch.stack([u.norm() for u in direction.values() if u is not None] or [torch.zeros(())]).norm()
        if not float(norm) > 0:
            return [None] * len(alphas)
        epsilon = self.finite_difference_radius / norm
        sides: list[Tensor | None] = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                moved = {
                    name: weight.detach() if (u := direction[name]) is None else weight + sign * epsilon * u
                    for name, weight in weights.items()
                }
            with random:
                side_loss, _ = pass_loss(supernet, batch, loss, weights=moved)
            sides.extend(torch.autograd.grad(side_loss, alphas, allow_unused=True))
        sides, _ = average_gradients(sides, side_loss, batch)
        plus, minus = sides[: len(alphas)], sides[len(alphas) :]
        return [
            None if p is None else (p - cast(Tensor, n)) / (2.0 * epsilon) for p, n in zip(plus, minus, strict=True)
        ]


def _differentiate(
    gradients: tuple[Tensor | None, ...], direction: list[Tensor | None], alphas: list[torch.nn.Parameter]
) -> list[Tensor | None]:
    """Return d<g, u>/da by a second backward pass through the graph of g."""
    pairs = [
        (g, u) for g, u in zip(gradients, direction, strict=True) if g is not None and u is not None and g.requires_grad
    ]
    if not pairs:
        return [None] * len(alphas)
    outputs, directions = zip(*pairs, strict=True)
    return list(torch.autograd.grad(outputs, alphas, grad_outputs=directions, allow_unused=True))
