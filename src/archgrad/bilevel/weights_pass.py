"""The pass of the training batch that the weights learn from, and what rules make of its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from archgrad.bilevel.passes import (
    Batch,
    Loss,
    Pass,
    differentiate,
    frozen_buffers,
    passes_by,
    repeated_random,
    run_pass,
    without_grad,
)
from archgrad.schedules import Progress
from archgrad.supernet import Supernet
from archgrad.weights_rules import Gradients, WeightsPass, WeightsRule

__all__ = ["weights_pass"]


def weights_pass(
    supernet: Supernet,
    batch: Batch,
    loss: Loss,
    *,
    rules: Sequence[WeightsRule],
    progress: Progress | None,
    accumulation: int,
) -> tuple[WeightsPass, Any, dict[str, Tensor]]:
    """Return the training pass with the gradients that the rules leave, its outputs, and the rules' figures.

    Args:
        supernet: In training mode.
        batch: (inputs, targets).
        loss: See `archgrad.losses.Loss`.
        rules: Each is given what the one before it left.
        progress: How far the search is.
        accumulation: See `run_pass`.
    """
    weights = supernet.weights

    def run(beside: Sequence[Tensor] = ()) -> Pass:
        return run_pass(supernet, batch, loss, [*weights.values(), *beside], accumulation=accumulation)

    with without_grad(list(supernet.alphas.values())):
        if not any(rule.looks_at_layers for rule in rules):
            train = run()
            return _ruled(WeightsPass(_named(weights, train), train.loss, progress), train.outputs, rules)
        random = repeated_random(next(iter(supernet.alphas.values())).device)
        # A recording of a pass knows of no layers.
        with supernet.same_draw(), supernet.layers_apart() as layers, passes_by(differentiate):
            with random:
                train = run([row for choices in layers.values() for rows in choices for row in rows])

            def along_layers(steps: Mapping[str, Tensor]) -> Gradients:
                with _moved(layers, steps), random, frozen_buffers(supernet):
                    return _named(weights, run())

            slopes = _by_layer(layers, iter(train.gradients[len(weights) :]))
            found = WeightsPass(_named(weights, train), train.loss, progress, slopes, along_layers)
            return _ruled(found, train.outputs, rules)


def _ruled(
    found: WeightsPass, outputs: Any, rules: Sequence[WeightsRule]
) -> tuple[WeightsPass, Any, dict[str, Tensor]]:
    figures: dict[str, Tensor] = {}
    for rule in rules:
        gradients, own = rule.apply(found)
        found = replace(found, gradients=gradients)
        figures.update(own)
    return found, outputs, figures


def _named(weights: Mapping[str, Tensor], train: Pass) -> Gradients:
    return dict(zip(weights, train.gradients, strict=False))


Layers = Mapping[str, Sequence[Sequence[Tensor]]]
"""As `Supernet.layers_apart` gives them."""


def _by_layer(layers: Layers, slopes: Iterator[Tensor | None]) -> dict[str, Tensor]:
    """Return the gradients of the layers' mixing weights, (choices, weights) for each label."""

    def flat(rows: Sequence[Tensor]) -> Tensor:
        pairs = zip(rows, slopes, strict=False)
        return torch.cat([(torch.zeros_like(row) if slope is None else slope).flatten() for row, slope in pairs])

    return {label: torch.stack([flat(rows) for rows in choices]) for label, choices in layers.items()}


@contextmanager
def _moved(layers: Layers, steps: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the layers' mixing weights be others for a while."""
    rows: list[Tensor] = []
    moves: list[Tensor] = []
    for label, by_choice in steps.items():
        for own, flat in zip(layers[label], by_choice, strict=True):
            rows += own
            moves += [part.view_as(row) for row, part in zip(own, flat.split([r.numel() for r in own]), strict=True)]
    before = [row.detach().clone() for row in rows]
    try:
        with torch.no_grad():
            for row, move in zip(rows, moves, strict=True):
                row += move
        yield
    finally:
        with torch.no_grad():
            for row, old in zip(rows, before, strict=True):
                row.copy_(old)
