"""Which parts of a network work in place on tensors that something else may hold.

A ReLU in place behind a layer of PyTorch changes what nobody else reads. Behind a choice or a known operation it would
change what these keep for the backward pass.
"""

from __future__ import annotations

from types import FunctionType
from typing import NamedTuple

from torch import nn

from archgrad.choices import LayerChoice
from archgrad.exactness import as_defined, computes_by, is_exactly, kind_of
from archgrad.fast.chains import part_at
from archgrad.fast.dataflow import Activated, Either, Input, Joined, Part, Shifted, Sum, Value, read_forward
from archgrad.isolation import NEW, has_in_place, is_in_place

__all__ = ["writes_beyond"]


class _Found(NamedTuple):
    """What a module, or its code up to a value, does."""

    writes: bool
    """A part changes a tensor that something else may hold."""
    gives_own: bool
    """What it gives, only layers of PyTorch in it have made, and nothing needs as it is."""


def writes_beyond(module: nn.Module) -> bool:
    """Return whether a part with an attribute `inplace=True` may change a tensor that something else holds.

    Args:
        module: Called with a tensor that others hold. Candidates of choices in it get copies where they write to it.
    """
    return _follow(module, own=False).writes


def _follow(module: nn.Module | None, *, own: bool) -> _Found:
    if module is None:
        return _Found(writes=True, gives_own=False)
    kind, parts = kind_of(module), [part for part in module._modules.values() if part is not None]
    if not is_exactly(module, *as_defined(kind)):
        return _Found(is_in_place(module) or any(_follow(part, own=False).writes for part in parts), gives_own=False)
    if kind.__module__.startswith("torch.nn.") and isinstance(module, NEW):
        return _Found(writes=False, gives_own=True)
    if kind is nn.Identity or (not parts and is_in_place(module)):
        return _Found(is_in_place(module) and not own, gives_own=own)
    if computes_by(kind, nn.Sequential):
        found = _Found(writes=False, gives_own=own)
        for part in parts:
            found = _then(found, _follow(part, own=found.gives_own))
        return found
    if not has_in_place(module):
        return _Found(writes=False, gives_own=False)
    if isinstance(module, LayerChoice):
        return _Found(any(_follow(candidate, own=True).writes for candidate in module.candidates), gives_own=False)
    value = read_forward(kind.forward) if isinstance(kind.forward, FunctionType) else None
    if value is None:  # functions in place are looked for where the code is read
        return _Found(any(_follow(part, own=False).writes for part in parts), gives_own=False)
    return _up_to(module, value, own=own)


def _up_to(module: nn.Module, value: Value, *, own: bool) -> _Found:
    """What the code of a module does up to a value."""
    match value:
        case Input():
            return _Found(writes=False, gives_own=own)
        case Part(path, x):
            before = _up_to(module, x, own=own)
            return _then(before, _follow(part_at(module, path), own=before.gives_own))
        case Activated(_, x) | Shifted(x):
            return _then(_up_to(module, x, own=own), _Found(writes=False, gives_own=False))
        case Joined(one, other) | Sum(one, other) | Either(_, one, other):
            pair = [_up_to(module, x, own=own) for x in (one, other)]
            return _Found(any(found.writes for found in pair), gives_own=False)


def _then(before: _Found, after: _Found) -> _Found:
    return _Found(before.writes or after.writes, after.gives_own)
