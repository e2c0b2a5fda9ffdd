"""Mappings and sequences, of any depth and type, with tensors in them."""

from __future__ import annotations

import copy
from collections import UserString
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = [
    "Place",
    "branches",
    "is_structure",
    "joined",
    "map_leaves",
    "map_tensors",
    "placed",
    "places",
    "rebuilt",
    "tensors_in",
]

Place = tuple[str | int, ...]
"""The keys of mappings and positions in sequences that lead to something in a structure."""

_ONE_THING = (str, UserString, bytes, bytearray, memoryview, range)
"""Sequences that are a value, not a structure."""


def is_structure(value: Any) -> bool:
    """Return whether a value is a mapping or a sequence of others: dict, UserDict, tuple, named tuple, list, deque."""
    # Most are among the first three, and asking an abstract class takes ten times as long.
    return isinstance(value, tuple | list | dict) or (
        isinstance(value, Mapping | Sequence) and not isinstance(value, _ONE_THING)
    )


def branches(value: Any) -> list[tuple[Any, Any]]:
    """Return (key or position, part) of a structure, in order."""
    if isinstance(value, Mapping):
        return [(key, value[key]) for key in value]
    return list(enumerate(value))


def rebuilt(like: Any, parts: Sequence[Any]) -> Any:
    """Return a structure of the type of another, with its keys; where the type cannot be made so, a dict or a list.

    Args:
        like: The other.
        parts: In the order of `branches(like)`.
    """
    kind: Any = type(like)
    if kind in (tuple, list):
        return kind(parts)
    if kind is dict:
        return dict(zip(like, parts, strict=True))
    if isinstance(like, Mapping):
        return _rebuilt_mapping(like, parts)
    make = getattr(kind, "_make", kind)  # of named tuples
    plain = tuple if isinstance(like, tuple) else list
    try:
        made = make(parts)
        same = len(made) == len(parts) and all(a is b for a, b in zip(made, parts, strict=True))
    except Exception:  # a type of somebody's own, made of something else
        return plain(parts)
    return made if same and type(made) is kind else plain(parts)


def _rebuilt_mapping(like: Mapping[Any, Any], parts: Sequence[Any]) -> Any:
    try:
        made: Any = copy.copy(like)  # keeps what a type of somebody's own holds beside its items
        if made is like:
            return dict(zip(like, parts, strict=True))
        for key, part in zip(like, parts, strict=True):
            made[key] = part
    except Exception:  # one that cannot be copied or changed
        return dict(zip(like, parts, strict=True))
    return made


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return the same structure with `change` of each tensor in its place, and everything else as it is."""
    return map_leaves(value, lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf)


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return the same structure with `change` of all that is no mapping and no sequence in its place."""
    if not is_structure(value):
        return change(value)
    return rebuilt(value, [map_leaves(part, change) for _, part in branches(value)])


def joined(
    values: Sequence[Any], join: Callable[[list[Tensor]], Tensor], check: Callable[[Sequence[Any]], None] | None = None
) -> Any:
    """Return one structure out of several equal ones, each of its tensors made by `join` of theirs.

    Args:
        values: Tensors, or equal structures (mapping, sequence) of them; what else stands in them is taken from the
            first.
        join: Function of the tensors that stand in one place.
        check: Called with the values, then with what stands in each place of them.
    """
    if check is not None:
        check(values)
    first = values[0]
    if isinstance(first, Tensor):
        return join(list(values))
    if not is_structure(first):
        return first
    return rebuilt(first, [joined([value[key] for value in values], join, check) for key, _ in branches(first)])


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a structure in order."""
    if isinstance(value, Tensor):
        yield value
    elif is_structure(value):
        for _, part in branches(value):
            yield from tensors_in(part)


def places(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield all that is no mapping and no sequence, in order, with the place where it stands."""
    if not is_structure(value):
        yield place, value
        return
    for key, part in branches(value):
        yield from places(part, (*place, key))


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
