"""Known operations that stand by themselves: a cell's preprocessing, and the chosen operations of a derived network.

Convolutions and BatchNorms of these go through `normalised` as those of open cells do.
"""

from __future__ import annotations

from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from torch import nn

from archgrad.exactness import calls_are_watched, kind_of
from archgrad.fast import native
from archgrad.fast.branches import branch_of
from archgrad.fast.deferred import settled
from archgrad.fast.inverted_residuals import inverted_alone
from archgrad.fast.lowering import are_ordinary, kind_of_pass, readable
from archgrad.fast.memory_layout import as_written, is_channels_last
from archgrad.fast.states import SharedFeatures
from archgrad.fast.unchanged import StructureCache

__all__ = ["FastOperation"]

_KEPT: WeakKeyDictionary[nn.Module, StructureCache] = WeakKeyDictionary()
"""What each module consists of, as long as it stays as it is."""


class FastOperation(nn.Module):
    """What the fast class of an operation adds to its own; `turn` changes a module's class, and its state stays."""

    turned_from: ClassVar[type[nn.Module]]
    kernels: ClassVar[bool]
    """Whether the compiled kernels may compute it."""

    @staticmethod
    def turn(module: nn.Module, *, kernels: bool) -> None:
        """Change the class of a module to a fast one, if it is one of these of a class that is not PyTorch's."""
        if type(module).__module__.startswith("torch.") or isinstance(module, FastOperation):
            return
        branch = branch_of(module)
        by_kernels = branch is not None and (branch.wide is not None or branch.form == "inverted")
        if branch is not None and (branch.is_projection or (kernels and by_kernels)):
            module.__class__ = _fast(type(module), kernels)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the class that this one was turned from does, (B, C', H', W'), in the memory format of its input.

        Args:
            args: The one input.
            kwargs: Empty, or the input under the name that the class gives it.
        """
        if kwargs or len(args) != 1:
            return self.turned_from.forward(self, *args, **kwargs)
        x = settled(args[0])
        if calls_are_watched() or not are_ordinary([x]):
            return self.turned_from.forward(self, x)
        kept = _KEPT.setdefault(self, StructureCache())
        kept.look(self)
        branch = kept.find(kind_of_pass([x]), lambda: readable(self, x))
        with native.allowed(self.kernels):
            if branch is not None and branch.form == "inverted":
                y = inverted_alone(branch, x, kept)
            else:
                y = None if branch is None else SharedFeatures(x, [branch]).output(branch)
            if y is None:
                return self.turned_from.forward(self, x)
        return as_written(y, channels_last=is_channels_last(x))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Let the module be pickled, though its class has no name of its own."""
        return _turned, (kind_of(self), self.kernels), self.__dict__


_FAST: dict[tuple[type[nn.Module], bool], type[FastOperation]] = {}


def _fast(kind: type[nn.Module], kernels: bool) -> type[FastOperation]:
    key = (kind, kernels)
    if key not in _FAST:
        names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
        own = {**names, "turned_from": kind, "kernels": kernels}
        _FAST[key] = type(kind.__name__, (FastOperation, kind), own)
    return _FAST[key]


def _turned(kind: type[nn.Module], kernels: bool = True) -> FastOperation:  # earlier versions gave the kind alone
    fast = _fast(kind, kernels)
    return fast.__new__(fast)
