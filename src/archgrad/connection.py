"""The likeliest decision of a cell in which its output depends on one of its inputs.

A cell may take candidates that pass nothing on, such as NAS-Bench-201's `none`. The likeliest candidate of every edge,
each taken by itself, can then cut all paths from the inputs to the output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["Kept", "connected", "likeliest", "likeliest_connected"]


class Kept(NamedTuple):
    """A candidate on a kept edge."""

    probability: float
    candidate: int
    """Its place among the candidates."""
    source: int


Rows = Mapping[tuple[int, int], Sequence[float]]
"""(source, node) -> the probability of each candidate on that edge."""
Allowed = Mapping[tuple[int, int], Sequence[int]]
"""(source, node) -> the places of the candidates that may be taken on that edge."""
Passes = Callable[[int, int, int], bool]
"""Whether a candidate passes something on: of (source, node, its place among the candidates)."""


def likeliest(node: int, rows: Rows, allowed: Allowed, n_kept: int | None) -> list[Kept]:
    """Return the kept edges of one node: on every edge the likeliest candidate, and of the edges the strongest.

    Equal probabilities resolve to the lower source and the earlier candidate. Of edges below 0 (see
    `archgrad.selection`) the strongest is kept where the node has no other.

    Args:
        node: Its edges come from states 0 to node - 1.
        rows: Probabilities of the cell's edges.
        allowed: What may be taken on each.
        n_kept: Edges that the node keeps, strongest first; None keeps every edge, by source.
    """
    kept = _strongest([_best(rows, source, node, allowed[source, node]) for source in range(node)], n_kept)
    return [edge for edge in kept if edge.probability >= 0] or [max(kept, key=lambda edge: edge.probability)]


def likeliest_connected(
    nodes: Sequence[int], rows: Rows, allowed: Allowed, n_kept: int | None, passes: Passes, outputs: Sequence[int]
) -> dict[int, list[Kept]]:
    """Return the kept edges of all nodes: of the decisions that connect an input with an output, the likeliest.

    The likelihood of a decision is the product of the probabilities of what it takes. The result is exact: the nodes of
    a path must each keep the edge that the path takes, with a candidate that passes something on; what a node loses by
    that does not depend on the other nodes, and the others lose nothing. The likeliest connected decision is therefore
    the shortest path, where an edge is as long as the logarithm of what its node loses. A decision that is connected as
    it is stays as it is; where no decision is connected, the likeliest one is returned.

    Args:
        nodes: In ascending order; the states below the first are inputs.
        rows: Probabilities of the cell's edges.
        allowed: What may be taken on each.
        n_kept: Edges that a node keeps; None keeps every edge.
        passes: Which candidates pass something on.
        outputs: The nodes that make up the output.
    """
    plain = {node: likeliest(node, rows, allowed, n_kept) for node in nodes}
    nearest: dict[int, tuple[_Loss, tuple[int, ...]]] = {
        state: (_Loss(0, 0.0, 0.0, 0), ()) for state in range(min(nodes))
    }  # state -> what a path to it loses at least, and the states that this path comes through
    forced: dict[tuple[int, int], list[Kept]] = {}
    for node in nodes:
        ways = []
        for source in [source for source in range(node) if source in nearest]:
            kept = _through(source, node, rows, allowed, n_kept, passes)
            if kept is not None:
                forced[source, node] = kept
                loss, path = nearest[source]
                ways.append((loss.plus(_loss(plain[node], kept)), (*path, source)))
        if ways:
            nearest[node] = min(ways)
    reached = [(*nearest[node], node) for node in outputs if node in nearest]
    if not reached:
        return plain
    _, path, last = min(reached)
    states = [*path, last]
    return plain | {node: forced[source, node] for source, node in itertools.pairwise(states)}


def connected(sources: Iterable[tuple[int, Sequence[int]]], n_inputs: int, outputs: Sequence[int]) -> bool:
    """Return whether an output depends on an input.

    Args:
        sources: (node, the states whose edges to it pass something on), in ascending order of nodes.
        n_inputs: Number of inputs.
        outputs: The nodes that make up the output.
    """
    reached = set(range(n_inputs))
    for node, states in sources:
        if reached.intersection(states):
            reached.add(node)
    return any(node in reached for node in outputs)


class _Loss(NamedTuple):
    """What a decision loses against the likeliest one; smaller is better."""

    impossible: int
    """Candidates of probability 0, or below, that it takes in the place of others."""
    log: float
    """Logarithm of the ratio of the likelihoods, at least 0."""
    below: float
    """How much further below 0 the scores are that it takes."""
    changed: int
    """Nodes that keep something else."""

    def plus(self, other: _Loss) -> _Loss:
        return _Loss(
            self.impossible + other.impossible,
            self.log + other.log,
            self.below + other.below,
            self.changed + other.changed,
        )


def _best(rows: Rows, source: int, node: int, candidates: Sequence[int]) -> Kept:
    row = rows[source, node]
    k = max(candidates, key=lambda k: row[k])
    return Kept(row[k], k, source)


def _strongest(edges: list[Kept], n_kept: int | None) -> list[Kept]:
    return edges if n_kept is None else sorted(edges, key=lambda edge: -edge.probability)[:n_kept]


def _through(
    source: int, node: int, rows: Rows, allowed: Allowed, n_kept: int | None, passes: Passes
) -> list[Kept] | None:
    """The likeliest edges of a node among which is one from `source` that passes something on; None if none does."""
    passing = [k for k in allowed[source, node] if passes(source, node, k)]
    if not passing:
        return None
    needed = _best(rows, source, node, passing)
    others = [_best(rows, other, node, allowed[other, node]) for other in range(node) if other != source]
    others = _strongest(others, None if n_kept is None else n_kept - 1)
    kept = [needed, *(edge for edge in others if edge.probability >= 0)]
    return _strongest(sorted(kept, key=lambda edge: edge.source), n_kept)


def _loss(plain: list[Kept], kept: list[Kept]) -> _Loss:
    if kept == plain:
        return _Loss(0, 0.0, 0.0, 0)
    zeros = [sum(not edge.probability > 0 for edge in edges) for edges in (plain, kept)]
    log = [sum(math.log(edge.probability) for edge in edges if edge.probability > 0) for edges in (plain, kept)]
    below = [sum(edge.probability for edge in edges if edge.probability < 0) for edges in (plain, kept)]
    return _Loss(zeros[1] - zeros[0], max(log[0] - log[1], 0.0), below[0] - below[1], 1)
