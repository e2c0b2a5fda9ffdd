"""What of a cell's pass may be computed in another way than by calling it, edge by edge.

An edge is *lowered* if its `LayerChoice` is exactly that, and among its candidates that run there are operations that
the fast path knows, which fit the state that they read and give one shape; its other candidates run as modules beside
them. Every other edge runs as it is written. So does a whole cell that the plain path would refuse, or that leaves
shapes to broadcasting: the plain path then says what is wrong, or does what it does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from archgrad.cell import Cell
from archgrad.choices import LayerChoice, Mixture
from archgrad.derived_cell import DerivedCell
from archgrad.exactness import as_defined, is_exactly
from archgrad.fast.branches import Branch, branch_of, noisy_branch_of, output_size
from archgrad.fast.memory_layout import is_channels_last, with_gradient_as_written
from archgrad.fast.recognise import fits

__all__ = [
    "Candidate",
    "DerivedWiring",
    "Edge",
    "FreeWiring",
    "Layout",
    "OneEdge",
    "Wiring",
    "are_finite",
    "are_images",
    "are_ordinary",
    "as_known",
    "beside",
    "gradient_of_zeros",
    "is_as_defined",
    "kind_of_pass",
    "known_operations",
    "lay_out",
    "offset_of",
    "readable",
    "sharing_nothing",
    "states_of",
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
    known: Branch | None
    """What it consists of, noise that calling it adds included."""

    @property
    def branch(self) -> Branch | None:
        """What it consists of, if it may be computed in another way than by calling it."""
        return self.known if self.known and self.known.noise is None else None

    @property
    def noisy(self) -> Branch | None:
        """The same where calling it adds noise, which only a whole cell knows."""
        return self.known if self.known and self.known.noise else None


class Edge(NamedTuple):
    """One edge in a pass."""

    number: int
    source: int
    shape: Shape | None
    """Of what it gives, if it is lowered; None if it runs as it is written."""
    candidates: tuple[Candidate, ...]
    """Those that run."""
    known_by: int | None = None
    """Place of a candidate that tells the shape, if it is lowered."""

    def gives_zeros(self) -> bool:
        """Return whether nothing but zeros comes from it, as where `none` alone runs."""
        return all(c.branch and c.branch.form == "zero" for c in self.candidates)


class Layout(NamedTuple):
    """All edges in a pass, in the order in which the plain path runs them."""

    entering: list[list[Edge]]
    """By node."""
    shapes: list[Shape | None]
    """Of every state, inputs first; None where it is not known before the pass."""

    def lowered(self) -> list[Candidate]:
        """Return the known candidates of lowered edges."""
        return [c for c in self._on_lowered_edges() if c.branch]

    def lowered_or_noisy(self) -> list[Candidate]:
        """Return these and those that would be known without their noise, in the order in which the plain path runs."""
        return [c for c in self._on_lowered_edges() if c.known]

    def is_whole(self) -> bool:
        """Return whether every candidate that runs is on a lowered edge and is known, or would be without its noise."""
        return len(self.lowered_or_noisy()) == sum(len(edge.candidates) for edges in self.entering for edge in edges)

    def _on_lowered_edges(self) -> Iterator[Candidate]:
        return (c for edges in self.entering for edge in edges if edge.shape for c in edge.candidates)


class Wiring(Protocol):
    """Layer choices from states to states: a cell's, or one by itself."""

    n_inputs: int
    n_nodes: int
    output: str
    """"last" or "concat"; "each" of a `FreeWiring`, "joined" of a `DerivedWiring`."""
    partial_channels: int

    @property
    def where(self) -> str:
        """What messages call it."""

    @property
    def edges(self) -> nn.ModuleList | tuple[LayerChoice, ...]:
        """The layer choices, node by node."""

    @property
    def pairs(self) -> Sequence[tuple[int, int]]:
        """(source, node) of every edge; inputs are counted first."""


