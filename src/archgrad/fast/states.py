"""What the operations that read one tensor have in common, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.distributed.sync_batchnorm import is_synchronised
from archgrad.fast import native
from archgrad.fast.batch_norms import edges_share
from archgrad.fast.biases import kernel_of
from archgrad.fast.branches import Branch, Form
from archgrad.fast.depthwise import Geometry, fan_out
from archgrad.fast.grids import both_grids, for_both_grids
from archgrad.fast.memory_layout import as_written
from archgrad.fast.normalised import Projected, normalised, settings
from archgrad.fast.pointwise import Convolution, Term, suits_kernels
from archgrad.fast.recognise import as_native_pool, matrix, pool_settings

__all__ = ["SharedFeatures"]


class SharedFeatures:
    """A state and what its edges share; everything is computed when first asked for.

    Args:
        x: (B, C, H, W), in any memory format.
        leaving: Known operations that read it and fit it, each once; what else reads it is called with `given`.
        channels_last: Memory format of `given`; the state itself is channels_last.
    """

    def __init__(self, x: Tensor, leaving: Sequence[Branch], *, channels_last: bool = True) -> None:
        self._given = x
        self._channels_last = channels_last
        self._known = {id(branch.operation): branch for branch in leaving}
        self._pooled: dict[Any, Any] = {}

    @cached_property
    def x(self) -> Tensor:
        """The state, channels_last."""
        return self._given.contiguous(memory_format=torch.channels_last) if self._given.dim() == 4 else self._given

    @cached_property
    def given(self) -> Tensor:
        """The state as the plain path has it."""
        return as_written(self._given, channels_last=self._channels_last)

    def branch_of(self, operation: nn.Module) -> Branch | None:
        """Return what one of those that leave consists of, if it may be computed in another way than by calling it."""
        return self._known.get(id(operation))

    @cached_property
    def relu(self) -> Tensor:
        """ReLU(x)."""
        return F.relu(self.x)

    @cached_property
    def even(self) -> Tensor:
        """Even rows and columns of ReLU(x)."""
        return self.relu[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)

    @cached_property
    def both_grids(self) -> Tensor:
        """What the two convolutions of a FactorizedReduce read, one after the other along the channels."""
        return both_grids(self.relu)

    def pooled(self, pool: nn.Module) -> Tensor:
        """The pool of x, the same for every pool with these settings."""
        key = pool_settings(pool)
        if key not in self._pooled:
            self._pooled[key] = pool(self.x)
        return self._pooled[key]

    def pooled_and_normalised(self, pool: nn.Module, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
        """BatchNorm of the pool by its own statistics, and these: output, mean (C,), biased variance (C,)."""
        key = (pool_settings(pool), norm.eps)
        if key in self._native_pools:
            return self._native_pools[key]
        if key not in self._pooled:
            pooled = self.pooled(pool)
            statistics = pooled.new_zeros(2, norm.num_features, dtype=torch.promote_types(pooled.dtype, torch.float32))
            output = F.batch_norm(pooled, statistics[0], statistics[1], training=True, momentum=1.0, eps=norm.eps)
            count = pooled.numel() // norm.num_features
            self._pooled[key] = (output, statistics[0], statistics[1] * ((count - 1) / count))
        return self._pooled[key]

    @cached_property
    def _native_pools(self) -> dict[Any, tuple[Tensor, Tensor, Tensor]]:
        """Those of `pooled_and_normalised` that the compiled kernels compute, all in one."""
        groups: dict[float, dict[Any, native.Pool]] = {}
        for branch in self._of_form("pool-norm").values():
            pool, norm = cast("tuple[nn.Module, nn.BatchNorm2d]", branch.layers)
            kernel = as_native_pool(pool)
            if kernel is not None and edges_share(norm):
                groups.setdefault(norm.eps, {})[pool_settings(pool), norm.eps] = kernel
        found: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}
        for eps, group in groups.items() if native.takes(self.x) else ():
            units = [native.Unit(0, projected=False, pool=pool) for pool in group.values()]
            ones = self.x.new_ones(len(units), self.x.shape[1])
            outputs, statistics = native.run(native.Plan(tuple(units), eps), [self.x], [], [], ones)
            assert statistics is not None
            found.update(zip(group, zip(outputs, *statistics, strict=True), strict=True))
        return found

    def projected(self, branch: Branch) -> Projected | None:
        """The last pointwise convolution of an operation, or its dense one that the compiled kernels compute, and its
        BatchNorm; None if there is neither."""
        key = id(branch.operation)
        if not branch.is_projection:
            return self._wide(branch)
        if branch.form == "separable":
            convolution, pointwise, norm = cast("tuple[Any, ...]", branch.layers[4:])
            return Term(self._first_halves[key], matrix(pointwise), _as_convolution(convolution)), norm
        whole, norm = self._firsts[key]
        if self._is_native:
            return whole, norm
        if whole.factorized:
            return Term(self.both_grids, for_both_grids(whole.projection)), norm
        read = self.relu if branch.relu_before else self.x
        return Term(read if whole.convolution is None else self._convolved[key], whole.projection), norm

    def output(self, branch: Branch) -> Tensor | None:
        """What an operation that ends in a convolution and a BatchNorm gives; None if it is to be called."""
        projected = self.projected(branch)
        return None if projected is None else normalised([projected], relu=branch.relu_behind)[0]

    def _wide(self, branch: Branch) -> Projected | None:
        if (geometry := branch.wide) is None:
            return None
        convolution, norm = cast("tuple[nn.Conv2d, nn.BatchNorm2d]", branch.layers)
        term = Term(self.x, kernel_of(convolution), relu=branch.relu_before, wide=geometry)
        return (term, norm) if not is_synchronised(norm) and suits_kernels([term], self.x) else None

    @cached_property
    def _firsts(self) -> dict[int, Projected]:
        """`_first` of everything that leaves, is known and ends in a projection."""
        return {key: self._first(branch) for key, branch in self._known.items() if branch.is_projection}

    def _first(self, branch: Branch) -> Projected:
        """The first pointwise convolution of an operation, with all that comes before it, and its BatchNorm."""
        *before, norm = cast("list[Any]", branch.layers[:3])
        if branch.form == "reduction":
            (halves,) = before
            return Term(self.x, torch.cat([*map(matrix, halves)]), relu=True, factorized=True), norm
        convolution = _as_convolution(before[0]) if len(before) > 1 else None
        return Term(self.x, matrix(before[-1]), convolution, relu=branch.relu_before), norm

    @cached_property
    def _is_native(self) -> bool:
        """Whether the compiled kernels are for this state and all that leaves it."""
        terms, norms = [term for term, _ in self._firsts.values()], [norm for _, norm in self._firsts.values()]
        return not any(map(is_synchronised, norms)) and suits_kernels(terms, self.x)

    def _of_form(self, *forms: Form) -> dict[int, Branch]:
        return {key: branch for key, branch in self._known.items() if branch.form in forms and not branch.is_residual}

    @cached_property
    def _first_halves(self) -> dict[int, Tensor]:
        """Of every SepConv that leaves what its second half reads; those of equal settings are made together."""
        groups: dict[Any, list[tuple[int, Projected]]] = {}
        for key in self._of_form("separable"):
            term, norm = self._firsts[key]
            if not self._is_native:
                term = Term(self._convolved[key], term.projection)
            groups.setdefault(settings((term, norm)), []).append((key, (term, norm)))
        found: dict[int, Tensor] = {}
        for group in groups.values():
            keys, projected = zip(*group, strict=True)
            found.update(zip(keys, normalised(projected, relu=True), strict=True))
        return found

    @cached_property
    def _convolved(self) -> dict[int, Tensor]:
        """The first depthwise convolution of every SepConv and DilConv that leaves."""
        readers: dict[str, list[tuple[int, Tensor, Geometry]]] = {}  # by what they read
        for key, branch in self._of_form("separable", "depthwise").items():
            weight, geometry = _as_convolution(cast(nn.Module, branch.layers[0]))
            read = "relu" if branch.relu_before else "x"
            # With stride 2 and dilation 2 (and an even padding) only even rows and columns are read.
            halves = geometry.stride == geometry.dilation == (2, 2) and not any(p % 2 for p in geometry.padding)
            if halves and branch.relu_before:
                read = "even"
                geometry = Geometry((1, 1), (geometry.padding[0] // 2, geometry.padding[1] // 2))
            readers.setdefault(read, []).append((key, weight, geometry))
        found: dict[int, Tensor] = {}
        for read, group in readers.items():
            found.update(_fan_out(getattr(self, read), group))
        return found


def _as_convolution(module: nn.Module) -> Convolution:
    """A depthwise convolution as functions take it."""
    convolution = cast(nn.Conv2d, module)
    return Convolution(kernel_of(convolution), cast(Geometry, Geometry.of(convolution)))


def _fan_out(x: Tensor, group: Sequence[tuple[int, Tensor, Geometry]]) -> dict[int, Tensor]:
    keys, weights, geometries = zip(*group, strict=True)
    return dict(zip(keys, fan_out(x, weights, geometries), strict=True))
