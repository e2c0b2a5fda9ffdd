"""Tuples, lists and dicts, of any depth, with tensors in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = ["map_tensors", "rebuilt", "tensors_in"]


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return the same structure with `change` of each tensor in its place, and everything else as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(part, change) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return rebuilt(value, [map_tensors(part, change) for part in value])
    return value


def rebuilt(like: Sequence[Any], parts: Sequence[Any]) -> Any:
    """Return parts in a tuple, list or named tuple of the type of another."""
    kind: Any = type(like)
    return kind(*parts) if hasattr(like, "_fields") else kind(parts)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a structure in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)
