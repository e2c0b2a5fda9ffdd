"""One pass of a batch through the supernet, and what must hold while it looks ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from archgrad.distributed import average_over_ranks
from archgrad.supernet import Supernet

__all__ = ["Batch", "Loss", "average_gradients", "detached", "fixed", "frozen_buffers", "pass_loss", "repeated_random"]

Batch = Sequence[Any]
"""(inputs, targets)."""
Loss = Callable[[Any, Any], Tensor]
"""Function of (outputs, targets) that returns the mean over the batch, 0-dimensional."""


def pass_loss(
    supernet: Supernet, batch: Batch, loss: Loss, *, weights: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Any]:
    """Return (loss, outputs) of one batch, with other weights than the supernet's own if given."""
    inputs, targets = batch
    if weights is None:
        outputs = supernet(inputs)
    else:
        outputs = functional_call(supernet, {f"network.{name}": weight for name, weight in weights.items()}, (inputs,))
    return loss(outputs, targets), outputs


def average_gradients(
    gradients: Sequence[Tensor | None], loss: Tensor, batch: Batch
) -> tuple[list[Tensor | None], Tensor]:
    """Return gradients and loss, averaged over the ranks in one message; what is None here is None everywhere."""
    present = [g for g in gradients if g is not None]
    *means, mean_loss = average_over_ranks([*present, loss.detach()], len(batch[1]))
    values = iter(means)
    return [None if g is None else next(values) for g in gradients], mean_loss


@contextmanager
def fixed(parameters: Iterator[nn.Parameter] | Sequence[nn.Parameter]) -> Iterator[None]:
    """Leave these parameters out of the graphs built inside, so that backward passes skip them."""
    parameters = [p for p in parameters if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def frozen_buffers(module: nn.Module) -> Iterator[None]:
    """Leave every buffer, BatchNorm's running statistics among them, bit for bit as it was.

    In training mode a BatchNorm that tracks no statistics computes the same as one that does. A module may write into
    its buffers or put other tensors in their place; both are undone.
    """
    norms = [m for m in module.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    theirs = set(norms)
    others = [(m, dict(m._buffers)) for m in module.modules() if m._buffers and m not in theirs]
    saved = [(buffer, buffer.clone()) for _, buffers in others for buffer in buffers.values() if buffer is not None]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        for owner, buffers in others:
            owner._buffers.update(buffers)
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)


class repeated_random:  # noqa: N801 (used as a context manager)
    """Give several passes the same global random numbers, so that they see the same dropout masks.

    The first `with` block draws as usual; each later one starts from where the first did and leaves no trace.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._start: list[Tensor] | None = None
        self._outside: list[Tensor] | None = None

    def _states(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self._cuda is not None:
            states.append(torch.cuda.get_rng_state(self._cuda))
        return states

    def _restore(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._cuda is not None:
            torch.cuda.set_rng_state(states[1], self._cuda)

    def __enter__(self) -> None:
        if self._start is None:
            self._start = self._states()
        else:
            self._outside = self._states()
            self._restore(self._start)

    def __exit__(self, *exc: object) -> None:
        if self._outside is not None:
            self._restore(self._outside)


def detached(outputs: Any) -> Any:
    """Return outputs without their graph: a tensor, or a structure of tensors."""
    if isinstance(outputs, Tensor):
        return outputs.detach()
    if isinstance(outputs, Mapping):
        return {key: detached(value) for key, value in outputs.items()}
    if isinstance(outputs, tuple | list):
        parts = [detached(value) for value in outputs]
        return type(outputs)(*parts) if hasattr(outputs, "_fields") else type(outputs)(parts)
    return outputs
