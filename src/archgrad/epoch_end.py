"""What stopping rules and selections may look at when an epoch ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from archgrad.architecture import Architecture
from archgrad.bilevel.passes import Batch, Loss
from archgrad.schedules import Progress
from archgrad.supernet import Supernet

__all__ = ["EpochEnd"]


@dataclass(frozen=True)
class EpochEnd:
    """A search at the end of an epoch; whoever is given this leaves all of it as it is, but for `Selection.settle`."""

    supernet: Supernet
    """With the weights and alphas after the epoch, in training mode."""
    architecture: Architecture
    """What these alphas lead to."""
    progress: Progress
    """Of the epoch's last step."""
    loss: Loss
    """Function of (outputs, targets), the mean over the batch."""
    valid_batch: Callable[[], Batch]
    """Returns this process's (inputs, targets) of the epoch's last step of the alphas."""
    valid_batches: Callable[[], Iterator[Batch]]
    """Returns this process's (inputs, targets) of all steps of the alphas in the epoch, once each."""
    within_budget: Callable[[Architecture], bool] = lambda architecture: True
    """Returns whether a network is what the regularisers ask for, such as within a budget."""
    accumulation: int = 1
    """Parts that each batch is cut into, one after the other, to save memory."""
