"""A whole cell as one program for the compiled kernels, where they know everything in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from archgrad.cell import Cell
from archgrad.choices import LayerChoice, Mixture
from archgrad.distributed.norms import is_synchronised
from archgrad.fast import native
from archgrad.fast.depthwise import Geometry
from archgrad.fast.grids import grid_size
from archgrad.fast.norms import track, uses_batch
from archgrad.fast.pointwise import NATIVE_UP_TO
from archgrad.fast.recognise import as_native_pool, is_known, is_projection, kind_of
from archgrad.operations import DilConv, FactorizedReduce, PoolBN, ReLUConvBN, SepConv, Zero

__all__ = ["evaluate_whole"]

Size = tuple[int, int]


class _UnknownError(Exception):
    """The kernels do not compute this cell."""


def evaluate_whole(cell: Cell, states: Sequence[Tensor], mixtures: Sequence[Mixture]) -> Tensor | None:
    """Return what the cell's plain forward pass returns; None where that takes more than the kernels know.

    Args:
        cell: A cell with open edges.
        states: Its inputs, (B, C, H, W) each.
        mixtures: The mixture of every edge, in the order of `cell.edges`.
    """
    if not native.takes(*states) or any(x.dim() != 4 or x.shape != states[0].shape for x in states):
        return None
    if states[0].shape[1] > NATIVE_UP_TO or any(mixture.reaches_inactive for mixture in mixtures):
        return None
    try:
        recorder = _Recorder(cell, states[0], mixtures)
    except _UnknownError:
        return None
    mixing = torch.cat([mixture.weights for mixture in mixtures])[recorder.mixing]
    if not native.takes(states[0], *recorder.weights, *recorder.projections, mixing):
        return None
    outputs = range(cell.n_inputs, cell.n_inputs + cell.n_nodes)
    program = native.Program(
        cell.n_inputs,
        tuple(recorder.steps),
        tuple(recorder.of_state[state] for state in (outputs if cell.output == "concat" else outputs[-1:])),
    )
    y, mean, variance = native.run_program(program, states, recorder.weights, recorder.projections, mixing)
    for count, tracked in recorder.tracked.items():
        norms, rows = zip(*tracked, strict=True)
        track(norms, mean[list(rows)], variance[list(rows)], count)
    return y


class _Recorder:
    """The steps of a cell in their order, with what they read beside images."""

    def __init__(self, cell: Cell, x: Tensor, mixtures: Sequence[Mixture]) -> None:
        self.steps: list[native.Step] = []
        self.weights: list[Tensor] = []
        self.projections: list[Tensor] = []
        self.mixing: list[int] = []
        """Which mixing weights are used, counted through all edges."""
        self.tracked: dict[int, list[tuple[nn.BatchNorm2d, int]]] = {}
        """By the number of pixels: a norm, and the row of the statistics that it would have seen."""
        self.of_state = list(range(cell.n_inputs))
        """The image that each state is."""
        self._batch, self._channels = x.shape[:2]
        self._sizes: list[Size] = [(x.shape[2], x.shape[3])] * cell.n_inputs  # of the images
        self._rows = 0
        self._eps: set[float] = set()
        self._pooled: dict[tuple[int, native.Pool], int] = {}
        self._first_halves: dict[int, int] = {}
        entering, leaving = _edges(cell, mixtures)
        for state in range(cell.n_inputs + cell.n_nodes):
            if state >= cell.n_inputs:
                self._enter(entering[state - cell.n_inputs])
            self._pool(state, leaving[state])
            self._halve(state, leaving[state])

    def _pool(self, state: int, operations: Sequence[nn.Module]) -> None:
        """Record the pools of a state, each once for all edges."""
        image = self.of_state[state]
        pools: dict[native.Pool, list[nn.BatchNorm2d]] = {}
        for operation in operations:
            if kind_of(operation) is PoolBN:
                pool, norm = _pool_and_norm(operation)
                pools.setdefault(pool, []).append(norm)
        groups: dict[Size, list[native.Pool]] = {}
        for pool in pools:
            groups.setdefault(pool.output_size(self._sizes[image]), []).append(pool)
        for size, group in groups.items():
            for k, pool in enumerate(group):
                self._pooled[state, pool] = len(self._sizes) + k
                self._normalise(pools[pool], size)
            self._record([(image, native.Unit(0, projected=False, pool=pool)) for pool in group], size)

    def _halve(self, state: int, operations: Sequence[nn.Module]) -> None:
        """Record the first halves of the separable convolutions of a state."""
        image = self.of_state[state]
        groups: dict[Size, list[nn.Module]] = {}
        for operation in operations:
            if kind_of(operation) is SepConv:
                stages: Any = operation.op
                groups.setdefault(_output_size(stages[1], self._sizes[image]), []).append(operation)
        for size, group in groups.items():
            units = []
            for k, operation in enumerate(group):
                self._first_halves[id(operation)] = len(self._sizes) + k
                units.append((image, self._project(list(operation.op)[1:4], size, relu=True)))  # type: ignore[arg-type]
            self._record(units, size, relu=True)

    def _enter(self, edges: Sequence[tuple[int, nn.Module, int]]) -> None:
        """Record the sum that enters a node."""
        terms: list[tuple[int, native.Unit]] = []
        values: list[tuple[int, native.Unit]] = []
        of_terms: list[int] = []
        of_values: list[int] = []
        sizes: set[Size] = set()
        for source, operation, number in edges:
            kind, image = kind_of(operation), self.of_state[source]
            if kind in (nn.Identity, PoolBN):
                image = image if kind is nn.Identity else self._pooled[source, _pool_and_norm(operation)[0]]
                size = self._sizes[image]
                values.append((image, native.Unit(0, projected=False)))
                of_values.append(number)
            elif kind is FactorizedReduce:
                size = grid_size(self._sizes[image])
                terms.append((image, self._reduce(cast(FactorizedReduce, operation), size)))
                of_terms.append(number)
            else:
                _require(kind in (ReLUConvBN, SepConv, DilConv) and is_projection(operation))
                stages: Any = list(operation.op)  # type: ignore[arg-type]
                if kind is SepConv:
                    image = self._first_halves[id(operation)]
                size = self._sizes[image] if kind is ReLUConvBN else _output_size(stages[-3], self._sizes[image])
                last = stages[-2:] if kind is ReLUConvBN else stages[-3:]
                terms.append((image, self._project(last, size, relu=kind is not SepConv)))
                of_terms.append(number)
            sizes.add(size)
        _require(len(sizes) == 1)
        self.of_state.append(len(self._sizes))
        self.mixing += of_terms + of_values
        self._record(terms + values, sizes.pop(), summed=True)

    def _project(self, stages: Sequence[Any], size: Size, *, relu: bool) -> native.Unit:
        """A unit of a projection and its BatchNorm, with a depthwise convolution before them if there are three."""
        *before, pointwise, norm = stages
        geometry = Geometry.of(before[0]) if before else None
        if before:
            weight = before[0].weight
            _require(geometry is not None and native.understands(geometry, weight.shape[2:]))
            _require(weight.shape[:2] == (self._channels, 1))
            self.weights.append(weight)
        _require(pointwise.weight.shape == (self._channels, self._channels, 1, 1))
        self.projections.append(pointwise.weight)
        self._normalise([norm], size)
        return native.Unit(0, geometry, relu=relu)

    def _reduce(self, operation: FactorizedReduce, size: Size) -> native.Unit:
        projection = torch.cat([operation.conv_1.weight, operation.conv_2.weight])
        _require(projection.shape == (self._channels, self._channels, 1, 1))
        self.projections.append(projection)
        self._normalise([operation.bn], size)
        return native.Unit(0, relu=True, factorized=True)

    def _normalise(self, norms: Sequence[nn.BatchNorm2d], size: Size) -> None:
        """Give the next row of the statistics to these."""
        _require(all(uses_batch(n) and not n.affine and not is_synchronised(n) for n in norms))
        self._eps.update(norm.eps for norm in norms)
        _require(len(self._eps) == 1)
        tracked = self.tracked.setdefault(self._batch * size[0] * size[1], [])
        tracked.extend((norm, self._rows) for norm in norms)
        self._rows += 1

    def _record(
        self, units: Sequence[tuple[int, native.Unit]], size: Size, *, relu: bool = False, summed: bool = False
    ) -> None:
        reads = tuple(dict.fromkeys(image for image, _ in units))
        numbered = tuple(unit._replace(input=reads.index(image)) for image, unit in units)
        eps = next(iter(self._eps), 1e-5)
        self.steps.append(native.Step(native.Plan(numbered, eps, relu=relu, summed=summed), reads))
        self._sizes += [size] * (1 if summed else len(units))


def _edges(
    cell: Cell, mixtures: Sequence[Mixture]
) -> tuple[list[list[tuple[int, nn.Module, int]]], list[list[nn.Module]]]:
    """What enters each node, as (source, operation, number of its mixing weight), and what leaves each state."""
    entering: list[list[tuple[int, nn.Module, int]]] = [[] for _ in range(cell.n_nodes)]
    leaving: list[list[nn.Module]] = [[] for _ in range(cell.n_inputs + cell.n_nodes)]
    seen: set[int] = set()
    first = 0
    for (source, node), edge, mixture in zip(cell.pairs, cell.edges, mixtures, strict=True):
        candidates = cast(LayerChoice, edge).candidates
        for k in mixture.active:
            operation = candidates[k]
            if isinstance(operation, Zero):
                continue
            # an instance that runs twice moves its statistics twice
            _require(is_known(operation) and id(operation) not in seen)
            seen.add(id(operation))
            entering[node - cell.n_inputs].append((source, operation, first + k))
            leaving[source].append(operation)
        first += len(candidates)
    return entering, leaving


def _pool_and_norm(operation: nn.Module) -> tuple[native.Pool, nn.BatchNorm2d]:
    pool, norm = cast("tuple[nn.Module, nn.BatchNorm2d]", tuple(cast(PoolBN, operation)))
    kernel = as_native_pool(pool)
    if kernel is None:
        raise _UnknownError
    return kernel, norm


def _output_size(convolution: nn.Conv2d, size: Size) -> Size:
    geometry = Geometry.of(convolution)
    if geometry is None:
        raise _UnknownError
    height, width = geometry.output_size(size, convolution.weight.shape[2:])
    return height, width


def _require(condition: bool) -> None:
    if not condition:
        raise _UnknownError
