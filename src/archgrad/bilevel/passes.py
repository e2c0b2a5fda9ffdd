"""One pass of a batch through the supernet, and what must hold while it looks ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from archgrad.batches import cut, uncut
from archgrad.buffers import frozen_buffers
from archgrad.loss_checks import evaluated
from archgrad.loss_scale import loss_scale
from archgrad.losses import Loss, check_parts, joined_parts, loss_of_parts
from archgrad.nested import map_tensors
from archgrad.supernet import Supernet

__all__ = [
    "Batch",
    "Differentiate",
    "Loss",
    "Pass",
    "added",
    "differentiate",
    "differentiated_along",
    "frozen_buffers",
    "gradient_graph",
    "joined_gradients",
    "local_pass",
    "loss_of_parts",
    "parts_of",
    "pass_loss",
    "passes_by",
    "repeated_random",
    "run_pass",
    "scaled_gradients",
    "without_grad",
]

Batch = Sequence[Any]
"""(inputs, targets)."""


def pass_loss(
    supernet: Supernet, batch: Batch, loss: Loss, *, weights: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Any]:
    """Return (loss, outputs) of one batch, with other weights than the supernet's own if given."""
    inputs, targets = batch
    with nullcontext() if weights is None else supernet.other_weights(weights):
        outputs = supernet(inputs)
    return evaluated(loss, outputs, targets), outputs


def differentiate(
    supernet: Supernet,
    batch: Batch,
    loss: Loss,
    wrt: Sequence[Tensor],
    weights: Mapping[str, Tensor] | None,
) -> Pass:
    """Differentiate the loss of one batch as it stands; arguments as `run_pass`."""
    value, outputs = pass_loss(supernet, batch, loss, weights=weights)
    return Pass(scaled_gradients(value, wrt), value.detach(), map_tensors(outputs, Tensor.detach))


