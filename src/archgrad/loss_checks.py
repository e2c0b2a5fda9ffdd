"""Whether outputs, targets and a loss go together, told before anything is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archgrad.batches import plain_targets
from archgrad.errors import OptionError
from archgrad.losses import Loss, LossKind, loss_kind

__all__ = ["check_pair", "check_targets", "evaluated", "is_sum"]

_FOR_VALUES = "give loss=F.mse_loss, and metrics=... of your own"
_SUM_TOLERANCE = 1e-3
"""How far the probabilities of a sample's classes may be from 1 together, and a loss from the sum of its halves."""


def evaluated(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    """Return the loss of a batch.

    Nothing is read from a device unless the loss fails.

    Args:
        loss: See `archgrad.losses.Loss`.
        outputs: Of the network.
        targets: (B, ...).

    Returns:
        0-dimensional.

    Raises:
        OptionError: Outputs, targets and loss do not go together, or the loss is no 0-dimensional tensor.
    """
    check_pair(loss, outputs, targets)
    try:
        value: Any = loss(outputs, targets)
    except (IndexError, RuntimeError):
        check_targets(loss, outputs, targets)
        raise
    if not isinstance(value, Tensor) or value.dim():
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise OptionError(
            f"The loss must return a 0-dimensional tensor, but '{loss_kind(loss).name}' returned {got}. Take the "
            f"batch's mean: reduction='mean' of a loss of torch's, or .mean() in one of your own."
        )
    return value


def check_pair(loss: Loss, outputs: Any, targets: Any) -> None:
    """Check types and shapes of what goes into one of torch's losses; nothing is read from a device.

    Raises:
        OptionError: They do not go with the loss.
    """
    kind, targets = loss_kind(loss), plain_targets(targets)
    if not (kind.of_classes or kind.of_elements) or not isinstance(targets, Tensor):
        return
    if not isinstance(outputs, Tensor):
        raise OptionError(
            f"The loss '{kind.name}' takes one tensor of outputs, but the network returns {type(outputs).__name__}. "
            f"Give loss=..., a function of (outputs, targets) that picks from them."
        )
    if kind.of_classes:
        _check_classes(kind, outputs, targets)
    elif outputs.shape != targets.shape:
        raise OptionError(
            f"The loss '{kind.name}' compares each output with the target in its place, but a batch of outputs has the "
            f"shape {tuple(outputs.shape)} and its targets {tuple(targets.shape)}. Bring the targets to the outputs' "
            f"shape, such as targets[:, None], or give loss=... that brings the outputs to that of the targets."
        )
    elif not kind.takes_whole_numbers and not targets.is_floating_point():
        raise OptionError(
            f"The loss '{kind.name}' takes targets with a fraction, but they are whole numbers ({targets.dtype}). "
            f"Give targets.float()."
        )


def _check_classes(kind: LossKind, outputs: Tensor, targets: Tensor) -> None:
    shape, found = tuple(outputs.shape), tuple(targets.shape)
    if targets.is_floating_point():
        if kind.takes_probabilities and found == shape and len(shape) > 1 and shape[1] > 1:
            return
        raise OptionError(
            f"The targets are numbers with a fraction, of shape {found} a batch, but the loss '{kind.name}' is one of "
            f"classes, and the outputs have the shape {shape}. For values to be predicted {_FOR_VALUES}. Targets that "
            f"are class numbers must be whole (targets.long()); probabilities of classes must have the outputs' shape, "
            f"at least 2 classes in the second dimension, and sum to 1."
        )
    if len(shape) < 2:
        raise OptionError(
            f"The loss '{kind.name}' takes outputs of shape (samples, classes), but the network returns {shape}. "
            f"Return one output a class, or give another loss=..."
        )
    if found != (expected := (shape[0], *shape[2:])):
        hint = " For one-hot targets give targets.float()." if found == shape else ""
        if found in ((*expected, 1), (expected[0], 1, *expected[1:])):
            hint = f" Give targets.squeeze({-1 if found[-1] == 1 else 1})."
        raise OptionError(
            f"For outputs of shape {shape} the loss '{kind.name}' takes class numbers of shape {expected}, but the "
            f"targets of a batch have {found}.{hint} For values to be predicted {_FOR_VALUES}."
        )


def check_targets(loss: Loss, outputs: Any, targets: Any) -> None:
    """Check the targets themselves: class numbers that there is an output for, and probabilities that sum to 1.

    Args:
        loss: See `archgrad.losses.Loss`.
        outputs: Of a batch, which goes with the loss.
        targets: (N, ...), of this batch or of all samples.

    Raises:
        OptionError: A loss of classes cannot take them.
    """
    kind, targets = loss_kind(loss), plain_targets(targets)
    if not kind.of_classes or not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or outputs.dim() < 2:
        return
    if not targets.numel():
        return  # of unequal lengths, which are known when they are a batch
    if targets.is_floating_point():
        sums = targets.sum(1) if targets.dim() > 1 else targets
        if bool((targets < 0).any()) or bool(((sums - 1).abs() > _SUM_TOLERANCE).any()):
            raise OptionError(
                f"Targets with a fraction are probabilities of classes to the loss '{kind.name}', but those of some "
                f"samples are negative or do not sum to 1. For values to be predicted {_FOR_VALUES}; for several "
                f"classes a sample give loss=F.binary_cross_entropy_with_logits."
            )
        return
    counted = targets[targets != kind.ignore_index]
    if not counted.numel():
        return
    classes, low, high = outputs.shape[1], int(counted.min()), int(counted.max())
    if low < 0:
        raise OptionError(
            f"Class numbers must be at least 0, but the targets reach from {low} to {high}. Renumber them; only "
            f"ignore_index={kind.ignore_index} of the loss '{kind.name}' marks targets that do not count."
        )
    if high >= classes:
        remedy = f"Build it for {high + 1} classes, or renumber the targets."
        if high == classes and low > 0:  # numbered from 1 on
            remedy = "Classes are numbered from 0: give targets - 1."
        raise OptionError(
            f"The targets reach from {low} to {high}, which are {high + 1} classes, but the network has {classes} "
            f"outputs a sample, for the classes 0 to {classes - 1}. {remedy}"
        )


def is_sum(loss: Loss, outputs: Any, targets: Any, value: Tensor) -> bool:
    """Return whether a loss adds up over the samples of a batch, so that its gradient grows with the batch.

    Args:
        loss: See `archgrad.losses.Loss`.
        outputs: One tensor; of anything else nothing is known.
        targets: (B, ...).
        value: The loss of them.
    """
    half = len(targets) // 2
    if not isinstance(outputs, Tensor) or not half or len(outputs) != len(targets):
        return False
    try:
        parts = loss(outputs[:half], targets[:half]) + loss(outputs[half:], targets[half:])
    except Exception:  # a loss of somebody's own, which may ask for whole batches
        return False
    return bool(value.abs() > _SUM_TOLERANCE) and bool(torch.isclose(parts, value, rtol=_SUM_TOLERANCE))
