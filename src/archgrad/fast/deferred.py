"""Tensors that are worked out when they are read: weighted sums of what layer choices give.

    h = self.first(x)                           # layer choices: both know what they would give
    h = self.inputs([h, self.second(x)])        # a product and a sum: a sum of two summands
    return torch.cat([h, self.third(h)], dim=1)  # reads them: all that is deferred is computed together

A `Deferred` stands for its value in all functions and methods of PyTorch, which have it computed first; products with a
number in a tensor and sums only make another one. What takes tensors without being such a function (a person's own
`torch.autograd.Function`, C++ code) would see an empty image, so only code whose every call is known meets any (see
`deferral`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from archgrad.buffers import spare_buffers
from archgrad.choices import LayerChoice, Mixture
from archgrad.nested import map_tensors, tensors_in

__all__ = ["Deferred", "Output", "Summand", "settled"]


class Output:
    """What a layer choice gives in a pass.

    Args:
        choice: The layer choice.
        mixture: Of its candidates in this pass.
        source: What it was called with.
    """

    def __init__(self, choice: LayerChoice, mixture: Mixture, source: Tensor) -> None:
        self.choice, self.mixture, self.source = choice, mixture, source
        self.value: Tensor | None = None
        """Once it was computed by itself."""

    def computed(self) -> Tensor:
        """Return its value; where the choice was computed as a part of a sum, it is computed once more by itself.

        Its BatchNorms have then counted the batch.
        """
        if self.value is None:
            with spare_buffers(self.choice):
                self.value = self.choice.mixed(self.mixture, settled(self.source))
        return self.value


class Summand(NamedTuple):
    """A part of a sum."""

    weight: Tensor | None
    """0-dimensional; None for 1."""
    of: Output | Tensor
    """What is weighed."""

    def times(self, weight: Tensor) -> Summand:
        """Return the summand with another weight on top."""
        return self._replace(weight=weight if self.weight is None else weight * self.weight)

    def computed(self) -> Tensor:
        """Return its value."""
        value = self.of.computed() if isinstance(self.of, Output) else settled(self.of)
        return value if self.weight is None else self.weight * value


class Pass(Protocol):
    """The pass in which something is deferred."""

    def compute(self, asked: Sequence[Deferred], *, join: bool = False) -> Tensor | None:
        """Compute all that is deferred, so that of each that is asked for the value is known, or can be added up.

        Returns:
            Those that are asked for, side by side along the channels, if that is wanted and costs nothing.
        """

    def add(self, summands: Sequence[Summand], like: Deferred) -> Deferred:
        """Return a further sum of this pass."""

    def reads(self, x: Tensor) -> bool:
        """Return whether a choice that is deferred was called with a tensor."""


class Deferred(Tensor):
    """A sum that was not computed yet, of at least one summand.

    Args:
        summands: Outputs of layer choices, or tensors that others of the pass read.
        shape: (B, C, H, W).
        dtype: Of the sum.
        device: Of the sum.
        of: The pass.
    """

    summands: Sequence[Summand]
    own_device: torch.device
    of: Pass | None
    """The pass, until it has computed what is deferred."""
    value: Tensor | None
    is_read: bool
    """Whether a choice that is deferred was called with it."""
    is_part: bool
    """Whether it went into another."""

    @staticmethod
    def __new__(
        cls, summands: Sequence[Summand], shape: Sequence[int], dtype: torch.dtype, device: torch.device, of: Pass
    ) -> Deferred:
        """Return an image of this shape on the meta device."""
        empty = torch.empty(tuple(shape), dtype=dtype, device="meta")
        self = Tensor._make_subclass(cls, empty)
        self.summands, self.own_device, self.of = summands, device, of
        self.value, self.is_read, self.is_part = None, False, False
        return self

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Give what a function gives of the values, or defer that, too."""
        kwargs = kwargs or {}
        if func in _OF_SHAPE:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func == _DEVICE:
            return args[0].own_device
        found: Tensor | None = None
        of_two = len(args) == 2 and not kwargs
        if func in _PRODUCTS and of_two:
            found = _product(*args)
        elif func in _SUMS and of_two:
            found = _sum(*args)
        elif func in _JOINS:
            found = _side_by_side(*args, **kwargs)
        if found is not None:
            return found
        _compute([x for x in tensors_in((args, kwargs)) if type(x) is Deferred])
        args, kwargs = map_tensors((tuple(args), dict(kwargs)), settled)
        return func(*args, **kwargs)


def settled(x: Any) -> Any:
    """Return what stands for itself: the value of something deferred, and everything else as it is."""
    if type(x) is not Deferred:
        return x
    if x.value is None:
        _compute([x])
    if x.value is None:  # a part of another, or nothing of it could be computed together
        first, *rest = x.summands
        total = first.computed()
        for summand in rest:
            total = total + summand.computed()
        x.value, x.summands = total, ()
    return x.value


def _compute(asked: Sequence[Deferred]) -> None:
    for x in asked:
        if x.of is not None and x.value is None:
            x.of.compute([y for y in asked if y.of is x.of])


_OF_SHAPE = {
    *(Tensor.dim, Tensor.size),
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype")),
}
_DEVICE = cast(Any, Tensor.device).__get__
_PRODUCTS = {Tensor.mul, torch.mul}
_SUMS = {Tensor.add, torch.add}
_JOINS = {torch.cat, torch.concat}


def _is_open(x: object, of: Pass | None = None) -> bool:
    return type(x) is Deferred and x.value is None and x.of is not None and of in (None, x.of)


def _product(a: Any, b: Any) -> Deferred | None:
    x, weight = (a, b) if type(a) is Deferred else (b, a)
    if not _is_open(x) or type(weight) not in (Tensor, nn.Parameter) or weight.dim() > 0:
        return None
    if (weight.dtype, weight.device) != (x.dtype, x.own_device):
        return None
    assert x.of is not None
    return x.of.add([summand.times(weight) for summand in _parts(x)], x)


def _sum(a: Any, b: Any) -> Deferred | None:
    x, other = (a, b) if _is_open(a) else (b, a)
    if not _is_open(x):
        return None
    if type(other) is int and other == 0:  # with which Python's `sum` begins
        return x.of.add(_parts(x), x)
    if not isinstance(other, Tensor) or other.shape != x.shape or other.dtype != x.dtype:
        return None
    if _is_open(other, x.of):
        return x.of.add([*_parts(a), *_parts(b)], x)
    if type(other) is Tensor and x.of.reads(other):
        own = Summand(None, other)
        return x.of.add([own, *_parts(x)] if other is a else [*_parts(x), own], x)
    return None


def _parts(x: Deferred) -> Sequence[Summand]:
    """The summands of what goes into another; what a choice reads is computed, and goes in as one."""
    if x.is_read:
        return [Summand(None, x)]
    x.is_part = True
    return x.summands


def _side_by_side(tensors: Any, dim: Any = 0, **words: Any) -> Tensor | None:
    if words or type(dim) is not int or dim != 1 or type(tensors) not in (list, tuple) or not _is_open(tensors[0]):
        return None
    of = tensors[0].of
    if not all(_is_open(x, of) for x in tensors) or not 1 < len(set(map(id, tensors))) == len(tensors):
        return None
    return of.compute(tensors, join=True)
