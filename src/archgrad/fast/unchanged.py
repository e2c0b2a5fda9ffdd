"""What was worked out from a module, kept as long as the module is as it was then."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from archgrad.fast.recognise import pool_settings

__all__ = ["Kept", "Unchanged"]

T = TypeVar("T")


class Kept(Generic[T]):
    """Keeps for one module what passes of different kinds work out from it; copies begin with nothing."""

    _MOST = 8
    """Kinds that are kept."""

    def __init__(self) -> None:
        self._unchanged: Unchanged | None = None
        self._by_kind: dict[Hashable, T] = {}

    def __reduce__(self) -> tuple[type[Kept[T]], tuple[()]]:
        return type(self), ()

    def __len__(self) -> int:
        return len(self._by_kind)

    def find(self, module: nn.Module, kind: Hashable, work_out: Callable[[], T]) -> T:
        """Return what `work_out` gives for this kind of pass, or gave when the module was the same.

        Args:
            module: Always the same object.
            kind: All that the result depends on, beside the module.
            work_out: Computes the result.
        """
        if self._unchanged is None or not self._unchanged.holds():
            self._unchanged = Unchanged(module)
            self._by_kind.clear()
        if kind not in self._by_kind:
            if len(self._by_kind) == self._MOST:
                del self._by_kind[next(iter(self._by_kind))]
            self._by_kind[kind] = work_out()
        return self._by_kind[kind]


class Unchanged:
    """Remembers a module's parts, their hooks, and the settings of convolutions, pools and BatchNorms among them.

    Looking again takes a twentieth of the time of working out anew. Values of parameters and buffers may change, and
    are not looked at.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        parts = list(module.modules())
        self._tables = [part._modules for part in parts if part._modules]
        self._hooks = [
            hooks for part in parts for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks)
        ]
        self._layers = [part for part in parts if _settings(part) is not None]
        self._seen = self._look()

    def holds(self) -> bool:
        """Return whether all is as it was."""
        return self._look() == self._seen

    def _look(self) -> tuple[list[Any], ...]:
        parts = [part for table in self._tables for part in table.values()]
        return parts, list(map(bool, self._hooks)), list(map(_settings, self._layers))


def _settings(layer: nn.Module) -> tuple[Any, ...] | None:
    if isinstance(layer, _BatchNorm):
        tracks = layer._buffers.get("running_mean") is not None
        return type(layer), layer.training, layer.eps, layer.affine, tracks
    if isinstance(layer, nn.Conv2d):
        weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
        shape = None if weight is None else weight.shape
        return layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode, shape, bias is None
    return pool_settings(layer) if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d) else None
