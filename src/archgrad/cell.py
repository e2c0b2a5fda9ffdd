"""A small directed graph whose edges are layer choices, with the rule that turns probabilities into a graph.

States 0 to n_inputs-1 are the cell's inputs; nodes follow. Every node may take an edge from every earlier state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from archgrad.checks import is_whole
from archgrad.choices import AlphaRow, Choice, LayerChoice, MixtureTable
from archgrad.connection import Kept, connected, likeliest, likeliest_connected
from archgrad.copying import copied
from archgrad.decision import Edge, cell_nodes, edge_row, freeze_decisions, joined_nodes, node_row
from archgrad.derived_cell import DerivedCell
from archgrad.errors import ArchitectureError, SpaceError
from archgrad.partial_channels import SplitStates

__all__ = ["BuildCandidate", "Cell"]

BuildCandidate = Callable[..., nn.Module]


class Cell(Choice):
    """A graph of `n_nodes` nodes, each the sum of relaxed edges from all earlier states.

    The derivation rule belongs to the cell: on every edge the likeliest candidate outside `never`, and of each node's
    edges the `n_kept` whose likeliest such candidate has the highest probability (Liu et al. 2019, section 2.4). Equal
    probabilities resolve to the lower source and the earlier candidate. In a search with edge weights each probability
    counts times the weight of its edge (Xu et al. 2020, section 3.3). Where this would leave an output that depends
    on no input, since candidates that pass nothing on cut every path, the cell takes the likeliest decision that does
    connect them (`archgrad.connection`). Scores below 0 (see `archgrad.selection`) mark edges that a node keeps only if
    it has nothing else.

    Args:
        n_nodes: Number of nodes, at least 1.
        candidates: Name -> function of (source, node) that builds the candidate of that edge. With `partial_channels`
            it takes a third argument, by which it divides the channels of what it builds.
        edge_candidates: (source, node) -> names of the candidates of that edge, in their order; other edges have all.
        n_inputs: Number of input states, at least 1.
        n_kept: Edges that a node keeps; None keeps every edge.
        never: Candidates that compete in the relaxation and are never derived.
        connected: Whether the output of a derived cell must depend on an input: `decide` then takes the likeliest
            connected decision, and `fix` refuses others. False takes the likeliest of all. Candidates called "none",
            and modules with a true attribute `passes_nothing`, such as `archgrad.operations.Zero`, do not connect.
        output: "concat" of all nodes along the channels (dimension 1), or the "last" node.
        lazy: Build no edges; such a cell cannot be searched, only fixed to a decision, whatever its number of nodes.
        drop_path: Applied to the output of each kept operation that is not an identity.
        partial_channels: K: in the search the first of K equal parts of the channels of each state goes through the
            operations and the others pass by (see `archgrad.partial_channels`). Candidates are then built with K as
            their third argument, and without weights of the search, with 1, when the cell is derived. 1 leaves cells
            as they are.
        label: See `Choice`; the edges are called "label/source->node".
    """

    def __init__(
        self,
        n_nodes: int,
        candidates: Mapping[str, BuildCandidate],
        *,
        edge_candidates: Mapping[tuple[int, int], Sequence[str]] | None = None,
        n_inputs: int = 2,
        n_kept: int | None = 2,
        never: Sequence[str] = ("none",),
        connected: bool = True,
        output: str = "concat",
        lazy: bool = False,
        drop_path: nn.Module | None = None,
        partial_channels: int = 1,
        label: str | None = None,
    ) -> None:
        super().__init__(label)
        where = f"Cell(label={label!r})"
        if not is_whole(partial_channels, least=1):
            raise SpaceError(
                f"{where} needs a whole number partial_channels of at least 1, but got {partial_channels!r}."
            )
        counts = (n_nodes, n_inputs) if n_kept is None else (n_nodes, n_inputs, n_kept)
        if not all(is_whole(count, least=1) for count in counts):
            raise SpaceError(
                f"{where} needs whole numbers n_nodes, n_inputs and n_kept of at least 1, "
                f"but got n_nodes={n_nodes}, n_inputs={n_inputs}, n_kept={n_kept}."
            )
        if output not in ("concat", "last"):
            raise SpaceError(f"{where} needs output 'concat' or 'last', but got {output!r}.")
        self.n_nodes, self.n_inputs, self.n_kept, self.output = n_nodes, n_inputs, n_kept, output
        self.never = tuple(never)
        self.connected = connected
        self.names = tuple(candidates)
        self.partial_channels = partial_channels
        self.lazy = lazy
        self.drop_path = drop_path
        self._build = dict(candidates)
        self.pairs = tuple(
            (source, node) for node in range(n_inputs, n_inputs + n_nodes) for source in range(node)
        )  # node by node, then by source
        edge_candidates = edge_candidates or {}
        self._check_names({(0, n_inputs): self.names, **edge_candidates}, where)
        self._edge_names = {pair: tuple(names) for pair, names in edge_candidates.items()}
        self.edges = nn.ModuleList(
            LayerChoice({name: self._built(name, *pair, partial_channels) for name in self.names_of(*pair)})
            for pair in (() if lazy else self.pairs)
        )
        if partial_channels > 1 and any(
            isinstance(part, Choice) for edge in self.edges for part in edge.modules() if part is not edge
        ):
            raise SpaceError(f"{where} has partial_channels, with which candidates can have no open choices.")
        self.evaluator: Callable[[Cell, list[Any]], Any] | None = None
        """Set by a fast path: computes the forward pass from (cell, states) in its own way."""

    def _check_names(self, names_by_edge: Mapping[tuple[int, int], Sequence[str]], where: str) -> None:
        for pair, names in names_by_edge.items():
            if isinstance(names, str):
                raise SpaceError(
                    f"{where} needs a list of names for its edge {pair}, but got {names!r}. Give [{names!r}]."
                )
            if pair not in self.pairs:
                raise SpaceError(f"{where} has no edge {pair} (source, node). Its edges are {list(self.pairs)}.")
            if unknown := [name for name in names if name not in self.names]:
                raise SpaceError(
                    f"{where} has no candidate {unknown[0]!r}, of its edge {pair}. "
                    f"Its candidates are {', '.join(self.names)}."
                )
            if len(set(names)) < len(names):
                raise SpaceError(f"{where} needs each candidate of its edge {pair} once, but got {list(names)}.")
            if not set(names) - set(self.never):
                raise SpaceError(
                    f"{where} needs a candidate outside never={list(self.never)} on its edge {pair}, but got "
                    f"{list(names)}."
                )

    def names_of(self, source: int, node: int) -> tuple[str, ...]:
        """Return the names of the candidates of an edge, in the order of its row."""
        return self._edge_names.get((source, node), self.names)

    def whole(self) -> Cell:
        """Return a new cell of the same choices for all channels, without weights of the search; itself if it is one.

        Raises:
            SpaceError: The cell is of a subclass, which may be built otherwise.
        """
        if self.partial_channels == 1:
            return self
        if type(self) is not Cell:
            raise SpaceError(
                f"{self.where} is a {type(self).__name__}, of which no cell for all channels can be built."
            )
        cell = Cell(
            self.n_nodes,
            {name: partial(self._built_whole, name) for name in self.names},
            edge_candidates=self._edge_names,
            n_inputs=self.n_inputs,
            n_kept=self.n_kept,
            never=self.never,
            connected=self.connected,
            output=self.output,
            lazy=self.lazy,
            drop_path=self.drop_path,
            label=self.label,
        )
        return cell.train(self.training)

    def extra_repr(self) -> str:
        """Return what `repr` shows beside the edges."""
        return f"label={self.label!r}, n_nodes={self.n_nodes}, n_inputs={self.n_inputs}, n_kept={self.n_kept}"

    @property
    def where(self) -> str:
        """What messages call a cell that is searched."""
        return f"Cell '{self._row}'"

    def edge_label(self, label: str, source: int, node: int) -> str:
        """Return the row of alphas of the edge from `source` to `node` in a cell called `label`."""
        return edge_row(label, source, node)

    def rows(self, label: str) -> dict[str, AlphaRow]:
        """Return one row an edge, node by node and then by source."""
        if self.lazy:
            raise SpaceError(
                f"Cell '{label}' is built for one architecture and has nothing to search. "
                f"Build its space with stage='search'."
            )
        return {self.edge_label(label, *pair): AlphaRow(self.names_of(*pair)) for pair in self.pairs}

    def layer_choices(self, label: str) -> dict[str, LayerChoice]:
        """Return every edge by its row."""
        edges = zip(self.pairs, self.edges, strict=True)
        return {self.edge_label(label, *pair): cast(LayerChoice, edge) for pair, edge in edges}

    def edges_of_nodes(self, label: str) -> dict[str, tuple[str, ...]]:
        """Return the edges that enter each node, by source."""
        return {
            node_row(label, node): tuple(self.edge_label(label, source, node) for source in range(node))
            for node in self._nodes()
        }

    def bind(self, label: str, table: MixtureTable) -> None:
        """Bind every edge to its row."""
        super().bind(label, table)
        for (source, node), edge in zip(self.pairs, self.edges, strict=True):
            cast(LayerChoice, edge).bind(self.edge_label(label, source, node), table)

    def decide(self, label: str, probabilities: Mapping[str, Sequence[float]]) -> dict[str, list[Any]]:
        """Return node -> kept [candidate, source] pairs, strongest first; "concat" -> [last node] if it goes out."""
        if not self.connected or not self._may_be_cut():
            return self.decide_plain(label, probabilities)
        kept = likeliest_connected(
            self._nodes(),
            self._rows_by_edge(label, probabilities),
            self._allowed(),
            self.n_kept,
            lambda source, node, k: self._passes_on(self.names_of(source, node)[k], source, node),
            self._outputs(),
        )
        return self._named(kept)

    def decide_plain(self, label: str, probabilities: Mapping[str, Sequence[float]]) -> dict[str, list[Any]]:
        """Return the likeliest decision, whether it connects the output with an input or not."""
        rows, allowed = self._rows_by_edge(label, probabilities), self._allowed()
        return self._named({node: likeliest(node, rows, allowed, self.n_kept) for node in self._nodes()})

    def _nodes(self) -> range:
        return range(self.n_inputs, self.n_inputs + self.n_nodes)

    def _outputs(self) -> range:
        return self._nodes()[-1:] if self.output == "last" else self._nodes()

    def _allowed(self) -> dict[tuple[int, int], list[int]]:
        """The places of what each edge may be derived with."""
        return {
            pair: [k for k, name in enumerate(self.names_of(*pair)) if name not in self.never] for pair in self.pairs
        }

    def _rows_by_edge(
        self, label: str, probabilities: Mapping[str, Sequence[float]]
    ) -> dict[tuple[int, int], Sequence[float]]:
        rows: dict[tuple[int, int], Sequence[float]] = {}
        for source, node in self.pairs:
            row, weights = probabilities[self.edge_label(label, source, node)], probabilities.get(node_row(label, node))
            rows[source, node] = row if weights is None else [p * weights[source] for p in row]
        return rows

    def _named(self, kept: Mapping[int, Sequence[Kept]]) -> dict[str, list[Any]]:
        named: dict[str, list[Any]] = {
            str(node): [[self.names_of(e.source, node)[e.candidate], e.source] for e in edges]
            for node, edges in kept.items()
        }
        return named if self._outputs() == self._nodes() else {**named, "concat": list(self._outputs())}

    def _may_be_cut(self) -> bool:
        return any(self._passing_nothing(*pair) for pair in self.pairs)

    def _passing_nothing(self, source: int, node: int) -> list[str]:
        """Return what an edge may be derived with and passes nothing on."""
        allowed = (name for name in self.names_of(source, node) if name not in self.never)
        return [name for name in allowed if not self._passes_on(name, source, node)]

    def passing_nothing(self, label: str) -> dict[str, list[str]]:
        """Return by row the candidates that may be derived and pass nothing on, as "none" of NAS-Bench-201."""
        return {self.edge_label(label, *pair): self._passing_nothing(*pair) for pair in self.pairs}

    def _passes_on(self, name: str, source: int, node: int) -> bool:
        return self._passes(name, self._operation(name, source, node))

    @staticmethod
    def _passes(name: str, operation: nn.Module) -> bool:
        if getattr(operation, "passes_nothing", False):
            return False
        return name != "none" or isinstance(operation, nn.Identity)

    def fix(self, label: str, decision: Any) -> DerivedCell:
        """Return the graph of the kept edges; with `partial_channels`, of new operations for all channels.

        A pair that occurs twice in a node gets a module each. The output does not join nodes without edges.

        Raises:
            ArchitectureError: The decision does not fit this cell, or its output would depend on no input.
        """
        return self._fixed(label, decision, self._operation if self.partial_channels == 1 else self._built_whole)

    def reached(self, label: str, decision: Any) -> DerivedCell:
        """Return the graph of the kept edges, of operations as they are searched."""
        return self._fixed(label, decision, self._operation)

    def _fixed(self, label: str, decision: Any, operation_of: Callable[[str, int, int], nn.Module]) -> DerivedCell:
        nodes, concat = self._read(label, decision)
        sources: list[list[int]] = []
        operations: list[nn.Module] = []
        taken: set[int] = set()
        passing: list[tuple[int, list[int]]] = []
        for node, kept in nodes.items():
            passing.append((node, []))
            for name, source in kept:
                if name not in (names := self.names_of(source, node)):
                    edge = f"node {node}" if names == self.names else f"edge {source}->{node}"
                    raise ArchitectureError(
                        f"Cell '{label}' has no candidate {name!r} ({edge}). Its candidates are {', '.join(names)}."
                    )
                operation = operation_of(name, source, node)
                if self._passes(name, operation):
                    passing[-1][1].append(source)
                operations.append(copied(operation) if id(operation) in taken else operation)
                taken.add(id(operation))
            sources.append([source for _, source in kept])
        if self.connected and not connected(passing, self.n_inputs, concat):
            raise ArchitectureError(
                f"The output of cell '{label}' would depend on none of its inputs: in this architecture candidates "
                f"that pass nothing on cut every path. Take another architecture, or build the cell with "
                f"connected=False (spaces.nasbench201(connected=False)) to derive it all the same."
            )
        return self._derived(operations, sources, concat)

    def _derived(
        self, operations: Sequence[nn.Module], sources: Sequence[Sequence[int]], concat: Sequence[int]
    ) -> DerivedCell:
        return DerivedCell(operations, sources, concat, n_inputs=self.n_inputs, drop_path=self.drop_path)

    def _read(self, label: str, decision: Any) -> tuple[dict[int, tuple[Edge, ...]], tuple[int, ...]]:
        """Return (node -> its edges, nodes that make up the output) of a decision, or say what is wrong with it."""
        frozen = freeze_decisions({label: decision})[label]
        if not isinstance(frozen, Mapping):
            raise ArchitectureError(f"Cell '{label}' needs node -> [[operation, source], ...], but got {decision!r}.")
        nodes = cell_nodes(frozen)
        expected = range(self.n_inputs, self.n_inputs + (len(nodes) if self.lazy else self.n_nodes))
        if list(nodes) != list(expected):
            raise ArchitectureError(
                f"Cell '{label}' has nodes {', '.join(map(str, expected))}, "
                f"but the architecture has {', '.join(map(str, nodes))}. Build the cell with {len(nodes)} nodes."
            )
        if self.output != "last":
            return nodes, joined_nodes(frozen)
        last = expected[-1]
        if "concat" in frozen and joined_nodes(frozen) != (last,):
            raise ArchitectureError(
                f"Cell '{label}' gives out its last node {last}, but the architecture has 'concat' "
                f"{list(joined_nodes(frozen))}. Leave it out, or build the cell with output='concat'."
            )
        if not nodes[last]:
            raise ArchitectureError(
                f"Cell '{label}' gives out its last node {last}, which has no edges in this architecture. "
                f"Take another architecture."
            )
        return nodes, (last,)

    def _operation(self, name: str, source: int, node: int) -> nn.Module:
        if self.lazy:
            return self._built(name, source, node, 1)
        return cast(LayerChoice, self.edges[self.pairs.index((source, node))])[name]

    def _built(self, name: str, source: int, node: int, parts: int) -> nn.Module:
        build = self._build[name]
        return build(source, node) if self.partial_channels == 1 else build(source, node, parts)

    def _built_whole(self, name: str, source: int, node: int) -> nn.Module:
        """A new operation for all channels, of the type and on the device of those that are searched."""
        own = (p for p in self.parameters() if p.is_floating_point())
        return self._built(name, source, node, 1).to(next(own, torch.empty(0)))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Return the cell's output for `n_inputs` states, each (B, C, H, W)."""
        if len(states) != self.n_inputs:
            raise SpaceError(f"{self.where} needs {self.n_inputs} inputs, but got {len(states)}.")
        if self.lazy:
            raise SpaceError(f"Cell(label={self.label!r}) is open and cannot run. Call archgrad.derive first.")
        return self.edge_by_edge(states) if self.evaluator is None else self.evaluator(self, list(states))

    def edge_by_edge(self, states: Sequence[Any]) -> Any:
        """Return what `forward` does, every operation as it is written."""
        split = SplitStates(states, self.partial_channels, self.where)
        edges = iter(self.edges)
        for _ in range(self.n_nodes):
            entering = [cast(LayerChoice, next(edges)) for _ in split.read]
            total = entering[0](split.read[0])
            for edge, state in zip(entering[1:], split.read[1:], strict=True):
                total = total + edge(state)
            split.enter(total, [edge.mixture.edge for edge in entering] if self.partial_channels > 1 else ())
        return split.whole[-1] if self.output == "last" else torch.cat(split.whole[self.n_inputs :], dim=1)
