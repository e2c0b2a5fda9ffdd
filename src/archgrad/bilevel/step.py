"""One whole step of the search: alphas, then weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from archgrad.bilevel.bilevel_step import AlphasGradient, BilevelStep
from archgrad.bilevel.first_order import FirstOrder, FirstOrderWithWeights
from archgrad.bilevel.passes import Batch, Loss
from archgrad.bilevel.probe import probe_of
from archgrad.bilevel.weights_pass import WeightsGradient, weights_pass
from archgrad.errors import NonFiniteError, OptionError
from archgrad.perturbations import Perturbation
from archgrad.regularizers import Regularizer
from archgrad.relaxation import Relaxation
from archgrad.schedules import Progress, value_of
from archgrad.supernet import Supernet
from archgrad.weights_rules import Gradients, WeightsRule

__all__ = ["StepPasses", "StepReport", "check_parts", "check_weights_pass", "search_step"]


@dataclass(frozen=True)
class StepReport:
    """What one step saw. Numbers leave the device only when they are read as such, each with a wait for the device.

    Attributes:
        train_outputs: What the supernet returned for the training batch in the weights' pass, without graph.
        valid_outputs: What the supernet returned for the validation batch in the alphas' pass, without graph; None
            without one.
        regularizers: Name of each regulariser -> its value times its weight, 0-dimensional.
        figures: What the rules of the weights' gradient saw, by name, 0-dimensional.
    """

    train_outputs: Any
    valid_outputs: Any
    _train_loss: Tensor
    _weights_gradient_norm: Tensor
    _valid_loss: Tensor | None = None
    _alphas_gradient_norm: Tensor | None = None
    regularizers: Mapping[str, Tensor] = field(default_factory=dict)
    figures: Mapping[str, Tensor] = field(default_factory=dict)

    def on_device(self) -> dict[str, Tensor]:
        """Return those of the numbers below that there are, 0-dimensional where they were computed; nothing waits."""
        numbers = {
            "train_loss": self._train_loss,
            "valid_loss": self._valid_loss,
            "alphas_gradient_norm": self._alphas_gradient_norm,
            "weights_gradient_norm": self._weights_gradient_norm,
        }
        return {name: number for name, number in numbers.items() if number is not None}

    @property
    def train_loss(self) -> float:
        """Training loss before the weights' update."""
        return float(self._train_loss)

    @property
    def valid_loss(self) -> float | None:
        """Validation loss that the alphas' gradient came from (at the look-ahead weights for `Unrolled`), without
        regularisers; None if the alphas were not updated."""
        return None if self._valid_loss is None else float(self._valid_loss)

    @property
    def alphas_gradient_norm(self) -> float | None:
        """L2 norm of the alphas' gradient, regularisers included, before clipping and weight decay; None if the alphas
        were not updated."""
        return None if self._alphas_gradient_norm is None else float(self._alphas_gradient_norm)

    @property
    def weights_gradient_norm(self) -> float:
        """L2 norm of the weights' gradient, before clipping and weight decay."""
        return float(self._weights_gradient_norm)


