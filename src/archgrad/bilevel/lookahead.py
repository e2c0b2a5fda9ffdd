"""Where one step of an optimizer would take the weights, without taking it, and how that place depends on the gradient.

Every supported update is elementwise in the gradient g: w' = w - U(g). `pull_back` multiplies by dU/dg, which is what a
gradient at w' needs to become a direction in the space of training gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from archgrad.errors import OptionError

__all__ = ["LookAhead", "check_optimizer", "look_ahead"]


@dataclass(frozen=True)
class LookAhead:
    """The weights after one step, and the derivative of the step."""

    weights: dict[str, Tensor]
    """w' by name, without graph."""
    slopes: dict[str, float | Tensor]
    """dU/dg by name: a number, or elementwise; 0 where the step leaves a weight alone."""

    def pull_back(self, gradients: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
        """Return dU/dg * v for v = dL/dw'."""
        return {name: None if g is None else g * self.slopes[name] for name, g in gradients.items()}


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
    for name, weight in weights.items():
        gradient, group = gradients[name], groups.get(id(weight))
        if gradient is None or group is None:
            ahead[name], slopes[name] = weight.detach(), 0.0
        else:
            change, slopes[name] = update(weight, gradient, group, optimizer.state.get(weight, {}))
            ahead[name] = weight - change
    return LookAhead(ahead, slopes)


Update = Callable[[Tensor, Tensor, dict[str, Any], Mapping[str, Any]], tuple[Tensor, "float | Tensor"]]


def _sgd(
    weight: Tensor, gradient: Tensor, group: dict[str, Any], state: Mapping[str, Any]
) -> tuple[Tensor, float | Tensor]:
    """U(g) = lr (momentum m + (1 - dampening)(g + wd w)); with Nesterov lr (d + momentum m'), as torch.optim.SGD."""
    momentum, lr = group["momentum"], group["lr"]
    sign = -1.0 if group["maximize"] else 1.0
    d = (sign * gradient).add(weight, alpha=group["weight_decay"])
    if not momentum:
        return lr * d, sign * lr
    buffer = state.get("momentum_buffer")
    share = 1.0 if buffer is None else 1.0 - group["dampening"]
    buffer = d if buffer is None else (momentum * buffer).add(d, alpha=share)
    if group["nesterov"]:
        return lr * d.add(buffer, alpha=momentum), sign * lr * (1.0 + momentum * share)
    return lr * buffer, sign * lr * share


def _adam(
    weight: Tensor, gradient: Tensor, group: dict[str, Any], state: Mapping[str, Any]
) -> tuple[Tensor, float | Tensor]:
    """U(g) = lr m_hat / (sqrt(v_hat) + eps), decay coupled (Adam) or apart (AdamW), as torch.optim.Adam."""
    lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
    sign = -1.0 if group["maximize"] else 1.0
    decoupled = group.get("decoupled_weight_decay", False)
    d = sign * gradient if decoupled else (sign * gradient).add(weight, alpha=decay)
    steps = float(state["step"]) + 1.0 if "step" in state else 1.0
    correction1, correction2 = 1.0 - beta1**steps, 1.0 - beta2**steps
    first = (1.0 - beta1) * d
    second = (1.0 - beta2) * d * d
    if "exp_avg" in state:
        first = first + beta1 * state["exp_avg"]
        second = second + beta2 * state["exp_avg_sq"]
    moving = torch.ones_like(second)
    if group["amsgrad"]:
        largest = state.get("max_exp_avg_sq", torch.zeros_like(second))
        moving = (second >= largest).to(second)
        second = torch.maximum(second, largest)
    root = (second / correction2).sqrt()
    below = root + group["eps"]
    change = lr * (first / correction1) / below
    # d root / dg = (1 - beta2) g / (correction2 root); where root is 0 so is g, and the term vanishes with first.
    root_slope = torch.where(root > 0, moving * (1.0 - beta2) * d / (correction2 * root), torch.zeros_like(root))
    slope = sign * lr / correction1 * ((1.0 - beta1) / below - first * root_slope / below**2)
    return change.add(weight, alpha=lr * decay) if decoupled else change, slope


def _adamw(
    weight: Tensor, gradient: Tensor, group: dict[str, Any], state: Mapping[str, Any]
) -> tuple[Tensor, float | Tensor]:
    return _adam(weight, gradient, {**group, "decoupled_weight_decay": True}, state)


_UPDATES: dict[type[Optimizer], Update] = {SGD: _sgd, Adam: _adam, AdamW: _adamw}