class OneEdge:
    """A layer choice by itself, wired as the only edge of a cell.

    Args:
        choice: The layer choice.
    """

    n_inputs, n_nodes, output, partial_channels, where = 1, 1, "last", 1, "The choice"
    pairs = ((0, 1),)

    def __init__(self, choice: LayerChoice) -> None:
        self.edges = (choice,)


class FreeWiring:
    """Layer choices from states to states, in an order in which every state comes before what reads it.

    Args:
        n_inputs: How many states are given.
        entering: For every further state, source and layer choice of each summand.
        joins: States after the inputs that are wanted side by side, too; none, or several.
    """

    output, partial_channels, where = "each", 1, "The choices"

    def __init__(
        self, n_inputs: int, entering: Sequence[Sequence[tuple[int, LayerChoice]]], joins: tuple[int, ...]
    ) -> None:
        self.n_inputs, self.n_nodes, self.joins = n_inputs, len(entering), joins
        wired = [(pair, n_inputs + node) for node, pairs in enumerate(entering) for pair in pairs]
        self.edges = tuple(choice for (_, choice), _ in wired)
        self.pairs = [(source, node) for (source, _), node in wired]


class DerivedWiring:
    """The kept operations of a derived cell, each added to its node as it is or times a factor for each image.

    Args:
        n_inputs: How many states are given.
        pairs: (source, node) of every operation, node by node; inputs are counted first.
        joins: Nodes whose states are the output side by side, counted behind the inputs; or the only one.
        factors: Number of an operation in `pairs` -> number of its factor.
    """

    output, partial_channels, where = "joined", 1, "The cell"
    edges: tuple[LayerChoice, ...] = ()

    def __init__(
        self, n_inputs: int, pairs: Sequence[tuple[int, int]], joins: Sequence[int], factors: Mapping[int, int]
    ) -> None:
        self.n_inputs, self.pairs, self.joins, self.factors = n_inputs, pairs, joins, factors
        self.n_nodes = len({node for _, node in pairs})


def is_as_defined(cell: Cell | DerivedCell, kind: type[nn.Module]) -> bool:
    """Return whether a cell, maybe of a subclass, computes by `kind`'s own methods."""
    own, given = type(cell), cell.__dict__
    return all(getattr(own, name) is getattr(kind, name) and name not in given for name in ("forward", "edge_by_edge"))


def are_ordinary(states: Sequence[object]) -> bool:
    """Return whether these are images that the fast path takes, and finite where that is looked at."""
    return are_images(states) and are_finite(cast("Sequence[Tensor]", states))


def are_images(states: Sequence[object]) -> bool:
    """Return whether these are tensors of 4 dimensions, of one real type and on one device."""
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
    return True


def are_finite(states: Sequence[Tensor]) -> bool:
    """Return whether images hold finite numbers, as far as that is looked at.

    What is shared between operations would spread what is not finite to operations that a ReLU keeps it from. On other
    devices than the CPU, and where operations are recorded as if there, looking would wait for the device.
    """
    if states[0].device.type != "cpu" or _get_current_dispatch_mode() is not None:
        return True
    return all(math.isfinite(x.detach().sum().item()) for x in states)


def kind_of_pass(states: Sequence[Tensor]) -> Hashable:
    """Return all that decides, beside modules and mixtures, how a pass with these states is computed."""
    x = states[0]
    low = torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)
    return tuple(state.shape for state in states), x.dtype, x.device, low


def readable(operation: nn.Module, x: Tensor) -> Branch | None:
    """Return what an operation consists of, if by itself it may be computed in another way than by calling it."""
    branch = as_known(branch_of(operation), x.dtype, x.device)
    if branch is None or output_size(branch, tuple(x.shape)) is None:
        return None
    if branch.writes_to_input:  # which others may read
        return None
    return branch if all(times == 1 for times in Counter(states_of(operation)).values()) else None


def as_known(branch: Branch | None, dtype: torch.dtype, device: torch.device) -> Branch | None:
    """Return what an operation consists of, if it computes so as its parts are set now, and fits what it reads."""
    known = branch is not None and branch.biases_cancel() and fits(branch.operation, dtype, device)
    return branch if known else None


