"""Why a network cannot take a batch: its error, with what the data has and what to give instead."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from archgrad.calling import takes_parts
from archgrad.errors import ArchgradError, OptionError
from archgrad.nested import tensors_in

__all__ = ["CHANNELS", "has_channels_last", "refusals_explained"]

CHANNELS = (1, 3, 4)
"""How many channels images have in files."""

_REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, KeyError)
"""What layers raise at inputs that they cannot take."""
_OF_ANOTHER_KIND = (ArchgradError, torch.OutOfMemoryError, NotImplementedError, RecursionError)


def has_channels_last(shape: tuple[int, ...]) -> bool:
    """Whether (..., H, W, C) is more likely the shape of images than (..., C, H, W)."""
    return len(shape) >= 3 and shape[-1] in CHANNELS and shape[-3] not in CHANNELS


@contextmanager
def refusals_explained(network: nn.Module, inputs: Any, *, of: str = "this data") -> Iterator[None]:
    """Raise OptionError in the place of what a network raises at a batch that it cannot take.

    Args:
        network: Looked at for what its layers take.
        inputs: The batch.
        of: What the batch is of, for the message.
    """
    hooks = [
        part.register_forward_pre_hook(_check_rows) for part in network.modules() if isinstance(part, nn.Embedding)
    ]
    try:
        yield
    except _OF_ANOTHER_KIND:
        raise
    except _REFUSALS as error:
        tensors = list(tensors_in(inputs))
        shapes = ", ".join(f"{tuple(x.shape)} of {x.dtype}" for x in tensors) or type(inputs).__name__
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else error
        remedy = _names_told(network, inputs) if isinstance(error, TypeError) else None
        remedy = remedy or next((found for x in tensors if (found := _remedy(network, x))), None)
        raise OptionError(
            f"The network {type(network).__name__} cannot take a batch of {of}, {shapes}: {reason}. "
            f"{remedy or 'Build it for the channels and size of the data.'}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _check_rows(table: nn.Module, given: tuple[Any, ...]) -> None:
    """Refuse numbers that a table has no row for; on a GPU, looking them up would end the process."""
    assert isinstance(table, nn.Embedding)
    numbers = given[0] if given else None
    if not isinstance(numbers, Tensor) or numbers.is_floating_point() or not numbers.numel():
        return
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high >= table.num_embeddings:
        raise OptionError(
            f"An Embedding of {table.num_embeddings} rows takes the numbers 0 to {table.num_embeddings - 1}, but a "
            f"batch reaches from {low} to {high}. Build it with at least {max(high, 0) + 1} rows, or renumber them."
        )


def _names_told(network: nn.Module, inputs: Any) -> str | None:
    """What to do where a network that requires several arguments got others."""
    if not takes_parts(network, inputs):
        return None
    required = ", ".join(inspect.signature(network.forward).parameters)
    given = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else f"{len(inputs)} of them, in order"
    return (
        f"Its forward requires several arguments ({required}), and gets the parts of a batch as these: {given}. Let "
        f"the data and the network call them the same."
    )


def _remedy(network: nn.Module, x: Tensor) -> str | None:
    parts = list(network.modules())
    embeds = any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in parts)
    plane = next((part for part in parts if isinstance(part, nn.Conv2d)), None)
    line = next((part for part in parts if isinstance(part, nn.Conv1d)), None)
    if plane is not None and x.dim() == 4 and has_channels_last(tuple(x.shape)):
        return "Images must have the shape (samples, channels, height, width): give x.movedim(3, 1)."
    if plane is not None and x.dim() == 3:
        return "Images must have the shape (samples, channels, height, width): for grey ones give x[:, None]."
    if plane is not None and x.dim() == 4 and x.shape[1] != plane.in_channels:
        return f"Build it for {x.shape[1]} channels, or give images of {plane.in_channels}."
    if line is not None and x.dim() == 2:
        return "Conv1d takes the shape (samples, channels, length): for one channel give x[:, None]."
    if line is not None and x.dim() == 3 and x.shape[2] == line.in_channels != x.shape[1]:
        return "Conv1d takes the shape (samples, channels, length): give x.movedim(2, 1)."
    if embeds and x.is_floating_point():
        return "An Embedding takes whole numbers: give x.long()."
    if not embeds and not x.is_floating_point() and not x.is_complex():
        return "Whole numbers stay whole, as an Embedding takes them: for measured values give x.float()."
    if x.dtype in (torch.complex64, torch.complex128):
        return "Layers take real numbers: give torch.view_as_real(x), or x.abs()."
    return None
