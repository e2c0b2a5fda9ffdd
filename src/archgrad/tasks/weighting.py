"""Weights of classes, and the loss that has them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.losses import Loss, SampleWeightedLoss
from archgrad.tasks.base_task import Task

__all__ = ["ClassWeights", "class_weights_of", "loss_on", "numbers_of", "sampling_weights_of"]

ClassWeights = Sequence[float]


def class_weights_of(given: Any, targets: Tensor, task: Task) -> Tensor:
    """Return a weight for each class or label.

    "balanced" is N / (classes * n) of a class with n of N samples or positions (King and Zeng 2001), so that each
    class has the same weight in the whole, and the mean weight of a sample is 1; of several labels it is the number of
    samples without a label by those with it.

    Args:
        given: "balanced", or a number for each.
        targets: (N, ...), of the training samples.
        task: Fitted to the data.

    Returns:
        (classes,) float32.

    Raises:
        OptionError: There are not as many, one is negative or not finite, or all are 0; or a class has no sample to
            balance.
    """
    labels = task.labels
    if task.shows == "values":
        raise OptionError(f"class_weights go with classes, but the task is {task.name!r}. Leave them out.")
    if isinstance(given, str) and (given := numbers_of(given)) is None:
        return _balanced(targets, task)
    weights = torch.as_tensor(given, dtype=torch.float32).flatten()
    if len(weights) != len(labels) or not bool((weights >= 0).all()) or not float(weights.sum()) > 0:
        raise OptionError(
            f"class_weights must be {len(labels)} numbers of at least 0, one a class ({', '.join(labels[:10])}), and "
            f"not all 0, but got {shown(weights.tolist())}."
        )
    if not bool(weights.isfinite().all()):
        raise OptionError(f"class_weights must be finite, but got {shown(weights.tolist())}.")
    return weights


def sampling_weights_of(given: Any, targets: Tensor) -> Tensor:
    """Return how often each training sample is drawn, in relation to the others.

    Args:
        given: "balanced", with which each class is drawn as often; or a number for each sample.
        targets: (N, ...), of the training samples.

    Returns:
        (N,) float64.

    Raises:
        OptionError: There are not as many, one is negative or not finite, or all are 0; or samples have not one class
            each.
    """
    if isinstance(given, str):
        if given != "balanced":
            raise OptionError(f"sampling must be 'balanced' or one number a sample, but got {shown(given)}.")
        if targets.ndim != 1 or targets.is_floating_point():
            raise OptionError(
                "sampling='balanced' draws each class as often, but the samples have not one class each. Give one "
                "number a sample, or leave it out."
            )
        return 1.0 / torch.bincount(targets)[targets].double()
    weights = torch.as_tensor(given, dtype=torch.float64).flatten()
    if len(weights) != len(targets) or not bool((weights >= 0).all() & weights.isfinite().all() & (weights > 0).any()):
        raise OptionError(
            f"sampling must be 'balanced', or {len(targets)} finite numbers of at least 0, one a training sample and "
            f"not all 0, but got {len(weights)} numbers from {shown(float(weights.min()) if len(weights) else None)}."
        )
    return weights


def numbers_of(text: str) -> list[float] | None:
    """Return weights that were typed, with commas between them; None for "balanced".

    Raises:
        OptionError: The text is neither.
    """
    try:
        return None if text == "balanced" else [float(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"class_weights must be 'balanced' or one number a class, but got {shown(text)}.") from None


def _balanced(targets: Tensor, task: Task) -> Tensor:
    classes = len(task.labels)
    if task.shows == "labels":
        having = targets.double().sum(0)
        counts, weights = having, (len(targets) - having) / having
    else:
        if targets.is_floating_point():
            counts = targets.double().sum(0)
        else:
            counted = targets[targets != getattr(task, "ignore_index", -100)]
            counts = torch.bincount(counted.flatten(), minlength=classes).double()
        weights = counts.sum() / (classes * counts)
    if not bool((counts > 0).all()):
        none = [name for name, count in zip(task.labels, counts.tolist(), strict=True) if not count]
        raise OptionError(
            f"class_weights='balanced' needs a training sample of each class, but there is none of "
            f"{', '.join(map(repr, none[:5]))}. Give the weights as numbers, or leave the class out."
        )
    return weights.float()


def loss_on(loss: Loss, device: torch.device, dtype: torch.dtype) -> Loss:
    """Return a loss whose weights are on a device, in the precision of the outputs."""
    if isinstance(loss, SampleWeightedLoss):
        return SampleWeightedLoss(loss_on(loss.loss, device, dtype))
    if not isinstance(loss, partial):
        return loss
    moved = {
        name: value.to(device, dtype) if isinstance(value, Tensor) else value for name, value in loss.keywords.items()
    }
    return partial(loss.func, *loss.args, **moved)
