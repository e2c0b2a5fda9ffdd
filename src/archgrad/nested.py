"""Tuples, lists and dicts, of any depth, with tensors in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = ["Place", "joined", "map_leaves", "map_tensors", "placed", "places", "tensors_in"]

Place = tuple[str | int, ...]
"""The keys of dicts and positions in tuples and lists that lead to something in a structure."""


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return the same structure with `change` of each tensor in its place, and everything else as it is."""
    return map_leaves(value, lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf)


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return the same structure with `change` of all that is no tuple, list or dict in its place."""
    if isinstance(value, Mapping):
        return {key: map_leaves(part, change) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return _rebuilt(value, [map_leaves(part, change) for part in value])
    return change(value)


def joined(
    values: Sequence[Any], join: Callable[[list[Tensor]], Tensor], check: Callable[[Sequence[Any]], None] | None = None
) -> Any:
    """Return one structure out of several equal ones, each of its tensors made by `join` of theirs.

    Args:
        values: Tensors, or equal structures (tuple, list, dict) of them; what else stands in them is taken from the
            first.
        join: Function of the tensors that stand in one place.
        check: Called with the values, then with what stands in each place of them.
    """
    if check is not None:
        check(values)
    first = values[0]
    if isinstance(first, Tensor):
        return join(list(values))
    if isinstance(first, Mapping):
        return {key: joined([value[key] for value in values], join, check) for key in first}
    if isinstance(first, tuple | list):
        return _rebuilt(first, [joined([value[i] for value in values], join, check) for i in range(len(first))])
    return first


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


def places(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield all that is no tuple, list or dict, in order, with the place where it stands."""
    if isinstance(value, Mapping | tuple | list):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from places(part, (*place, key))
    else:
        yield place, value


def placed(parts: Iterable[tuple[Place, Any]]) -> Any:
    """Return the structure of tuples and dicts whose `places` these are.

    Raises:
        ValueError: There is no such structure.
    """
    heads: dict[str | int, list[tuple[Place, Any]]] = {}
    parts = list(parts)
    if len(parts) == 1 and not parts[0][0]:
        return parts[0][1]
    for place, value in parts:
        if not place:
            raise ValueError("two things stand in one place")
        heads.setdefault(place[0], []).append((place[1:], value))
    built = {head: placed(below) for head, below in heads.items()}
    if built and all(isinstance(head, str) for head in built):
        return built
    if not built or list(built) != list(range(len(built))):
        raise ValueError(f"the places {list(built)} are neither keys nor positions from 0 on")
    return tuple(built.values())


def _rebuilt(like: Sequence[Any], parts: Sequence[Any]) -> Any:
    """Return parts in a tuple, list or named tuple of the type of another."""
    kind: Any = type(like)
    return kind(*parts) if hasattr(like, "_fields") else kind(parts)
