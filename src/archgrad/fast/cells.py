"""The forward pass of a cell, shared where edges share.

All edges that leave one state read the same ReLU, pools and first depthwise convolutions' input; all edges that enter
one node end in the same sum. So work is done state by state and node by node:

- a `_State` computes what leaves it once, and keeps it for all of its edges;
- a `_Node` collects the summands that enter it and adds them in as few products as it can.

An operation that is not recognised runs as a module, and its output is one more summand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.cell import Cell
from archgrad.choices import LayerChoice, Mixture
from archgrad.distributed.norms import is_synchronised
from archgrad.fast.depthwise import Geometry, depthwise, fan_out
from archgrad.fast.norms import affine, fixed_statistics, is_plain_norm, track, uses_batch
from archgrad.fast.over_ranks import blend_over_ranks
from archgrad.fast.pointwise import Term, blend
from archgrad.fast.sums import weighted_total
from archgrad.operations import DilConv, FactorizedReduce, PoolBN, ReLUConvBN, SepConv, Zero

__all__ = ["evaluate"]

Edge = tuple[int, nn.Module, Tensor]
"""(source, candidate, mixing weight)."""


def evaluate(cell: Cell, states: Sequence[Tensor], mixtures: Sequence[Mixture]) -> Tensor:
    """Return what the cell's plain forward pass returns.

    Args:
        cell: A cell with open edges.
        states: Its inputs, (B, C, H, W) each.
        mixtures: The mixture of every edge, in the order of `cell.edges`.
    """
    entering: list[list[Edge]] = [[] for _ in range(cell.n_nodes)]
    leaving: list[list[nn.Module]] = [[] for _ in range(cell.n_inputs + cell.n_nodes)]
    offsets: list[list[Tensor]] = [[] for _ in range(cell.n_nodes)]
    for (source, node), edge, mixture in zip(cell.pairs, cell.edges, mixtures, strict=True):
        candidates = cast(LayerChoice, edge).candidates
        weights = mixture.weights.unbind()
        for k in mixture.active:
            entering[node - cell.n_inputs].append((source, candidates[k], weights[k]))
            leaving[source].append(candidates[k])
        if mixture.reaches_inactive:
            offsets[node - cell.n_inputs].extend(w for k, w in enumerate(weights) if k not in mixture.active)
    every = [_State(x, leaving[i]) for i, x in enumerate(states)]
    for node, edges in enumerate(entering):
        total = _Node(every, edges).total()
        if offsets[node]:
            total = total + torch.stack(offsets[node]).sum()
        every.append(_State(total, leaving[cell.n_inputs + node]))
    return every[-1].x if cell.output == "last" else torch.cat([s.x for s in every[cell.n_inputs :]], dim=1)


class _State:
    """A state and what its edges share; everything is computed when first asked for."""

    def __init__(self, x: Tensor, leaving: Sequence[nn.Module]) -> None:
        self.x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        self._leaving = leaving
        self._shared: dict[Any, Any] = {}

    def relu(self) -> Tensor:
        """ReLU(x)."""
        if "relu" not in self._shared:
            self._shared["relu"] = F.relu(self.x)
        return self._shared["relu"]

    def even(self) -> Tensor:
        """Even rows and columns of ReLU(x)."""
        if "even" not in self._shared:
            self._shared["even"] = self.relu()[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)
        return self._shared["even"]

    def both_grids(self) -> Tensor:
        """What the two convolutions of a FactorizedReduce read, one after the other along the channels."""
        if "both" not in self._shared:
            odd = self.relu()[:, :, 1:, 1:]
            if self.x.shape[2] % 2 or self.x.shape[3] % 2:
                odd = F.pad(odd, (0, self.x.shape[3] % 2, 0, self.x.shape[2] % 2))
            both = torch.cat([self.even(), odd[:, :, ::2, ::2]], dim=1)
            self._shared["both"] = both.contiguous(memory_format=torch.channels_last)
        return self._shared["both"]

    def pooled(self, pool: nn.Module) -> Tensor:
        """The pool of x, the same for every pool with these settings."""
        key = _pool_settings(pool)
        if key not in self._shared:
            self._shared[key] = pool(self.x)
        return self._shared[key]

    def pooled_and_normalised(self, pool: nn.Module, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
        """BatchNorm of the pool by its own statistics, and these: output, mean (C,), unbiased variance (C,)."""
        key = (_pool_settings(pool), norm.eps)
        if key not in self._shared:
            pooled = self.pooled(pool)
            statistics = pooled.new_zeros(2, norm.num_features, dtype=torch.promote_types(pooled.dtype, torch.float32))
            output = F.batch_norm(pooled, statistics[0], statistics[1], training=True, momentum=1.0, eps=norm.eps)
            self._shared[key] = (output, statistics[0], statistics[1])
        return self._shared[key]

    def convolved(self, operation: SepConv | DilConv) -> Tensor:
        """The first depthwise convolution of `operation`, made together with those of all edges that leave."""
        if "convolved" not in self._shared:
            self._shared["convolved"] = self._convolve()
        return self._shared["convolved"][id(operation)]

    def _convolve(self) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        operations = {id(m): m for m in self._leaving if type(m) in (SepConv, DilConv) and _is_known(m)}
        on_all: list[tuple[int, Tensor, Geometry]] = []
        on_even: list[tuple[int, Tensor, Geometry]] = []
        for key, operation in operations.items():
            convolution = cast(nn.Conv2d, cast(nn.Sequential, operation.op)[1])
            geometry = cast(Geometry, Geometry.of(convolution))
            # With stride 2 and dilation 2 (and an even padding) only even rows and columns are read.
            if geometry.stride == geometry.dilation == (2, 2) and not any(p % 2 for p in geometry.padding):
                halved = Geometry((1, 1), (geometry.padding[0] // 2, geometry.padding[1] // 2))
                on_even.append((key, convolution.weight, halved))
            else:
                on_all.append((key, convolution.weight, geometry))
        for group, read in ((on_all, self.relu), (on_even, self.even)):
            if group:
                keys, weights, geometries = zip(*group, strict=True)
                found.update(zip(keys, fan_out(read(), weights, geometries), strict=True))
        return found


class _Node:
    """The summands that enter one node."""

    def __init__(self, states: Sequence[_State], edges: Sequence[Edge]) -> None:
        self._states = states
        self._edges = edges
        self._projected: dict[Any, list[tuple[Tensor, Tensor, Tensor, nn.BatchNorm2d]]] = {}
        self._weighted: list[tuple[Tensor, Tensor]] = []
        self._whole: list[Tensor] = []

    def total(self) -> Tensor:
        """Return the sum."""
        for source, operation, weight in self._edges:
            self._add(self._states[source], operation, weight)
        parts = self._whole
        for group in self._projected.values():
            parts.append(_blend_group(group))
        if self._weighted:
            values, weights = zip(*self._weighted, strict=True)
            parts.append(weighted_total(values, torch.stack(weights)))
        if not parts:  # nothing but zeros: let one of them say of what shape
            source, operation, weight = self._edges[0]
            parts.append(operation(self._states[source].x) * weight)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _add(self, state: _State, operation: nn.Module, weight: Tensor) -> None:
        if isinstance(operation, Zero):
            return
        if not _is_known(operation):
            self._weighted.append((operation(state.x), weight))
        elif isinstance(operation, nn.Identity):
            self._weighted.append((state.x, weight))
        elif isinstance(operation, nn.MaxPool2d | nn.AvgPool2d):
            self._weighted.append((state.pooled(operation), weight))
        elif isinstance(operation, PoolBN):
            self._add_pool(state, operation, weight)
        elif isinstance(operation, FactorizedReduce):
            projection = torch.block_diag(_matrix(operation.conv_1), _matrix(operation.conv_2))
            self._project(state.both_grids(), projection, weight, operation.bn)
        elif isinstance(operation, ReLUConvBN):
            self._add_convolution(state, operation, weight)
        elif isinstance(operation, SepConv | DilConv):
            stages: list[Any] = list(operation.op)
            z = state.convolved(operation)
            if isinstance(operation, SepConv):
                z = depthwise(
                    project(z, stages[2], stages[3]), stages[5].weight, cast(Geometry, Geometry.of(stages[5]))
                )
            self._project(z, _matrix(stages[-2]), weight, stages[-1])

    def _project(self, z: Tensor, projection: Tensor, weight: Tensor, norm: nn.BatchNorm2d) -> None:
        key = (z.shape, projection.shape, norm.eps, uses_batch(norm), is_synchronised(norm), norm.affine)
        self._projected.setdefault(key, []).append((z, projection, weight, norm))

    def _add_pool(self, state: _State, operation: PoolBN, weight: Tensor) -> None:
        pool, norm = cast("tuple[nn.Module, nn.BatchNorm2d]", tuple(operation))
        if not uses_batch(norm) or is_synchronised(norm):
            self._weighted.append((norm(state.pooled(pool)), weight))
            return
        output, mean, unbiased = state.pooled_and_normalised(pool, norm)
        count = output.numel() // output.shape[1]
        track([norm], mean.unsqueeze(0), unbiased.unsqueeze(0) * ((count - 1) / count), count)
        self._weighted.append((output, weight))

    def _add_convolution(self, state: _State, operation: ReLUConvBN, weight: Tensor) -> None:
        parts: list[Any] = list(operation.op)
        _, convolution, norm = parts
        if convolution.kernel_size == (1, 1) and convolution.stride == (1, 1) and convolution.padding == (0, 0):
            self._project(state.relu(), _matrix(convolution), weight, norm)
        else:
            self._weighted.append((norm(convolution(state.relu())), weight))


def project(z: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Return ReLU(norm(convolution(z))) for a pointwise convolution."""
    gamma, beta = affine(norm)
    if gamma is None:
        gamma = z.new_ones(norm.num_features, dtype=convolution.weight.dtype)
    return _blend([Term(z, _matrix(convolution))], gamma.unsqueeze(0), [norm], shift=beta, relu=True)


