"""Which layers the fast path knows, by their exact settings, and how it reads them (`branches`: operations)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from archgrad.distributed.sync_batchnorm import SynchronisedBatchNorm2d
from archgrad.exactness import as_defined, kind_of
from archgrad.fast import native
from archgrad.fast.biases import kernel_of
from archgrad.fast.depthwise import Geometry

__all__ = [
    "NORMS",
    "POOLS",
    "as_native_pool",
    "as_wide",
    "fits",
    "is_clamped_as_defined",
    "is_convolution",
    "is_half",
    "is_norm_of",
    "is_pointwise",
    "is_pool",
    "is_zero",
    "kind_of",
    "matrix",
    "overruns",
    "pool_settings",
    "pooled_size",
]

POOLS = as_defined(nn.MaxPool2d, nn.AvgPool2d)
"""Pools."""
NORMS = as_defined(nn.BatchNorm2d, SynchronisedBatchNorm2d)
"""BatchNorms, over one process or several."""

_OTHERS_UP_TO = 16
"""Channels up to which the compiled kernels are preferred for dense convolutions that are not 3x3 with padding 1
(measured on AVX-512)."""
_SMALLEST_EPS = 1e-7
"""With less, rounding decides what BatchNorm makes of a constant channel, and the fast path rounds differently."""


def is_pool(pool: nn.Module) -> bool:
    """Return whether the settings of a pool are numbers, and it gives no indices."""
    if getattr(pool, "return_indices", False):
        return False
    return all(_are_counts(getattr(pool, name, 1)) for name in ("kernel_size", "stride", "padding", "dilation"))


def is_zero(zero: nn.Module) -> bool:
    """Return whether the stride of a Zero is a number."""
    return _is_count(zero.stride)


def is_clamped_as_defined(activation: nn.Module) -> bool:
    """Return whether a ReLU6 has the bounds of its name; any ReLU has."""
    return not isinstance(activation, nn.ReLU6) or (activation.min_val, activation.max_val) == (0.0, 6.0)


def is_convolution(convolution: nn.Conv2d) -> bool:
    """Return whether it has a plain weight and bias, pads with zeros that are counted in numbers, as its strides."""
    weight = _weight(convolution)
    return weight is not None and _is_plain(convolution) and weight.shape[0] % convolution.groups == 0


def as_wide(convolution: nn.Conv2d, *, in_program: bool = False) -> Geometry | None:
    """The geometry of a dense convolution of several pixels for the compiled kernels; None if they are not for it.

    Args:
        convolution: The convolution.
        in_program: Whether they compute all that is around it, too. Then they are for it where a library does it alone
            as well or better: convolutions of stride 2 take them up to twice as long.
    """
    settings = (convolution.stride, convolution.padding, convolution.dilation)
    geometry, shape = Geometry(*cast("tuple[tuple[int, int], ...]", settings)), convolution.weight.shape
    if convolution.groups > 1 or is_pointwise(convolution) or not native.understands(geometry, shape[2:]):
        return None
    if geometry.stride != (1, 1) and not in_program:
        return None
    usual = (*shape[2:], *geometry.padding, *geometry.dilation) in ((3, 3, 1, 1, 1, 1), (1, 1, 0, 0, 1, 1))
    return geometry if usual or max(shape[:2]) <= _OTHERS_UP_TO else None


def is_half(convolution: nn.Conv2d) -> bool:
    """Return whether it is one of the two convolutions of a reduction: of every other pixel, by itself."""
    return (
        is_convolution(convolution)
        and convolution.weight.shape[2:] == (1, 1)
        and convolution.stride == (2, 2)
        and convolution.groups == 1
        and not any(cast("tuple[int, int]", convolution.padding))
    )


def _weight(convolution: nn.Conv2d) -> Tensor | None:
    """The weight, if it is a plain tensor of four dimensions."""
    weight = convolution._parameters.get("weight")
    return weight if type(weight) in (Tensor, nn.Parameter) and weight is not None and weight.dim() == 4 else None


def _is_plain(convolution: nn.Conv2d) -> bool:
    """Whether it has a plain bias or none, pads with zeros counted in numbers, and its settings are pairs of such."""
    pairs = (convolution.stride, convolution.padding, convolution.dilation)
    bias = convolution._parameters.get("bias")
    return (
        convolution.bias is bias
        and _all_or_none((bias,), convolution.weight.shape[0])
        and convolution.padding_mode == "zeros"
        and all(type(pair) is tuple and len(pair) == 2 and _are_counts(pair) for pair in pairs)
        and _is_count(convolution.groups)
        and convolution.groups > 0
    )


def is_norm_of(norm: nn.Module, features: int) -> bool:
    """Return whether a BatchNorm normalises so many features, with plain tensors and settings."""
    norm = cast(nn.BatchNorm2d, norm)
    gamma, beta = norm._parameters.get("weight"), norm._parameters.get("bias")
    mean, variance, seen = (norm._buffers.get(name) for name in ("running_mean", "running_var", "num_batches_tracked"))
    return (
        norm.num_features == features
        and _all_or_none((gamma, beta), features)
        and bool(norm.affine) == (gamma is not None)
        and _all_or_none((mean, variance), features)
        and (type(norm.momentum) in (int, float) or (norm.momentum is None and seen is not None))
        and type(norm.eps) in (int, float)
        and norm.eps >= _SMALLEST_EPS
    )


def _all_or_none(tensors: tuple[Tensor | None, ...], features: int) -> bool:
    """Whether all are plain vectors with an entry for each feature, or none is there."""
    present = [t for t in tensors if t is not None]
    plain = all(type(t) in (Tensor, nn.Parameter) and t.shape == (features,) for t in present)
    return plain and len(present) in (0, len(tensors))


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _are_counts(value: object) -> bool:
    return _is_count(value) or (type(value) is tuple and all(map(_is_count, value)))


def matrix(convolution: nn.Conv2d) -> Tensor:
    """The weight of a pointwise convolution as (O, C)."""
    return kernel_of(convolution).flatten(1)


def is_pointwise(convolution: nn.Conv2d) -> bool:
    """Return whether it sees one pixel at a time, and all of them."""
    ones = convolution.weight.shape[2:] == (1, 1) and convolution.groups == 1
    return ones and convolution.stride == (1, 1) and convolution.padding == (0, 0)


def overruns(convolution: nn.Conv2d) -> bool:
    """Return whether oneDNN (torch 2.14, CPU) may write past its buffer in the weight's gradient in channels_last."""
    return (
        tuple(convolution.kernel_size) == (1, 1)
        and tuple(convolution.stride) != (1, 1)
        and convolution.in_channels < 8 * convolution.groups
    )


