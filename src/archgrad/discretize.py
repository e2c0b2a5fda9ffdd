"""From alphas to an architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from archgrad.architecture import Architecture
from archgrad.choices import AlphaRow, Choice
from archgrad.errors import OptionError
from archgrad.labels import LabelledChoice, alpha_rows, open_choices
from archgrad.relaxation import Softmax
from archgrad.supernet import Supernet
from archgrad.valued import ValuedModule
from archgrad.values import ValueChoice

__all__ = ["decide", "discretize", "random_architecture"]


def discretize(
    supernet: Supernet,
    *,
    space: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    scores: Mapping[str, Sequence[float]] | None = None,
) -> Architecture:
    """Return the architecture that the supernet's alphas lead to at present.

    Every choice decides by its own rule (`LayerChoice.decide`, `InputChoice.decide`, `Cell.decide`); choices inside
    candidates that were not taken are left out.

    Where a rule left out the likeliest decision, since it would not have connected a cell's output with an input, the
    provenance has that one under "plain_decisions", by label. What a selection measured to decide choices for good is
    under "settled" (see `archgrad.selection.PerturbationBased`).

    Args:
        supernet: Stays as it is.
        space: Name of the space, to be stored.
        provenance: Where the architecture comes from, to be stored beside the alphas and their probabilities.
        scores: By label, one a candidate: what the rules read in the place of the probabilities (see
            `archgrad.selection`). Edge weights count on top of them.

    Raises:
        OptionError: A candidate has no finite score.
    """
    probabilities = supernet.probabilities()
    rows = supernet.rows

    def named(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        inputs = {e.label for e in supernet.choices if rows.get(e.label) is not None and _takes_inputs(e.choice)}
        return {
            label: list(row) if label in inputs else dict(zip(rows[label].names, row, strict=True))
            for label, row in values.items()
        }

    alphas = {label: supernet.alphas[label].detach().double().cpu().tolist() for label in rows}
    evidence: dict[str, Any] = {"alphas": named(alphas), "probabilities": named(probabilities)}
    scores = probabilities if scores is None else scores
    _check_scores(scores, rows)
    if scores != probabilities:
        evidence["scores"] = named(scores)
    if edges := supernet.edge_probabilities():
        evidence["edge_weights"] = edges
        scores = {**edges, **scores}
    choices = decide(supernet.network, supernet.choices, scores)
    if supernet.settled:
        evidence["settled"] = [dict(decision) for decision in supernet.settled]
    if plain := _left_out(supernet.choices, choices, scores):
        evidence["plain_decisions"] = plain
    return Architecture(choices, space=space, provenance={**(provenance or {}), **evidence})


def _check_scores(scores: Mapping[str, Sequence[float]], rows: Mapping[str, AlphaRow]) -> None:
    for label, row in rows.items():
        own = scores.get(label, ())
        if len(own) != len(row.names) or not all(math.isfinite(score) for score in own):
            raise OptionError(
                f"Every candidate needs a finite score, but those of '{label}' ({', '.join(row.names)}) are "
                f"{', '.join(map(str, own)) or 'none'}."
            )


def _left_out(
    choices: Sequence[LabelledChoice], decisions: Mapping[str, Any], probabilities: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return label -> likeliest decision of all, where another was taken."""
    plain = {
        entry.label: entry.choice.decide_plain(entry.label, probabilities)
        for entry in choices
        if entry.label in decisions
    }
    return {label: decision for label, decision in plain.items() if decision != decisions[label]}


def decide(
    network: nn.Module, choices: Sequence[LabelledChoice], probabilities: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return label -> decision of every choice that is reached when the likeliest candidates are taken.

    Args:
        network: A module with open choices; stays as it is.
        choices: Its choices.
        probabilities: For each row of alphas, the probability of each candidate.
    """
    labels = {id(entry.choice): entry.label for entry in choices}
    decisions: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(module: nn.Module) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        if isinstance(module, ValuedModule):  # a value choice is reached through what reads it
            for choice in module.choices:
                visit(choice)
            for part in module.inside(lambda choice: choice.value(labels[id(choice)], decisions[labels[id(choice)]])):
                visit(part)
        elif isinstance(module, Choice):
            label = labels[id(module)]
            if label not in decisions:
                decisions[label] = module.decide(label, probabilities)
            visit(module.reached(label, decisions[label]))
        else:
            for child in module.children():
                if not isinstance(child, ValueChoice):
                    visit(child)

    visit(network)
    return decisions


def random_architecture(space: nn.Module, *, seed: int, name: str | None = None) -> Architecture:
    """Return an architecture of the space, drawn by giving every candidate a random probability.

    Args:
        space: A module with open choices, or a `Supernet`; stays as it is.
        seed: Seeds the draw.
        name: Name of the space, to be stored.

    Raises:
        SpaceError: The space has no choice, or labels in conflict.
    """
    space = space.network if isinstance(space, Supernet) else space
    choices = open_choices(space)
    rows = alpha_rows(choices)
    generator = torch.Generator().manual_seed(seed)
    for row in rows.values():
        Softmax().initial(row, generator)  # drawn as a supernet's first alphas were, so that a seed stays what it was
    drawn = {label: torch.rand(len(row.names), generator=generator).tolist() for label, row in rows.items()}
    return Architecture(decide(space, choices, drawn), space=name, provenance={"drawn_at_random": True, "seed": seed})


def _takes_inputs(choice: Choice) -> bool:
    return hasattr(choice, "n_candidates")
