"""What an architecture says of one choice: the rules that hold for every space, and read access for cells."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias, cast

from archgrad.checks import is_whole
from archgrad.errors import ArchitectureError
from archgrad.json_text import check_text, freeze, natural_order, shown

__all__ = [
    "CellDecision",
    "Decision",
    "Edge",
    "candidate_name",
    "cell_nodes",
    "edge_key",
    "edge_of_row",
    "edge_row",
    "empty_nodes",
    "freeze_decisions",
    "joined_nodes",
    "node_row",
    "outside_cells",
    "taken_candidates",
]

CONCAT = "concat"
_MAX_STATE = 9999


class Edge(NamedTuple):
    """A kept edge of a cell; a plain pair to whoever compares or unpacks it."""

    operation: str
    """Name of the candidate on the edge."""
    source: int
    """State that the edge leaves: an input of the cell or an earlier node."""


CellDecision: TypeAlias = "Mapping[str, tuple[Edge, ...] | tuple[int, ...]]"
"""Node -> its edges, strongest first; and "concat" -> the nodes joined as output, if not all that have edges.

A single joined node is the output itself: `Cell(output="last")` decides "concat" -> [its last node]. A node may have no
edges; nothing reads it then, and the output does not join it.
"""
Decision: TypeAlias = "str | int | float | Sequence[int] | Mapping[str, Sequence[Any]]"
"""A layer choice's candidate, a value choice's number, an input choice's ascending indices, or a cell's graph (see
`CellDecision`)."""


def edge_key(source: int, node: int) -> str:
    """Return what an edge is called within its cell, "source->node"."""
    return f"{source}->{node}"


def edge_row(label: str, source: int, node: int) -> str:
    """Return the row of alphas of an edge in the cell called `label`, "label/source->node"."""
    return f"{label}/{edge_key(source, node)}"


def node_row(label: str, node: int) -> str:
    """Return the row of the weights of the edges that enter a node of the cell called `label`, "label/->node"."""
    return f"{label}/->{node}"


def edge_of_row(row: str) -> tuple[str, int, int] | None:
    """Return (label of the cell, source, node) of the row of an edge; None for another row."""
    match = re.fullmatch(r"(.*)/([0-9]{1,4})->([0-9]{1,4})", row, re.DOTALL)
    return (match[1], int(match[2]), int(match[3])) if match else None


def cell_nodes(decision: Mapping[str, Sequence[Any]]) -> dict[int, tuple[Edge, ...]]:
    """Return node -> its kept edges, of the decision of a cell; the lowest node is the number of the cell's inputs."""
    return {int(node): tuple(edges) for node, edges in decision.items() if node != CONCAT}


def joined_nodes(decision: Mapping[str, Sequence[Any]]) -> tuple[int, ...]:
    """Return the nodes that a cell's output joins, in the order of the channels; a single one is the output itself."""
    return tuple(decision.get(CONCAT) or [node for node, edges in cell_nodes(decision).items() if edges])


def empty_nodes(decision: Mapping[str, Sequence[Any]]) -> tuple[int, ...]:
    """Return the nodes of a cell that have no edges."""
    return tuple(node for node, edges in cell_nodes(decision).items() if not edges)


def taken_candidates(choices: Mapping[str, Decision]) -> dict[str, Collection[str]]:
    """Return by row of alphas the candidates that were taken: names, or indices as text."""
    taken: dict[str, Collection[str]] = {}
    for label, decision in choices.items():
        if isinstance(decision, Mapping):
            for node, edges in cell_nodes(decision).items():
                for edge in edges:
                    taken[edge_row(label, edge.source, node)] = {edge.operation}
        elif names := set(outside_cells(decision)):
            taken[label] = names
    return taken


def outside_cells(decision: Decision) -> list[str]:
    """Return what the candidates are called that a decision takes which is no cell's, as in its row of alphas."""
    name = candidate_name(decision)
    return [str(index) for index in decision] if name is None else [name]  # type: ignore[union-attr]


def candidate_name(decision: Decision) -> str | None:
    """Return what the one candidate is called that a decision takes, as in its row of alphas; None of other kinds."""
    if isinstance(decision, str):
        return decision
    return repr(decision) if isinstance(decision, int | float) else None


def freeze_decisions(choices: Any) -> Mapping[str, Decision]:
    """Return the choices immutable and sorted by label.

    Args:
        choices: Label -> decision, of lists or tuples where sequences are meant.

    Raises:
        ArchitectureError: A label or decision breaks a rule that holds for every space.
    """
    if not isinstance(choices, Mapping):
        raise ArchitectureError(f"'choices' must map labels to decisions, but got {shown(choices)}.")
    for label in choices:
        if not isinstance(label, str) or not label:
            raise ArchitectureError(f"A label must be a non-empty str, but 'choices' has {shown(label)}.")
        check_text(label, "'choices'")
    return MappingProxyType(
        {str(label): _decision(str(label), choices[label]) for label in sorted(choices, key=natural_order)}
    )


