"""What a network takes: one tensor, or tuples and dicts of them; by shape and type, by name, and as examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from archgrad.batches import count
from archgrad.checks import is_whole
from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.nested import Place, map_leaves, map_tensors, placed, tensors_in

__all__ = ["DTYPES", "Examples", "TensorInput", "is_sizes", "nested_inputs", "tensor_inputs"]

DTYPES = ("float32", "int64", "int32", "uint8", "bool")
"""The types that inputs may have."""
_MOST_DIMENSIONS = 8
_MOST_ELEMENTS = 2**31
_DEEPEST = 16


class TensorInput(NamedTuple):
    """One tensor among the inputs of a network."""

    place: Place
    """Where it stands in them; empty where it is all of them."""
    shape: tuple[int, ...]
    """Of one sample, without the batch."""
    dtype: str
    """One of `DTYPES`."""

    @property
    def name(self) -> str:
        """What an ONNX file calls it: `inputs`, `tokens` (the key in a dict), `inputs.0` (the position in a tuple)."""
        head = () if self.place and isinstance(self.place[0], str) else ("inputs",)
        return ".".join(map(str, (*head, *self.place)))


def is_sizes(shape: Any) -> bool:
    """Whether a shape is that of a single tensor, not a structure of several."""
    return isinstance(shape, tuple | list) and not any(isinstance(part, Mapping | tuple | list) for part in shape)


def tensor_inputs(input_shape: Any, input_dtype: Any) -> list[TensorInput]:
    """Return the tensors of a network's inputs in order.

    Args:
        input_shape: Sizes of one sample, without the batch; a tuple or dict of such where there are several tensors.
        input_dtype: One of `DTYPES` for all, or the same structure of them.

    Raises:
        OptionError: A size or a type is none, or two tensors would have one name.
    """
    found = list(_tensor_inputs(input_shape, input_dtype, ()))
    names = [each.name for each in found]
    if not names:
        raise OptionError("A network takes at least one tensor, but input_shape names none. Give its shape.")
    if len(set(names)) < len(names):
        raise OptionError(f"Each input needs a name of its own, but they are called {shown(names)}. Rename a key.")
    return found


def _tensor_inputs(shape: Any, dtype: Any, place: Place) -> Any:
    if is_sizes(shape):
        yield TensorInput(place, _checked_sizes(tuple(shape)), _checked_dtype(dtype))
        return
    if not isinstance(shape, Mapping | tuple | list) or len(place) == _DEEPEST:
        raise OptionError(f"input_shape must be sizes, or a tuple or dict of such, but among it is {shown(shape)}.")
    for key, part in shape.items() if isinstance(shape, Mapping) else enumerate(shape):
        if isinstance(shape, Mapping) and not isinstance(key, str):
            raise OptionError(f"Inputs in a dict need keys of text, but got {shown(key)}. Rename it.")
        try:
            one = dtype if isinstance(dtype, str) else dtype[key]
        except (TypeError, KeyError, IndexError):
            raise OptionError(
                f"input_dtype must be one type, or one for each tensor of input_shape, but got {shown(dtype)}."
            ) from None
        yield from _tensor_inputs(part, one, (*place, key))


def _checked_sizes(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    whole = all(is_whole(size, least=1) for size in sizes)
    if not whole or len(sizes) > _MOST_DIMENSIONS or math.prod(sizes) > _MOST_ELEMENTS:
        raise OptionError(
            f"input_shape must be the sizes of one sample, each at least 1, but got {shown(sizes)}. "
            f"Give for example (3, 32, 32)."
        )
    return sizes


def _checked_dtype(dtype: Any) -> str:
    if dtype not in DTYPES:
        kinds = f"{', '.join(DTYPES[:-1])} or {DTYPES[-1]}"
        raise OptionError(f"Inputs of an exported network are {kinds}, but got {shown(dtype)}.")
    return str(dtype)


def nested_inputs(parts: Any) -> tuple[Any, Any]:
    """Return `input_shape` and `input_dtype` that a JSON text gives, tensor by tensor.

    Args:
        parts: Of anyone's making; should be dicts of place, shape and dtype.

    Raises:
        OptionError: They are none, or their places do not go together.
    """
    shapes, dtypes = [], []
    for part in parts if isinstance(parts, list) else [parts]:
        if not isinstance(part, Mapping) or not all(isinstance(part.get(name), list) for name in ("place", "shape")):
            raise OptionError(f"Each input must have place, shape and dtype, but got {shown(part)}.")
        place = tuple(part["place"])
        if len(place) > _DEEPEST or not all(isinstance(key, str) or is_whole(key, least=0) for key in place):
            raise OptionError(f"The place of an input must be keys and positions, but got {shown(place)}.")
        shapes.append((place, tuple(part["shape"])))
        dtypes.append((place, part.get("dtype")))
    try:
        return placed(shapes), placed(dtypes)
    except ValueError as error:
        raise OptionError(f"The places of the inputs do not go together: {error}.") from error


class Examples:
    """Batches of any size to try a network with, always the same.

    Args:
        given: A batch of a caller's: (B, ...) tensor or array, or a tuple, list or dict of such with one B. If None,
            standard normal numbers, or 0 and 1 for what has no fraction.
        shape: As in `ModelDescription`, if no batch is given.
        dtype: Goes with `shape`.

    Attributes:
        shape: Of one sample.
        dtype: Of each tensor.
        given: The batch that was given, floating point in 32 bits.

    Raises:
        OptionError: The batch holds anything else, or no samples; a shape or type is none.
    """

    def __init__(self, given: Any = None, *, shape: Any = None, dtype: Any = "float32") -> None:
        self.given = None if given is None else _as_batch(given)
        self.shape, self.dtype = (shape, dtype) if given is None else _shapes_of(self.given)
        self._tensors = tensor_inputs(self.shape, self.dtype)

    def batch(self, samples: int) -> Any:
        """Return so many samples; those that were given over again where they are fewer."""
        if self.given is None:
            return placed((each.place, _made_up(each, samples, n)) for n, each in enumerate(self._tensors))
        indices = torch.arange(samples) % count(self.given)
        return map_tensors(self.given, lambda tensor: tensor[indices])


def _made_up(each: TensorInput, batch: int, number: int) -> Tensor:
    shape = (batch, *each.shape)
    if each.dtype == "float32":
        return torch.randn(shape, generator=torch.Generator().manual_seed(batch + 1000 * number))
    return (torch.arange(math.prod(shape)).reshape(shape) % 2).to(getattr(torch, each.dtype))


def _as_batch(given: Any) -> Any:
    """Return a batch of a caller's as a network in float32 takes it on the CPU."""

    def one(leaf: Any) -> Tensor:
        tensor = torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf
        if not isinstance(tensor, Tensor) or not tensor.dim():
            raise OptionError(
                f"Example inputs must be a batch (B, ...), or a tuple or dict of such, but among them is "
                f"{shown(leaf)}. Wrap the network so that it takes nothing else."
            )
        tensor = tensor.detach().cpu()
        return tensor.to(torch.float32) if tensor.is_floating_point() else tensor

    batch = map_leaves(given, one)
    sizes = {len(tensor) for tensor in tensors_in(batch)}
    if len(sizes) != 1 or 0 in sizes:
        raise OptionError(f"Example inputs must have as many samples each, at least 1, but have {sorted(sizes)}.")
    return batch


def _shapes_of(batch: Any) -> tuple[Any, Any]:
    return (
        map_tensors(batch, lambda tensor: tuple(tensor.shape[1:])),
        map_tensors(batch, lambda tensor: str(tensor.dtype).removeprefix("torch.")),
    )