def known_operations(cell: Wiring) -> Mapping[int, Branch] | None:
    """Return, by identity, candidates that may be computed together; None if the cell has an edge of its own kind.

    Those to whose output noise is added are among them.

    An operation that stands in several places, or shares a BatchNorm or buffers with another, is not among them: its
    statistics move in an order that only calling it keeps.
    """
    edges = list(cell.edges)
    if len(edges) != len(cell.pairs) or not all(is_exactly(edge, LayerChoice) for edge in edges):
        return None
    operations = [operation for edge in edges for operation in cast(LayerChoice, edge).candidates]
    alone = sharing_nothing(operations)
    found = {id(m): branch_of(m) or noisy_branch_of(m) for m in operations if id(m) in alone}
    return {key: branch for key, branch in found.items() if branch is not None}


def sharing_nothing(operations: Sequence[nn.Module]) -> set[int]:
    """Return the identities of operations that occur once and have no BatchNorm or buffer that occurs elsewhere."""
    states = {id(operation): states_of(operation) for operation in operations}
    times = Counter(key for operation in operations for key in (id(operation), *states[id(operation)]))
    return {key for key, own in states.items() if times[key] == 1 and all(times[k] == 1 for k in own)}


def states_of(operation: nn.Module) -> list[int]:
    """Return the identities of parts that have buffers, once for each place where they stand, and of the buffers."""
    found: list[int] = []
    for _, part in operation.named_modules(remove_duplicate=False):
        buffers = [buffer for buffer in part._buffers.values() if buffer is not None]
        if buffers and part is not operation:
            found.append(id(part))
        found += map(id, buffers)
    return found


def lay_out(
    cell: Wiring, states: Sequence[Tensor], mixtures: Sequence[Mixture], known: Mapping[int, Branch]
) -> Layout | None:
    """Return how a pass computes every edge; None if the whole cell runs as it is written.

    Args:
        cell: A cell with open edges.
        states: Its inputs, for which `are_ordinary` holds.
        mixtures: The mixture of every edge, in the order of `cell.edges`.
        known: What `known_operations` found.
    """
    dtype, device = states[0].dtype, states[0].device
    layout = Layout([[] for _ in range(cell.n_nodes)], [tuple(x.shape) for x in states])
    n_entering = Counter(node for _, node in cell.pairs)
    first = 0
    for number, ((source, node), edge, mixture) in enumerate(zip(cell.pairs, cell.edges, mixtures, strict=True)):
        operations = cast(LayerChoice, edge).candidates
        shape = layout.shapes[source]
        candidates = tuple(
            Candidate(
                source,
                node - cell.n_inputs,
                m,
                number,
                k,
                first + k,
                as_known(known.get(id(m)), dtype, device),
            )
            for k in mixture.active
            for m in (operations[k],)
        )
        first += len(operations)
        gives: set[Shape | None] = set()
        if shape is not None:
            gives = {output_size(c.branch, shape) for c in candidates if c.branch}
        known_by = next((c.place for c in candidates if c.branch), None)
        if len(gives) > 1 or None in gives:
            return None
        entering = layout.entering[node - cell.n_inputs]
        entering.append(Edge(number, source, next(iter(gives), None), candidates, known_by))
        if len(entering) == n_entering[node]:
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


def beside(cell: Wiring, edge: Edge, candidate: Candidate, x: Tensor) -> Tensor:
    """Return what a candidate that is not known gives on a lowered edge.

    Raises:
        SpaceError: As its `LayerChoice` does, if the edge's other candidates give another shape.
    """
    choice = cast(LayerChoice, cell.edges[edge.number])
    output = choice.run(candidate.place, x)
    if isinstance(output, Tensor) and output.shape == edge.shape:
        return with_gradient_as_written(output, channels_last=is_channels_last(x))
    outputs = {cast(int, edge.known_by): torch.empty(cast(Shape, edge.shape), device="meta"), candidate.place: output}
    places = sorted(outputs)
    choice.check_outputs([outputs[k] for k in places], places)
    raise AssertionError