def _decision(label: str, decision: Any) -> Decision:
    where = f"Choice {shown(label)}"
    if isinstance(decision, str):
        return _name(decision, where)
    if is_whole(decision) or (isinstance(decision, float) and math.isfinite(decision)):
        return cast("int | float", freeze(float(decision) if isinstance(decision, float) else int(decision), where))
    if isinstance(decision, (list, tuple)):
        return _indices(decision, where)
    if isinstance(decision, Mapping):
        return _cell(decision, f"Cell {shown(label)}")
    raise ArchitectureError(
        f"{where} must be a candidate's name, a number, a list of input indices or a cell's nodes, but is "
        f"{shown(decision)}."
    )


def _name(name: Any, where: str) -> str:
    if not isinstance(name, str) or not name:
        raise ArchitectureError(f"{where} must take a candidate by its non-empty name, but has {shown(name)}.")
    return check_text(str(name), where)


def _indices(indices: list[Any] | tuple[Any, ...], where: str) -> tuple[int, ...]:
    rule = f"{where} must list the chosen inputs as ascending indices from 0"
    if not indices:
        raise ArchitectureError(f"{rule}, but lists none. Choose at least one.")
    previous = -1
    for index in indices:
        if not is_whole(index) or not previous < index <= _MAX_STATE:
            raise ArchitectureError(f"{rule}, but is {shown(list(indices))}.")
        previous = index
    return tuple(int(index) for index in indices)


def _cell(decision: Mapping[Any, Any], where: str) -> CellDecision:
    keys = [key for key in decision if key != CONCAT]
    for key in keys:
        if not isinstance(key, str) or not (key.isascii() and key.isdigit()) or len(key) > len(str(_MAX_STATE)):
            raise ArchitectureError(f"{where} has nodes such as '2' and perhaps {CONCAT!r}, but has {shown(key)}.")
    numbers = sorted(int(key) for key in keys)
    if not numbers or numbers[0] < 1 or [str(n) for n in range(numbers[0], numbers[-1] + 1)] != sorted(keys, key=int):
        raise ArchitectureError(
            f"{where} needs consecutive nodes after at least one input, such as '2', '3', '4', but has {shown(keys)}."
        )
    cell: dict[str, tuple[Edge, ...] | tuple[int, ...]] = {
        str(node): _edges(decision[str(node)], node, f"{where}, node {node}") for node in numbers
    }
    empty = set(empty_nodes(cell))
    if len(empty) == len(numbers):
        raise ArchitectureError(f"{where} must keep at least one edge, but no node has any. Take another architecture.")
    for node, edges in cell_nodes(cell).items() if empty else ():
        for edge in edges:
            if edge.source in empty:
                raise ArchitectureError(
                    f"{where}, node {node} must take inputs and nodes that have edges, but takes node {edge.source}, "
                    f"which has none. Leave out {shown(list(edge))}."
                )
    if CONCAT in decision:
        joined = decision[CONCAT]
        if (
            not isinstance(joined, (list, tuple))
            or not joined
            or not all(is_whole(node) and node in numbers for node in joined)
            or len(set(joined)) != len(joined)
        ):
            raise ArchitectureError(
                f"{where} must join different nodes from {numbers[0]} to {numbers[-1]}, "
                f"but {CONCAT!r} is {shown(joined)}."
            )
        if nothing := [node for node in joined if node in empty]:
            raise ArchitectureError(
                f"{where} must have nodes with edges as its output, but {CONCAT!r} is {shown(list(joined))} and node "
                f"{nothing[0]} has no edges. Take another architecture."
            )
        if tuple(joined) != joined_nodes(cell):  # these are meant without the key: one form for one meaning
            cell[CONCAT] = tuple(int(node) for node in joined)
    return MappingProxyType(cell)


def _edges(edges: Any, node: int, where: str) -> tuple[Edge, ...]:
    if not isinstance(edges, (list, tuple)):
        raise ArchitectureError(f"{where} must list its edges as [operation, source], but is {shown(edges)}.")
    kept = []
    for edge in edges:
        if not isinstance(edge, (list, tuple)) or len(edge) != 2 or not is_whole(edge[1]) or not 0 <= edge[1] < node:
            raise ArchitectureError(
                f"{where} must list [operation, source] with a source from 0 to {node - 1}, but has {shown(edge)}."
            )
        kept.append(Edge(_name(edge[0], where), int(edge[1])))
    return tuple(kept)
