"""Where the fast path is fitted to a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from archgrad.cell import Cell, DerivedCell
from archgrad.fast.alone import FastOperation
from archgrad.fast.cells import CellEvaluator
from archgrad.fast.depthwise import FastDepthwiseConv2d, Geometry
from archgrad.fast.derived import evaluate_derived

__all__ = ["accelerate", "accelerated", "restore"]


def accelerate(network: nn.Module) -> None:
    """Bring the kernels into the channels_last memory format and let cells and depthwise convolutions compute fast.

    Operations that the fast path does not know run as they are. Parameters are read at every forward pass, so that
    loading, moving or replacing them needs nothing more. Only plain convolutions change their memory format: a user's
    own layer may want to `view` its weight.

    Args:
        network: A space, or a derived network; changed in place.
    """
    cells = [module for module in network.modules() if isinstance(module, Cell | DerivedCell)]
    in_cells = {id(part) for cell in cells for part in cell.modules()}
    safe = not any(_breaks_channels_last(module) for module in network.modules())
    for module in network.modules():
        if safe and type(module) is nn.Conv2d:
            module.to(memory_format=torch.channels_last)
        if isinstance(module, Cell):
            module.evaluator = CellEvaluator()
        elif isinstance(module, DerivedCell):
            module.evaluator = evaluate_derived
        elif type(module) is nn.Conv2d and Geometry.of(module) is not None:
            FastDepthwiseConv2d.turn(module)
        elif id(module) not in in_cells:  # there, the evaluator reads it
            FastOperation.turn(module)


@contextmanager
def accelerated(network: nn.Module) -> Iterator[None]:
    """Accelerate a network for a while.

    Args:
        network: A derived network, or any other; at the end it is as it was, with its convolutions contiguous.
    """
    accelerate(network)
    try:
        yield
    finally:
        restore(network)


def restore(network: nn.Module) -> None:
    """Give modules that `accelerate` turned their own classes, and convolutions the memory format of their making.

    Args:
        network: An accelerated network, or what `derive` left of one; changed in place.
    """
    for module in network.modules():
        if isinstance(module, Cell | DerivedCell):
            module.evaluator = None
        elif isinstance(module, FastDepthwiseConv2d):
            setattr(module, "__class__", nn.Conv2d)  # noqa: B010 (a type checker refuses the plain assignment)
        elif isinstance(module, FastOperation):
            setattr(module, "__class__", module.turned_from)  # noqa: B010
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