def pool_settings(pool: nn.Module) -> tuple[Any, ...]:
    """What two pools of one input must have in common to give the same."""
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "count_include_pad", "divisor_override")
    return (kind_of(pool), *(getattr(pool, name, None) for name in names))


def as_native_pool(pool: nn.Module) -> native.Pool | None:
    """The pool as the compiled kernels compute it; None if they cannot."""
    if not isinstance(pool, nn.MaxPool2d | nn.AvgPool2d):
        return None
    both_ways = [_both_ways(value) for value in (pool.kernel_size, pool.stride, pool.padding)]
    if None in both_ways or pool.ceil_mode:
        return None
    kernel, stride, padding = cast("list[int]", both_ways)
    kind: Literal["max", "mean", "padded mean"]
    if isinstance(pool, nn.MaxPool2d):
        kind, plain = "max", _both_ways(pool.dilation) == 1 and not pool.return_indices
    else:
        kind, plain = "padded mean" if pool.count_include_pad and padding else "mean", pool.divisor_override is None
    plain = plain and stride > 0 and 0 <= 2 * padding <= kernel
    return native.Pool(kind, kernel, stride, padding) if plain else None


def _both_ways(value: int | tuple[int, ...]) -> int | None:
    """The number that holds vertically and horizontally; None if there are two."""
    found = {value} if isinstance(value, int) else set(value)
    return found.pop() if len(found) == 1 else None


def fits(operation: nn.Module, dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether parameters and buffers of an operation have the type and device of what it reads.

    Under autocast, which brings inputs to its own type, parameters have single precision. On the CPU, what reads images
    of single precision then gives one type or the other, and does not fit.
    """
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        if device.type == "cpu" and dtype == torch.float32:
            return False
        dtype = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    tensors = (t for part in operation.modules() for t in (*part._parameters.values(), *part._buffers.values()))
    return all(t.device == device and t.dtype in (dtype, torch.int64) for t in tensors if t is not None)


@lru_cache(maxsize=256)
def pooled_size(settings: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that a pool of these settings gives; what it refuses, it refuses on the meta device, too."""
    kind, kernel, stride, padding, dilation, ceil, counts, divisor = settings
    pool: nn.Module
    if kind is nn.MaxPool2d:
        pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    else:
        pool = nn.AvgPool2d(kernel, stride, padding, ceil, counts, divisor)
    try:
        return tuple(pool(torch.empty(shape, device="meta")).shape)
    except RuntimeError:
        return None
