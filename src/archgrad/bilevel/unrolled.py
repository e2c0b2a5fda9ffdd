"""The weights some training steps ahead."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from archgrad.bilevel.bilevel_step import AlphasGradient, BilevelStep
from archgrad.bilevel.inner_steps import Directions, InnerSteps, check_sgd
from archgrad.bilevel.lookahead import check_optimizer
from archgrad.bilevel.passes import (
    Batch,
    Loss,
    Pass,
    added,
    frozen_buffers,
    joined_gradients,
    local_pass,
    loss_of_parts,
    repeated_random,
    run_pass,
    without_grad,
)
from archgrad.bilevel.second_derivative import SecondDerivative
from archgrad.checks import is_whole
from archgrad.errors import OptionError
from archgrad.full_precision import full_precision
from archgrad.sizes import check_whole
from archgrad.supernet import Supernet

__all__ = ["Unrolled"]

HVP = Literal["finite-difference", "exact"]


@dataclass(frozen=True, kw_only=True)
class Unrolled(BilevelStep):
    """The gradient through steps of the weights' optimizer, by default one (Liu et al. 2019, eq. 7 and 8).

    With g = dL_train(w, a)/dw, w' = w - U(g) (momentum and weight decay included, g not clipped),
    v = dL_valid(w', a)/dw' and u = dU/dg v, the gradient is dL_valid(w', a)/da - d<g, u>/da. For SGD u is the learning
    rate times v. Several steps are taken one after the other, on the same batch, and differentiated backwards, each
    with a u of its own. Look-ahead passes run on other weights than the live ones and move no buffer.
    """

    hvp: HVP = "finite-difference"
    """How d<g, u>/da is computed: "finite-difference" as the authors do, from two passes at w + e u and w - e u, or
    "exact" by differentiating g once more. On networks with kinks (ReLU, max pool) the first is a rough estimate."""
    finite_difference_radius: float = 0.01
    """Radius r above 0; the perturbation of w is r u / ||u||, the norm taken over all weights together."""
    steps: int = 1
    """Steps that the weights are ahead, at least 1; more than 1 need SGD. A step costs a pass and, where it is
    differentiated, two more; "exact" keeps the graph of each that is."""
    truncation: int | None = None
    """Steps that are differentiated, the last ones, from 1 to `steps`: an estimate that costs less (Shaban et al.
    2019). None differentiates all."""

    looks_ahead = True

    @property
    def differentiates_twice(self) -> bool:
        """With exact products; see `BilevelStep`."""
        return self.hvp == "exact"

    def __post_init__(self) -> None:
        if self.hvp not in ("finite-difference", "exact"):
            raise OptionError(f"hvp must be 'finite-difference' or 'exact', but got hvp={self.hvp!r}.")
        if not self.finite_difference_radius > 0:
            raise OptionError(
                f"finite_difference_radius must be above 0, "
                f"but got finite_difference_radius={self.finite_difference_radius}."
            )
        check_whole("steps", self.steps, least=1)
        if self.truncation is not None and not (is_whole(self.truncation, least=1) and self.truncation <= self.steps):
            raise OptionError(
                f"truncation must be a whole number from 1 to steps={self.steps}, or None for all of them, but got "
                f"truncation={self.truncation!r}."
            )

    def check(self, optimizer: Optimizer) -> None:
        """Raise OptionError unless the optimizer's look-ahead is known: SGD, Adam, AdamW; for several steps SGD."""
        check_optimizer(optimizer)
        if self.steps > 1:
            check_sgd(optimizer)

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
        """Return dL_valid(w'(a), a)/da."""
        alphas = list(supernet.alphas.values())
        first = self.steps - (self.truncation or self.steps)
        random = repeated_random(alphas[0].device)
        inner = InnerSteps(weights_optimizer, supernet.weights)
        terms: list[_ImplicitTerm] = []
        places: dict[str, Tensor] | None = None
        with supernet.same_draw(), frozen_buffers(supernet):
            for step in range(self.steps):
                kind = _Exact if self.hvp == "exact" and step >= first else _Difference
                radius = self.finite_difference_radius
                terms.append(kind(supernet, train_batch, loss, accumulation, random, places, radius))
                places = inner.take(terms[-1].weights_gradient())
            assert places is not None
            wrt = [*places.values(), *alphas]
            valid = run_pass(supernet, valid_batch, loss, wrt, weights=places, accumulation=accumulation)
            by_weights, direct = _split(valid.gradients, places, len(alphas))
            by_momentum: Directions = {}
            implicit: list[Tensor | None] = [None] * len(alphas)
            for step in reversed(range(first, self.steps)):
                direction = inner.along(step, by_weights, by_momentum)
                curved, own = terms[step].along(direction, back=step > first)
                implicit = added(implicit, own)
                if step > first:
                    by_weights, by_momentum = inner.back(step, by_weights, by_momentum, direction, curved)
        gradients = {
            label: d if h is None else -h if d is None else d - h
            for label, d, h in zip(supernet.alphas, direct, implicit, strict=True)
        }
        return AlphasGradient(gradients, valid.loss, valid.outputs)


def _split(
    found: Sequence[Tensor | None], weights: Mapping[str, Tensor], alphas: int
) -> tuple[Directions, list[Tensor | None]]:
    """Return those of weights by name, of which there may be none, and those of alphas, which come last."""
    count = len(found) - alphas
    return dict(zip(weights, found[:count], strict=False)), list(found[count:])


@dataclass
class _ImplicitTerm(ABC):
    """g = dL_train/dw at some weights and, later, its derivatives on the same batch with the same random numbers."""

    supernet: Supernet
    batch: Batch
    loss: Loss
    accumulation: int
    random: repeated_random
    places: Mapping[str, Tensor] | None
    """The weights by name; None for the supernet's own."""
    radius: float
    """Of a finite difference."""

    def __post_init__(self) -> None:
        self.weights: Mapping[str, Tensor] = self.supernet.weights if self.places is None else self.places
        self.alphas = list(self.supernet.alphas.values())

    @abstractmethod
    def weights_gradient(self) -> Directions:
        """Return g by name."""

    @abstractmethod
    def along(self, direction: Directions, *, back: bool) -> tuple[Directions, list[Tensor | None]]:
        """Return d<g, u>/dw by name, if it is asked for, and d<g, u>/da, for u by name; None is zero."""


class _Difference(_ImplicitTerm):
    """Derivatives of <g, u> from the gradients on both sides of w along u; one message for both."""

    def weights_gradient(self) -> Directions:
        with self.random, without_grad(self.alphas):
            wrt = list(self.weights.values())
            train = run_pass(
                self.supernet, self.batch, self.loss, wrt, weights=self.places, accumulation=self.accumulation
            )
        return dict(zip(self.weights, train.gradients, strict=True))

    def along(self, direction: Directions, *, back: bool) -> tuple[Directions, list[Tensor | None]]:
        norm = get_total_norm([u for u in direction.values() if u is not None])
        if not float(norm) > 0:
            return dict.fromkeys(self.weights), [None] * len(self.alphas)
        epsilon = self.radius / norm
        plus, minus = (self._side(direction, sign * epsilon, back=back) for sign in (1.0, -1.0))
        parts_by = loss_of_parts(self.loss, self.accumulation)
        both, _ = joined_gradients([*plus.gradients, *minus.gradients], minus.loss, self.batch, parts_by)
        count = len(plus.gradients)
        pairs = zip(both[:count], both[count:], strict=True)
        slopes = [None if p is None else (p - cast(Tensor, m)) / (2.0 * epsilon) for p, m in pairs]
        return _split(slopes, self.weights, len(self.alphas))

    def _side(self, direction: Directions, epsilon: Tensor, *, back: bool) -> Pass:
        with torch.no_grad():
            along = {name: u for name, u in direction.items() if u is not None}
            steps = torch._foreach_mul(list(along.values()), epsilon)
            places = torch._foreach_add([self.weights[name] for name in along], steps)
            moved = {name: w.detach() for name, w in self.weights.items() if name not in along}
            moved.update(zip(along, places, strict=True))
        wrt = [*(moved[name].requires_grad_() for name in self.weights if back), *self.alphas]
        with self.random, full_precision(epsilon):
            return local_pass(self.supernet, self.batch, self.loss, wrt, weights=moved, accumulation=self.accumulation)


class _Exact(_ImplicitTerm):
    """Derivatives of <g, u> by a second backward pass through the graph of g."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.second = SecondDerivative(
            self.supernet,
            self.batch,
            self.loss,
            list(self.weights.values()),
            accumulation=self.accumulation,
            weights=self.places,
            random=self.random,
        )

    def weights_gradient(self) -> Directions:
        return dict(zip(self.weights, self.second.gradient(), strict=True))

    def along(self, direction: Directions, *, back: bool) -> tuple[Directions, list[Tensor | None]]:
        by = [*(self.weights.values() if back else ()), *self.alphas]
        found = self.second.along(list(direction.values()), by, last=True)
        return _split(found, self.weights, len(self.alphas))
