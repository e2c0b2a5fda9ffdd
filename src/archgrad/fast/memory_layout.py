"""In which memory format images and their gradients are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["as_written", "is_channels_last", "with_gradient_as_written"]


def is_channels_last(x: Tensor) -> bool:
    """Return whether an image is in channels_last and not contiguous; of one that is both, False."""
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def as_written(x: Tensor, *, channels_last: bool) -> Tensor:
    """Return an image in the memory format in which the plain path has it."""
    return x if channels_last or x.dim() != 4 else x.contiguous()


def with_gradient_as_written(x: Tensor, *, channels_last: bool) -> Tensor:
    """Return an image whose gradient is in the memory format in which the plain path has it, where that matters.

    That is for a batch of one image: the gradient of `F.instance_norm` is wrong for one in channels_last (torch 2.14,
    CPU).
    """
    matters = not channels_last and x.requires_grad and x.dim() == 4 and len(x) == 1
    return _WithContiguousGradient.apply(x) if matters else x


class _WithContiguousGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.contiguous()
