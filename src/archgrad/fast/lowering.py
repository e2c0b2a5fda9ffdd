"""What of a cell's pass may be computed in another way than by calling it, edge by edge.

An edge is *lowered* if its `LayerChoice` is exactly that, and among its candidates that run there are operations that
the fast path knows, which fit the state that they read and give one shape; its other candidates run as modules beside
them. Every other edge runs as it is written. So does a whole cell that the plain path would refuse, or that leaves
shapes to broadcasting: the plain path then says what is wrong, or does what it does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from archgrad.cell import Cell, DerivedCell
from archgrad.choices import LayerChoice, Mixture
from archgrad.exactness import as_defined, is_exactly
from archgrad.fast.recognise import fits, is_known, output_size
from archgrad.operations import Zero

__all__ = [
    "Candidate",
    "Edge",
    "Layout",
    "are_ordinary",
    "beside",
    "gradient_of_zeros",
    "is_as_defined",
    "is_readable",
    "known_operations",
    "lay_out",
    "offset_of",
    "sharing_nothing",
]

as_defined(LayerChoice)
Shape = tuple[int, ...]


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
    known: bool
    """Whether it may be computed in another way than by calling it."""


class Edge(NamedTuple):
    """One edge in a pass."""

    number: int
    source: int
    shape: Shape | None
    """Of what it gives, if it is lowered; None if it runs as it is written."""
    candidates: tuple[Candidate, ...]
    """Those that run."""

    def gives_zeros(self) -> bool:
        """Return whether nothing but zeros comes from it, as where `none` alone runs."""
        return all(c.known and isinstance(c.operation, Zero) for c in self.candidates)


class Layout(NamedTuple):
    """All edges in a pass, in the order in which the plain path runs them."""

    entering: list[list[Edge]]
    """By node."""
    shapes: list[Shape | None]
    """Of every state, inputs first; None where it is not known before the pass."""

    def lowered(self) -> list[Candidate]:
        """Return the known candidates of lowered edges."""
        return [c for edges in self.entering for edge in edges if edge.shape for c in edge.candidates if c.known]

    def is_whole(self) -> bool:
        """Return whether every candidate that runs is known and on a lowered edge."""
        return all(edge.shape and all(c.known for c in edge.candidates) for edges in self.entering for edge in edges)


def is_as_defined(cell: Cell | DerivedCell, kind: type[nn.Module]) -> bool:
    """Return whether a cell, maybe of a subclass, computes by `kind`'s own methods."""
    own, given = type(cell), cell.__dict__
    return all(getattr(own, name) is getattr(kind, name) and name not in given for name in ("forward", "edge_by_edge"))


def are_ordinary(states: Sequence[object]) -> bool:
    """Return whether these are images that the fast path takes: tensors of 4 dimensions, one real type and one device.

    On the CPU they must be finite, too: what is shared between operations would spread what is not to operations that
    a ReLU keeps it from. Elsewhere, and where operations are recorded as if there, looking would wait for the device.
    """
    first = states[0]
    if not isinstance(first, Tensor):
        return False
    for x in states:
        if type(x) not in (Tensor, nn.Parameter) or not isinstance(x, Tensor) or x.dim() != 4 or x.numel() == 0:
            return False
        if x.dtype != first.dtype or x.device != first.device or x.layout != torch.strided:
            return False
        if not x.is_floating_point():
            return False
    if first.device.type != "cpu" or _get_current_dispatch_mode() is not None:
        return True
    return all(math.isfinite(cast(Tensor, x).detach().sum().item()) for x in states)


def is_readable(operation: nn.Module, x: Tensor) -> bool:
    """Return whether an operation by itself may be computed in another way than by calling it with `x`."""
    return (
        is_known(operation)
        and fits(operation, x.dtype, x.device)
        and output_size(operation, tuple(x.shape)) is not None
        and all(times == 1 for times in Counter(_states_of(operation)).values())
    )


def known_operations(cell: Cell) -> frozenset[int] | None:
    """Return the identities of candidates that may be computed together; None if the cell has an edge of its own kind.

    An operation that stands in several places, or shares a BatchNorm or buffers with another, is not among them: its
    statistics move in an order that only calling it keeps.
    """
    edges = list(cell.edges)
    if len(edges) != len(cell.pairs) or not all(is_exactly(edge, LayerChoice) for edge in edges):
        return None
    operations = [operation for edge in edges for operation in cast(LayerChoice, edge).candidates]
    alone = sharing_nothing(operations)
    return frozenset(id(operation) for operation in operations if id(operation) in alone and is_known(operation))


