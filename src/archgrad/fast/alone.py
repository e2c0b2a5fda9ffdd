"""Known operations that stand by themselves: a cell's preprocessing, and the chosen operations of a derived network.

On the CPU, pointwise convolutions and BatchNorms of these go through `normalised` as those of open cells do.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from archgrad.fast.normalised import normalised
from archgrad.fast.recognise import is_projection
from archgrad.fast.states import State
from archgrad.operations import DilConv, FactorizedReduce, ReLUConvBN, SepConv

__all__ = ["FastOperation"]


class FastOperation(nn.Module):
    """What the classes below share; `turn` changes a module's class, and parameters and state dict stay."""

    turned_from: ClassVar[type[nn.Module]]

    @staticmethod
    def turn(module: nn.Module) -> None:
        """Change the class of a module to its fast one, if it has one."""
        if type(module) in _FAST and is_projection(module):
            module.__class__ = _FAST[type(module)]

    def forward(self, x: Tensor) -> Tensor:
        """Return what the class that this one was turned from does, (B, C', H', W')."""
        state = State(x, [self])
        if x.device.type != "cpu" or not state.knows(self):
            return self.turned_from.forward(self, x)
        return normalised([state.projected(self)], relu=False)[0]


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