def scaled_gradients(value: Tensor, wrt: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients of a loss, which is scaled for that where `archgrad.loss_scale` says so."""
    scale = loss_scale()
    gradients = torch.autograd.grad(value if scale == 1.0 else value * scale, wrt, allow_unused=True)
    return [g if g is None or scale == 1.0 else g / scale for g in gradients]


Differentiate = Callable[[Supernet, Batch, Loss, Sequence[Tensor], Mapping[str, Tensor] | None], "Pass"]
_differentiate: ContextVar[Differentiate] = ContextVar("differentiate", default=differentiate)


@contextmanager
def passes_by(way: Differentiate) -> Iterator[None]:
    """Let passes inside be computed by another function than `differentiate`, which must return the same."""
    token = _differentiate.set(way)
    try:
        yield
    finally:
        _differentiate.reset(token)


@dataclass(frozen=True)
class Pass:
    """What one pass gave; nothing of it has a graph."""

    gradients: list[Tensor | None]
    """Of the loss; None for what the pass did not use."""
    loss: Tensor
    """0-dimensional."""
    outputs: Any
    """This rank's."""


def local_pass(
    supernet: Supernet,
    batch: Batch,
    loss: Loss,
    wrt: Sequence[Tensor],
    *,
    weights: Mapping[str, Tensor] | None = None,
    accumulation: int = 1,
) -> Pass:
    """Differentiate the loss of this rank's batch; arguments as `run_pass`.

    Gradients and loss are sums over the parts, which `joined_gradients` divides by what the loss averages over.
    """
    loss = loss_of_parts(loss, accumulation)
    gradients: list[Tensor | None] = [None] * len(wrt)
    losses, outputs = [], []
    with supernet.same_draw():
        for part in parts_of(batch, accumulation):
            own = _differentiate.get()(supernet, part, loss, wrt, weights)
            gradients = added(gradients, own.gradients)
            losses.append(own.loss)
            outputs.append(own.outputs)
    check_parts(loss, outputs, batch[1], losses)
    return Pass(gradients, torch.stack(losses).sum() if len(losses) > 1 else losses[0], uncut(outputs))


def run_pass(
    supernet: Supernet,
    batch: Batch,
    loss: Loss,
    wrt: Sequence[Tensor],
    *,
    weights: Mapping[str, Tensor] | None = None,
    accumulation: int = 1,
) -> Pass:
    """Differentiate the loss of a batch, of which each rank has a part; one message.

    Args:
        supernet: In training mode.
        batch: (inputs, targets).
        loss: See `archgrad.losses.Loss`.
        wrt: Weights (the supernet's or those of `weights`), alphas, or both.
        weights: Weights to use in place of the supernet's own, by name.
        accumulation: Parts that the batch is cut into, one after the other, to save memory; all see one draw of the
            relaxation. The result is that of the whole batch, up to BatchNorm, which sees the parts.

    Raises:
        OptionError: The batch is cut, and the loss is no mean over samples and does not say what it is.
    """
    own = local_pass(supernet, batch, loss, wrt, weights=weights, accumulation=accumulation)
    gradients, value = joined_gradients(own.gradients, own.loss, batch, loss_of_parts(loss, accumulation))
    return Pass(gradients, value, own.outputs)


def parts_of(batch: Batch, accumulation: int) -> Iterator[Batch]:
    """Cut a batch into parts."""
    inputs, targets = batch
    yield from cut(inputs, targets, accumulation)


def added(total: Sequence[Tensor | None], more: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return total + more, where None is zero."""
    return [m if t is None else t if m is None else t + m for t, m in zip(total, more, strict=True)]


def joined_gradients(
    gradients: Sequence[Tensor | None], value: Tensor, batch: Batch, loss: Loss
) -> tuple[list[Tensor | None], Tensor]:
    """Return gradients and loss of the batch of all ranks from sums over the parts of this rank's, in one message.

    Args:
        gradients: Summed over the parts of this rank; what is None here is None everywhere.
        value: 0-dimensional, the same of the loss.
        batch: This rank's.
        loss: What the parts were differentiated by (`loss_of_parts`).
    """
    present = [g for g in gradients if g is not None]
    *whole, whole_value = joined_parts([*present, value.detach()], loss, batch[1])
    values = iter(whole)
    return [None if g is None else next(values) for g in gradients], whole_value


def gradient_graph(
    supernet: Supernet, batch: Batch, loss: Loss, wrt: Sequence[Tensor], *, weights: Mapping[str, Tensor] | None = None
) -> tuple[tuple[Tensor | None, ...], Tensor]:
    """Return (gradients, loss) of one batch with the graph of the gradients, to be differentiated once more."""
    with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention has no second derivative
        value, _ = pass_loss(supernet, batch, loss, weights=weights)
    return torch.autograd.grad(value, wrt, create_graph=True, allow_unused=True), value


def differentiated_along(
    gradients: Sequence[Tensor | None],
    direction: Sequence[Tensor | None],
    wrt: Sequence[Tensor],
    *,
    retain_graph: bool = False,
) -> list[Tensor | None]:
    """Return d<gradients, direction>/d wrt, where None is zero.

    Args:
        gradients: With their graph, as `gradient_graph` gives them.
        direction: As many, of the same shapes.
        wrt: What is differentiated by.
        retain_graph: Keep the graph for another call.
    """
    pairs = [
        (g, u) for g, u in zip(gradients, direction, strict=True) if g is not None and u is not None and g.requires_grad
    ]
    if not pairs:
        return [None] * len(wrt)
    outputs, along = zip(*pairs, strict=True)
    return list(torch.autograd.grad(outputs, wrt, along, retain_graph=retain_graph, allow_unused=True))


@contextmanager
def without_grad(parameters: Iterator[nn.Parameter] | Sequence[nn.Parameter]) -> Iterator[None]:
    """Leave these parameters out of the graphs built inside, so that backward passes skip them."""
    parameters = [p for p in parameters if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


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
