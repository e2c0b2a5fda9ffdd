"""Known operations that stand by themselves: a cell's preprocessing, and the chosen operations of a derived network.

On the CPU, pointwise convolutions and BatchNorms of these go through `normalised` as those of open cells do.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from archgrad.exactness import calls_are_watched
from archgrad.fast.lowering import are_ordinary, is_readable
from archgrad.fast.memory_format import as_written, is_channels_last
from archgrad.fast.normalised import normalised
from archgrad.fast.recognise import is_known, is_projection
from archgrad.fast.states import SharedFeatures
from archgrad.operations import DilConv, FactorizedReduce, ReLUConvBN, SepConv

__all__ = ["FastOperation"]


class FastOperation(nn.Module):
    """What the classes below share; `turn` changes a module's class, and parameters and state dict stay."""

    turned_from: ClassVar[type[nn.Module]]

    @staticmethod
    def turn(module: nn.Module) -> None:
        """Change the class of a module to its fast one, if it has one."""
        if type(module) in _FAST and is_known(module) and is_projection(module):
            module.__class__ = _FAST[type(module)]

    def forward(self, x: Tensor) -> Tensor:
        """Return what the class that this one was turned from does, (B, C', H', W'), in the memory format of `x`."""
        if (
            calls_are_watched()
            or not are_ordinary([x])
            or x.device.type != "cpu"
            or not is_readable(self, x)
            or not is_projection(self)
        ):
            return self.turned_from.forward(self, x)
        y = normalised([SharedFeatures(x, [self]).projected(self)], relu=False)[0]
        return as_written(y, channels_last=is_channels_last(x))


class _FastReLUConvBN(FastOperation, ReLUConvBN):
    turned_from = ReLUConvBN


class _FastFactorizedReduce(FastOperation, FactorizedReduce):
    turned_from = FactorizedReduce


class _FastSepConv(FastOperation, SepConv):
    turned_from = SepConv


class _FastDilConv(FastOperation, DilConv):
    turned_from = DilConv


_FAST: dict[type[nn.Module], type[FastOperation]] = {
    fast.turned_from: fast for fast in (_FastReLUConvBN, _FastFactorizedReduce, _FastSepConv, _FastDilConv)
}
