"""The forward pass of a cell, shared where edges share.

All edges that leave one state read the same ReLU, pools and first depthwise convolutions' input; all edges that enter
one node end in the same sum. So work is done state by state and node by node:

- a `SharedFeatures` (in `states`) computes what leaves it once, and keeps it for all of its edges;
- a `_Node` collects the summands that enter it and adds them in as few products as it can.

What runs as it is written (`layout` says what) is one more summand. On the path "native", cells in which the compiled
kernels know everything are computed as a whole instead (`native_cell`); on the path "grouped", cells are computed in
fewer and larger operations (`grouped_cell`). A layer choice that stands outside of cells is computed as a cell of one
edge, or on the path "native" together with others (`deferral`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, reduce
from operator import add
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.cell import Cell
from archgrad.choices import LayerChoice, Mixture
from archgrad.exactness import calls_are_watched
from archgrad.fast import grouped_cell, inverted_choice, native, native_cell
from archgrad.fast.batch_norms import edges_share, track
from archgrad.fast.branches import Branch
from archgrad.fast.deferral import deferral
from archgrad.fast.deferred import settled
from archgrad.fast.fast_split import FastSplit
from archgrad.fast.lowering import (
    Candidate,
    Edge,
    Layout,
    OneEdge,
    Wiring,
    are_ordinary,
    beside,
    gradient_of_zeros,
    is_as_defined,
    kind_of_pass,
    known_operations,
    lay_out,
    offset_of,
)
from archgrad.fast.memory_layout import as_written, is_channels_last, with_gradient_as_written
from archgrad.fast.normalised import Projected, normalised, normalised_sum, settings
from archgrad.fast.path_names import Path
from archgrad.fast.states import SharedFeatures
from archgrad.fast.sums import joined, weighted_total
from archgrad.fast.unchanged import StructureCache

__all__ = ["CellEvaluator", "ChoiceEvaluator"]


class CellEvaluator:
    """The fast forward pass of one cell, with what it found out about the cell, as long as that stays as it is.

    Args:
        path: Any but "plain".
        guarded: Keep nothing for the backward pass that code around the cell can write to.
    """

    def __init__(self, path: Path, *, guarded: bool = False) -> None:
        self._kept = StructureCache()
        self._path, self._guarded = path, guarded

    def __call__(self, cell: Cell, states: Sequence[Tensor]) -> Tensor:
        """Return what the cell's plain forward pass returns, in the memory format of its first input.

        Args:
            cell: A cell with open edges, always the same.
            states: Its inputs.
        """
        if calls_are_watched() or not is_as_defined(cell, Cell) or not are_ordinary(states):
            return cell.edge_by_edge(states)
        self._kept.look(cell)
        output = _evaluate(cell, states, self._kept, self._path, guarded=self._guarded)
        return cell.edge_by_edge(states) if output is None else output


class ChoiceEvaluator:
    """The fast forward pass of one layer choice that stands outside of cells.

    Args:
        path: "native" or "torch".
    """

    def __init__(self, path: Path) -> None:
        self._kept, self._path = StructureCache(), path

    def __call__(self, choice: LayerChoice, x: Any) -> Any:
        """Return what the choice's plain forward pass returns, in the memory format of its input.

        Args:
            choice: The layer choice, always the same.
            x: What it is called with.
        """
        present = deferral() if self._path == "native" and not calls_are_watched() else None
        if present is not None:
            deferred = present.defer(choice, x, partial(self._laid_out, choice), partial(self.at_once, choice))
            if deferred is not None:
                return deferred
        return self.at_once(choice, settled(x))

    def _laid_out(self, choice: LayerChoice, mixture: Mixture, x: Tensor) -> Layout | None:
        """How a pass computes the choice; None if it runs as it is written."""
        self._kept.look(choice)
        alone = OneEdge(choice)
        known = _known(alone, self._kept)
        if not known or not _mixes(mixture, x):
            return None
        if any(branch.form == "inverted" for branch in known.values()):  # a function by itself (`inverted_choice`)
            return None
        kind = ((tuple(mixture.active),), kind_of_pass([x]))
        return self._kept.find(kind, lambda: lay_out(alone, [x], [mixture], known))

    def at_once(self, choice: LayerChoice, x: Any) -> Any:
        """Return what calling returns, computed by itself and now."""
        if calls_are_watched() or not are_ordinary([x]):
            return choice.one_by_one(x)
        self._kept.look(choice)
        alone = OneEdge(choice)
        known = _known(alone, self._kept) or {}
        plain = ("identity", "zero", "pool", *(() if self._path == "native" else ("inverted", "stages", "chain")))
        gains = any(branch.form not in plain for branch in known.values())
        output = _evaluate(alone, [x], self._kept, self._path) if gains else None
        return choice.one_by_one(x) if output is None else output


def _known(cell: Wiring, kept: StructureCache) -> Mapping[int, Branch] | None:
    return kept.find("known", lambda: known_operations(cell))


def _evaluate(
    cell: Wiring, states: Sequence[Tensor], kept: StructureCache, path: Path, *, guarded: bool = False
) -> Tensor | None:
    """Return what the plain pass of layer choices returns; None if it must run as it is written."""
    known = _known(cell, kept)
    if not known:
        return None
    mixtures = [cast(LayerChoice, edge).mixture for edge in cell.edges]
    x = states[0]
    if not all(_mixes(mixture, x) for mixture in mixtures):
        return None
    states = [with_gradient_as_written(state, channels_last=is_channels_last(x)) for state in states]
    if guarded:
        states = [state.clone() for state in states]
    split = FastSplit(states, cell.partial_channels, cell.where)
    states = split.read
    active = tuple(tuple(mixture.active) for mixture in mixtures)
    kind = (active, kind_of_pass(states))
    layout = kept.find(kind, lambda: lay_out(cell, states, mixtures, known))
    if layout is None or (isinstance(cell, OneEdge) and layout.shapes[-1] is None):
        return None
    output = None
    if path == "grouped":
        output = grouped_cell.evaluate(cast(Cell, cell), split, mixtures, layout, kept, kind)
    elif path == "native":
        found = native_cell.evaluate(cell, split.whole, mixtures, layout, kept, kind)
        output = None if found is None else found[0]
        if output is None and isinstance(cell, OneEdge):
            output = inverted_choice.evaluate(cell, x, mixtures[0], layout, kept, kind)
    if output is None:
        with native.allowed(path == "native"):
            output = _by_node(cell, split, mixtures, layout)
    if guarded and cell.output == "last":  # others are joined, and so copied
        output = output.clone()
    return as_written(output, channels_last=is_channels_last(x))


def _mixes(mixture: Mixture, x: Tensor) -> bool:
    """Whether weights have the type of the images, or images have one that autocast chose."""
    weights = mixture.slots
    same = weights.dtype == x.dtype or (weights.dtype == torch.float32 and x.dtype in (torch.float16, torch.bfloat16))
    return same and weights.device == x.device


def _by_node(cell: Wiring, split: FastSplit, mixtures: Sequence[Mixture], layout: Layout) -> Tensor:
    states = split.read
    weights = [mixture.weights.unbind() for mixture in mixtures]
    channels_last = is_channels_last(split.whole[0])  # of a part of the channels it cannot be told
    leaving: list[list[Candidate]] = [[] for _ in layout.shapes]
    for c in layout.lowered():
        leaving[c.source].append(c)
    every: list[SharedFeatures] = []

    def add(x: Tensor, own: Sequence[Candidate]) -> None:
        known = [c.branch for c in own if c.branch]
        every.append(SharedFeatures(x, known, channels_last=channels_last))

    for number, x in enumerate(list(states)):
        add(x, leaving[number])
    for node, edges in enumerate(layout.entering):
        total = _Node(cell, every, edges, weights, mixtures).total()
        read = split.enter(total, [mixtures[edge.number].edge for edge in edges])
        shape = layout.shapes[cell.n_inputs + node]
        own = leaving[len(every)] if shape is None or read.shape == shape else []
        add(read, own)
    whole = split.whole if cell.partial_channels > 1 else [state.x for state in every]
    nodes = whole[cell.n_inputs :]
    return nodes[-1] if cell.output == "last" else joined(nodes)


class _Node:
    """The summands that enter one node."""

    def __init__(
        self,
        cell: Wiring,
        states: Sequence[SharedFeatures],
        edges: Sequence[Edge],
        weights: Sequence[Sequence[Tensor]],
        mixtures: Sequence[Mixture],
    ) -> None:
        self._cell = cell
        self._states = states
        self._edges = edges
        self._weights = weights
        self._mixtures = mixtures
        self._projected: dict[Any, list[tuple[Projected, Tensor]]] = {}
        self._rectified: dict[Any, list[tuple[Projected, Tensor]]] = {}
        self._weighted: list[tuple[Tensor, Tensor]] = []
        self._tracking: dict[torch.Size, list[tuple[nn.BatchNorm2d, Tensor, Tensor]]] = {}

    def total(self) -> Tensor:
        """Return the sum."""
        written: list[Tensor] = []
        offsets: list[Tensor] = []
        zeros: list[Edge] = []
        for edge in self._edges:
            state = self._states[edge.source]
            if edge.shape is None or not all(state.branch_of(c.operation) for c in edge.candidates if c.branch):
                y = self._cell.edges[edge.number](state.given)
                written.append(with_gradient_as_written(y, channels_last=is_channels_last(state.given)))
                continue
            for c in edge.candidates:
                if not (c.branch and c.branch.form == "zero"):
                    self._add(state, edge, c)
            offsets += offset_of(edge, self._mixtures[edge.number])
            zeros += [edge] if edge.gives_zeros() else []
        parts = self._lowered()
        if zeros and not parts:  # nothing but zeros: let one of them say of what shape
            zero = zeros[0].candidates[0]
            parts.append(zero.operation(self._states[zero.source].x) * self._weights[zero.edge][zero.place])
        offsets += [gradient_of_zeros(e, self._states[e.source].x, self._weights[e.number]) for e in zeros]
        if offsets:
            parts.append(torch.stack(offsets).sum())
        return reduce(add, parts + written)

    def _lowered(self) -> list[Tensor]:
        for shape, tracking in self._tracking.items():
            norms, means, variances = zip(*tracking, strict=True)
            track(norms, torch.stack(means), torch.stack(variances), shape.numel() // shape[1])
        parts: list[Tensor] = []
        for group in self._rectified.values():
            projected, weights = zip(*group, strict=True)
            self._weighted += zip(normalised(projected, relu=True), weights, strict=True)
        values, mixing = [value for value, _ in self._weighted], None
        if values:
            mixing = torch.stack([weight for _, weight in self._weighted])
        for group in self._projected.values():
            projected, weights = zip(*group, strict=True)
            parts.append(normalised_sum(projected, torch.stack(weights), values, mixing))
            values, mixing = [], None  # the first group took them
        if mixing is not None:
            parts.append(weighted_total(values, mixing))
        return parts

    def _add(self, state: SharedFeatures, edge: Edge, candidate: Candidate) -> None:
        branch, weight = candidate.branch, self._weights[candidate.edge][candidate.place]
        if branch is None or branch.is_for_programs:
            self._weighted.append((beside(self._cell, edge, candidate, state.given), weight))
        elif branch.form == "identity":
            self._weighted.append((state.x, weight))
        elif branch.form == "pool":
            self._weighted.append((state.pooled(cast(nn.Module, branch.layers[0])), weight))
        elif branch.form == "pool-norm":
            self._add_pool(state, branch, weight)
        elif (projected := state.projected(branch)) is not None:
            groups = self._rectified if branch.relu_behind else self._projected
            groups.setdefault(settings(projected), []).append((projected, weight))
        else:  # a convolution that is called as well
            convolution, norm = cast("tuple[Any, ...]", branch.layers)
            y = norm(convolution(state.relu if branch.relu_before else state.x))
            self._weighted.append((F.relu(y) if branch.relu_behind else y, weight))

    def _add_pool(self, state: SharedFeatures, branch: Branch, weight: Tensor) -> None:
        pool, norm = cast("tuple[nn.Module, nn.BatchNorm2d]", branch.layers)
        if not edges_share(norm):
            self._weighted.append((norm(state.pooled(pool)), weight))
            return
        output, mean, variance = state.pooled_and_normalised(pool, norm)
        self._tracking.setdefault(output.shape, []).append((norm, mean, variance))
        self._weighted.append((output, weight))