def sharing_nothing(operations: Sequence[nn.Module]) -> set[int]:
    """Return the identities of operations that occur once and have no BatchNorm or buffer that occurs elsewhere."""
    states = {id(operation): _states_of(operation) for operation in operations}
    times = Counter(key for operation in operations for key in (id(operation), *states[id(operation)]))
    return {key for key, own in states.items() if times[key] == 1 and all(times[k] == 1 for k in own)}


def _states_of(operation: nn.Module) -> list[int]:
    """Identities of its parts that have buffers, once for each place where they stand, and of the buffers."""
    found: list[int] = []
    for _, part in operation.named_modules(remove_duplicate=False):
        buffers = [buffer for buffer in part._buffers.values() if buffer is not None]
        if buffers and part is not operation:
            found.append(id(part))
        found += map(id, buffers)
    return found


def lay_out(cell: Cell, states: Sequence[Tensor], mixtures: Sequence[Mixture], known: frozenset[int]) -> Layout | None:
    """Return how a pass computes every edge; None if the whole cell runs as it is written.

    Args:
        cell: A cell with open edges.
        states: Its inputs, for which `are_ordinary` holds.
        mixtures: The mixture of every edge, in the order of `cell.edges`.
        known: What `known_operations` found.
    """
    dtype, device = states[0].dtype, states[0].device
    layout = Layout([[] for _ in range(cell.n_nodes)], [tuple(x.shape) for x in states])
    first = 0
    for number, ((source, node), edge, mixture) in enumerate(zip(cell.pairs, cell.edges, mixtures, strict=True)):
        operations = cast(LayerChoice, edge).candidates
        shape = layout.shapes[source]
        candidates = tuple(
            Candidate(source, node - cell.n_inputs, m, number, k, first + k, id(m) in known and fits(m, dtype, device))
            for k in mixture.active
            for m in (operations[k],)
        )
        first += len(operations)
        gives: set[Shape | None] = set()
        if shape is not None:
            gives = {output_size(c.operation, shape) for c in candidates if c.known}
        if len(gives) > 1 or None in gives:
            return None
        entering = layout.entering[node - cell.n_inputs]
        entering.append(Edge(number, source, next(iter(gives), None), candidates))
        if len(entering) == node:  # the last edge that enters it
            shapes = {edge.shape for edge in entering if edge.shape is not None}
            if len(shapes) > 1:
                return None
            layout.shapes.append(next(iter(shapes), None))
    return layout


def offset_of(edge: Edge, mixture: Mixture) -> list[Tensor]:
    """Return the weights (value 0) of an edge's candidates that do not run, which are added for their gradient."""
    if not mixture.straight_through:
        return []
    return [w for k, w in enumerate(mixture.weights.unbind()) if k not in mixture.active]


def gradient_of_zeros(edge: Edge, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Return a zero, 0-dimensional, through which an edge that gives zeros has the gradients of the plain path.

    They are zeros too, for the state and the mixing weights. Without them these would have none: what depends on
    nothing else in a pass would then keep its optimizer's decay and momentum from moving it.

    Args:
        edge: One that `gives_zeros`.
        x: The state that it reads.
        weights: Of every candidate of the edge.
    """
    nothing = x[:1, :1, :1, :1].sum() * 0.0
    return torch.stack([nothing * weights[c.place] for c in edge.candidates]).sum()


def beside(cell: Cell, edge: Edge, candidate: Candidate, x: Tensor) -> Tensor:
    """Return what a candidate that is not known gives on a lowered edge.

    Raises:
        SpaceError: As its `LayerChoice` does, if the edge's other candidates give another shape.
    """
    choice = cast(LayerChoice, cell.edges[edge.number])
    output = choice.run(candidate.place, x)
    if isinstance(output, Tensor) and output.shape == edge.shape:
        return output
    other = next(c for c in edge.candidates if c.known)
    outputs = {other.place: torch.empty(cast(Shape, edge.shape), device="meta"), candidate.place: output}
    places = [c.place for c in edge.candidates if c.place in outputs]
    choice.check_outputs([outputs[k] for k in places], places)
    raise AssertionError
