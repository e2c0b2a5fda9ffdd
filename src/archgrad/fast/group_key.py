"""Which operations can be computed side by side (see `gathered`), and what they are made of."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from archgrad.distributed.sync_batchnorm import is_synchronised
from archgrad.fast.batch_norms import edges_share, uses_batch
from archgrad.fast.biases import TwoGrids, kernel_of
from archgrad.fast.branches import Branch
from archgrad.fast.depthwise import Geometry
from archgrad.fast.grouped_layers import as_pairs
from archgrad.fast.recognise import is_pointwise, pool_settings

__all__ = ["is_shared", "settings_of", "weights_of"]


def settings_of(branch: Branch) -> tuple[Any, ...] | None:
    """What known operations must have in common to be computed together; None if this one must run as it is."""
    if branch.form in ("zero", "inverted", "chain") or branch.is_residual:
        return None
    if branch.form == "identity":
        return (branch.form,)
    if branch.form == "pool":
        return pool_settings(cast(nn.Module, branch.layers[0]))
    if branch.form == "pool-norm":
        pool, norm = cast("tuple[nn.Module, nn.BatchNorm2d]", branch.layers)
        return (*pool_settings(pool), *_norm_settings(norm)) if edges_share(norm) else None
    if not branch.relu_before or branch.relu_behind:
        return None
    found: list[Any] = [branch.form]
    for position, layer in enumerate(branch.layers):
        if isinstance(layer, nn.BatchNorm2d):
            if is_synchronised(layer):
                return None
            found += _norm_settings(layer)
        elif isinstance(layer, TwoGrids):
            found += [half.weight.shape for half in layer]
        elif isinstance(layer, nn.Conv2d):
            side_by_side = is_pointwise(layer) or Geometry.of(layer) is not None
            if not side_by_side and not (position == 0 and layer.groups == 1):
                return None
            found += [layer.weight.shape, *as_pairs(layer).values()]
    return tuple(found)


def _norm_settings(norm: nn.BatchNorm2d) -> tuple[Any, ...]:
    return norm.num_features, norm.eps, norm.affine, uses_batch(norm)


def is_shared(branch: Branch) -> bool:
    """Return whether all edges get the same from it."""
    return branch.form in ("identity", "pool", "pool-norm")


def weights_of(branch: Branch) -> list[Tensor]:
    """The weights of the convolutions, in their order."""
    found: list[Tensor] = []
    for layer in branch.layers:
        if isinstance(layer, TwoGrids):
            found += [kernel_of(half) for half in layer]
        elif isinstance(layer, nn.Conv2d):
            found.append(kernel_of(layer))
    return found
