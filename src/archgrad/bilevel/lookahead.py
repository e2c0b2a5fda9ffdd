"""Where one step of an optimizer would take the weights, without taking it, and how that place depends on the gradient.

Every supported update is elementwise in the gradient g: w' = w - U(g). `pull_back` multiplies by dU/dg, which is what a
gradient at w' needs to become a direction in the space of training gradients. A supernet has a thousand small weights,
and a GPU is given them a list at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from archgrad.errors import OptionError

__all__ = ["LookAhead", "check_optimizer", "look_ahead"]


@dataclass(frozen=True)
class LookAhead:
    """The weights after one step, and the derivative of the step."""

    weights: dict[str, Tensor]
    """w' by name, without graph, in memory of their own."""
    slopes: dict[str, float | Tensor]
    """dU/dg by name: a number, or elementwise; 0 where the step leaves a weight alone."""

    def moves(self, name: str) -> bool:
        """Return whether the step moves a weight along its gradient."""
        slope = self.slopes[name]
        return isinstance(slope, Tensor) or slope != 0.0

    def pull_back(self, gradients: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
        """Return dU/dg * v for v = dL/dw'."""
        found: dict[str, Tensor | None] = dict.fromkeys(gradients)
        present = {name: g for name, g in gradients.items() if g is not None}
        for kind in (float, Tensor):
            names = [name for name in present if isinstance(self.slopes[name], kind)]
            if names:
                slopes = cast("list[Tensor]", [self.slopes[name] for name in names])
                found.update(zip(names, torch._foreach_mul([present[name] for name in names], slopes), strict=True))
        return found


def check_optimizer(optimizer: Optimizer) -> None:
    """Raise OptionError unless the look-ahead of this optimizer is known."""
    if type(optimizer) not in _UPDATES:
        known = ", ".join(kind.__name__ for kind in _UPDATES)
        raise OptionError(
            f"Unrolled knows the look-ahead of {known}, but the weights' optimizer is {type(optimizer).__name__}. "
            f"Use one of these, or FirstOrder()."
        )


@torch.no_grad()
def look_ahead(
    optimizer: Optimizer, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor | None]
) -> LookAhead:
    """Return where `optimizer.step()` would take the weights.

    A weight without gradient, or that the optimizer does not hold, stays, as it would in `optimizer.step()`.

    Args:
        optimizer: SGD, Adam or AdamW, any number of groups, with its present state.
        weights: Name -> weight.
        gradients: Name -> gradient, not clipped, or None.

    Raises:
        OptionError: Another optimizer.
    """
    check_optimizer(optimizer)
    update = _UPDATES[type(optimizer)]
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    ahead: dict[str, Tensor] = {}
    slopes: dict[str, float | Tensor] = {}
    alike: dict[tuple[int, bool], list[str]] = {}
    for name, weight in weights.items():
        group = groups.get(id(weight))
        if gradients[name] is None or group is None:
            ahead[name], slopes[name] = weight.detach().clone(), 0.0
        else:
            alike.setdefault((id(group), bool(optimizer.state.get(weight))), []).append(name)
    for names in alike.values():
        own = [weights[name] for name in names]
        theirs = [cast(Tensor, gradients[name]) for name in names]
        states = [optimizer.state.get(weights[name], {}) for name in names]
        changes, own_slopes = update(own, theirs, groups[id(weights[names[0]])], states)
        ahead.update(zip(names, torch._foreach_sub(own, changes), strict=True))
        slopes.update(zip(names, own_slopes, strict=True))
    return LookAhead({name: ahead[name] for name in weights}, slopes)


Tensors = list[Tensor] | tuple[Tensor, ...]
Update = Callable[
    [Tensors, Tensors, dict[str, Any], Sequence[Mapping[str, Any]]], tuple[Tensors, Sequence["float | Tensor"]]
]
"""Function of weights, gradients, their group and their states (all empty or none) that returns U(g) and dU/dg."""


