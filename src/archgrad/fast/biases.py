"""Biases of convolutions before a BatchNorm that takes its statistics from the batch.

The bias b of a convolution moves each channel by a number, which the BatchNorm takes out again with the mean. Its
output is the same without b, and so b has no gradient but zero; only the mean that the BatchNorm tracks is moved by b.
Behind a depthwise convolution of bias a, a pointwise one of weight W and bias b moves it by W a + b. So the fast path
computes such convolutions without their biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from archgrad.distributed.sync_batchnorm import SynchronisedBatchNorm2d

__all__ = ["TwoGrids", "behind", "is_behind", "kernel_of", "modules_of", "shifts_of", "with_biases"]

M = TypeVar("M", bound=nn.Module)


class TwoGrids(NamedTuple):
    """Two pointwise convolutions of stride 2, the second one pixel further, joined along the channels."""

    even: nn.Conv2d
    odd: nn.Conv2d


def modules_of(layer: M | TwoGrids) -> tuple[M | nn.Conv2d, ...]:
    """Return the modules that a layer is made of: the two convolutions, or itself."""
    return layer if isinstance(layer, TwoGrids) else (layer,)


class _Behind(nn.BatchNorm2d):
    """A BatchNorm that stands behind convolutions with biases: shares all that the module has, and knows them."""

    __slots__ = ("convolutions",)
    convolutions: tuple[nn.Conv2d | TwoGrids, ...]


class _SynchronisedBehind(SynchronisedBatchNorm2d):
    """The same over several processes."""

    __slots__ = ("convolutions",)
    convolutions: tuple[nn.Conv2d | TwoGrids, ...]


def behind(norm: nn.BatchNorm2d, convolutions: Sequence[nn.Conv2d | TwoGrids]) -> nn.BatchNorm2d:
    """Return the BatchNorm itself, or one that is the same in all and tells, too, how biases move what it tracks.

    Args:
        norm: As long as it normalises with the statistics of the batch.
        convolutions: What it stands behind, with nothing between: one, or a depthwise and a pointwise one.
    """
    if all(half.bias is None for convolution in convolutions for half in modules_of(convolution)):
        return norm
    kind = _SynchronisedBehind if isinstance(norm, SynchronisedBatchNorm2d) else _Behind
    found: Any = kind.__new__(kind)
    object.__setattr__(found, "__dict__", norm.__dict__)
    object.__setattr__(found, "convolutions", tuple(convolutions))
    return found


def is_behind(norm: object) -> TypeGuard[_Behind | _SynchronisedBehind]:
    """Return whether it stands behind a convolution with a bias."""
    return isinstance(norm, _Behind | _SynchronisedBehind)


def shifts_of(norms: Sequence[nn.BatchNorm2d]) -> Tensor | None:
    """Return by how much biases move the means that BatchNorms track, (T, C); None where there are none.

    Args:
        norms: T, of C channels each.
    """
    moved = [(t, norm.convolutions) for t, norm in enumerate(norms) if is_behind(norm)]
    if not moved:
        return None
    own: list[Tensor] = []
    before: dict[torch.Size, list[tuple[int, Tensor, Tensor]]] = {}  # row, weight and bias, by the weight's shape
    for t, (*first, last) in moved:
        own.append(torch.cat([_bias_or_zeros(half) for half in modules_of(last)]))
        for depthwise in first:
            assert isinstance(depthwise, nn.Conv2d)
            assert isinstance(last, nn.Conv2d)
            if depthwise.bias is not None:
                before.setdefault(last.weight.shape, []).append((t, last.weight.flatten(1), depthwise.bias))
    shifts = own[0].new_zeros(len(norms), len(own[0]))
    shifts[[t for t, _ in moved]] = torch.stack(own)
    for group in before.values():
        rows, weights, biases = zip(*group, strict=True)
        shifts[list(rows)] += (torch.stack(weights) @ torch.stack(biases).unsqueeze(2)).squeeze(2)
    return shifts


def kernel_of(convolution: nn.Conv2d) -> Tensor:
    """Return the weight of a convolution, through which a bias that is taken out again has its gradient of zero."""
    return with_biases(convolution.weight, [convolution.bias])


def with_biases(kernel: Tensor, biases: Sequence[Tensor | None]) -> Tensor:
    """Return a tensor through which biases that are taken out again have their gradients of zero.

    Args:
        kernel: What every loss depends on that depends on the biases.
        biases: (C,) each; None for those that are not there.
    """
    moved = [bias for bias in biases if bias is not None and bias.requires_grad]
    if not moved or not torch.is_grad_enabled():
        return kernel
    joined = torch.cat(moved)
    return kernel + joined @ torch.zeros_like(joined)


def _bias_or_zeros(convolution: nn.Conv2d) -> Tensor:
    return convolution.weight.new_zeros(len(convolution.weight)) if convolution.bias is None else convolution.bias
