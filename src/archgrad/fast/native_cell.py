"""A whole cell as one program for the compiled kernels, where they know everything in it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from archgrad.cell import Cell
from archgrad.choices import Mixture
from archgrad.distributed.sync_batchnorm import is_synchronised
from archgrad.fast import native
from archgrad.fast.batch_norms import track, uses_batch
from archgrad.fast.depthwise import Geometry
from archgrad.fast.grids import grid_size
from archgrad.fast.lowering import Candidate, Layout
from archgrad.fast.pointwise import NATIVE_UP_TO
from archgrad.fast.recognise import as_native_pool, is_projection, kind_of, stages_of
from archgrad.fast.unchanged import StructureCache
from archgrad.operations import DilConv, FactorizedReduce, PoolBN, ReLUConvBN, SepConv, Zero

__all__ = ["evaluate"]

Size = tuple[int, int]


class _UnknownError(Exception):
    """The kernels do not compute this cell."""


def evaluate(
    cell: Cell,
    states: Sequence[Tensor],
    mixtures: Sequence[Mixture],
    layout: Layout,
    kept: StructureCache,
    kind: Hashable,
) -> Tensor | None:
    """Return what the cell's plain forward pass returns; None where that takes more than the kernels know.

    Args:
        cell: A cell with open edges.
        states: Its inputs, (B, C, H, W) each.
        mixtures: The mixture of every edge, in the order of `cell.edges`.
        layout: Of this pass.
        kept: Keeps the recorded program.
        kind: What the program depends on beside the cell.
    """
    if not native.takes(*states) or any(x.shape != states[0].shape for x in states):
        return None
    if states[0].shape[1] > NATIVE_UP_TO or any(mixture.straight_through for mixture in mixtures):
        return None
    with torch.inference_mode(False):  # what is kept serves other passes, too
        recorded = kept.find(("whole", kind), lambda: _record(cell, layout))
    if recorded is None:
        return None
    weights, projections = recorded.weights(), recorded.projections()
    mixing = torch.cat([mixture.weights for mixture in mixtures])[recorded.mixing]
    if not native.takes(states[0], *weights, *projections, mixing):
        return None
    y, mean, variance = native.run_program(recorded.program, states, weights, projections, mixing)
    for count, norms, rows in recorded.tracked:
        track(norms, mean[rows], variance[rows], count)
    return y


class _Recorded(NamedTuple):
    """A cell's program, and where its operands are read at every pass."""

    program: native.Program
    convolved: list[nn.Conv2d]
    """Depthwise convolutions in the order of their units."""
    projected: list[nn.Conv2d | FactorizedReduce]
    """What the projections are of."""
    mixing: Tensor
    """(K,), which mixing weights are used, counted through all edges."""
    tracked: list[tuple[int, list[nn.BatchNorm2d], Tensor]]
    """Number of pixels, norms, and the row of the statistics that each would have seen."""

    def weights(self) -> list[Tensor]:
        """The kernels of the depthwise convolutions."""
        return [convolution.weight for convolution in self.convolved]

    def projections(self) -> list[Tensor]:
        """The pointwise ones, (O, C, 1, 1) each."""
        return [
            torch.cat([module.conv_1.weight, module.conv_2.weight])
            if isinstance(module, FactorizedReduce)
            else module.weight
            for module in self.projected
        ]


def _record(cell: Cell, layout: Layout) -> _Recorded | None:
    try:
        return _Recorder(cell, layout).recorded()
    except _UnknownError:
        return None


class _Found(NamedTuple):
    """A unit of a step, and what belongs to it."""

    image: int
    """Which it reads."""
    unit: native.Unit
    size: Size
    """(H, W) of what it gives."""
    norms: Sequence[nn.BatchNorm2d] = ()
    """Those that see its statistics."""
    mixing: int | None = None
    """Number of its mixing weight, counted through all edges."""


