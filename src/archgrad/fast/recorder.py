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
from archgrad.fast.activations import activation_of
from archgrad.fast.batch_norms import uses_batch
from archgrad.fast.biases import TwoGrids, modules_of
from archgrad.fast.branches import Branch, Shape, output_size
from archgrad.fast.depthwise import Geometry
from archgrad.fast.lowering import Candidate, DerivedWiring, FreeWiring, Layout, Wiring
from archgrad.fast.operation_parts import OperationPart, parts_of, unit_of
from archgrad.fast.recognise import as_native_pool, overruns
from archgrad.fast.recorded import Read, Recorded, bias_of, weight_of

__all__ = ["record"]

Size = tuple[int, int]
_HALF = native.Pool("max", 2, 2, over_edge=True)
"""How what passes by a node of half the size is read (see `archgrad.partial_channels`)."""
_AS_IT_IS = native.Pool("mean", 1, 1)
"""What a BatchNorm by itself stands behind."""


class _UnknownError(Exception):
    """The kernels do not compute this cell."""


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
        self.projected: list[Read] = []
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
        self._parts: dict[int, list[OperationPart]] = {}  # of an operation, by identity, and what it has made so far:
        self._before: dict[int, int] = {}
        self._rectified: set[int] = set()  # of those, what has gone through the ReLU that comes next
        self._activated: dict[tuple[int, native.Activation], int] = {}
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
            _require(branch.form != "inverted")
            self._parts[id(branch.operation)] = parts = parts_of(branch, self._channels)
            _require(not parts or _widths(parts) == {self._channels})
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

    def _append(self, step: native.OtherStep, size: Size | None = None) -> int:
        """Record a step that is no stage, and return the first image that it gives."""
        first = len(self._sizes)
        size = self._sizes[step.reads[-1]] if size is None else size
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
        """Record the operations that leave a state up to what sums add, one part of each after the other."""
        of_each = [(branch, list(self._to_prepare(branch))) for branch in branches]
        for level in range(max((len(parts) for _, parts in of_each), default=0)):
            groups: dict[tuple[Shape, bool, bool], list[tuple[Branch, OperationPart]]] = {}
            for branch, parts in of_each:
                if level >= len(parts):
                    continue
                part = parts[level]
                size = self._sizes[self._read_by(branch, state)]
                alone = branch._replace(layers=part.layers, needs_even=False, is_residual=False)
                shape = output_size(alone, (self._batch, *self._channels_of(part), *size))
                if shape is None:
                    raise _UnknownError
                if part.kind in ("stage", "norm"):
                    key = (shape, part.kind == "norm", self._is_rectified_next(branch, level))
                    groups.setdefault(key, []).append((branch, part))
                    continue
                image = self._read(branch, state, part)
                if part.kind == "convolution":
                    self._note_biases(branch, part)
                    image = self._convolve_alone(image, part, shape[2:])
                self._set(branch, image, rectified=False)
            for (_, _, relu), group in groups.items():
                found = []
                for branch, part in group:
                    self._note_biases(branch, part)
                    found.append(self._unit(branch, state, part))
                first = len(self._sizes)
                self._record(found, relu=relu)
                for k, (branch, _) in enumerate(group):
                    self._set(branch, first + k, rectified=relu)
        for branch in branches:
            if branch.behind is not None:
                image = self._append(native.Added((self._read_by(branch, state), self.of_state[state])))
                self._set(branch, self._activate(image, branch.behind), rectified=False)

    def _to_prepare(self, branch: Branch) -> Sequence[OperationPart]:
        """All parts but the one that a sum computes."""
        parts = self._parts[id(branch.operation)]
        return parts[:-1] if self._ends_in_sum(branch) else parts

    def _ends_in_sum(self, branch: Branch) -> bool:
        """Whether a sum of operations computes its last part."""
        parts = self._parts[id(branch.operation)]
        return bool(parts) and parts[-1].kind == "stage" and branch.behind is None

    def _is_rectified_next(self, branch: Branch, level: int) -> bool:
        """Whether what is made at a level goes through a ReLU next, which the kernels then do as well."""
        parts = self._parts[id(branch.operation)]
        made_by_stage = parts[level].kind == "stage"
        return made_by_stage and level + 1 < len(parts) and isinstance(parts[level + 1].activation, nn.ReLU)

    def _channels_of(self, part: OperationPart) -> tuple[int]:
        """How many channels a part reads."""
        first = next(iter(part.layers), None)
        if isinstance(first, nn.Conv2d):
            return (first.weight.shape[1] * first.groups,)
        return (first.num_features if isinstance(first, nn.BatchNorm2d) else self._channels,)

    def _set(self, branch: Branch, image: int, *, rectified: bool) -> None:
        """Note what an operation has made."""
        key = id(branch.operation)
        self._before[key] = image
        (self._rectified.add if rectified else self._rectified.discard)(key)

    def _note_biases(self, branch: Branch, part: OperationPart) -> None:
        """Note biases that have no effect behind the last convolution of an operation of which no sum computes one."""
        if self._ends_in_sum(branch):
            return
        last = [own for own in self._parts[id(branch.operation)] if own.kind in ("stage", "convolution")][-1]
        if part is last and (biased := branch.biased()):
            self.biased.append((len(self.projected), biased))

    def _read(self, branch: Branch, state: int, part: OperationPart, *, relu_by_unit: bool = False) -> int:
        """The image that a part reads, behind its activation unless that is a ReLU which the part's unit does."""
        image = self._read_by(branch, state)
        if part.activation is None or id(branch.operation) in self._rectified:
            return image
        if relu_by_unit and isinstance(part.activation, nn.ReLU):
            return image
        return self._activate(image, part.activation)

    def _activate(self, image: int, module: nn.Module) -> int:
        """The image that an activation makes of another."""
        activation = activation_of(module)
        _require(activation is not None)
        key = (image, cast(native.Activation, activation))
        if key not in self._activated:
            self._activated[key] = self._append(native.Activated((image,), key[1]))
        return self._activated[key]

    def _read_by(self, branch: Branch, state: int) -> int:
        """The image that what is next of an operation reads: the state, or what it has made so far."""
        return self._before.get(id(branch.operation), self.of_state[state])

    def _enter(self, candidates: Sequence[Candidate]) -> None:
        """Record the sum that enters a node."""
        terms: list[_Found] = []
        known = [cast(Branch, candidate.known) for candidate in candidates]
        biased = [convolution for branch in known if self._ends_in_sum(branch) for convolution in branch.biased()]
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
            if branch.is_residual and branch.behind is None:
                image = self.of_state[source]
                values.append(_Found(image, value, self._sizes[image], mixing=number))
            if not self._ends_in_sum(branch):
                image = self._read_by(branch, source)
                if branch.form in ("pool", "pool-norm"):
                    image = self._pooled[_pool_key(source, branch)]
                values.append(_Found(image, value, self._sizes[image], mixing=number))
                continue
            found = self._unit(branch, source, self._parts[id(branch.operation)][-1])
            terms.append(found._replace(unit=found.unit._replace(factor=factor), mixing=number))
        _require(bool(candidates))
        self.of_state.append(len(self._sizes))
        self._record(terms + values, summed=True)

    def _add_noise(self, candidate: Candidate) -> _Found:
        """Record a skip connection with noise."""
        skip, image = cast(Branch, candidate.noisy), self.of_state[candidate.source]
        if skip.form == "reduction":
            found = self._unit(skip, candidate.source, self._parts[id(skip.operation)][0])
            image = len(self._sizes)
            self._record([found])
        self.noisy.append(skip.operation)
        image = self._append(native.Noisy((image,), cast(AddedNoise, skip.noise)))
        return _Found(image, native.Unit(0, projected=False), self._sizes[image], mixing=candidate.number)

    def _unit(self, branch: Branch, state: int, part: OperationPart) -> _Found:
        """What the kernels compute of an operation."""
        image = self._read(branch, state, part, relu_by_unit=True)
        relu = isinstance(part.activation, nn.ReLU) and id(branch.operation) not in self._rectified
        *convolutions, norm = cast("tuple[Any, ...]", part.layers)
        if not convolutions:
            return _Found(image, native.Unit(0, projected=False, pool=_AS_IT_IS), self._sizes[image], [norm])
        known = unit_of(convolutions, self._sizes[image], relu=relu)
        self.convolved += known.convolved
        self.projected.append(known.projection)
        return _Found(image, known.unit, known.size, [norm])

    def _convolve_alone(self, image: int, part: OperationPart, size: Sequence[int]) -> int:
        """Record a convolution that a library computes."""
        (convolution,) = cast("tuple[nn.Conv2d]", part.layers)
        _require(not overruns(convolution))
        pairs = cast("tuple[tuple[int, int], ...]", (convolution.stride, convolution.padding, convolution.dilation))
        step = native.Convolved((image,), Geometry(*pairs), convolution.groups, part.adds_bias)
        self.projected += [weight_of(convolution), *([bias_of(convolution)] if part.adds_bias else [])]
        return self._append(step, cast(Size, tuple(size)))

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


def _widths(parts: Sequence[OperationPart]) -> set[int]:
    """How many channels an operation gives that is made of convolutions, and its BatchNorms are of."""
    layers = [layer for part in parts for layer in part.layers]
    last = [layer for layer in layers if not isinstance(layer, nn.BatchNorm2d)][-1]
    gives = sum(len(half.weight) for half in modules_of(cast("nn.Conv2d | TwoGrids", last)))
    return {gives, *(layer.num_features for layer in layers if isinstance(layer, nn.BatchNorm2d))}


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
