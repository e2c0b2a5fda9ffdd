"""The training loss at other mixing weights than the alphas', for perturbations that look before they move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from archgrad.bilevel.passes import Batch, Loss, added, joined_gradients, parts_of, scaled_gradients, without_grad
from archgrad.choices import Mixture
from archgrad.losses import loss_of_parts
from archgrad.perturbations import Probe
from archgrad.supernet import Supernet

__all__ = ["probe_of"]


def probe_of(supernet: Supernet, batch: Batch, loss: Loss, accumulation: int) -> Probe:
    """Return a function of mixing weights that gives the loss of a batch in evaluation mode, and its gradient.

    Args:
        supernet: Stays as it is.
        batch: (inputs, targets).
        loss: Function of (outputs, targets) (see `archgrad.losses.Loss`).
        accumulation: Parts that the batch is cut into, one after the other.
    """
    running = {label: supernet.kept.get(label, tuple(range(len(row.names)))) for label, row in supernet.rows.items()}

    @torch.enable_grad()
    def probe(weights: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        places = {label: row.detach().requires_grad_() for label, row in weights.items()}
        mixtures = {label: Mixture(place, running[label]) for label, place in places.items()}
        part_loss = loss_of_parts(loss, accumulation)
        gradients: list[Tensor | None] = [None] * len(places)
        values: list[Tensor] = []
        with _evaluating(supernet), without_grad(list(supernet.weights.values())):
            for inputs, targets in parts_of(batch, accumulation):
                value = part_loss(supernet.forward_at(mixtures, inputs), targets)
                gradients = added(gradients, scaled_gradients(value, list(places.values())))
                values.append(value.detach())
        mean, total = joined_gradients(gradients, torch.stack(values).sum(), batch, part_loss)
        pairs = zip(places.items(), mean, strict=True)
        return total, {label: torch.zeros_like(place) if g is None else g for (label, place), g in pairs}

    return probe


@contextmanager
def _evaluating(supernet: Supernet) -> Iterator[None]:
    """Let modules be in evaluation mode, and afterwards each as it was."""
    before = [(module, module.training) for module in supernet.modules()]
    supernet.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
