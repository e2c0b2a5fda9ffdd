"""Where the fast path is fitted to a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from archgrad.cell import Cell, DerivedCell
from archgrad.choices import LayerChoice
from archgrad.exactness import kind_of
from archgrad.fast.alone import FastOperation
from archgrad.fast.cells import CellEvaluator, ChoiceEvaluator
from archgrad.fast.depthwise import FastDepthwiseConv2d, Geometry
from archgrad.fast.derived import DerivedEvaluator
from archgrad.fast.memory_format import works_in_place

__all__ = ["accelerate", "accelerated", "restore"]


def accelerate(network: nn.Module) -> None:
    """Let cells, layer choices, known operations and depthwise convolutions compute the fast way.

    What the fast path does not know exactly runs as it is written. Parameters are read at every forward pass, so that
    loading, moving or replacing them needs nothing more; a part that changes later is seen, too.

    Args:
        network: A space, or a derived network; changed in place.
    """
    guarded = works_in_place(network)
    read = [module for module in network.modules() if isinstance(module, Cell | DerivedCell)]
    in_cells = {id(part) for cell in read for part in cell.modules()}
    for module in network.modules():
        if isinstance(module, Cell):
            module.evaluator = CellEvaluator(guarded=guarded)
        elif isinstance(module, DerivedCell):
            module.evaluator = DerivedEvaluator()
        elif isinstance(module, LayerChoice):
            if id(module) not in in_cells and not guarded:
                module.evaluator = ChoiceEvaluator()
        elif type(module) is nn.Conv2d and Geometry.of(module) is not None:
            FastDepthwiseConv2d.turn(module)
        elif id(module) not in in_cells and not guarded:  # there, the evaluator reads it
            FastOperation.turn(module)


@contextmanager
def accelerated(network: nn.Module) -> Iterator[None]:
    """Accelerate a network for a while.

    Args:
        network: A derived network, or any other; at the end it is as it was.
    """
    before = [(m, m.evaluator) for m in network.modules() if isinstance(m, Cell | DerivedCell) and m.evaluator]
    accelerate(network)
    try:
        yield
    finally:
        restore(network)
        for module, evaluator in before:  # it was accelerated, and stays so
            module.evaluator = evaluator


def restore(network: nn.Module) -> None:
    """Give modules that `accelerate` turned their own classes.

    Args:
        network: An accelerated network, or what `derive` left of one; changed in place.
    """
    for module in network.modules():
        if isinstance(module, Cell | DerivedCell | LayerChoice):
            module.evaluator = None
        elif "turned_from" in type(module).__dict__:
            setattr(module, "__class__", kind_of(module))  # noqa: B010 (a type checker refuses the plain assignment)
