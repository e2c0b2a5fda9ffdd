"""What the operations that read one tensor have in common, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.fast.depthwise import Geometry, depthwise, fan_out
from archgrad.fast.normalised import Projected, normalised, settings
from archgrad.fast.pointwise import Term
from archgrad.fast.recognise import is_known, kind_of, matrix, pool_settings
from archgrad.operations import DilConv, FactorizedReduce, ReLUConvBN, SepConv

__all__ = ["State", "is_projection"]


class State:
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
        key = pool_settings(pool)
        if key not in self._shared:
            self._shared[key] = pool(self.x)
        return self._shared[key]

    def pooled_and_normalised(self, pool: nn.Module, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
        """BatchNorm of the pool by its own statistics, and these: output, mean (C,), unbiased variance (C,)."""
        key = (pool_settings(pool), norm.eps)
        if key not in self._shared:
            pooled = self.pooled(pool)
            statistics = pooled.new_zeros(2, norm.num_features, dtype=torch.promote_types(pooled.dtype, torch.float32))
            output = F.batch_norm(pooled, statistics[0], statistics[1], training=True, momentum=1.0, eps=norm.eps)
            self._shared[key] = (output, statistics[0], statistics[1])
        return self._shared[key]

    def repeats(self, operation: nn.Module) -> bool:
        """Return whether the same instance leaves more than once: then it runs, and moves its statistics, as often."""
        return sum(m is operation for m in self._leaving) > 1

    def projected(self, operation: nn.Module) -> Projected:
        """The last pointwise convolution of `operation`, for which `is_projection` holds, and its BatchNorm."""
        if isinstance(operation, FactorizedReduce):
            projection = torch.block_diag(matrix(operation.conv_1), matrix(operation.conv_2))
            return Term(self.both_grids(), projection), operation.bn
        stages: list[Any] = list(cast(nn.Sequential, operation.op))
        if isinstance(operation, ReLUConvBN):
            z = self.relu()
        elif isinstance(operation, DilConv):
            z = self._convolved(operation)
        else:
            if "separated" not in self._shared:
                self._shared["separated"] = self._separated()
            z = self._shared["separated"][id(operation)]
        return Term(z, matrix(stages[-2])), stages[-1]

    def _of_kind(self, *kinds: type[nn.Module]) -> list[nn.Module]:
        return [m for m in self._leaving if kind_of(m) in kinds and is_known(m) and not self.repeats(m)]

    def _convolved(self, operation: nn.Module) -> Tensor:
        """The first depthwise convolution of `operation`, made together with those of all edges that leave."""
        if "convolved" not in self._shared:
            self._shared["convolved"] = self._convolve()
        return self._shared["convolved"][id(operation)]

    def _convolve(self) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        on_all: list[tuple[int, Tensor, Geometry]] = []
        on_even: list[tuple[int, Tensor, Geometry]] = []
        for operation in self._of_kind(SepConv, DilConv):
            key = id(operation)
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

    def _separated(self) -> dict[int, Tensor]:
        """The second depthwise convolution of every SepConv, from pointwise convolutions that are made together."""
        groups: dict[Any, list[tuple[SepConv, Projected]]] = {}
        for operation in self._of_kind(SepConv):
            stages: list[Any] = list(cast(SepConv, operation).op)
            projected = (Term(self._convolved(operation), matrix(stages[2])), stages[3])
            groups.setdefault(settings(projected), []).append((cast(SepConv, operation), projected))
        found: dict[int, Tensor] = {}
        for group in groups.values():
            outputs = normalised([projected for _, projected in group], relu=True)
            for (operation, _), y in zip(group, outputs, strict=True):
                convolution = cast(nn.Conv2d, operation.op[5])
                found[id(operation)] = depthwise(y, convolution.weight, cast(Geometry, Geometry.of(convolution)))
        return found


def is_projection(operation: nn.Module) -> bool:
    """Return whether the operation, known as it is, ends in a pointwise convolution and a BatchNorm."""
    if not isinstance(operation, ReLUConvBN):
        return isinstance(operation, FactorizedReduce | SepConv | DilConv)
    convolution = cast(nn.Conv2d, operation.op[1])
    pointwise = (convolution.kernel_size, convolution.stride, convolution.padding) == ((1, 1), (1, 1), (0, 0))
    return pointwise and convolution.bias is None and convolution.groups == 1
