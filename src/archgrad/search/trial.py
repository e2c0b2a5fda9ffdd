"""A few samples through the supernet before anything is written: what does not go together is told at the door."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from archgrad.batches import count, plain_targets, prepare
from archgrad.data import Data, first_batch
from archgrad.data.seeds import kept_randomness
from archgrad.engine.no_trace import no_trace
from archgrad.engine.precision import autocast
from archgrad.input_checks import refusals_explained
from archgrad.loss_checks import check_targets, evaluated, is_sum
from archgrad.schedules import Progress
from archgrad.search.search_options import SearchOptions
from archgrad.supernet import Supernet
from archgrad.tasks import Task, loss_on

__all__ = ["first_inputs", "try_out"]

_SAMPLES = 4


def try_out(supernet: Supernet, data: Data, options: SearchOptions, task: Task) -> None:
    """Check that the inputs, the network's outputs, the targets and the loss go together.

    The supernet, its draws and all random states stay as they are. Metrics are not called, as they may gather what they
    see. Warns of a loss that is a sum.

    Args:
        supernet: In training mode, on its device.
        data: Its first samples go through the supernet; the targets of all its training samples are looked at.
        options: Of the search.
        task: What it learns.

    Raises:
        OptionError: They do not go together, or the network cannot take the inputs.
    """
    alpha, loss = next(iter(supernet.alphas.values())), task.loss
    with _kept_progress(supernet), no_trace(supernet, alpha.device, supernet.generator), torch.no_grad():
        supernet.progress = Progress(0, options.total_epochs)
        inputs, targets = _first(data, alpha, _SAMPLES)
        with autocast(alpha.device, options.precision):
            prepared = prepare(inputs, dtype=alpha.dtype, channels_last=False)
            with refusals_explained(supernet.network, prepared):
                outputs = supernet(prepared)
            if task.shows != "classes":  # whose outputs may be more than the classes
                task.check(outputs, count(targets))
            loss = loss_on(loss, alpha.device, outputs.dtype if isinstance(outputs, Tensor) else alpha.dtype)
            value = evaluated(loss, outputs, targets)
            summed = is_sum(loss, outputs, plain_targets(targets), value)
        check_targets(loss, outputs, data.learnt_targets)
    if summed:
        warnings.warn(
            "The loss adds up over the samples of a batch, so its gradient grows with batch_size, while learning_rate, "
            "grad_clip and the alphas' learning rate are meant for a mean over the batch. Give reduction='mean', or "
            "divide by the number of samples, unless a sum is meant.",
            stacklevel=3,
        )


def first_inputs(data: Data, supernet: Supernet, *, samples: int = 1) -> Any:
    """Return a batch of the first training samples' inputs, as a supernet takes them; random states stay."""
    alpha = next(iter(supernet.alphas.values()))
    with kept_randomness(), torch.random.fork_rng([alpha.device] if alpha.is_cuda else []):
        return prepare(_first(data, alpha, samples)[0], dtype=alpha.dtype, channels_last=False)


def _first(data: Data, alpha: Tensor, samples: int) -> tuple[Any, Any]:
    transform = data.evaluation_transform(dtype=alpha.dtype)
    return first_batch(data.train, samples=samples, transform=transform, device=alpha.device, weighted=True)


@contextmanager
def _kept_progress(supernet: Supernet) -> Iterator[None]:
    before = supernet.progress
    try:
        yield
    finally:
        supernet.progress = before
