"""How well a supernet does on the validation half without some of its candidates, and how well other networks do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from archgrad.batches import count, plain_targets
from archgrad.buffers import frozen_buffers
from archgrad.calling import run_on
from archgrad.distributed import average_over_ranks
from archgrad.epoch_end import EpochEnd
from archgrad.errors import NonFiniteError, OptionError
from archgrad.losses import in_parts

__all__ = ["CRITERIA", "Criterion", "measured", "validated"]

Criterion = Literal["accuracy", "loss"]
CRITERIA: tuple[str, ...] = get_args(Criterion)


@torch.no_grad()
def measured(end: EpochEnd, criterion: Criterion, *, without: Mapping[str, Sequence[int]]) -> float:
    """Return the accuracy, or the loss, as a mean over the samples of the epoch's validation batches, on all processes.

    A loss is the mean of those of the batches by what each averages over, such as the weights of its samples.

    The supernet stays as it is, and so do all random states: calls at the same state see the same random draws.

    Args:
        end: Of an epoch.
        criterion: What is measured.
        without: Candidates, by label, whose mixing weight is 0 meanwhile.

    Raises:
        NonFiniteError: The loss is not finite.
        OptionError: Outputs and targets have no accuracy.
    """
    supernet = end.supernet
    device, drawn = next(iter(supernet.alphas.values())).device, supernet.generator.get_state()
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        frozen_buffers(supernet),
        supernet.without(without),
    ):
        value = validated(end, criterion, supernet)
    supernet.generator.set_state(drawn)
    return value


@torch.no_grad()
def validated(end: EpochEnd, criterion: Criterion, network: Callable[[Any], Any]) -> float:
    """Return what `measured` does of any network.

    Args:
        end: Of an epoch.
        criterion: What is measured.
        network: Returns the outputs of inputs.

    Raises:
        NonFiniteError: The loss is not finite.
        OptionError: Outputs and targets have no accuracy.
    """
    total = torch.zeros(2, dtype=torch.float64, device=next(iter(end.supernet.alphas.values())).device)
    for inputs, targets in end.valid_batches():
        outputs = run_on(network, inputs)
        by_loss = criterion == "loss"
        value = end.loss(outputs, targets).double() if by_loss else _accuracy(outputs, plain_targets(targets))
        counted = in_parts(end.loss).denominator(targets) if by_loss else None
        weight = torch.as_tensor(count(targets) if counted is None else counted).to(value)
        total += torch.stack([value * weight, weight])
    value, weights = average_over_ranks([total], 1)[0].tolist()
    if not math.isfinite(value):
        raise NonFiniteError(
            f"The validation {criterion} is {value} when choices are settled. Search with a smaller learning rate, or "
            f"take criterion='accuracy'."
        )
    return float(value / weights)


def _accuracy(outputs: Any, targets: Any) -> Tensor:
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or targets.is_floating_point():
        raise OptionError("criterion='accuracy' needs (B, classes) logits and class numbers. Take criterion='loss'.")
    return (outputs.argmax(1) == targets).double().mean()
