"""What a cell's program consists of: the steps in their order, and what they read beside images."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from archgrad.added_noise import AddedNoise
from archgrad.choices import LayerChoice
from archgrad.distributed.sync_batchnorm import is_synchronised
from archgrad.fast import native
from archgrad.fast.batch_norms import track, uses_batch
from archgrad.fast.biases import TwoGrids, with_biases
from archgrad.fast.branches import Branch, Layer, Shape, output_size
from archgrad.fast.depthwise import Geometry
from archgrad.fast.grids import grid_size
from archgrad.fast.lowering import Candidate, DerivedWiring, FreeWiring, Layout, Wiring
from archgrad.fast.recognise import as_native_pool, as_wide, is_pointwise

__all__ = ["Recorded", "record"]

Size = tuple[int, int]
_HALF = native.Pool("max", 2, 2, over_edge=True)
"""How what passes by a node of half the size is read (see `archgrad.partial_channels`)."""


class _UnknownError(Exception):
    """The kernels do not compute this cell."""


class Recorded(NamedTuple):
    """A cell's program, and where its operands are read at every pass."""

    program: native.Program
    convolved: list[nn.Conv2d]
    """Depthwise convolutions in the order of their units."""
    projected: list[nn.Conv2d | TwoGrids]
    """What the projections are of, wide ones included; a depthwise convolution that has none behind it stands for the
    one that changes nothing."""
    biased: list[tuple[int, list[nn.Conv2d]]]
    """Number of a projection, and the convolutions with biases of its operation, or of all that enter the same node."""
    mixing: list[tuple[slice, Tensor]]
    """Edges, and (K,), which of their mixing weights are used, counted through them; behind those of all edges the
    weights of the edges themselves are counted. One for all of a cell, or one for every node."""
    noisy: list[nn.Module]
    """To whose output noise is added, in training mode."""
    tracked: list[tuple[int, list[nn.BatchNorm2d], Tensor]]
    """Number of pixels, norms, and the row of the statistics that each would have seen."""
    norms: list[nn.BatchNorm2d]
    """The first of those that see each row of the statistics."""

    def weights(self) -> list[Tensor]:
        """The kernels of the depthwise convolutions."""
        return [convolution.weight for convolution in self.convolved]

    def projections(self) -> list[Tensor]:
        """The others, (O, C, k, k) each."""
        found = list(map(_projection_of, self.projected))
        for number, convolutions in self.biased:
            found[number] = with_biases(found[number], [convolution.bias for convolution in convolutions])
        return found

    def move_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Let the BatchNorms see those of a batch, a row for each unit with one."""
        for count, norms, rows in self.tracked:
            track(norms, mean[rows], variance[rows], count)


def record(cell: Wiring, layout: Layout, *, weighted: bool = False) -> Recorded | None:
    """Return a cell's program; None if it takes more than the kernels know.

    Args:
        cell: See `native_cell.evaluate`; or a `DerivedWiring`.
        layout: Of the pass.
        weighted: Whether edges have weights of their own.
    """
    try:
        return _Recorder(cell, layout, weighted).recorded()
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

    def __init__(self, cell: Wiring, layout: Layout, weighted: bool) -> None:
        self.steps: list[native.Step | native.OtherStep] = []
        self.convolved: list[nn.Conv2d] = []
        self.projected: list[nn.Conv2d | TwoGrids] = []
        self.biased: list[tuple[int, list[nn.Conv2d]]] = []
        self.mixing: list[int] = []
        self.noisy: list[nn.Module] = []
        self.tracked: dict[int, list[tuple[nn.BatchNorm2d, int]]] = {}  # by the number of pixels, each with its row
        self.of_state = list(range(cell.n_inputs))
        """The image that operations read of each state."""
        self.whole = self.of_state
        """The image that each state is; the same unless channels are partial."""
        self._cell, self._layout, self._weighted = cell, layout, weighted
        self._is_derived = isinstance(cell, DerivedWiring)
        _require(layout.is_whole() and not any(edge.gives_zeros() for edges in layout.entering for edge in edges))
        self._batch, self._channels, height, width = cast("tuple[int, int, int, int]", layout.shapes[0])
        self._sizes: list[Size] = [(height, width)] * cell.n_inputs  # of the images
        self._norms: list[nn.BatchNorm2d] = []
        self._eps: set[float] = set()
        self._pooled: dict[Hashable, int] = {}  # see `_pool_key`
        self._before: dict[int, int] = {}  # what an operation, by identity, has made up to its last ReLU
        self._halved: dict[int, int] = {}
        if cell.partial_channels > 1:
            self.whole = list(self.of_state)
            for state, image in enumerate(self.whole):
                self.of_state[state] = self._append(native.Weave((image,), cell.partial_channels, mixes=False))
        entering: list[list[Candidate]] = [[] for _ in range(cell.n_nodes)]
        leaving: list[list[Branch]] = [[] for _ in range(cell.n_inputs + cell.n_nodes)]
        for candidate in layout.lowered_or_noisy():
            branch = cast(Branch, candidate.known)
            if branch.form == "zero":
                continue
            entering[candidate.node].append(candidate)
            leaving[candidate.source].append(branch)
        for state in range(cell.n_inputs + cell.n_nodes):
            if state >= cell.n_inputs:
                self._enter(entering[state - cell.n_inputs])
                if cell.partial_channels > 1:
                    self._pass_by(state)
            self._pool(state, leaving[state])
            self._prepare(state, leaving[state])
        _require(bool(self._norms) or self._is_derived)  # sums alone are done as well without

    def recorded(self) -> Recorded:
        """Return what was recorded."""
        first = self._cell.n_inputs
        outputs, apart = self.whole[first:] if self._cell.output == "concat" else self.whole[-1:], []
        if isinstance(self._cell, FreeWiring | DerivedWiring):
            outputs = [self.whole[state] for state in self._cell.joins]
            apart = [] if self._is_derived else self.whole[first:]
        tracked = []
        for count, seen in self.tracked.items():
            norms, rows = zip(*seen, strict=True)
            tracked.append((count, list(norms), torch.tensor(rows, device="cpu")))
        program = native.Program(first, tuple(self.steps), tuple(outputs), tuple(apart))
        mixing = [(slice(None), torch.tensor(self.mixing, device="cpu"))]
        if isinstance(self._cell, FreeWiring):
            mixing = self._mixing_by_node()
        return Recorded(program, self.convolved, self.projected, self.biased, mixing, self.noisy, tracked, self._norms)

    def _mixing_by_node(self) -> list[tuple[slice, Tensor]]:
        """Those of every node by themselves, so that what nothing depends on has no gradient."""
        found: list[tuple[slice, Tensor]] = []
        edge = first = 0
        for entering in self._layout.entering:
            edges = slice(edge, edge + len(entering))
            end = first + sum(len(cast(LayerChoice, choice).candidates) for choice in self._cell.edges[edges])
            found.append((edges, torch.tensor([k - first for k in self.mixing if first <= k < end], device="cpu")))
            edge, first = edges.stop, end
        return found

    def _append(self, step: native.OtherStep) -> int:
        """Record a step that is no stage, and return the first image that it gives."""
        first = len(self._sizes)
        size = self._sizes[step.reads[-1]]
        if isinstance(step, native.Pooled):
            size = step.pool.output_size(size)
        self.steps.append(step)
        self._sizes += [size] * step.counts[0]
        return first

    def _pass_by(self, state: int) -> None:
        """Record what passes by on the way into a node, whose sum of operations was recorded last."""
        mixed = self.of_state[state]
        size = self._sizes[mixed]
        passing = []
        for source in range(state):
            image = self.whole[source]
            if self._sizes[image] != size:
                if source not in self._halved:
                    self._halved[source] = self._append(native.Pooled((image,), _HALF))
                image = self._halved[source]
            _require(self._sizes[image] == size)
            passing.append(image)
        if self._weighted:
            n_weights = sum(len(cast(LayerChoice, edge).candidates) for edge in self._cell.edges)
            edges = self._layout.entering[state - self._cell.n_inputs]
            self.mixing += [n_weights + edge.number for edge in edges]
        step = native.Weave((mixed, *passing), self._cell.partial_channels, weighted=self._weighted)
        self.whole.append(self._append(step))
        self.of_state[state] = self.whole[-1] + 1

    def _pool(self, state: int, branches: Sequence[Branch]) -> None:
        """Record the pools of a state, each once for all edges that get the same from it."""
        image = self.of_state[state]
        norms: dict[Hashable, tuple[native.Pool, list[nn.BatchNorm2d]]] = {}
        for branch in branches:
            if branch.form not in ("pool", "pool-norm"):
                continue
            key = _pool_key(state, branch)
            if branch.form == "pool" and key not in self._pooled:
                self._pooled[key] = self._append(native.Pooled((image,), _kernel_of(branch)))
            elif branch.form == "pool-norm":
                norms.setdefault(key, (_kernel_of(branch), []))[1].append(cast(nn.BatchNorm2d, branch.layers[1]))
        found: list[_Found] = []
        for key, (pool, own) in norms.items():
            self._pooled[key] = len(self._sizes) + len(found)
            size = pool.output_size(self._sizes[image])
            found.append(_Found(image, native.Unit(0, projected=False, pool=pool), size, own))
        self._record(found)

    def _prepare(self, state: int, branches: Sequence[Branch]) -> None:
        """Record all of the operations that leave a state up to their last ReLU, one stage of each after the other."""
        of_each = [(branch, branch.stages if branch.relu_behind else branch.stages[:-1]) for branch in branches]
        for level in range(max((len(stages) for _, stages in of_each), default=0)):
            by_size: dict[Shape, list[tuple[Branch, Sequence[Layer]]]] = {}
            for branch, stages in of_each:
                if level < len(stages):
                    size = self._sizes[self._read_by(branch, state)]
                    alone = branch._replace(layers=stages[level], needs_even=False, is_residual=False)
                    shape = output_size(alone, (self._batch, self._channels, *size))
                    if shape is None or branch.form == "inverted":
                        raise _UnknownError
                    by_size.setdefault(shape, []).append((branch, stages[level]))
            for group in by_size.values():
                first, found = len(self._sizes), list[_Found]()
                for branch, stage in group:
                    biased = branch.biased() if branch.relu_behind and stage == branch.stages[-1] else []
                    if biased:
                        self.biased.append((len(self.projected), biased))
                    found.append(
                        self._stage(self._read_by(branch, state), stage, relu=branch.relu_before and level == 0)
                    )
                self._record(found, relu=True)
                self._before |= {id(branch.operation): first + k for k, (branch, _) in enumerate(group)}

    def _read_by(self, branch: Branch, state: int) -> int:
        """The image that what is next of an operation reads: the state, or what it has made so far."""
        return self._before.get(id(branch.operation), self.of_state[state])

    def _enter(self, candidates: Sequence[Candidate]) -> None:
        """Record the sum that enters a node."""
        terms: list[_Found] = []
        known = [cast(Branch, candidate.known) for candidate in candidates]
        biased = [convolution for branch in known if not branch.relu_behind for convolution in branch.biased()]
        if biased:
            self.biased.append((len(self.projected), biased))
        values = [self._add_noise(c) for c in candidates if c.noisy]  # which takes random numbers, in this order
        for candidate in candidates:
            branch = candidate.branch
            if branch is None:
                continue
            source, number = candidate.source, candidate.number
            factor = self._cell.factors.get(candidate.edge) if isinstance(self._cell, DerivedWiring) else None
            value = native.Unit(0, projected=False, factor=factor)
            if branch.is_residual:
                image = self.of_state[source]
                values.append(_Found(image, value, self._sizes[image], mixing=number))
            image = self._read_by(branch, source)
            if branch.form in ("identity", "pool", "pool-norm") or branch.relu_behind:
                if branch.form in ("pool", "pool-norm"):
                    image = self._pooled[_pool_key(source, branch)]
                values.append(_Found(image, value, self._sizes[image], mixing=number))
                continue
            _require(branch.form != "inverted")
            stages = branch.stages
            found = self._stage(image, stages[-1], relu=branch.relu_before and len(stages) == 1)
            terms.append(found._replace(unit=found.unit._replace(factor=factor), mixing=number))
        _require(bool(candidates))
        self.of_state.append(len(self._sizes))
        self._record(terms + values, summed=True)

    def _add_noise(self, candidate: Candidate) -> _Found:
        """Record a skip connection with noise."""
        skip, image = cast(Branch, candidate.noisy), self.of_state[candidate.source]
        if skip.form == "reduction":
            found = self._reduce(image, skip.layers)
            image = len(self._sizes)
            self._record([found])
        self.noisy.append(skip.operation)
        image = self._append(native.Noisy((image,), cast(AddedNoise, skip.noise)))
        return _Found(image, native.Unit(0, projected=False), self._sizes[image], mixing=candidate.number)

    def _stage(self, image: int, layers: Sequence[Layer], *, relu: bool) -> _Found:
        """What is between two ReLUs."""
        first = layers[0]
        if isinstance(first, TwoGrids):
            return self._reduce(image, layers)
        if len(layers) > 2 or is_pointwise(cast(nn.Conv2d, first)):
            return self._project(image, layers, relu=relu)
        if cast(nn.Conv2d, first).groups > 1:
            return self._project(image, (first, *layers), relu=relu)
        return self._convolve(image, layers, relu=relu)

    def _project(self, image: int, layers: Sequence[Any], *, relu: bool) -> _Found:
        """A projection and its BatchNorm, with a depthwise convolution before them if there are three layers.

        Where the projection is that convolution once more, it changes nothing.
        """
        *before, pointwise, norm = layers
        size, geometry = self._sizes[image], None
        if before:
            weight, geometry = before[0].weight, Geometry.of(before[0])
            if geometry is None or not native.understands(geometry, weight.shape[2:]):
                raise _UnknownError
            _require(weight.shape[:2] == (self._channels, 1))
            self.convolved.append(before[0])
            height, width = geometry.output_size(size, weight.shape[2:])
            size = (height, width)
        _require(pointwise in before or pointwise.weight.shape == (self._channels, self._channels, 1, 1))
        self.projected.append(pointwise)
        return _Found(image, native.Unit(0, geometry, relu=relu), size, [norm])

    def _convolve(self, image: int, layers: Sequence[Layer], *, relu: bool) -> _Found:
        """A dense convolution and its BatchNorm."""
        convolution, norm = cast("tuple[nn.Conv2d, nn.BatchNorm2d]", layers)
        geometry = as_wide(convolution, in_program=True)
        if geometry is None:
            raise _UnknownError
        _require(convolution.weight.shape[:2] == (self._channels, self._channels))
        self.projected.append(convolution)
        size = geometry.output_size(self._sizes[image], convolution.weight.shape[2:])
        return _Found(image, native.Unit(0, relu=relu, wide=geometry), size, [norm])

    def _reduce(self, image: int, layers: Sequence[Layer]) -> _Found:
        halves, norm = cast("tuple[TwoGrids, nn.BatchNorm2d]", layers)
        even, odd = halves.even.weight.shape, halves.odd.weight.shape
        _require(even[0] + odd[0] == self._channels and even[1:] == odd[1:] == (self._channels, 1, 1))
        self.projected.append(halves)
        unit = native.Unit(0, relu=True, factorized=True)
        return _Found(image, unit, grid_size(self._sizes[image]), [norm])

    def _record(self, found: Sequence[_Found], *, relu: bool = False, summed: bool = False) -> None:
        if not found:
            return
        size = found[0].size
        for one in found:
            _require(one.size == size)
            for norm in one.norms:
                _require(uses_batch(norm) and not is_synchronised(norm))
                self._eps.add(norm.eps)
                self.tracked.setdefault(self._batch * size[0] * size[1], []).append((norm, len(self._norms)))
            self._norms += one.norms[:1]
        _require(len(self._eps) <= 1)
        reads = tuple(dict.fromkeys(one.image for one in found))
        at = {image: k for k, image in enumerate(reads)}
        units = tuple(one.unit._replace(input=at[one.image]) for one in found)
        plan = native.Plan(units, next(iter(self._eps), 1e-5), relu=relu, summed=summed)
        self.steps.append(native.Step(plan, reads))
        self.mixing += [one.mixing for one in found if one.mixing is not None]
        self._sizes += [size] * (1 if summed else len(found))


def _projection_of(layer: nn.Conv2d | TwoGrids) -> Tensor:
    if isinstance(layer, TwoGrids):
        return torch.cat([half.weight for half in layer])
    weight = layer.weight
    if layer.groups == 1:
        return weight
    return torch.eye(len(weight), dtype=weight.dtype, device=weight.device)[..., None, None]


def _kernel_of(branch: Branch) -> native.Pool:
    """The pool with which an operation begins."""
    kernel = as_native_pool(cast(nn.Module, branch.layers[0]))
    if kernel is None:
        raise _UnknownError
    return kernel


def _pool_key(state: int, branch: Branch) -> Hashable:
    """What edges have in common that get the same from their pools; norms with weights are each edge's own."""
    own = id(branch.operation) if any(norm.affine for norm in branch.norms) else None
    return state, branch.form, _kernel_of(branch), own


def _require(condition: bool) -> None:
    if not condition:
        raise _UnknownError
