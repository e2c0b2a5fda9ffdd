"""The layers that an operation's input goes through one after the other, found by structure (see `branches`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple, TypeAlias, cast

from torch import nn

from archgrad.exactness import as_defined, computes_by, is_exactly, kind_of, names_in_place
from archgrad.fast.activations import ACTIVATIONS, FUNCTIONS
from archgrad.fast.biases import TwoGrids
from archgrad.fast.dataflow import Activated, Either, Input, Joined, Part, Shifted, Sum, Value, read_forward
from archgrad.fast.recognise import NORMS, POOLS
from archgrad.operations import DilConv, FactorizedReduce, PoolBN, ReLUConvBN, SepConv, Zero

__all__ = ["Layer", "Residual", "chain_of", "part_at", "reduction_of"]


class Residual(NamedTuple):
    """Layers to whose output their input is added."""

    layers: tuple[Layer, ...]


Layer: TypeAlias = nn.Module | TwoGrids | Residual

_KINDS = {nn.Identity, nn.Conv2d, Zero, *ACTIVATIONS, *POOLS, *NORMS}
"""The layers that chains are made of; an Identity among them stands for a shift."""
_SHIFT = nn.Identity()
"""What stands in a chain for the pixels after the first row and column."""

as_defined(nn.Identity, nn.Conv2d, nn.Sequential)
as_defined(Zero, PoolBN, ReLUConvBN, DilConv, SepConv, FactorizedReduce)


def chain_of(module: nn.Module | None) -> list[Layer] | None:
    """Return the layers that a module's input goes through; None if the module does more, or says less."""
    if module is None:
        return None
    kind = kind_of(module)
    if kind in _KINDS:
        known = is_exactly(module, kind)
        return None if not known else [] if kind is nn.Identity else [module]
    if kind.__module__.startswith("torch.") and kind is not nn.Sequential:
        return None
    in_order = computes_by(kind, nn.Sequential)
    value = read_forward(kind.forward) if not in_order and computes_by(kind, nn.Module) else None
    if (not in_order and value is None) or not is_exactly(module, *as_defined(kind)) or not names_in_place():
        return None
    return _joined_end_to_end(list(module._modules.values())) if value is None else _follow(module, value)


def _joined_end_to_end(parts: Sequence[nn.Module | None]) -> list[Layer] | None:
    chain: list[Layer] = []
    for part in parts:
        layers = chain_of(part)
        if layers is None:
            return None
        chain += layers
    return chain


def _follow(module: nn.Module, value: Value) -> list[Layer] | None:
    """What the input has gone through at a value of the module's forward."""
    match value:
        case Input():
            return []
        case Activated(name, x):
            before, layers = _follow(module, x), cast("list[Layer] | None", [FUNCTIONS[name]])
        case Shifted(x):
            before, layers = _follow(module, x), [_SHIFT]
        case Part(path, x):
            before, layers = _follow(module, x), chain_of(part_at(module, path))
        case Either(flag, yes, no):
            decided = None if hasattr(type(module), flag) else module.__dict__.get(flag)
            return _follow(module, yes if decided else no) if isinstance(decided, bool) else None
        case Sum(first, second):
            one, two = _follow(module, first), _follow(module, second)
            if one is None or two is None or bool(one) == bool(two):
                return None
            return [Residual(tuple(one or two))]
        case Joined(first, second):
            one, two = _follow(module, first), _follow(module, second)
            if not one or not two or one[:-1] != two[:-2] or two[-2:-1] != [_SHIFT]:
                return None
            if not all(is_exactly(half, nn.Conv2d) for half in (one[-1], two[-1])):
                return None
            return [*one[:-1], TwoGrids(*cast("list[nn.Conv2d]", [one[-1], two[-1]]))]
    return None if before is None or layers is None else before + layers


def part_at(module: nn.Module, path: Sequence[str | int]) -> nn.Module | None:
    """Return the part that code finds by these names, and these numbers of parts of lists and sequences."""
    found: nn.Module | None = module
    for key in path:
        if found is None or not computes_by(type(found), nn.Module):
            return None
        found = _part_number(found, key) if isinstance(key, int) else _part_named(found, key)
    return found


def _part_named(module: nn.Module, name: str) -> nn.Module | None:
    return None if name in module.__dict__ or hasattr(type(module), name) else module._modules.get(name)


def _part_number(module: nn.Module, number: int) -> nn.Module | None:
    """The part that a list or sequence has at a number; a list finds it by its name, a sequence by its place."""
    finds = getattr(type(module), "__getitem__", None)
    if finds is nn.ModuleList.__getitem__:
        return module._modules.get(str(number))
    if finds is nn.Sequential.__getitem__:
        return next(islice(module._modules.values(), number, None), None)
    return None


def reduction_of(operation: nn.Module) -> list[Layer] | None:
    """Return the layers of a FactorizedReduce; None if its parts are others than its own."""
    parts = operation._modules
    first, second, norm = (parts.get(name) for name in ("conv_1", "conv_2", "bn"))
    if not is_exactly(first, nn.Conv2d) or not is_exactly(second, nn.Conv2d) or not is_exactly(norm, *NORMS):
        return None
    return [FUNCTIONS["relu"], TwoGrids(cast(nn.Conv2d, first), cast(nn.Conv2d, second)), cast(nn.Module, norm)]
