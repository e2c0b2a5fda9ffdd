"""Which modules the fast path knows, and how it reads them."""

from __future__ import annotations

from typing import Any, Literal, cast

from torch import Tensor, nn

from archgrad.fast import native
from archgrad.fast.norms import is_plain_norm
from archgrad.operations import DilConv, FactorizedReduce, PoolBN, ReLUConvBN, SepConv

__all__ = ["as_native_pool", "is_known", "is_projection", "kind_of", "matrix", "pool_settings", "stages_of"]


def is_known(operation: nn.Module) -> bool:
    """Return whether the operation is exactly what its class says, with no hook that wants to see it run."""
    kind = kind_of(operation)
    if kind not in (nn.Identity, nn.MaxPool2d, nn.AvgPool2d, PoolBN, FactorizedReduce, ReLUConvBN, SepConv, DilConv):
        return False
    if _is_hooked(operation):
        return False
    inner = operation._modules.get("op", operation)
    parts = [operation, *inner._modules.values()] if inner is not None else [operation]
    if any(part is None or _is_hooked(part) or (part._modules and part is not operation) for part in parts):
        return False
    norms = [part for part in parts if isinstance(part, nn.modules.batchnorm._NormBase)]
    return all(map(is_plain_norm, norms)) and (kind is not PoolBN or not norms[0].affine)


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The class as it was before `accelerate` turned it."""
    return getattr(type(module), "turned_from", type(module))


def stages_of(operation: nn.Module) -> list[nn.Module]:
    """The layers of an operation that is a sequence of them; a slice of the sequence itself would build a module."""
    return list(cast(nn.Sequential, operation.op)._modules.values())


def matrix(convolution: nn.Conv2d) -> Tensor:
    """The weight of a pointwise convolution as (O, C)."""
    return convolution.weight.flatten(1)


def pool_settings(pool: nn.Module) -> tuple[Any, ...]:
    """What two pools of one input must have in common to give the same."""
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "count_include_pad", "divisor_override")
    return (type(pool), *(getattr(pool, name, None) for name in names))


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
    kind: Literal["max", "mean"] = "max" if isinstance(pool, nn.MaxPool2d) else "mean"
    return native.Pool(kind, kernel, stride, padding) if plain else None


def is_projection(operation: nn.Module) -> bool:
    """Return whether the operation, known as it is, ends in a pointwise convolution and a BatchNorm."""
    if not isinstance(operation, ReLUConvBN):
        return isinstance(operation, FactorizedReduce | SepConv | DilConv)
    convolution = cast(nn.Conv2d, operation.op[1])
    pointwise = (convolution.kernel_size, convolution.stride, convolution.padding) == ((1, 1), (1, 1), (0, 0))
    return pointwise and convolution.bias is None and convolution.groups == 1
