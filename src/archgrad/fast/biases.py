"""Biases of convolutions before a BatchNorm that takes its statistics from the batch.

The bias b of a convolution moves each channel by a number, which the BatchNorm takes out again with the mean. Its
output is the same without b, and so b has no gradient but zero; only the mean that the BatchNorm tracks is moved by b.
Behind a depthwise convolution of bias a, a pointwise one of weight W and bias b moves it by W a + b. So the fast path
computes such convolutions without their biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from archgrad.distributed.sync_batchnorm import SynchronisedBatchNorm2d

__all__ = ["TwoGrids", "behind", "is_behind", "kernel_of", "shifts_of", "with_biases"]


class TwoGrids(NamedTuple):
    """Two pointwise convolutions of stride 2, the second one pixel further, joined along the channels."""

    even: nn.Conv2d
    odd: nn.Conv2d


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
    if not any(map(_has_bias, convolutions)):
        return norm
    kind = _SynchronisedBehind if isinstance(norm, SynchronisedBatchNorm2d) else _Behind
    found: Any = kind.__new__(kind)
    object.__setattr__(found, "__dict__", norm.__dict__)
    object.__setattr__(found, "convolutions", tuple(convolutions))
    return found


def is_behind(norm: object) -> bool:
    """Return whether it stands behind a convolution with a bias."""
    return isinstance(norm, _Behind | _SynchronisedBehind)


def shifts_of(norms: Sequence[nn.BatchNorm2d]) -> Tensor | None:
    """Return by how much biases move the means that BatchNorms track, (T, C); None where there are none.

    Args:
        norms: T, of C channels each.
    """
    found: list[Tensor | None] = [None] * len(norms)
    moved: dict[torch.Size, list[tuple[int, Tensor, Tensor]]] = {}  # by the weights' shape
    for t, norm in enumerate(norms):
        if not isinstance(norm, _Behind | _SynchronisedBehind):
            continue
        *before, last = norm.convolutions
        found[t] = torch.cat([*map(_bias_or_zeros, last)]) if isinstance(last, TwoGrids) else last.bias
        if before and (bias := cast(nn.Conv2d, before[0]).bias) is not None:
            weight = cast(nn.Conv2d, last).weight.flatten(1)
            moved.setdefault(weight.shape, []).append((t, weight, bias))
    some = next((shift for shift in (*found, *(group[0][2] for group in moved.values())) if shift is not None), None)
    if some is None:
        return None
    nothing = some.new_zeros(norms[0].num_features)
    shifts = torch.stack([nothing if shift is None else shift for shift in found])
    for group in moved.values():
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


def _has_bias(convolution: nn.Conv2d | TwoGrids) -> bool:
    halves = convolution if isinstance(convolution, TwoGrids) else (convolution,)
    return any(half.bias is not None for half in halves)


def _bias_or_zeros(convolution: nn.Conv2d) -> Tensor:
    return convolution.weight.new_zeros(len(convolution.weight)) if convolution.bias is None else convolution.bias
