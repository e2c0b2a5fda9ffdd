"""Which modules are the same but for their weights' values, and what they are given: those of one cost."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from archgrad.nested import places

__all__ = ["called", "digest", "module_key", "shapes_key"]

_TABLES = frozenset(vars(nn.Module()))
"""What every module has: its parts, weights and hooks, which are looked at as such, and whether it trains."""
_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)


def module_key(module: nn.Module) -> Hashable | None:
    """Return what is equal of modules that differ in the values of their weights alone; None where that is not known.

    Classes, parts, settings and the shapes and types of weights and buffers count, and the attributes of modules that
    somebody wrote. A module with hooks, or with attributes that are no plain values, is like no other.
    """
    found: list[Hashable] = []
    numbers: dict[int, int] = {}  # of parts and weights: one that occurs twice is not two
    for path, part in module.named_modules(remove_duplicate=False):
        known = id(part) in numbers
        found.append((path, type(part), numbers.setdefault(id(part), len(numbers))))
        if known:
            continue
        for name, value in vars(part).items():
            if name in ("_parameters", "_buffers"):
                for each, weight in value.items():
                    place = numbers.setdefault(id(weight), len(numbers))
                    found.append((each, None if weight is None else (place, _tensor_key(weight))))
            elif name in _TABLES:
                if "hooks" in name and value:
                    return None
            else:
                key = _plain_key(value)
                if key is None:
                    return None
                found.append((name, key))
    return tuple(found)


def shapes_key(value: Any) -> Hashable | None:
    """Return what is equal of inputs that differ in the numbers in their tensors alone; None where that is not known.

    Args:
        value: Nested tuples, lists and dicts of tensors and plain values.
    """
    found: list[Hashable] = []
    for place, leaf in places(value):
        key = _tensor_key(leaf) if isinstance(leaf, Tensor) else _plain_key(leaf)
        if key is None:
            return None
        found.append((place, key))
    return tuple(found)


def digest(*keys: Any) -> str:
    """Return a short text that is equal for equal keys, also in another process: 24 hexadecimal digits."""
    return hashlib.sha256(repr(keys).encode()).hexdigest()[:24]


@contextmanager
def called(*modules: nn.Module) -> Iterator[list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]]:
    """Note (module, arguments, arguments by name) of every call of the modules within the block."""
    calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((module, args, kwargs))

    hooks = [m.register_forward_pre_hook(note, with_kwargs=True) for m in {id(m): m for m in modules}.values()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _tensor_key(x: Tensor) -> Hashable:
    """Shape and type; not the device, so that a table of latencies is read where another device searches."""
    return tuple(x.shape), x.dtype, x.requires_grad, type(x)


def _plain_key(value: Any) -> Hashable | None:
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, tuple | list):
        keys = [_plain_key(item) for item in value]
        return None if None in keys else (type(value), tuple(keys))
    if isinstance(value, Mapping):
        keys = [_plain_key(item) for pair in value.items() for item in pair]
        return None if None in keys else (type(value), tuple(keys))
    return (type(value), value) if isinstance(value, type) else None