def _sgd(
    weights: Tensors, gradients: Tensors, group: dict[str, Any], states: Sequence[Mapping[str, Any]]
) -> tuple[Tensors, Sequence[float | Tensor]]:
    """U(g) = lr (momentum m + (1 - dampening)(g + wd w)); with Nesterov lr (d + momentum m'), as torch.optim.SGD."""
    momentum, lr = group["momentum"], group["lr"]
    sign = -1.0 if group["maximize"] else 1.0
    d = torch._foreach_mul(gradients, sign)
    torch._foreach_add_(d, weights, alpha=group["weight_decay"])
    if not momentum:
        return torch._foreach_mul(d, lr), [sign * lr] * len(weights)
    buffers = [state.get("momentum_buffer") for state in states]
    share = 1.0
    moved = d
    if buffers[0] is not None:
        share = 1.0 - group["dampening"]
        moved = torch._foreach_mul(cast("list[Tensor]", buffers), momentum)
        torch._foreach_add_(moved, d, alpha=share)
    if group["nesterov"]:
        changes = torch._foreach_mul(torch._foreach_add(d, moved, alpha=momentum), lr)
        return changes, [sign * lr * (1.0 + momentum * share)] * len(weights)
    return torch._foreach_mul(moved, lr), [sign * lr * share] * len(weights)


def _adam(
    weights: Tensors, gradients: Tensors, group: dict[str, Any], states: Sequence[Mapping[str, Any]]
) -> tuple[Tensors, Sequence[float | Tensor]]:
    """U(g) = lr m_hat / (sqrt(v_hat) + eps), decay coupled (Adam) or apart (AdamW), as torch.optim.Adam."""
    lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
    sign = -1.0 if group["maximize"] else 1.0
    decoupled = group.get("decoupled_weight_decay", False)
    d = torch._foreach_mul(gradients, sign)
    if not decoupled:
        torch._foreach_add_(d, weights, alpha=decay)
    steps = [float(state.get("step", 0.0)) + 1.0 for state in states]
    corrections1, corrections2 = [1.0 - beta1**n for n in steps], [1.0 - beta2**n for n in steps]
    first = torch._foreach_mul(d, 1.0 - beta1)
    second = torch._foreach_mul(torch._foreach_mul(d, 1.0 - beta2), d)
    if "exp_avg" in states[0]:
        torch._foreach_add_(first, torch._foreach_mul([state["exp_avg"] for state in states], beta1))
        torch._foreach_add_(second, torch._foreach_mul([state["exp_avg_sq"] for state in states], beta2))
    slope_of_second = torch._foreach_mul(d, 1.0 - beta2)  # half of d second / dg
    if group["amsgrad"]:
        largest = [state.get("max_exp_avg_sq", torch.zeros_like(v)) for v, state in zip(second, states, strict=True)]
        grows = [v >= most for v, most in zip(second, largest, strict=True)]
        slope_of_second = tuple(slope * grow for slope, grow in zip(slope_of_second, grows, strict=True))
        second = torch._foreach_maximum(second, largest)
    root = torch._foreach_sqrt(torch._foreach_div(second, corrections2))
    below = torch._foreach_add(root, group["eps"])
    changes = torch._foreach_div(torch._foreach_mul(torch._foreach_div(first, corrections1), lr), below)
    # d root / dg = (1 - beta2) g / (correction2 root); where root is 0 so is g, and the term vanishes with first.
    divisors = torch._foreach_clamp_min(torch._foreach_mul(root, corrections2), torch.finfo(root[0].dtype).tiny)
    root_slopes = torch._foreach_div(slope_of_second, divisors)
    terms = torch._foreach_div(torch._foreach_mul(first, root_slopes), torch._foreach_pow(below, 2))
    slopes = torch._foreach_sub(torch._foreach_mul(torch._foreach_reciprocal(below), 1.0 - beta1), terms)
    torch._foreach_mul_(slopes, [sign * lr / correction for correction in corrections1])
    if decoupled:
        changes = torch._foreach_add(changes, weights, alpha=lr * decay)
    return changes, slopes


def _adamw(
    weights: Tensors, gradients: Tensors, group: dict[str, Any], states: Sequence[Mapping[str, Any]]
) -> tuple[Tensors, Sequence[float | Tensor]]:
    return _adam(weights, gradients, {**group, "decoupled_weight_decay": True}, states)


_UPDATES: dict[type[Optimizer], Update] = {SGD: _sgd, Adam: _adam, AdamW: _adamw}
