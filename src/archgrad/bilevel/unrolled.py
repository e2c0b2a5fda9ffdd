"""The weights one training step ahead."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from archgrad.bilevel.bilevel_step import AlphasGradient, BilevelStep
from archgrad.bilevel.lookahead import check_optimizer, look_ahead
from archgrad.bilevel.passes import (
    Batch,
    Loss,
    Pass,
    added,
    differentiated_along,
    frozen_buffers,
    gradient_graph,
    joined_gradients,
    local_pass,
    loss_of_parts,
    parts_of,
    repeated_random,
    run_pass,
    without_grad,
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

    looks_ahead = True

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
        weights, alphas = supernet.weights, list(supernet.alphas.values())
        implicit_term: _ImplicitTerm
        if self.hvp == "exact":
            implicit_term = _SecondDerivative(supernet, train_batch, loss, accumulation)
        else:
            implicit_term = _Difference(supernet, train_batch, loss, accumulation, self.finite_difference_radius)
        with supernet.same_draw(), frozen_buffers(supernet):
            ahead = look_ahead(weights_optimizer, weights, implicit_term.weights_gradient())
            places = {name: weight.requires_grad_() for name, weight in ahead.weights.items()}
            wrt = [*places.values(), *alphas]
            valid = run_pass(supernet, valid_batch, loss, wrt, weights=places, accumulation=accumulation)
            direct = valid.gradients[len(places) :]
            direction = ahead.pull_back(dict(zip(places, valid.gradients, strict=False)))
            implicit = implicit_term.along(direction)
        gradients = {
            label: d if h is None else -h if d is None else d - h
            for label, d, h in zip(supernet.alphas, direct, implicit, strict=True)
        }
        return AlphasGradient(gradients, valid.loss, valid.outputs)


class _ImplicitTerm(ABC):
    """g = dL_train/dw and, later, d<g, u>/da on the same batch with the same random numbers."""

    def __init__(self, supernet: Supernet, batch: Batch, loss: Loss, accumulation: int) -> None:
        self.supernet, self.batch, self.loss, self.accumulation = supernet, batch, loss, accumulation
        self.weights = supernet.weights
        self.alphas = list(supernet.alphas.values())
        self.random = repeated_random(self.alphas[0].device)

    def weights_gradient(self) -> dict[str, Tensor | None]:
        """Return g by name."""
        with self.random, without_grad(self.alphas):
            wrt = list(self.weights.values())
            train = run_pass(self.supernet, self.batch, self.loss, wrt, accumulation=self.accumulation)
        return dict(zip(self.weights, train.gradients, strict=True))

    @abstractmethod
    def along(self, direction: Mapping[str, Tensor | None]) -> list[Tensor | None]:
        """Return d<g, u>/da for u by name; None is zero."""


class _Difference(_ImplicitTerm):
    """d<g, u>/da from the alphas' gradients on both sides of w along u; one message for both."""

    def __init__(self, supernet: Supernet, batch: Batch, loss: Loss, accumulation: int, radius: float) -> None:
        super().__init__(supernet, batch, loss, accumulation)
        self.radius = radius

    def along(self, direction: Mapping[str, Tensor | None]) -> list[Tensor | None]:
        norm = get_total_norm([u for u in direction.values() if u is not None])
        if not float(norm) > 0:
            return [None] * len(self.alphas)
        epsilon = self.radius / norm
        plus, minus = (self._side(direction, sign * epsilon) for sign in (1.0, -1.0))
        parts_by = loss_of_parts(self.loss, self.accumulation)
        both, _ = joined_gradients([*plus.gradients, *minus.gradients], minus.loss, self.batch, parts_by)
        pairs = zip(both[: len(self.alphas)], both[len(self.alphas) :], strict=True)
        return [None if p is None else (p - cast(Tensor, m)) / (2.0 * epsilon) for p, m in pairs]

    def _side(self, direction: Mapping[str, Tensor | None], epsilon: Tensor) -> Pass:
        with torch.no_grad():
            along = {name: u for name, u in direction.items() if u is not None}
            steps = torch._foreach_mul(list(along.values()), epsilon)
            places = torch._foreach_add([self.weights[name] for name in along], steps)
            moved = {name: w.detach() for name, w in self.weights.items() if name not in along}
            moved.update(zip(along, places, strict=True))
        with self.random:
            return local_pass(
                self.supernet, self.batch, self.loss, self.alphas, weights=moved, accumulation=self.accumulation
            )


class _SecondDerivative(_ImplicitTerm):
    """d<g, u>/da by a second backward pass through the graph of g.

    The graph of a whole batch is kept from the first pass; graphs of parts would not fit, and are built again.
    Attention runs unfused in both, by the operations of its formula.
    """

    def __init__(self, supernet: Supernet, batch: Batch, loss: Loss, accumulation: int) -> None:
        super().__init__(supernet, batch, loss, accumulation)
        self._parts_by = loss_of_parts(loss, accumulation)
        self._kept: tuple[Tensor | None, ...] | None = None
        self._train_loss: Tensor | None = None

    def weights_gradient(self) -> dict[str, Tensor | None]:
        if self.accumulation > 1:
            with sdpa_kernel(SDPBackend.MATH):  # dropout must fall as it does in the graphs that are built again
                return super().weights_gradient()
        with self.random:
            self._kept, self._train_loss = self._graph(self.batch)
        present = [None if g is None else g.detach() for g in self._kept]
        whole, _ = joined_gradients(present, self._train_loss, self.batch, self._parts_by)
        return dict(zip(self.weights, whole, strict=True))

    def _graph(self, batch: Batch) -> tuple[tuple[Tensor | None, ...], Tensor]:
        return gradient_graph(self.supernet, batch, self._parts_by, list(self.weights.values()))

    def along(self, direction: Mapping[str, Tensor | None]) -> list[Tensor | None]:
        if self._kept is not None and self._train_loss is not None:
            own, train_loss = self._differentiate(self._kept, direction), self._train_loss
            self._kept = None
        else:
            own = [None] * len(self.alphas)
            with self.random:
                for part in parts_of(self.batch, self.accumulation):
                    graph, train_loss = self._graph(part)
                    own = added(own, self._differentiate(graph, direction))
        whole, _ = joined_gradients(own, train_loss, self.batch, self._parts_by)
        return whole

    def _differentiate(
        self, gradients: tuple[Tensor | None, ...], direction: Mapping[str, Tensor | None]
    ) -> list[Tensor | None]:
        return differentiated_along(gradients, list(direction.values()), self.alphas)
