"""One whole step of the search: alphas, then weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from archgrad.bilevel.base import BilevelStep
from archgrad.bilevel.passes import Batch, Loss, fixed, run_pass
from archgrad.errors import NonFiniteError, OptionError
from archgrad.supernet import Supernet

__all__ = ["StepReport", "search_step"]


@dataclass(frozen=True)
class StepReport:
    """What one step saw. Numbers leave the device only when they are read as such, each with a wait for the device."""

    train_outputs: Any
    """What the supernet returned for the training batch in the weights' pass, without graph."""
    valid_outputs: Any
    """What the supernet returned for the validation batch in the alphas' pass, without graph."""
    _train_loss: Tensor
    _valid_loss: Tensor
    _alphas_gradient_norm: Tensor
    _weights_gradient_norm: Tensor

    def on_device(self) -> dict[str, Tensor]:
        """Return the numbers below by name, as 0-dimensional tensors where they were computed; nothing waits."""
        return {
            "train_loss": self._train_loss,
            "valid_loss": self._valid_loss,
            "alphas_gradient_norm": self._alphas_gradient_norm,
            "weights_gradient_norm": self._weights_gradient_norm,
        }

    @property
    def train_loss(self) -> float:
        """Training loss before the weights' update."""
        return float(self._train_loss)

    @property
    def valid_loss(self) -> float:
        """Validation loss that the alphas' gradient came from (at the look-ahead weights for `Unrolled`)."""
        return float(self._valid_loss)

    @property
    def alphas_gradient_norm(self) -> float:
        """L2 norm of the alphas' gradient, before weight decay."""
        return float(self._alphas_gradient_norm)

    @property
    def weights_gradient_norm(self) -> float:
        """L2 norm of the weights' gradient, before clipping and weight decay."""
        return float(self._weights_gradient_norm)


def search_step(
    supernet: Supernet,
    train_batch: Batch,
    valid_batch: Batch,
    *,
    step: BilevelStep,
    weights_optimizer: Optimizer,
    alphas_optimizer: Optimizer,
    loss: Loss = F.cross_entropy,
    grad_clip: float = 5.0,
    weights_first: bool = False,
    accumulation: int = 1,
) -> StepReport:
    """Update the alphas on the validation batch, then the weights on the training batch (Liu et al. 2019, algorithm 1).

    Args:
        supernet: In training mode.
        train_batch: (inputs, targets) for the weights.
        valid_batch: (inputs, targets) for the alphas.
        step: How the alphas' gradient is computed.
        weights_optimizer: Over `supernet.weights.values()`.
        alphas_optimizer: Over `supernet.alphas.values()`.
        loss: Function of (outputs, targets) (see `archgrad.losses.Loss`).
        grad_clip: Largest L2 norm of the weights' gradient; 0 leaves it as it is. Alphas are never clipped.
        weights_first: Update the weights before the alphas, as GDAS does (Dong and Yang 2019).
        accumulation: Parts that each batch is cut into, one after the other, to save memory; at least 1. The result is
            that of the whole batch, up to BatchNorm, which sees the parts; `loss` must be one of torch's, a mean over
            samples, or say what it averages over (see `archgrad.losses.Loss`).

    Returns:
        Losses, gradient norms and outputs of the two passes.

    Raises:
        OptionError: `grad_clip` is negative, an optimizer does not hold what it is for, `step` cannot look through the
            weights' optimizer, or `accumulation` is above 1 and `loss` cannot be put together from parts.
        NonFiniteError: A loss or gradient is NaN or infinite; what it would have changed is as it was before.
    """
    if not grad_clip >= 0:
        raise OptionError(f"grad_clip must be at least 0 (0: no clipping), but got grad_clip={grad_clip}.")
    _check_holds(weights_optimizer, "weights", supernet.weights)
    _check_holds(alphas_optimizer, "alphas", supernet.alphas)
    step.check(weights_optimizer)
    if weights_first:
        train_loss, train_outputs, weights_norm = _update_weights(
            supernet, train_batch, loss, weights_optimizer, grad_clip, accumulation
        )
    found = step.alphas_gradient(
        supernet, train_batch, valid_batch, loss=loss, weights_optimizer=weights_optimizer, accumulation=accumulation
    )
    alphas_norm = get_total_norm([g for g in found.gradients.values() if g is not None])
    _check_finite("alphas", "validation", found.valid_loss, alphas_norm)
    for label, alpha in supernet.alphas.items():
        alpha.grad = found.gradients[label]
    alphas_optimizer.step()
    alphas_optimizer.zero_grad(set_to_none=True)
    if not weights_first:
        train_loss, train_outputs, weights_norm = _update_weights(
            supernet, train_batch, loss, weights_optimizer, grad_clip, accumulation
        )
    return StepReport(train_outputs, found.valid_outputs, train_loss, found.valid_loss, alphas_norm, weights_norm)


def _update_weights(
    supernet: Supernet, batch: Batch, loss: Loss, optimizer: Optimizer, grad_clip: float, accumulation: int
) -> tuple[Tensor, Any, Tensor]:
    """Take one optimizer step on the training loss; return (loss, outputs, gradient norm before clipping)."""
    weights = list(supernet.weights.values())
    with fixed(list(supernet.alphas.values())):
        train = run_pass(supernet, batch, loss, weights, accumulation=accumulation)
    norm = get_total_norm([g for g in train.gradients if g is not None])
    _check_finite("weights", "training", train.loss, norm)
    for weight, gradient in zip(weights, train.gradients, strict=True):
        weight.grad = gradient
    if grad_clip > 0:
        torch.nn.utils.clip_grads_with_norm_(weights, grad_clip, norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    torch.clear_autocast_cache()  # it holds the weights as they were
    return train.loss, train.outputs, norm


def _check_holds(optimizer: Optimizer, what: str, parameters: Mapping[str, nn.Parameter]) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if parameters and not any(id(parameter) in held for parameter in parameters.values()):
        raise OptionError(
            f"{what}_optimizer holds none of the supernet's {what}. Build it over supernet.{what}.values(), not over "
            f"the parameters of the space, which the supernet has copied."
        )


def _check_finite(what: str, which: str, loss: Tensor, norm: Tensor) -> None:
    if not bool(torch.isfinite(loss + norm)):
        raise NonFiniteError(
            f"The {which} loss is {float(loss):g} and the L2 norm of the {what}' gradient {float(norm):g}; both must "
            f"be finite. Try a smaller learning rate, a smaller grad_clip, or precision='32'."
        )
