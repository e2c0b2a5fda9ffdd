"""Which operations the fast path knows, by their exact parts, and how it reads them.

A class of operations is known by what its parts are, one by one; where a part was replaced, set otherwise, hooked,
parametrized or has a `forward` of its own, the operation runs as it is written.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from archgrad.added_noise import noise_of
from archgrad.distributed.sync_batchnorm import SynchronisedBatchNorm2d
from archgrad.exactness import as_defined, is_exactly, is_exactly_but_hooked, kind_of
from archgrad.fast import native
from archgrad.fast.depthwise import Geometry
from archgrad.operations import DilConv, FactorizedReduce, PoolBN, ReLUConvBN, SepConv, Zero

__all__ = [
    "as_native_pool",
    "fits",
    "is_known",
    "is_known_with_noise",
    "is_pointwise",
    "is_projection",
    "kind_of",
    "matrix",
    "output_size",
    "pool_settings",
    "stages_of",
]

_POOLS = as_defined(nn.MaxPool2d, nn.AvgPool2d)
_NORMS = as_defined(nn.BatchNorm2d, SynchronisedBatchNorm2d)
_SEQUENCES: dict[type[nn.Module], str] = {ReLUConvBN: "rcn", DilConv: "rdpn", SepConv: "rdpnrdpn"}
"""What stands in `op`: a ReLU, a convolution (any; depthwise; pointwise), a norm."""
as_defined(nn.Identity, nn.ReLU, nn.Conv2d, nn.Sequential, Zero, PoolBN, FactorizedReduce, *_SEQUENCES)

_SMALLEST_EPS = 1e-7
"""With less, rounding decides what BatchNorm makes of a constant channel, and the fast path rounds differently."""


def is_known(operation: nn.Module) -> bool:
    """Return whether the operation may be computed in another way than by calling it."""
    kind = kind_of(operation)
    if kind in _POOLS:
        return _is_pool(operation)
    if kind in (nn.Identity, Zero):
        return is_exactly(operation, kind) and (kind is nn.Identity or _is_count(operation.stride))
    if kind is PoolBN:
        return is_exactly(operation, kind) and _is_pool_and_norm(list(operation._modules.values()))
    if kind is FactorizedReduce:
        return is_exactly(operation, kind) and _is_reduction(cast(FactorizedReduce, operation))
    if kind in _SEQUENCES:
        return is_exactly(operation, kind) and _is_sequence(operation, _SEQUENCES[kind])
    return False


def is_known_with_noise(operation: nn.Module) -> bool:
    """Return whether the operation is a known skip connection to whose output noise is added, and nothing else done."""
    kind = kind_of(operation)
    if kind not in (nn.Identity, FactorizedReduce) or noise_of(operation) is None:
        return False
    exact = is_exactly_but_hooked(operation, kind)
    return exact and (kind is nn.Identity or _is_reduction(cast(FactorizedReduce, operation)))


def _is_pool(pool: nn.Module | None) -> bool:
    if not is_exactly(pool, *_POOLS) or getattr(pool, "return_indices", False):
        return False
    return all(_are_counts(getattr(pool, name, 1)) for name in ("kernel_size", "stride", "padding", "dilation"))


def _is_pool_and_norm(parts: list[nn.Module | None]) -> bool:
    if len(parts) != 2 or not _is_pool(parts[0]) or not is_exactly(parts[1], *_NORMS):
        return False
    norm = cast(nn.BatchNorm2d, parts[1])
    return _is_norm(norm, norm.num_features) and not norm.affine


def _is_reduction(operation: FactorizedReduce) -> bool:
    first, second, norm = (
        operation._modules.get("conv_1"),
        operation._modules.get("conv_2"),
        operation._modules.get("bn"),
    )
    if not is_exactly(first, nn.Conv2d) or not is_exactly(second, nn.Conv2d):
        return False
    even, odd = _weight(cast(nn.Conv2d, first)), _weight(cast(nn.Conv2d, second))
    if even is None or odd is None or even.shape[1:] != odd.shape[1:] or even.shape[2:] != (1, 1):
        return False
    halves = cast("list[nn.Conv2d]", [first, second])
    plain = all(
        _is_plain(half) and half.stride == (2, 2) and half.groups == 1 and not any(half.padding) for half in halves
    )
    return plain and even.shape[0] == odd.shape[0] and _is_norm(norm, even.shape[0] + odd.shape[0])


def _is_sequence(operation: nn.Module, stages: str) -> bool:
    inner = operation._modules.get("op")
    if len(operation._modules) != 1 or not is_exactly(inner, nn.Sequential):
        return False
    parts = list(cast(nn.Sequential, inner)._modules.values())
    if len(parts) != len(stages):
        return False
    channels: int | None = None
    for stage, part in zip(stages, parts, strict=True):
        if stage == "r":
            if not is_exactly(part, nn.ReLU) or cast(nn.ReLU, part).inplace:
                return False
        elif stage == "n":
            if channels is None or not _is_norm(part, channels):
                return False
        else:
            if not is_exactly(part, nn.Conv2d):
                return False
            convolution = cast(nn.Conv2d, part)
            weight = _weight(convolution)
            if weight is None or not _is_plain(convolution):
                return False
            reads = weight.shape[1] * convolution.groups
            if weight.shape[0] % convolution.groups or channels not in (None, reads):
                return False
            if (stage == "d" and Geometry.of(convolution) is None) or (stage == "p" and not is_pointwise(convolution)):
                return False
            channels = weight.shape[0]
    return True


def _weight(convolution: nn.Conv2d) -> Tensor | None:
    """The weight, if it is a plain tensor of four dimensions."""
    weight = convolution._parameters.get("weight")
    return weight if type(weight) in (Tensor, nn.Parameter) and weight is not None and weight.dim() == 4 else None


def _is_plain(convolution: nn.Conv2d) -> bool:
    """Whether it has no bias, pads with zeros that are counted in numbers, and its settings are pairs of such."""
    pairs = (convolution.stride, convolution.padding, convolution.dilation)
    return (
        convolution.bias is None
        and convolution.padding_mode == "zeros"
        and all(type(pair) is tuple and len(pair) == 2 and _are_counts(pair) for pair in pairs)
        and _is_count(convolution.groups)
        and convolution.groups > 0
    )


def _is_norm(norm: nn.Module | None, features: int) -> bool:
    if not is_exactly(norm, *_NORMS):
        return False
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


def stages_of(operation: nn.Module) -> list[nn.Module]:
    """The layers of an operation that is a sequence of them; a slice of the sequence itself would build a module."""
    return list(cast(nn.Sequential, operation.op)._modules.values())


def matrix(convolution: nn.Conv2d) -> Tensor:
    """The weight of a pointwise convolution as (O, C)."""
    return convolution.weight.flatten(1)


def is_pointwise(convolution: nn.Conv2d) -> bool:
    """Return whether it sees one pixel at a time, and all of them."""
    ones = convolution.weight.shape[2:] == (1, 1) and convolution.groups == 1
    return ones and convolution.stride == (1, 1) and convolution.padding == (0, 0)


def is_projection(operation: nn.Module) -> bool:
    """Return whether the operation, known as it is, ends in a pointwise convolution and a BatchNorm."""
    if not isinstance(operation, ReLUConvBN):
        return isinstance(operation, FactorizedReduce | SepConv | DilConv)
    return is_pointwise(cast(nn.Conv2d, stages_of(operation)[1]))


def pool_settings(pool: nn.Module) -> tuple[Any, ...]:
    """What two pools of one input must have in common to give the same."""
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "count_include_pad", "divisor_override")
    return (kind_of(pool), *(getattr(pool, name, None) for name in names))


def as_native_pool(pool: nn.Module) -> native.Pool | None:
    """The pool as the compiled kernels compute it; None if they cannot."""
    if not isinstance(pool, nn.MaxPool2d | nn.AvgPool2d):
        return None
    kernel, stride, padding = pool.kernel_size, pool.stride, pool.padding
    if isinstance(kernel, tuple) or isinstance(stride, tuple) or isinstance(padding, tuple) or pool.ceil_mode:
        return None
    if isinstance(pool, nn.MaxPool2d):
        plain = pool.dilation == 1 and not pool.return_indices
    else:
        plain = not pool.count_include_pad and pool.divisor_override is None
    plain = plain and stride > 0 and 0 <= 2 * padding <= kernel
    kind: Literal["max", "mean"] = "max" if isinstance(pool, nn.MaxPool2d) else "mean"
    return native.Pool(kind, kernel, stride, padding) if plain else None


def fits(operation: nn.Module, dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether parameters and buffers of an operation have the type and device of what it reads.

    Under autocast, which brings inputs to its own type, parameters have single precision.
    """
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        dtype = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    tensors = (t for part in operation.modules() for t in (*part._parameters.values(), *part._buffers.values()))
    return all(t.device == device and t.dtype in (dtype, torch.int64) for t in tensors if t is not None)


