"""Where a path is fitted to a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain

import torch
from torch import nn

from archgrad.cell import Cell
from archgrad.choices import LayerChoice
from archgrad.derived_cell import DerivedCell
from archgrad.exactness import kind_of
from archgrad.fast import path_names, turned_layers
from archgrad.fast.alone import FastOperation
from archgrad.fast.cells import CellEvaluator, ChoiceEvaluator
from archgrad.fast.deferral import Groups, deferring
from archgrad.fast.depthwise import FastDepthwiseConv2d, Geometry
from archgrad.fast.derived import DerivedEvaluator
from archgrad.fast.memory_format import Code, works_in_place
from archgrad.fast.path_names import Fast, Path, asked_path, check_path

__all__ = ["FastPath", "accelerate", "accelerated", "restore"]


def accelerate(network: nn.Module, path: Path | None = None) -> None:
    """Let cells, layer choices, known operations and depthwise convolutions compute by a path.

    What a path does not know exactly runs as it is written. Parameters are read at every forward pass, so that
    loading, moving or replacing them needs nothing more; a part that changes later is seen, too.

    Args:
        network: A space, or a derived network; changed in place.
        path: See `archgrad.fast.path_names`; None takes the usual one of the device that the network is on.
    """
    restore(network)
    path = path_names.usual_path(_device_of(network)) if path is None else path
    if path == "plain":
        return
    for module in network.modules():
        turned_layers.turn(module)
    guarded, kernels = works_in_place(network), path == "native"
    read = [module for module in network.modules() if isinstance(module, Cell | DerivedCell)]
    in_cells = {id(part) for cell in read for part in cell.modules()}
    for module in network.modules():
        if isinstance(module, Cell):
            module.evaluator = CellEvaluator(path, guarded=guarded)
        elif path == "grouped":
            continue
        elif isinstance(module, DerivedCell):
            module.evaluator = DerivedEvaluator(kernels=kernels)
        elif isinstance(module, LayerChoice):
            if id(module) not in in_cells and not guarded:
                module.evaluator = ChoiceEvaluator(path)
        elif type(module) is nn.Conv2d and module.bias is None and Geometry.of(module) is not None:
            FastDepthwiseConv2d.turn(module)
        elif id(module) not in in_cells and not guarded:  # there, the evaluator reads it
            FastOperation.turn(module, kernels=kernels)


class FastPath:
    """The path that a network runs by: the one asked for, or of "auto" the usual one until another is taken.

    Args:
        network: A space, or a derived network; changed in place, now and by the methods.
        fast: What is asked for.

    Raises:
        OptionError: There is no such path, or it is not for this machine or the network's device.

    Attributes:
        asked: What is asked for, in a word.
        present: The path that the network runs by at present.
    """

    def __init__(self, network: nn.Module, fast: Fast) -> None:
        self.asked = asked_path(fast)
        self.present: Path = "plain"
        self._network, self._code = network, Code(network)
        self._groups = Groups()
        self._fitted_to = ""
        restore(network)  # it may be the copy of one that was accelerated
        self.fit(_device_of(network))

    def fit(self, device: torch.device) -> None:
        """Take the path for a device, if the network comes from another kind of device.

        Raises:
            OptionError: What is asked for is not for this device.
        """
        if device.type == self._fitted_to:
            return
        check_path(self.asked, device)
        self._fitted_to = device.type
        self.take(path_names.usual_path(device) if self.asked == "auto" else self.asked)

    def take(self, path: Path) -> None:
        """Let the network run by a path, on the device that it is on."""
        if path != self.present:
            accelerate(self._network, path)
            self.present = path

    def accepts_channels_last(self) -> bool:
        """Return whether images are brought to channels_last, which the network as it is now is known to take."""
        return self.present != "plain" and self._code.accepts_channels_last()

    @property
    def draws_masks(self) -> bool:
        """Whether the network has a layer that draws masks, as it was when `accepts_channels_last` looked."""
        return self._code.draws_masks

    def deferring(self) -> AbstractContextManager[None]:
        """Return a context for a pass, in which layer choices may be computed together (see `deferral`).

        The network must be as it was when `accepts_channels_last` looked.
        """
        if self.present != "native" or not self._code.keeps_to_itself:
            return nullcontext()
        return deferring(self._groups, self._groups.deferrable(self._network, self._code.seen))


@contextmanager
def accelerated(network: nn.Module, fast: Fast = "auto") -> Iterator[FastPath]:
    """Let a network run by a path for a while.

    Args:
        network: A derived network, or any other; at the end it is as it was.
        fast: What is asked for.

    Raises:
        OptionError: See `FastPath`.
    """
    evaluated = [(m, m.evaluator) for m in network.modules() if isinstance(m, Cell | DerivedCell | LayerChoice)]
    turned = [(m, type(m)) for m in network.modules() if "turned_from" in type(m).__dict__]
    try:
        yield FastPath(network, fast)
    finally:
        restore(network)
        for module, evaluator in evaluated:  # it may have been accelerated, and stays so
            module.evaluator = evaluator
        for part, kind in turned:
            setattr(part, "__class__", kind)  # noqa: B010 (as below)


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


def _device_of(network: nn.Module) -> torch.device:
    return next((tensor.device for tensor in chain(network.parameters(), network.buffers())), torch.device("cpu"))