class _Recorder:
    """The steps of a cell in their order, with what they read beside images."""

    def __init__(self, cell: Cell, layout: Layout) -> None:
        self.steps: list[native.Step] = []
        self.convolved: list[nn.Conv2d] = []
        self.projected: list[nn.Conv2d | FactorizedReduce] = []
        self.mixing: list[int] = []
        self.tracked: dict[int, list[tuple[nn.BatchNorm2d, int]]] = {}  # by the number of pixels, each with its row
        self.of_state = list(range(cell.n_inputs))
        """The image that each state is."""
        self._cell = cell
        _require(layout.is_whole() and not any(edge.gives_zeros() for edges in layout.entering for edge in edges))
        self._batch, self._channels, height, width = cast("tuple[int, int, int, int]", layout.shapes[0])
        self._sizes: list[Size] = [(height, width)] * cell.n_inputs  # of the images
        self._rows = 0
        self._eps: set[float] = set()
        self._pooled: dict[tuple[int, native.Pool], int] = {}
        self._first_halves: dict[int, int] = {}
        entering: list[list[Candidate]] = [[] for _ in range(cell.n_nodes)]
        leaving: list[list[nn.Module]] = [[] for _ in range(cell.n_inputs + cell.n_nodes)]
        for candidate in layout.lowered():
            if isinstance(candidate.operation, Zero):
                continue
            entering[candidate.node].append(candidate)
            leaving[candidate.source].append(candidate.operation)
        for state in range(cell.n_inputs + cell.n_nodes):
            if state >= cell.n_inputs:
                self._enter(entering[state - cell.n_inputs])
            self._pool(state, leaving[state])
            self._halve(state, leaving[state])
        _require(self._rows > 0)  # sums alone are done as well without

    def recorded(self) -> _Recorded:
        """Return what was recorded."""
        first = self._cell.n_inputs
        outputs = self.of_state[first:] if self._cell.output == "concat" else self.of_state[-1:]
        tracked = []
        for count, seen in self.tracked.items():
            norms, rows = zip(*seen, strict=True)
            tracked.append((count, list(norms), torch.tensor(rows, device="cpu")))
        program = native.Program(first, tuple(self.steps), tuple(outputs))
        return _Recorded(program, self.convolved, self.projected, torch.tensor(self.mixing, device="cpu"), tracked)

    def _pool(self, state: int, operations: Sequence[nn.Module]) -> None:
        """Record the pools of a state, each once for all edges."""
        image = self.of_state[state]
        norms: dict[native.Pool, list[nn.BatchNorm2d]] = {}
        for operation in operations:
            if kind_of(operation) is PoolBN:
                pool, norm = _pool_and_norm(operation)
                norms.setdefault(pool, []).append(norm)
        found: list[_Found] = []
        for pool, own in norms.items():
            self._pooled[state, pool] = len(self._sizes) + len(found)
            size = pool.output_size(self._sizes[image])
            found.append(_Found(image, native.Unit(0, projected=False, pool=pool), size, own))
        self._record(found)

    def _halve(self, state: int, operations: Sequence[nn.Module]) -> None:
        """Record the first halves of the separable convolutions of a state."""
        found: list[_Found] = []
        for operation in operations:
            if kind_of(operation) is SepConv:
                self._first_halves[id(operation)] = len(self._sizes) + len(found)
                found.append(self._project(self.of_state[state], stages_of(operation)[1:4], relu=True))
        self._record(found, relu=True)

    def _enter(self, candidates: Sequence[Candidate]) -> None:
        """Record the sum that enters a node."""
        terms: list[_Found] = []
        values: list[_Found] = []
        for candidate in candidates:
            source, operation, number = candidate.source, candidate.operation, candidate.number
            kind, image = kind_of(operation), self.of_state[source]
            if kind in (nn.Identity, PoolBN):
                image = image if kind is nn.Identity else self._pooled[source, _pool_and_norm(operation)[0]]
                values.append(_Found(image, native.Unit(0, projected=False), self._sizes[image], mixing=number))
                continue
            if kind is FactorizedReduce:
                found = self._reduce(image, cast(FactorizedReduce, operation))
            elif kind is SepConv:
                found = self._project(self._first_halves[id(operation)], stages_of(operation)[5:], relu=False)
            else:
                _require(kind in (ReLUConvBN, DilConv) and is_projection(operation))
                found = self._project(image, stages_of(operation)[1:], relu=True)
            terms.append(found._replace(mixing=number))
        _require(bool(candidates))
        self.of_state.append(len(self._sizes))
        self._record(terms + values, summed=True)

    def _project(self, image: int, stages: Sequence[Any], *, relu: bool) -> _Found:
        """A projection and its BatchNorm, with a depthwise convolution before them if there are three stages."""
        *before, pointwise, norm = stages
        size, geometry = self._sizes[image], None
        if before:
            weight, geometry = before[0].weight, Geometry.of(before[0])
            if geometry is None or not native.understands(geometry, weight.shape[2:]):
                raise _UnknownError
            _require(weight.shape[:2] == (self._channels, 1))
            self.convolved.append(before[0])
            height, width = geometry.output_size(size, weight.shape[2:])
            size = (height, width)
        _require(pointwise.weight.shape == (self._channels, self._channels, 1, 1))
        self.projected.append(pointwise)
        return _Found(image, native.Unit(0, geometry, relu=relu), size, [norm])

    def _reduce(self, image: int, operation: FactorizedReduce) -> _Found:
        even, odd = operation.conv_1.weight.shape, operation.conv_2.weight.shape
        _require(even[0] + odd[0] == self._channels and even[1:] == odd[1:] == (self._channels, 1, 1))
        self.projected.append(operation)
        unit = native.Unit(0, relu=True, factorized=True)
        return _Found(image, unit, grid_size(self._sizes[image]), [operation.bn])

    def _record(self, found: Sequence[_Found], *, relu: bool = False, summed: bool = False) -> None:
        if not found:
            return
        size = found[0].size
        for one in found:
            _require(one.size == size)
            for norm in one.norms:
                _require(uses_batch(norm) and not norm.affine and not is_synchronised(norm))
                self._eps.add(norm.eps)
                self.tracked.setdefault(self._batch * size[0] * size[1], []).append((norm, self._rows))
            self._rows += bool(one.norms)
        _require(len(self._eps) <= 1)
        reads = tuple(dict.fromkeys(one.image for one in found))
        at = {image: k for k, image in enumerate(reads)}
        units = tuple(one.unit._replace(input=at[one.image]) for one in found)
        plan = native.Plan(units, next(iter(self._eps), 1e-5), relu=relu, summed=summed)
        self.steps.append(native.Step(plan, reads))
        self.mixing += [one.mixing for one in found if one.mixing is not None]
        self._sizes += [size] * (1 if summed else len(found))


def _pool_and_norm(operation: nn.Module) -> tuple[native.Pool, nn.BatchNorm2d]:
    pool, norm = cast("tuple[nn.Module, nn.BatchNorm2d]", tuple(cast(PoolBN, operation)))
    kernel = as_native_pool(pool)
    if kernel is None:
        raise _UnknownError
    return kernel, norm


def _require(condition: bool) -> None:
    if not condition:
        raise _UnknownError