def output_size(operation: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape of a known operation's output.

    Args:
        operation: One that `is_known`.
        shape: (B, C, H, W), of its input.

    Returns:
        (B, C', H', W'); None where the operation, called, might refuse.
    """
    kind = kind_of(operation)
    batch, channels, *size = shape
    if kind is nn.Identity:
        return shape
    if kind is Zero:
        stride = cast(int, operation.stride)
        return (batch, channels, *(-(-n // stride) for n in size)) if stride > 0 else None
    if kind in _POOLS:
        return _pooled(pool_settings(operation), shape)
    if kind is PoolBN:
        pool, norm = cast("tuple[nn.Module, nn.BatchNorm2d]", tuple(operation._modules.values()))
        found = _pooled(pool_settings(pool), shape) if channels == norm.num_features else None
    elif isinstance(operation, FactorizedReduce):
        takes = channels == operation.conv_1.weight.shape[1]
        found = (batch, operation.bn.num_features, *((n + 1) // 2 for n in size)) if takes else None
    else:
        found = _through_layers(stages_of(operation), shape)
    # Of a single value for each channel, BatchNorm makes an error or nothing, as its mode is.
    return None if found is None or found[0] * found[2] * found[3] < 2 else found


def _through_layers(layers: list[nn.Module], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    batch, channels, *size = shape
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight
            if channels != weight.shape[1] * layer.groups:
                return None
            channels = weight.shape[0]
            pairs = (size, weight.shape[2:], layer.stride, cast("tuple[int, int]", layer.padding), layer.dilation)
            if not all(layer.stride):
                return None
            size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(*pairs, strict=True)]
            if min(size) < 1:
                return None
    return (batch, channels, *size)


@lru_cache(maxsize=256)
def _pooled(settings: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[int, ...] | None:
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
