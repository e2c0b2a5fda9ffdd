"""What was worked out from a module, kept as long as the module is as it was then."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from operator import itemgetter
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from archgrad.cell import Cell
from archgrad.exactness import HOOKS, kind_of, methods_in_place
from archgrad.fast.recognise import pool_settings
from archgrad.operations import Zero

__all__ = ["Kept", "Unchanged"]

T = TypeVar("T")

_HOOKS = itemgetter(*HOOKS)
_SETTINGS: dict[type[nn.Module], Callable[[dict[str, Any]], Any]] = {
    nn.Conv2d: itemgetter("stride", "padding", "dilation", "groups", "padding_mode"),
    nn.BatchNorm2d: itemgetter("training", "eps", "momentum", "affine", "num_features"),
    nn.ReLU: itemgetter("inplace"),
    Zero: itemgetter("stride"),
    Cell: itemgetter("output", "n_nodes", "n_inputs", "pairs"),
}
"""What decides how a layer computes, beside its tensors. `track_running_stats` is read at every pass."""


class Kept:
    """Keeps for one module what passes of different kinds work out from it; copies begin with nothing."""

    _MOST = 16
    """Results that are kept."""

    def __init__(self) -> None:
        self._unchanged: Unchanged | None = None
        self._by_kind: dict[Hashable, Any] = {}

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
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


class Unchanged:
    """Remembers a module's parts with their classes, what their instances define, hooks, and settings of known layers.

    Looking again takes a small part of the time of working out anew. Values of parameters and buffers may change, and
    are not looked at; their shapes and types are.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parts = list(module.modules())
        self._own = [part.__dict__ for part in self._parts]
        self._tables = [part._modules for part in self._parts if part._modules]
        self._by_kind: dict[Callable[[dict[str, Any]], Any], list[dict[str, Any]]] = {}
        for part in self._parts:
            for kind, settings in _SETTINGS.items():
                if isinstance(part, kind):
                    self._by_kind.setdefault(settings, []).append(part.__dict__)
        self._pools = [part for part in self._parts if kind_of(part) in (nn.MaxPool2d, nn.AvgPool2d)]
        layers = [part for part in self._parts if isinstance(part, nn.Conv2d | nn.BatchNorm2d)]
        self._tensors = [table for part in layers for table in (part._parameters, part._buffers) if table]
        self._seen = self._look()

    def holds(self) -> bool:
        """Return whether all is as it was."""
        return self._look() == self._seen

    def _look(self) -> tuple[Any, ...]:
        return (
            [part for table in self._tables for part in table.values()],
            list(map(type, self._parts)),
            [(len(own), "forward" in own) for own in self._own],
            list(map(any, map(_HOOKS, self._own))),
            [list(map(settings, owners)) for settings, owners in self._by_kind.items()],
            list(map(pool_settings, self._pools)),
            list(_kinds(t for table in self._tensors for t in table.values())),
            methods_in_place(),
        )


def _kinds(tensors: Iterable[Tensor | None]) -> Iterable[Any]:
    for t in tensors:
        yield None if t is None else (type(t), t.shape, t.dtype, t.device)
