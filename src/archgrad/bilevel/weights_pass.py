"""The pass of the training batch that the weights learn from, and what rules make of its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

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
from archgrad.errors import OptionError
from archgrad.full_precision import full_precision
from archgrad.schedules import Progress
from archgrad.supernet import Supernet
from archgrad.weights_rules import Gradients, RuleResult, WeightsPass, WeightsRule

__all__ = ["WeightsGradient", "memory_name", "weights_pass"]


Memory = dict[str, dict[str, Tensor]]
"""What rules remember from step to step, by their place and name."""


class WeightsGradient(NamedTuple):
    """The training pass after its rules."""

    gradients: Gradients
    loss: Tensor
    outputs: Any
    figures: dict[str, Tensor]
    memory: Memory


def weights_pass(
    supernet: Supernet,
    batch: Batch,
    loss: Loss,
    *,
    rules: Sequence[WeightsRule],
    progress: Progress | None,
    accumulation: int,
    valid: Gradients | None = None,
) -> WeightsGradient:
    """Run the training pass, and let the rules change its gradients.

    Args:
        supernet: In training mode.
        batch: (inputs, targets).
        loss: See `archgrad.losses.Loss`.
        rules: Each is given what the one before it left.
        progress: How far the search is.
        accumulation: See `run_pass`.
        valid: The weights' gradients of the validation loss, for rules that look at them.
    """
    weights = supernet.weights
    owners = supernet.owners if any(rule.looks_at_valid for rule in rules) else {}

    def run(beside: Sequence[Tensor] = ()) -> Pass:
        return run_pass(supernet, batch, loss, [*weights.values(), *beside], accumulation=accumulation)

    with without_grad(list(supernet.alphas.values())):
        if not any(rule.looks_at_layers for rule in rules):
            train = run()
            found = WeightsPass(_named(weights, train), train.loss, progress, valid=valid, owners=owners)
            return _ruled(found, train.outputs, rules, supernet.memory)
        first = next(iter(supernet.alphas.values()))
        random = repeated_random(first.device)
        # A recording of a pass knows of no layers.
        with supernet.same_draw(), supernet.layers_apart() as layers, passes_by(differentiate):
            with random:
                train = run([row for choices in layers.values() for rows in choices for row in rows])

            def along_layers(steps: Mapping[str, Tensor]) -> Gradients:
                with _moved(layers, steps), random, frozen_buffers(supernet), full_precision(first):
                    return _named(weights, run())

            slopes = _by_layer(layers, iter(train.gradients[len(weights) :]))
            found = WeightsPass(
                _named(weights, train), train.loss, progress, slopes, along_layers, valid=valid, owners=owners
            )
            return _ruled(found, train.outputs, rules, supernet.memory)


def memory_name(place: int, rule: WeightsRule) -> str:
    """Return what a rule's memory is called (see `Supernet.memory`): by its place among the rules, and its class."""
    return f"{place} {type(rule).__name__}"


def _ruled(found: WeightsPass, outputs: Any, rules: Sequence[WeightsRule], memory: Memory) -> WeightsGradient:
    figures: dict[str, Tensor] = {}
    remembered: Memory = {}
    for place, rule in enumerate(rules):
        name = memory_name(place, rule)
        ruled = rule.apply(replace(found, memory=memory.get(name, {})))
        _check(type(rule).__name__, ruled, found.gradients)
        found = replace(found, gradients=ruled.gradients)
        figures.update(ruled.figures)
        if ruled.memory:
            remembered[name] = dict(ruled.memory)
    return WeightsGradient(found.gradients, found.loss, outputs, figures, remembered)


def _check(name: str, ruled: Any, before: Gradients) -> None:
    if not isinstance(ruled, RuleResult):
        raise OptionError(f"{name}.apply must return a RuleResult, but returned {type(ruled).__name__}.")
    if (found := ruled.gradients.keys()) != before.keys():
        odd = sorted(found ^ before.keys())[0]
        what = f"left out {odd!r}" if odd in before else f"returned one for {odd!r}, which is none"
        raise OptionError(f"{name}.apply must return a gradient, or None, for each weight, but {what}.")
    for weight, gradient in ruled.gradients.items():
        ours = before[weight]
        if ours is not None and gradient is not None and gradient.shape != ours.shape:
            raise OptionError(
                f"{name}.apply must return gradients of the weights' shapes, but that of {weight!r} is "
                f"{tuple(gradient.shape)} instead of {tuple(ours.shape)}."
            )


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
