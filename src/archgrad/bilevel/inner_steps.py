"""Some steps of the weights' optimizer ahead, and the way back through them.

A step of SGD takes the weights w and the momentum m with the gradient g(w, a) to
d = +-g + wd w, m' = mu m + (1 - dampening) d, w' = w - lr m' (with Nesterov w - lr (d + mu m')).
Backwards, with dL/dw' = v and dL/dm' = n, the gradient is taken along u = -dL/dg = (dU/dg) v -+ (1 - dampening) n.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import SGD, Optimizer

from archgrad.bilevel.lookahead import LookAhead, look_ahead
from archgrad.errors import OptionError

__all__ = ["Directions", "InnerSteps", "check_sgd"]

Directions = dict[str, Tensor | None]
"""By the name of the weight; None is zero."""


def check_sgd(optimizer: Optimizer) -> None:
    """Raise OptionError unless the way back through several steps of this optimizer is known."""
    if type(optimizer) is not SGD:
        raise OptionError(
            f"Unrolled knows the way back through several steps of SGD alone, but the weights' optimizer is "
            f"{type(optimizer).__name__}. Use SGD, or steps=1."
        )


class InnerSteps:
    """Steps that the weights' optimizer would take. It stays as it is; from the second on another takes its place.

    Args:
        optimizer: With its present state; an SGD if there are to be several steps.
        weights: Name -> weight.
    """

    def __init__(self, optimizer: Optimizer, weights: Mapping[str, Tensor]) -> None:
        self._optimizer, self._weights = optimizer, weights
        self._aheads: list[LookAhead] = []
        self._with_momentum: list[set[str]] = []
        """For each step the weights that had a momentum before it."""

    def take(self, gradients: Directions) -> dict[str, Tensor]:
        """Take one step along the gradients; return where it leads, by name: leaves that want a gradient."""
        if self._aheads:
            self._go_on()
        state = self._optimizer.state
        momentum = {n for n, w in self._weights.items() if state.get(w, {}).get("momentum_buffer") is not None}
        self._with_momentum.append(momentum)
        self._aheads.append(look_ahead(self._optimizer, self._weights, gradients))
        self._gradients = gradients
        return {name: weight.requires_grad_() for name, weight in self._aheads[-1].weights.items()}

    def _go_on(self) -> None:
        """Stand where the last step leads."""
        if len(self._aheads) == 1:
            self._stand_in()
        for name, weight in self._weights.items():
            weight.grad = self._gradients[name]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        for name, weight in self._weights.items():
            weight.copy_(self._aheads[-1].weights[name].detach())

    def _stand_in(self) -> None:
        """Put an SGD over copies of the weights in the optimizer's place."""
        copies = {name: weight.detach().clone() for name, weight in self._weights.items()}
        ids = {id(weight): copies[name] for name, weight in self._weights.items()}
        groups = [
            {**group, "params": [ids[id(p)] for p in group["params"] if id(p) in ids]}
            for group in self._optimizer.param_groups
        ]
        stand_in = SGD(groups, lr=0.0)
        for name in self._with_momentum[0]:
            buffer = self._optimizer.state[self._weights[name]]["momentum_buffer"]
            stand_in.state[copies[name]]["momentum_buffer"] = buffer.clone()
        self._optimizer, self._weights = stand_in, copies

    def along(self, step: int, v: Directions, n: Directions) -> Directions:
        """Return u, along which the gradient of a step is to be taken.

        Args:
            step: Its number.
            v: The gradient with respect to the weights after it.
            n: The same of the momentum; empty after the last step.
        """
        u = self._aheads[step].pull_back(v)
        for name, options in self._options(step).items() if n else ():
            if (own := n.get(name)) is not None:
                share = 1.0 - options["dampening"] if name in self._with_momentum[step] else 1.0
                u[name] = _sum(u[name], own, share if options["maximize"] else -share)
        return u

    def back(
        self, step: int, v: Directions, n: Directions, u: Directions, curved: Directions
    ) -> tuple[Directions, Directions]:
        """Return the gradients with respect to weights and momentum before a step; arguments as `along`, and

        Args:
            u: What `along` gave.
            curved: d<g, u>/dw.
        """
        before = {name: _sum(own, curved[name], -1.0) for name, own in v.items()}
        momentum = dict(n)
        for name, options in self._options(step).items():
            decay, mu = options["weight_decay"], options["momentum"]
            before[name] = _sum(before[name], u[name], decay if options["maximize"] else -decay)
            total = _sum(n.get(name), v[name], -options["lr"] * (mu if options["nesterov"] else 1.0))
            momentum[name] = None if total is None else mu * total
        return before, momentum

    def _options(self, step: int) -> dict[str, dict[str, Any]]:
        """The options of the group by which a step moves each weight that it does not leave alone."""
        groups = {id(p): group for group in self._optimizer.param_groups for p in group["params"]}
        ahead = self._aheads[step]
        return {name: groups[id(weight)] for name, weight in self._weights.items() if ahead.moves(name)}


def _sum(a: Tensor | None, b: Tensor | None, factor: float) -> Tensor | None:
    """Return a + factor b, where None is zero."""
    if b is None or factor == 0.0:
        return a
    return factor * b if a is None else a + factor * b