def _blend_group(group: Sequence[tuple[Tensor, Tensor, Tensor, nn.BatchNorm2d]]) -> Tensor:
    norms = [norm for _, _, _, norm in group]
    mixing = torch.stack([weight for _, _, weight, _ in group])
    scale = mixing.unsqueeze(1)
    shift = None
    if norms[0].affine:
        scale = scale * torch.stack([norm.weight for norm in norms])
        shift = mixing @ torch.stack([norm.bias for norm in norms])
    else:
        scale = scale.expand(-1, norms[0].num_features)
    return _blend([Term(z, p) for z, p, _, _ in group], scale, norms, shift=shift)


def _blend(
    terms: Sequence[Term], scale: Tensor, norms: Sequence[nn.BatchNorm2d], *, shift: Tensor | None, relu: bool = False
) -> Tensor:
    """Return the sum over terms of scale * norm, with the statistics that the norms take, and let them track those."""
    eps = norms[0].eps
    if not uses_batch(norms[0]):
        return blend(terms, scale, eps=eps, shift=shift, fixed=fixed_statistics(norms), relu=relu)[0]
    if is_synchronised(norms[0]):
        y, mean, variance, pixels = blend_over_ranks(terms, scale, eps=eps, shift=shift, relu=relu)
        track(norms, mean, variance, pixels)
    else:
        y, moments = blend(terms, scale, eps=eps, shift=shift, relu=relu)
        track(norms, moments.mean, moments.variance, moments.pixels)
    return y


def _matrix(convolution: nn.Conv2d) -> Tensor:
    """The weight of a pointwise convolution as (O, C)."""
    return convolution.weight.flatten(1)


def _pool_settings(pool: nn.Module) -> tuple[Any, ...]:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "count_include_pad", "divisor_override")
    return (type(pool), *(getattr(pool, name, None) for name in names))


def _is_known(operation: nn.Module) -> bool:
    """Return whether the operation is exactly what `_Node._add` takes it for, with no hook that wants to see it run."""
    kind = type(operation)
    if kind is nn.Identity or kind is nn.MaxPool2d or kind is nn.AvgPool2d:
        return not _is_hooked(operation)
    if kind not in (PoolBN, FactorizedReduce, ReLUConvBN, SepConv, DilConv):
        return False
    norms = [m for m in operation.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    if not all(is_plain_norm(norm) for norm in norms) or any(map(_is_hooked, operation.modules())):
        return False
    return kind is not PoolBN or not norms[0].affine


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
