"""Where the fast path is fitted to a network."""

from __future__ import annotations

import torch
from torch import nn

from archgrad.cell import Cell
from archgrad.fast.cells import evaluate
from archgrad.fast.depthwise import FastDepthwiseConv2d, Geometry

__all__ = ["accelerate"]


def accelerate(network: nn.Module) -> None:
    """Bring the weights into the channels_last memory format and let cells and depthwise convolutions compute fast.

    Operations that the fast path does not know run as they are. Parameters are read at every forward pass, so that
    loading, moving or replacing them needs nothing more.

    Args:
        network: A space, or a derived network; changed in place.
    """
    network.to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, Cell):
            module.evaluator = evaluate
        elif type(module) is nn.Conv2d and Geometry.of(module) is not None:
            FastDepthwiseConv2d.turn(module)