@dataclass(frozen=True, kw_only=True)
class StepPasses:
    """The passes of one step, which update nothing but buffers and random states; arguments as of `search_step`."""

    supernet: Supernet
    train_batch: Batch
    valid_batch: Batch
    step: BilevelStep
    weights_optimizer: Optimizer
    loss: Loss
    accumulation: int
    progress: Progress | None
    perturbation: Perturbation | None
    weights_rules: Sequence[WeightsRule]

    def alphas(self) -> AlphasGradient:
        """Return what gives the alphas' gradient."""
        looks_at_valid = any(rule.looks_at_valid for rule in self.weights_rules)
        return (FirstOrderWithWeights() if looks_at_valid else self.step).alphas_gradient(
            self.supernet,
            self.train_batch,
            self.valid_batch,
            loss=self.loss,
            weights_optimizer=self.weights_optimizer,
            accumulation=self.accumulation,
        )

    def weights(self, valid: Gradients | None = None) -> WeightsGradient:
        """Return what gives the weights' gradient.

        Args:
            valid: The weights' gradients of the validation loss, where the alphas' pass gave them.
        """
        place = (
            nullcontext()
            if self.perturbation is None
            else self.supernet.perturbed(
                self.perturbation, probe_of(self.supernet, self.train_batch, self.loss, self.accumulation)
            )
        )
        with place:
            return weights_pass(
                self.supernet,
                self.train_batch,
                self.loss,
                rules=self.weights_rules,
                progress=self.progress,
                accumulation=self.accumulation,
                valid=valid,
            )


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
    progress: Progress | None = None,
    regularizers: Sequence[Regularizer] = (),
    perturbation: Perturbation | None = None,
    weights_rules: Sequence[WeightsRule] = (),
    alphas_grad_clip: float = 0.0,
    update_alphas: bool = True,
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
        grad_clip: Largest L2 norm of the weights' gradient; 0 leaves it as it is.
        weights_first: Update the weights before the alphas, as GDAS does (Dong and Yang 2019).
        accumulation: Parts that each batch is cut into, one after the other, to save memory; at least 1. The result is
            that of the whole batch, up to BatchNorm, which sees the parts; `loss` must be one of torch's, a mean over
            samples, or say what it averages over (see `archgrad.losses.Loss`).
        progress: How far the search is; kept as `supernet.progress`. Needed where a part changes with the epoch.
        regularizers: Terms of the alphas that are added to the validation loss.
        perturbation: How the mixing weights of the weights' pass are moved; None leaves them as they are.
        weights_rules: What is done to the weights' gradient before it is clipped, one after the other.
        alphas_grad_clip: Largest L2 norm of the alphas' gradient, regularisers included; 0 leaves it as it is.
        update_alphas: False updates the weights alone; the validation batch is then not looked at.

    Returns:
        Losses, gradient norms and outputs of the two passes.

    Raises:
        OptionError: `grad_clip` is negative, an optimizer does not hold what it is for, `step` cannot look through the
            weights' optimizer, parts do not go together, a part changes with the epoch and there is no `progress`, or
            `accumulation` is above 1 and `loss` cannot be put together from parts.
        NonFiniteError: A loss or gradient is NaN or infinite; what it would have changed is as it was before.
    """
    for name, value in (("grad_clip", grad_clip), ("alphas_grad_clip", alphas_grad_clip)):
        if not value >= 0:
            raise OptionError(f"{name} must be at least 0 (0: no clipping), but got {name}={value}.")
    _check_holds(weights_optimizer, "weights", supernet.weights)
    _check_holds(alphas_optimizer, "alphas", supernet.alphas)
    step.check(weights_optimizer)
    check_parts(supernet, step, regularizers, perturbation, weights_rules, weights_first=weights_first)
    supernet.progress = progress

    passes = StepPasses(
        supernet=supernet,
        train_batch=train_batch,
        valid_batch=valid_batch,
        step=step,
        weights_optimizer=weights_optimizer,
        loss=loss,
        accumulation=accumulation,
        progress=progress,
        perturbation=perturbation,
        weights_rules=weights_rules,
    )

    def update_weights(valid: Gradients | None = None) -> tuple[WeightsGradient, Tensor]:
        ruled = passes.weights(valid)
        norm = _update_weights(supernet, ruled, weights_optimizer, grad_clip)
        supernet.memory.update(ruled.memory)
        return ruled, norm

    if weights_first:
        train, weights_norm = update_weights()
    found, alphas_norm = None, None
    terms: dict[str, Tensor] = {}
    if update_alphas:
        found = passes.alphas()
        gradients, terms = _regularized(supernet, found, regularizers, progress)
        alphas_norm = get_total_norm([g for g in gradients.values() if g is not None])
        _check_finite("alphas", "validation", found.valid_loss, alphas_norm)
        for label, alpha in supernet.alphas.items():
            alpha.grad = gradients[label]
        if alphas_grad_clip > 0:
            torch.nn.utils.clip_grads_with_norm_(list(supernet.alphas.values()), alphas_grad_clip, alphas_norm)
        alphas_optimizer.step()
        alphas_optimizer.zero_grad(set_to_none=True)
    if not weights_first:
        train, weights_norm = update_weights(None if found is None else found.weights_gradients)
    if found is None:
        return StepReport(train.outputs, None, train.loss, weights_norm, figures=train.figures)
    return StepReport(
        train.outputs,
        found.valid_outputs,
        train.loss,
        weights_norm,
        found.valid_loss,
        alphas_norm,
        terms,
        train.figures,
    )


def check_parts(
    supernet: Supernet,
    step: BilevelStep,
    regularizers: Sequence[Regularizer],
    perturbation: Perturbation | None,
    weights_rules: Sequence[WeightsRule],
    *,
    weights_first: bool,
) -> None:
    """Check that the parts of a step go with the supernet and with each other.

    Raises:
        OptionError: They do not.
    """
    for regularizer in regularizers:
        regularizer.check(supernet.rows, supernet.relaxation)
    for rule in weights_rules:
        rule.check_layers(supernet.shared_labels)
    check_weights_pass(perturbation, weights_rules, supernet.relaxation, step, weights_first=weights_first)


def check_weights_pass(
    perturbation: Perturbation | None,
    weights_rules: Sequence[WeightsRule],
    relaxation: Relaxation,
    step: BilevelStep,
    *,
    weights_first: bool,
) -> None:
    """Check that what changes the weights' pass goes with the relaxation and the step.

    Raises:
        OptionError: It does not.
    """
    parts: list[Perturbation | WeightsRule] = [*([] if perturbation is None else [perturbation]), *weights_rules]
    for part in parts:
        part.check(relaxation)
        if step.looks_ahead:
            raise OptionError(
                f"{type(part).__name__} changes the weights' pass, but {type(step).__name__} looks ahead along the "
                f"gradient of the pass as it is without. Take step=FirstOrder(), or leave {type(part).__name__} out."
            )
    for rule in weights_rules:
        if rule.looks_at_valid and (weights_first or type(step) is not FirstOrder):
            raise OptionError(
                f"{type(rule).__name__} compares the weights' gradient with that of the alphas' pass before it, which "
                f"step=FirstOrder() gives with weights_first=False, but got step={step!r} with "
                f"weights_first={weights_first}. Take these, or leave {type(rule).__name__} out."
            )


def _regularized(
    supernet: Supernet, found: AlphasGradient, regularizers: Sequence[Regularizer], progress: Progress | None
) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """Return the alphas' gradients with those of the regularisers added, and the value of each, weighted."""
    gradients = found.gradients
    terms: dict[str, Tensor] = {}
    alphas, rows = supernet.open_rows()
    for regularizer in regularizers:
        name = type(regularizer).__name__
        weight = value_of(regularizer.weight, progress, f"The weight of {name}")
        value = weight * _checked(name, regularizer.value(alphas, rows, supernet.relaxation))
        if weight != 0.0:  # alphas that have no gradient otherwise are to have none
            own = torch.autograd.grad(value, list(supernet.alphas.values()), allow_unused=True)
            gradients = {
                label: ours if theirs is None else theirs if ours is None else ours + theirs
                for (label, ours), theirs in zip(gradients.items(), own, strict=True)
            }
        terms[name] = terms.get(name, 0.0) + value.detach()
    return gradients, terms


def _checked(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        also = "" if not isinstance(value, Tensor) or value.requires_grad else " that depends on no alpha"
        raise OptionError(
            f"{name}.value must return a 0-dimensional tensor, computed from the alphas that it is given, but returned "
            f"{got}{also}."
        )
    return value


def _update_weights(supernet: Supernet, found: WeightsGradient, optimizer: Optimizer, grad_clip: float) -> Tensor:
    """Take one optimizer step along the gradients of a pass; return their norm before clipping."""
    norm = get_total_norm([g for g in found.gradients.values() if g is not None])
    _check_finite("weights", "training", found.loss, norm)
    weights = supernet.weights
    for name, weight in weights.items():
        weight.grad = found.gradients[name]
    if grad_clip > 0:
        torch.nn.utils.clip_grads_with_norm_(list(weights.values()), grad_clip, norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    torch.clear_autocast_cache()  # it holds the weights as they were
    return norm


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
