"""The candidates that run in a forward pass of a cell, as a flat list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, cast

from torch import Tensor, nn

from archgrad.cell import Cell
from archgrad.choices import LayerChoice, Mixture

__all__ = ["Candidate", "candidates_of", "offsets_of", "running_once"]


class Candidate(NamedTuple):
    """One candidate of one edge, which runs."""

    source: int
    """The state that it reads."""
    node: int
    """The node that it enters, counted from 0."""
    operation: nn.Module
    edge: int
    """Number of its edge, in the order of `cell.edges`."""
    place: int
    """Its place among the candidates of its edge."""
    number: int
    """Number of its mixing weight, counted through all edges."""


def candidates_of(cell: Cell, mixtures: Sequence[Mixture]) -> list[Candidate]:
    """Return what runs, node by node and then by source, `Zero` among it.

    Args:
        cell: A cell with open edges.
        mixtures: The mixture of every edge, in the order of `cell.edges`.
    """
    found: list[Candidate] = []
    first = 0
    for number, ((source, node), edge, mixture) in enumerate(zip(cell.pairs, cell.edges, mixtures, strict=True)):
        candidates = cast(LayerChoice, edge).candidates
        for k in mixture.active:
            found.append(Candidate(source, node - cell.n_inputs, candidates[k], number, k, first + k))
        first += len(candidates)
    return found


def offsets_of(cell: Cell, mixtures: Sequence[Mixture]) -> list[list[Tensor]]:
    """Return for each node the weights (value 0) of candidates that do not run, which are added for their gradient."""
    found: list[list[Tensor]] = [[] for _ in range(cell.n_nodes)]
    for (_, node), mixture in zip(cell.pairs, mixtures, strict=True):
        if mixture.reaches_inactive:
            weights = mixture.weights.unbind()
            found[node - cell.n_inputs].extend(w for k, w in enumerate(weights) if k not in mixture.active)
    return found


def running_once(candidates: Sequence[Candidate]) -> set[int]:
    """Return the identities of operations that run once; one that runs twice moves its statistics twice."""
    times = Counter(id(candidate.operation) for candidate in candidates)
    return {key for key, count in times.items() if count == 1}
