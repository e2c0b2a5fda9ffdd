"""What was worked out from a module, kept as long as the module is as it was then."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import chain, compress, repeat
from operator import attrgetter, is_not, itemgetter
from typing import Any, TypeVar, cast

from torch import nn

from archgrad.cell import Cell
from archgrad.exactness import HOOKS, kind_of, methods_in_place
from archgrad.fast.activations import ACTIVATIONS
from archgrad.fast.dataflow import flags_of
from archgrad.operations import Zero

__all__ = ["Parts", "StructureCache", "Unchanged"]

T = TypeVar("T")

_HOOKS = itemgetter(*HOOKS)
_CHILDREN = itemgetter("_modules")
_TENSOR = attrgetter("shape", "dtype", "device")
_SETTINGS: dict[type[nn.Module], Callable[[dict[str, Any]], Any]] = {
    nn.Conv2d: itemgetter("stride", "padding", "dilation", "groups", "padding_mode"),
    nn.BatchNorm2d: itemgetter("training", "eps", "momentum", "affine", "num_features"),
    Zero: itemgetter("stride"),
    Cell: itemgetter("output", "n_nodes", "n_inputs", "pairs", "partial_channels"),
}
"""What decides how a layer computes, beside its tensors. `track_running_stats` is read at every pass."""
_POOLS: dict[type[nn.Module], Callable[[dict[str, Any]], Any]] = {
    nn.MaxPool2d: itemgetter("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool2d: itemgetter("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
}
"""The same of layers that are known only if they are of these classes themselves."""


def _of_activation(names: tuple[str, ...]) -> Callable[[dict[str, Any]], Any]:
    return lambda own: tuple(map(own.get, names))


_SETTINGS |= {kind: _of_activation((*names, "inplace")) for kind, (_, names) in ACTIVATIONS.items()}


class StructureCache:
    """Keeps for one module what passes of different kinds work out from it; copies begin with nothing."""

    _MOST = 16
    """Results that are kept."""

    def __init__(self) -> None:
        self._unchanged: Unchanged | None = None
        self._by_kind: dict[Hashable, Any] = {}

    def __reduce__(self) -> tuple[type[StructureCache], tuple[()]]:
        return type(self), ()

    def __len__(self) -> int:
        return len(self._by_kind)

    def look(self, module: nn.Module) -> None:
        """Forget everything if the module is not as it was.

        Args:
            module: Always the same object.
        """
        if self._unchanged is None or not self._unchanged.holds():
            self._unchanged = Unchanged(module)
            self._by_kind.clear()

    def find(self, kind: Hashable, work_out: Callable[[], T]) -> T:
        """Return what `work_out` gives for this kind of pass, or gave since the module changed.

        Args:
            kind: All that the result depends on, beside the module.
            work_out: Computes the result.
        """
        if kind not in self._by_kind:
            found = work_out()  # which may look for other kinds
            if len(self._by_kind) >= self._MOST:
                del self._by_kind[next(iter(self._by_kind))]
            self._by_kind[kind] = found
        return cast(T, self._by_kind[kind])


class Parts:
    """Remembers what a module consists of: its parts in their places, their classes, hooks and own `forward`s.

    This is looked at in every forward pass, so it is read table by table and not by walking through the module again.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.modules = list(module.modules())
        self.own = list(map(vars, self.modules))
        self._seen = self._look()

    def hold(self) -> bool:
        """Return whether all is as it was."""
        return self._look() == self._seen

    def _look(self) -> tuple[Any, ...]:
        tables = list(map(_CHILDREN, self.own))
        return (
            list(map(len, tables)),
            list(chain.from_iterable(map(dict.values, tables))),
            list(map(type, self.modules)),
            any(chain.from_iterable(map(_HOOKS, self.own))) and self._hooks(),
            list(map(dict.__contains__, self.own, repeat("forward"))),
        )

    def _hooks(self) -> list[tuple[Any, ...]]:
        """Number of the module and hooks, table by table, of those that have any."""
        tables = ((k, table) for k, own in enumerate(self.own) for table in _HOOKS(own) if table)
        return [(k, *table.values()) for k, table in tables]


class Unchanged:
    """Remembers a module's parts with their classes, what their instances define, hooks, and settings of known layers.

    Looking again takes a small part of the time of working out anew. Values of parameters and buffers may change, and
    are not looked at; their shapes and types are.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parts = Parts(module)
        self._settled: dict[Callable[[dict[str, Any]], Any], list[dict[str, Any]]] = {}
        for part in self._parts.modules:
            for kind, settings in _SETTINGS.items():
                if isinstance(part, kind):
                    self._settled.setdefault(settings, []).append(part.__dict__)
            if (of_pool := _POOLS.get(kind_of(part))) is not None:
                self._settled.setdefault(of_pool, []).append(part.__dict__)
        self._flags = [(part.__dict__, flag) for part in self._parts.modules for flag in _flags_of(kind_of(part))]
        layers = [part for part in self._parts.modules if isinstance(part, nn.Conv2d | nn.BatchNorm2d)]
        self._tensors: list[dict[str, Any]] = [
            table for part in layers for table in (part._parameters, part._buffers) if table
        ]
        self._seen = self._look()

    def holds(self) -> bool:
        """Return whether all is as it was."""
        return self._parts.hold() and self._look() == self._seen

    def _look(self) -> tuple[Any, ...]:
        tensors = list(chain.from_iterable(map(dict.values, self._tensors)))
        return (
            list(map(len, self._parts.own)),
            [list(map(settings, owners)) for settings, owners in self._settled.items()],
            [own.get(flag) for own, flag in self._flags],
            list(map(type, tensors)),
            list(map(_TENSOR, compress(tensors, map(is_not, tensors, repeat(None))))),
            methods_in_place(),
        )


def _flags_of(kind: type[nn.Module]) -> frozenset[str]:
    """The attributes that decide what a person's code does, as far as it is read."""
    return frozenset() if kind.__module__.startswith("torch.") else flags_of(kind)
