"""Where the fast path is fitted to a network."""

from __future__ import annotations

import torch
from torch import nn

from archgrad.cell import Cell
from archgrad.fast.cells import evaluate
from archgrad.fast.depthwise import FastDepthwiseConv2d, Geometry

__all__ = ["accelerate", "restore"]


def accelerate(network: nn.Module) -> None:
    """Bring the kernels into the channels_last memory format and let cells and depthwise convolutions compute fast.

    Operations that the fast path does not know run as they are. Parameters are read at every forward pass, so that
    loading, moving or replacing them needs nothing more. Only plain convolutions change their memory format: a user's
    own layer may want to `view` its weight.

    Args:
        network: A space, or a derived network; changed in place.
    """
    safe = not any(_breaks_channels_last(module) for module in network.modules())
    for module in network.modules():
        if safe and type(module) is nn.Conv2d:
            module.to(memory_format=torch.channels_last)
        if isinstance(module, Cell):
            module.evaluator = evaluate
        elif type(module) is nn.Conv2d and Geometry.of(module) is not None:
            FastDepthwiseConv2d.turn(module)


def restore(network: nn.Module) -> None:
    """Make plain convolutions of those that `accelerate` turned, in the memory format that they are built with.

    Args:
        network: What `derive` left of an accelerated space; changed in place.
    """
    for module in network.modules():
        if isinstance(module, FastDepthwiseConv2d):
            setattr(module, "__class__", nn.Conv2d)  # noqa: B010 (a type checker refuses the plain assignment)
        if type(module) is nn.Conv2d:
            module.to(memory_format=torch.contiguous_format)


def _breaks_channels_last(module: nn.Module) -> bool:
    """Return whether oneDNN (torch 2.14, CPU) may write past its buffer in the module's weight gradient."""
    return (
        isinstance(module, nn.Conv2d)
        and tuple(module.kernel_size) == (1, 1)
        and tuple(module.stride) != (1, 1)
        and module.in_channels < 8 * module.groups
    )
