"""Sizes that somebody asks for, checked before anything is built from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from archgrad.checks import is_whole
from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.machine import machine_memory

__all__ = ["LARGEST", "check_divides", "check_fits_memory", "check_whole"]

LARGEST = 2**31 - 1
"""Largest whole number that an option may be, unless it says otherwise."""

_BYTES_PER_MODULE = 4096  # of Python's own; measured on the paper's search network
_BYTES_PER_TENSOR = 1024
_ORDINARY = {"num_classes": 2**14, "in_channels": 2**10, "joined": 16}
_ORDINARY_WEIGHTS = 2**18  # cells x channels^2; the paper's largest network has 2**15
_FEW_CELLS = (3, 6)  # a space's cells recur at least every third


def check_whole(name: str, value: object, *, least: int, most: int = LARGEST, remedy: str = "") -> None:
    """Refuse what is no whole number in a range.

    Args:
        name: Of the option, for the message.
        value: What it was given.
        least: Smallest value allowed.
        most: Largest.
        remedy: A sentence for the end of the message.

    Raises:
        OptionError: It is of another type, or outside the range.
    """
    number: Any = int(value) if isinstance(value, np.integer) else value
    if not is_whole(number, least=least):
        end = remedy and f" {remedy}."
        raise OptionError(f"{name} must be a whole number of at least {least}, but got {name}={shown(value)}.{end}")
    if number > most:
        raise OptionError(f"{name} must be at most {most}, but got {name}={shown(value)}. Choose a smaller one.")


def check_divides(partial_channels: int, channels: int) -> None:
    """Refuse parts of the channels that are not of equal size.

    Args:
        partial_channels: Number of parts.
        channels: Of a node in the first cells.

    Raises:
        OptionError: The number of parts does not divide the channels.
    """
    if channels % partial_channels:
        raise OptionError(
            f"partial_channels must divide channels, but got partial_channels={partial_channels}, channels={channels}."
        )


def check_fits_memory(build: Callable[[int], nn.Module], *, cells: int, channels: int, **sizes: int) -> None:
    """Refuse a network that this machine's memory cannot hold, before it is built.

    Weights are counted on torch's meta device, which takes no memory for them; networks of many cells are counted by
    what a cell adds. Training needs as much again for gradients, and so does reading weights from a file.

    Args:
        build: Builds the network with the number of cells that it is given.
        cells: Number of cells that is asked for.
        channels: Of the first cells.
        sizes: What else decides the size, by name: num_classes, in_channels, joined (nodes of a cell).

    Raises:
        OptionError: Twice the weights take more than the memory.
    """
    ordinary = cells * channels**2 <= _ORDINARY_WEIGHTS and all(
        sizes.get(name, 0) <= most for name, most in _ORDINARY.items()
    )
    if ordinary or torch.empty(0).device.type == "meta":
        return
    asked = ", ".join(f"{name}={value}" for name, value in {"channels": channels, "cells": cells, **sizes}.items())
    memory = machine_memory()
    try:
        with torch.device("meta"):
            needed = _bytes_of(build, cells)
    except RuntimeError as error:  # a tensor of more elements than 64 bits can count
        raise OptionError(
            f"A network with {asked} has more weights than can be counted ({shown(str(error))}). Choose smaller sizes."
        ) from error
    if memory is not None and 2 * needed > memory:
        raise OptionError(
            f"A network with {asked} takes about {needed / 1e9:.3g} GB for its weights, and as much again to be "
            f"trained or read, but this machine has {memory / 1e9:.3g} GB of memory. Choose smaller sizes."
        )


def _bytes_of(build: Callable[[int], nn.Module], cells: int) -> int:
    if cells <= _FEW_CELLS[1]:
        return _bytes_in(build(cells))
    few, more = (_bytes_in(build(number)) for number in _FEW_CELLS)
    return more + (more - few) * (cells - _FEW_CELLS[1]) // (_FEW_CELLS[1] - _FEW_CELLS[0])


def _bytes_in(network: nn.Module) -> int:
    tensors = [*network.parameters(), *network.buffers()]
    content = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return content + _BYTES_PER_TENSOR * len(tensors) + _BYTES_PER_MODULE * sum(1 for _ in network.modules())
