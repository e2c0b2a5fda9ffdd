"""The forward pass of a cell in few large operations, for devices on which starting one costs as much as running it.

Everything that leaves a state is computed at once, whatever node it enters: candidates of one kind stand side by side
(`side_by_side`), with their mixing weights in the last BatchNorm; pools and skip connections, which all edges share,
are mixed by one product with the matrix of their weights. What enters a node is then a sum of slices. The DARTS cell
takes a third of the operations that it takes edge by edge.

An operation that is not recognised runs as a module, and its output is one more summand.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.cell import Cell
from archgrad.choices import Mixture
from archgrad.distributed.sync_batchnorm import is_synchronised
from archgrad.fast.biases import TwoGrids
from archgrad.fast.branches import Branch
from archgrad.fast.depthwise import Geometry
from archgrad.fast.fast_split import FastSplit
from archgrad.fast.grids import grids
from archgrad.fast.group_key import is_shared, settings_of, weights_of
from archgrad.fast.grouped_layers import (
    Order,
    Statistics,
    convolve,
    depthwise,
    normalise,
    project,
    stacked,
)
from archgrad.fast.lowering import Candidate, Edge, Layout, beside, gradient_of_zeros, offset_of
from archgrad.fast.products import wide
from archgrad.fast.recognise import is_pointwise
from archgrad.fast.sums import added, weighted_total
from archgrad.fast.unchanged import StructureCache
from archgrad.full_precision import full_precision

__all__ = ["evaluate"]

Groups = dict[Any, list[Candidate]]
"""Candidates of equal settings and places on their edges."""

_WIDEST = 256
"""Channels side by side up to which the zeros of a product cost less than more products."""


def evaluate(
    cell: Cell,
    split: FastSplit,
    mixtures: Sequence[Mixture],
    layout: Layout,
    kept: StructureCache,
    kind: Hashable,
) -> Tensor | None:
    """Return what the cell's plain forward pass returns; None where this is not the way.

    BatchNorms over several processes are not known here, nor nodes that only some edges enter lowered: what the others
    give may have a shape of its own.

    Args:
        cell: A cell with open edges.
        split: Its inputs, (B, C, H, W) each.
        mixtures: The mixture of every edge, in the order of `cell.edges`.
        layout: Of this pass.
        kept: Keeps what runs together.
        kind: What that depends on beside the cell.
    """
    together = kept.find(("raise_on_all_ranks", kind), lambda: _together(cell, layout))
    if together is None:
        return None
    weights = [mixture.weights for mixture in mixtures]
    nodes = [_Node(cell, edges, weights, mixtures) for edges in together.others]
    every = list(split.read)
    low = _autocast_type(every[0])
    statistics: list[Statistics] = []
    for number, (groups, edges) in enumerate(together.leaving):
        if number >= cell.n_inputs:
            node = number - cell.n_inputs
            weights_of_edges = [mixtures[edge.number].edge for edge in layout.entering[node]]
            every.append(split.enter(nodes[node].total(every), weights_of_edges))
        if groups:
            with full_precision(every[number]):
                _Leaving(every[number], groups, edges, weights, low).send(nodes, statistics)
    for seen in _joined(statistics):
        seen.track()
    return split.whole[-1] if cell.output == "last" else torch.cat(split.whole[cell.n_inputs :], dim=1)


class _Together(NamedTuple):
    """What of a cell runs together."""

    leaving: list[tuple[Groups, dict[int, int]]]
    """By state; and the number of every edge that leaves it, with the node that it enters."""
    others: list[list[Edge]]
    """By node; of lowered edges only the candidates that run as they are."""


def _together(cell: Cell, layout: Layout) -> _Together | None:
    mixed = any(len({edge.shape is None for edge in edges}) > 1 for edges in layout.entering)
    if mixed or any(map(is_synchronised, cell.modules())):
        return None
    leaving: list[tuple[Groups, dict[int, int]]] = [({}, {}) for _ in layout.shapes]
    others: list[list[Edge]] = []
    for node, entering in enumerate(layout.entering):
        others.append([])
        for edge in entering:
            rest: list[Candidate] = []
            leaving[edge.source][1][edge.number] = node
            for candidate in edge.candidates:
                settings = settings_of(candidate.branch) if candidate.branch and edge.shape else None
                if candidate.branch and candidate.branch.form == "zero" and not edge.gives_zeros():
                    continue  # the others say all
                if settings is None:
                    rest.append(candidate)
                else:
                    leaving[edge.source][0].setdefault((settings, candidate.place), []).append(candidate)
            others[-1].append(edge._replace(candidates=tuple(rest)))
    return _Together(leaving, others)


class _Node:
    """What enters one node."""

    def __init__(
        self, cell: Cell, edges: Sequence[Edge], weights: Sequence[Tensor], mixtures: Sequence[Mixture]
    ) -> None:
        self.summands: list[Tensor] = []
        self.weighted: list[tuple[Tensor, Tensor]] = []
        """Images with their mixing weights."""
        self._cell, self._edges, self._weights, self._mixtures = cell, edges, weights, mixtures

    def total(self, every: Sequence[Tensor]) -> Tensor:
        """Return the sum, from `every` state that comes before."""
        written: list[Tensor] = []
        offsets: list[Tensor] = []
        zeros: list[Edge] = []
        for edge in self._edges:
            if edge.shape is None:
                written.append(self._cell.edges[edge.number](every[edge.source]))
                continue
            offsets += offset_of(edge, self._mixtures[edge.number])
            if edge.candidates and edge.gives_zeros():
                zeros.append(edge)
                continue
            for c in edge.candidates:
                y = beside(self._cell, edge, c, every[c.source])
                self.weighted.append((y, self._weights[c.edge][c.place]))
        parts = list(self.summands)
        if self.weighted:
            values, weights = zip(*self.weighted, strict=True)
            parts.append(weighted_total(values, torch.stack(weights)))
        if zeros and not parts:  # nothing but zeros: let one of them say of what shape
            zero = zeros[0].candidates[0]
            parts.append(zero.operation(every[zero.source]) * self._weights[zero.edge][zero.place])
        offsets += [gradient_of_zeros(e, every[e.source], self._weights[e.number].unbind()) for e in zeros]
        if offsets:
            parts.append(torch.stack(offsets).sum())
        return added(parts) if parts else reduce(add, written)


class _Leaving:
    """What leaves one state."""

    def __init__(
        self,
        x: Tensor,
        groups: Groups,
        edges: Mapping[int, int],
        weights: Sequence[Tensor],
        low: torch.dtype | None,
    ) -> None:
        self._whole = x.contiguous()
        self._x = self._whole if low is None else self._whole.to(low)
        self._groups, self._edges, self._weights, self._low = groups, edges, weights, low
        rows = [weights[edge] for edge in edges]
        least = min(map(len, rows))  # a place that every edge has
        self._columns = torch.stack([row if len(row) == least else row[:least] for row in rows]).unbind(1)

    def send(self, nodes: Sequence[_Node], statistics: list[Statistics]) -> None:
        """Hand the nodes what they get from this state."""
        everywhere: list[Tensor] = []  # (B, E C, H, W), of all edges in their order
        values: list[tuple[Tensor, Tensor]] = []  # (B, C, H, W) for all edges, with the weights (E,)
        layered: list[list[Candidate]] = []
        for group in self._groups.values():
            if not is_shared(_branch(group[0])):
                most = max(1, _WIDEST // self._x.shape[1])
                layered += [group[first : first + most] for first in range(0, len(group), most)]
                continue
            value = self._value(group, statistics)
            if len(group) == len(self._edges):
                values.append((value, self._columns[group[0].place]))
            else:
                for c in group:
                    nodes[c.node].weighted.append((value, self._weights[c.edge][c.place]))
        if values:
            everywhere.append(_mixed(values))
        relu = F.relu(self._x) if layered else self._x
        parameters = stacked(
            [list(w) for g in layered for w in zip(*(weights_of(_branch(c)) for c in g), strict=True)], self._low
        )
        for group in layered:
            y = self._outputs(relu, group, parameters, statistics)
            if len(group) == len(self._edges):
                everywhere.append(y)
            else:
                for c, part in zip(group, y.unflatten(1, (len(group), -1)).unbind(1), strict=True):
                    nodes[c.node].summands.append(part)
        if everywhere:
            parts = added(everywhere).unflatten(1, (len(self._edges), -1)).unbind(1)
            for node, part in zip(self._edges.values(), parts, strict=True):
                nodes[node].summands.append(part)

    def _value(self, group: Sequence[Candidate], statistics: list[Statistics]) -> Tensor:
        """What a group without weights of its own makes of the state, the same for each of it."""
        branch = _branch(group[0])
        if branch.form == "identity":
            return self._whole
        if branch.form == "pool":
            return group[0].operation(self._x)
        norms = [cast(nn.BatchNorm2d, _branch(c).layers[1]) for c in group]
        y, seen = normalise(cast(nn.Module, branch.layers[0])(self._x), norms[:1], None)
        assert seen is not None
        rows = (len(norms), -1)
        statistics.append(Statistics(norms, seen.mean.expand(rows), seen.inverse.expand(rows), seen.pixels))
        return y

    def _outputs(
        self, relu: Tensor, group: Sequence[Candidate], parameters: Iterator[Tensor], statistics: list[Statistics]
    ) -> Tensor:
        """The outputs of a group side by side, times their mixing weights."""
        if len(group) == len(self._edges):
            scale = self._columns[group[0].place]
        else:
            scale = torch.stack([self._weights[c.edge][c.place] for c in group])
        x: Tensor = relu
        order_of_x: Order = "shared"
        layers = list(zip(*(_branch(c).layers for c in group), strict=True))
        for number, modules in enumerate(layers):
            first = modules[0]
            if isinstance(first, TwoGrids):
                x = _both_halves(x, next(parameters), next(parameters))
            elif isinstance(first, nn.BatchNorm2d):
                x, seen = normalise(x, cast("Any", modules), scale if number == len(layers) - 1 else None)
                if seen is not None:
                    statistics.append(seen)
            elif isinstance(first, nn.ReLU):
                x = F.relu(x, inplace=True)  # BatchNorm does not keep its output
            elif is_pointwise(cast(nn.Conv2d, first)):
                x, order_of_x = project(x, next(parameters).flatten(2), order_of_x), "layer first"
            elif (geometry := Geometry.of(cast(nn.Conv2d, first))) is not None:
                x, order_of_x = depthwise(x, next(parameters), geometry, order_of_x)
            else:
                x, order_of_x = convolve(x, next(parameters), cast(nn.Conv2d, first)), "layer first"
        return x


def _branch(candidate: Candidate) -> Branch:
    """What a candidate consists of that runs together with others."""
    return cast(Branch, candidate.branch)


def _both_halves(x: Tensor, even: Tensor, odd: Tensor) -> Tensor:
    """The convolutions of FactorizedReduces; (E, O / 2, C, 1, 1) each."""
    halves = [project(z, w.flatten(2), "shared") for z, w in zip(grids(x), (even, odd), strict=True)]
    return torch.stack([half.unflatten(1, (len(even), -1)) for half in halves], dim=2).flatten(1, 3)


def _mixed(values: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Sums of images for E edges, (B, E C, H, W), in single precision at least."""
    images = torch.stack([wide(value) for value, _ in values], dim=1)
    weights = torch.stack([weight for _, weight in values], dim=1).to(images.dtype)
    mixed = torch.bmm(weights.expand(len(images), -1, -1), images.flatten(2))
    return mixed.view(len(images), -1, *images.shape[3:])


def _joined(statistics: Sequence[Statistics]) -> Iterator[Statistics]:
    """Statistics that can be tracked together, as one."""
    groups: dict[Any, list[Statistics]] = {}
    for seen in statistics:
        groups.setdefault((seen.pixels, seen.mean.shape[1], seen.norms[0].eps), []).append(seen)
    for (pixels, _, _), group in groups.items():
        mean, inverse = torch.cat([seen.mean for seen in group]), torch.cat([seen.inverse for seen in group])
        yield Statistics([norm for seen in group for norm in seen.norms], mean, inverse, pixels)


def _autocast_type(x: Tensor) -> torch.dtype | None:
    """What autocast would compute convolutions in; None where it is off."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)
