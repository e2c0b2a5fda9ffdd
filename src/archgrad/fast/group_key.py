"""Which operations can be computed side by side (see `gathered`), and what they are made of."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from archgrad.distributed.sync_batchnorm import is_synchronised
from archgrad.fast.batch_norms import uses_batch
from archgrad.fast.depthwise import Geometry
from archgrad.fast.grouped_layers import as_pairs
from archgrad.fast.recognise import is_pointwise, kind_of, pool_settings, stages_of
from archgrad.operations import FactorizedReduce, PoolBN, Zero

__all__ = ["is_shared", "layers_of", "settings_of", "weights_of"]


def settings_of(operation: nn.Module) -> tuple[Any, ...] | None:
    """What known operations must have in common to be computed together; None if this one must run as it is."""
    kind = kind_of(operation)
    if kind is Zero:
        return None
    if kind is nn.Identity:
        return (kind,)
    if kind in (nn.MaxPool2d, nn.AvgPool2d):
        return pool_settings(operation)
    if kind is PoolBN:
        pool, norm = operation._modules.values()
        suits = uses_batch(cast(nn.BatchNorm2d, norm)) and not is_synchronised(cast(nn.Module, norm))
        return (*pool_settings(cast(nn.Module, pool)), *_norm_settings(norm)) if suits else None
    found: list[Any] = [kind]
    for position, layer in enumerate(layers_of(operation)):
        if isinstance(layer, nn.BatchNorm2d):
            if is_synchronised(layer):
                return None
            found += _norm_settings(layer)
        elif isinstance(layer, FactorizedReduce):
            found += [layer.conv_1.weight.shape, layer.conv_2.weight.shape]
        elif isinstance(layer, nn.Conv2d):
            plain = layer.bias is None and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
            side_by_side = is_pointwise(layer) or Geometry.of(layer) is not None
            if not plain or not (side_by_side or (position == 0 and layer.groups == 1)):
                return None
            found += [layer.weight.shape, *as_pairs(layer).values()]
    return tuple(found)


def _norm_settings(norm: nn.Module | None) -> tuple[Any, ...]:
    norm = cast(nn.BatchNorm2d, norm)
    return norm.num_features, norm.eps, norm.affine, uses_batch(norm)


def is_shared(operation: nn.Module) -> bool:
    """Return whether all edges get the same from it."""
    return kind_of(operation) in (nn.Identity, nn.MaxPool2d, nn.AvgPool2d, PoolBN)


def layers_of(operation: nn.Module) -> list[nn.Module]:
    """What comes after the first ReLU; a FactorizedReduce stands for its two convolutions."""
    return [operation, operation.bn] if isinstance(operation, FactorizedReduce) else stages_of(operation)[1:]


def weights_of(operation: nn.Module) -> list[Tensor]:
    """The weights of the convolutions, in the order of `layers_of`."""
    if isinstance(operation, FactorizedReduce):
        return [operation.conv_1.weight, operation.conv_2.weight]
    return [layer.weight for layer in layers_of(operation) if isinstance(layer, nn.Conv2d)]
