"""The forward pass of a cell, shared where edges share.

All edges that leave one state read the same ReLU, pools and first depthwise convolutions' input; all edges that enter
one node end in the same sum. So work is done state by state and node by node:

- a `State` (in `states`) computes what leaves it once, and keeps it for all of its edges;
- a `_Node` collects the summands that enter it and adds them in as few products as it can.

An operation that is not recognised runs as a module, and its output is one more summand. Cells in which the compiled
kernels know everything are computed as a whole instead (`whole`), and cells on another device than the CPU in fewer and
larger operations (`gathered`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from archgrad.cell import Cell
from archgrad.choices import Mixture
from archgrad.distributed.norms import is_synchronised
from archgrad.fast.edges import candidates_of, offsets_of
from archgrad.fast.gathered import GatheredCell, gathers
from archgrad.fast.normalised import Projected, normalised_sum, settings
from archgrad.fast.norms import track, uses_batch
from archgrad.fast.recognise import is_projection
from archgrad.fast.states import State
from archgrad.fast.sums import joined, weighted_total
from archgrad.fast.whole import WholeCell
from archgrad.operations import PoolBN, Zero

__all__ = ["CellEvaluator"]

Edge = tuple[int, nn.Module, Tensor]
"""(source, candidate, mixing weight)."""


class CellEvaluator:
    """The fast forward pass of one cell."""

    def __init__(self) -> None:
        self._whole, self._gathered = WholeCell(), GatheredCell()

    def __call__(self, cell: Cell, states: Sequence[Tensor], mixtures: Sequence[Mixture]) -> Tensor:
        """Return what the cell's plain forward pass returns.

        Args:
            cell: A cell with open edges, always the same.
            states: Its inputs, (B, C, H, W) each.
            mixtures: The mixture of every edge, in the order of `cell.edges`.
        """
        way = self._gathered if gathers(states) else self._whole
        output = way.evaluate(cell, states, mixtures)
        return _by_node(cell, states, mixtures) if output is None else output


def _by_node(cell: Cell, states: Sequence[Tensor], mixtures: Sequence[Mixture]) -> Tensor:
    weights = [mixture.weights.unbind() for mixture in mixtures]
    entering: list[list[Edge]] = [[] for _ in range(cell.n_nodes)]
    leaving: list[list[nn.Module]] = [[] for _ in range(cell.n_inputs + cell.n_nodes)]
    for c in candidates_of(cell, mixtures):
        entering[c.node].append((c.source, c.operation, weights[c.edge][c.place]))
        leaving[c.source].append(c.operation)
    every = [State(x, leaving[i]) for i, x in enumerate(states)]
    for node, (edges, offsets) in enumerate(zip(entering, offsets_of(cell, mixtures), strict=True)):
        total = _Node(every, edges).total()
        if offsets:
            total = total + torch.stack(offsets).sum()
        every.append(State(total, leaving[cell.n_inputs + node]))
    return every[-1].x if cell.output == "last" else joined([state.x for state in every[cell.n_inputs :]])


class _Node:
    """The summands that enter one node."""

    def __init__(self, states: Sequence[State], edges: Sequence[Edge]) -> None:
        self._states = states
        self._edges = edges
        self._projected: dict[Any, list[tuple[Projected, Tensor]]] = {}
        self._weighted: list[tuple[Tensor, Tensor]] = []
        self._tracking: dict[torch.Size, list[tuple[nn.BatchNorm2d, Tensor, Tensor]]] = {}
        self._whole: list[Tensor] = []

    def total(self) -> Tensor:
        """Return the sum."""
        for source, operation, weight in self._edges:
            self._add(self._states[source], operation, weight)
        for shape, tracking in self._tracking.items():
            norms, means, variances = zip(*tracking, strict=True)
            track(norms, torch.stack(means), torch.stack(variances), shape.numel() // shape[1])
        parts = self._whole
        values, mixing = [value for value, _ in self._weighted], None
        if values:
            mixing = torch.stack([weight for _, weight in self._weighted])
        for group in self._projected.values():
            projected, weights = zip(*group, strict=True)
            parts.append(normalised_sum(projected, torch.stack(weights), values, mixing))
            values, mixing = [], None  # the first group took them
        if mixing is not None:
            parts.append(weighted_total(values, mixing))
        if not parts:  # nothing but zeros: let one of them say of what shape
            source, operation, weight = self._edges[0]
            parts.append(operation(self._states[source].x) * weight)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _add(self, state: State, operation: nn.Module, weight: Tensor) -> None:
        if isinstance(operation, Zero):
            return
        if not state.knows(operation):
            self._weighted.append((operation(state.x), weight))
        elif isinstance(operation, nn.Identity):
            self._weighted.append((state.x, weight))
        elif isinstance(operation, nn.MaxPool2d | nn.AvgPool2d):
            self._weighted.append((state.pooled(operation), weight))
        elif isinstance(operation, PoolBN):
            self._add_pool(state, operation, weight)
        elif is_projection(operation):
            projected = state.projected(operation)
            self._projected.setdefault(settings(projected), []).append((projected, weight))
        else:  # a ReLUConvBN of larger kernel
            _, convolution, norm = cast("list[nn.Module]", list(cast(nn.Sequential, operation.op)))
            self._weighted.append((norm(convolution(state.relu)), weight))

    def _add_pool(self, state: State, operation: PoolBN, weight: Tensor) -> None:
        pool, norm = cast("tuple[nn.Module, nn.BatchNorm2d]", tuple(operation))
        if not uses_batch(norm) or is_synchronised(norm):
            self._weighted.append((norm(state.pooled(pool)), weight))
            return
        output, mean, variance = state.pooled_and_normalised(pool, norm)
        self._tracking.setdefault(output.shape, []).append((norm, mean, variance))
        self._weighted.append((output, weight))
