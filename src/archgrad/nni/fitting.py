"""A plain training loop over a script's own loaders, for what an evaluator does after a search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from archgrad.errors import DataError
from archgrad.terminal import say

__all__ = ["fit_network"]

Metrics = Callable[[Tensor, Tensor], Mapping[str, Tensor]]


def fit_network(
    model: nn.Module,
    loss: nn.Module,
    metrics: Metrics,
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    train: Any,
    valid: Any,
    *,
    epochs: int,
    grad_clip: float,
    device: torch.device,
    batches: int | None,
    quiet: bool,
) -> list[dict[str, float]]:
    """Train a network in place, in the order of the loader and with the caller's random numbers.

    Args:
        model: A plain network.
        loss: Of (outputs, targets); the mean over the batch.
        metrics: Of (outputs, targets); name -> mean over the batch.
        make_optimizer: Of the parameters.
        train: Iterable of (inputs, targets).
        valid: The same, to judge by; None judges nothing.
        epochs: At least 1.
        grad_clip: Largest L2 norm of the gradient; 0 is off.
        device: Where the network is trained, and stays.
        batches: Take so many batches of each; None takes all.
        quiet: Write nothing.

    Returns:
        One row an epoch: `train_loss`, `train_NAME`, `val_loss`, `val_NAME`, means over samples. The network is left in
        evaluation mode.

    Raises:
        DataError: There are no training batches.
    """
    if train is None:
        raise DataError("There is nothing to train on. Give the evaluator train_dataloaders=DataLoader(...).")
    model.to(device)
    optimizer = make_optimizer(model.parameters())
    history = []
    for epoch in range(epochs):
        model.train()
        totals = _Means()
        for inputs, targets in islice(train, batches):
            inputs, targets = inputs.to(device), targets.to(device)
            outputs = model(inputs)
            value = loss(outputs, targets)
            optimizer.zero_grad()
            value.backward()
            if grad_clip:
                nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
            optimizer.step()
            totals.add(len(targets), value.detach(), metrics(outputs.detach(), targets))
        if not totals.samples:
            raise DataError("The training loader has no batches. Give a smaller batch_size, or more data.")
        row = totals.named("train")
        model.eval()
        with torch.no_grad():
            judged = _Means()
            for inputs, targets in islice(valid if valid is not None else (), batches):
                outputs = model(inputs.to(device))
                targets = targets.to(device)
                judged.add(len(targets), loss(outputs, targets), metrics(outputs, targets))
        row |= judged.named("val")
        history.append(row)
        if not quiet:
            say(f"epoch {epoch}: " + ", ".join(f"{name} {value:.4f}" for name, value in row.items()), error=True)
    return history


class _Means:
    """Means over samples of batches of any size."""

    def __init__(self) -> None:
        self.samples = 0
        self._sums: dict[str, float] = {}

    def add(self, samples: int, loss: Tensor, metrics: Mapping[str, Tensor]) -> None:
        self.samples += samples
        for name, value in {"loss": loss, **metrics}.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value) * samples

    def named(self, part: str) -> dict[str, float]:
        return {f"{part}_{name}": total / self.samples for name, total in self._sums.items()}
