"""Layers of PyTorch that compute something else in channels_last, turned into such that do not.

`nn.Dropout` draws its mask in the order of memory: it then drops other numbers. `nn.InstanceNorm2d` has wrong gradients
for a batch of one image if the gradient that comes in is in channels_last (torch 2.14, CPU).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.exactness import kind_of
from archgrad.fast.deferred import settled
from archgrad.fast.memory_layout import is_channels_last, with_gradient_as_written

__all__ = ["TURNED", "in_order_of_contiguous", "turn"]

_IN_ORDER: ContextVar[bool] = ContextVar("in_order", default=False)


@contextmanager
def in_order_of_contiguous(applies: bool) -> Iterator[None]:
    """Let masks for images in channels_last be drawn inside as for contiguous ones, if that applies."""
    token = _IN_ORDER.set(applies)
    try:
        yield
    finally:
        _IN_ORDER.reset(token)


class OrderedDropout(nn.Dropout):
    """An `nn.Dropout` that drops the same numbers in either format; see `in_order_of_contiguous`."""

    turned_from = nn.Dropout

    def forward(self, input: Tensor) -> Tensor:
        """Return an image of the same shape and format."""
        x = settled(input)
        if not (self.training and _IN_ORDER.get() and is_channels_last(x)):
            return super().forward(x)
        y = F.dropout(x.contiguous(), self.p).contiguous(memory_format=torch.channels_last)
        return x.copy_(y) if self.inplace else y


class SteadyInstanceNorm2d(nn.InstanceNorm2d):
    """An `nn.InstanceNorm2d` whose gradients are right for one image, too."""

    turned_from = nn.InstanceNorm2d

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        return with_gradient_as_written(super().forward(settled(input)), channels_last=False)


TURNED: dict[type[nn.Module], type[nn.Module]] = {
    kind.turned_from: kind for kind in (OrderedDropout, SteadyInstanceNorm2d)
}
"""Classes, and what they are turned into."""


def turn(module: nn.Module) -> None:
    """Change the class of a layer that tells formats apart; parameters and state dict stay."""
    kind = TURNED.get(kind_of(module))
    if kind is not None:
        module.__class__ = kind
