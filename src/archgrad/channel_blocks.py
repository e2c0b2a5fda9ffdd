"""Where the channels of a layer of open width lie among those of the widest layer.

The narrow layer has the first channels of the widest. Where the number of channels was written as a sum, each addend is
a block of its own, of which the first channels are taken: so tensors that were concatenated keep their places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from archgrad.errors import SpaceError
from archgrad.values import Number, Pick, Value, number_at

__all__ = ["ChannelBlocks", "whole_number"]


def whole_number(number: Any, what: str) -> int:
    """Return a number as int; SpaceError if it is not whole (24.0 is)."""
    if isinstance(number, float) and number.is_integer():
        return int(number)
    if not isinstance(number, int) or isinstance(number, bool):
        raise SpaceError(f"{what} must be a whole number, but is {number!r}. Compute it with //, which rounds down.")
    return number


class ChannelBlocks:
    """The channels of one dimension.

    Args:
        given: Their number, open or not.
        picks: Every way in which the open choices may be closed.
        name: Of the argument, for messages.
    """

    def __init__(self, given: Value | Number, picks: Sequence[Pick], name: str) -> None:
        self.name = name
        self.text = given.text() if isinstance(given, Value) else repr(given)
        self._addends = given.addends() if isinstance(given, Value) else (given,)
        every = [self.sizes(pick) for pick in picks]
        if least := [sizes for sizes in every if min(sizes) < 0 or sum(sizes) < 1]:
            raise SpaceError(f"{name} must be at least 1, but {self.text} may be {sum(least[0])}.")
        self.widest: tuple[int, ...] = tuple(max(sizes[i] for sizes in every) for i in range(len(self._addends)))

    @property
    def total(self) -> int:
        """Channels of the widest layer."""
        return sum(self.widest)

    @property
    def is_one(self) -> bool:
        """Whether there is one block, so that a narrow layer has the first channels."""
        return len(self.widest) == 1

    def sizes(self, pick: Pick) -> tuple[int, ...]:
        """Return how many channels of each block are in the layer that `pick` says."""
        return tuple(whole_number(number_at(part, pick), f"{self.name} {self.text}") for part in self._addends)

    def union(self, picks: Sequence[Pick]) -> tuple[int, ...]:
        """Return how many channels of each block are in any of these layers."""
        return tuple(max(column) for column in zip(*map(self.sizes, picks), strict=True))

    def narrow(self, x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
        """Return the channels of the narrow layer, of all that the widest has.

        Args:
            x: Has the channels of the widest layer in dimension `dim`.
            dim: Any dimension of `x`.
            sizes: Of the blocks, see `sizes`.

        Raises:
            SpaceError: `x` has another number of channels.
        """
        self.check(x, dim)
        if tuple(sizes) == self.widest:
            return x
        if self.is_one:
            return x.narrow(dim, 0, sizes[0])
        blocks = zip(x.split(self.widest, dim), sizes, strict=True)
        return torch.cat([block.narrow(dim, 0, size) for block, size in blocks], dim)

    def widen(self, y: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
        """Return the channels of the narrow layer among those of the widest, which are zero otherwise."""
        if tuple(sizes) == self.widest:
            return y
        behind = [0, 0] * (y.dim() - 1 - dim % y.dim())
        blocks = zip(y.split(list(sizes), dim), sizes, self.widest, strict=True)
        padded = [F.pad(block, [*behind, 0, widest - size]) for block, size, widest in blocks]
        return padded[0] if len(padded) == 1 else torch.cat(padded, dim)

    def mask(self, sizes: Sequence[int]) -> Tensor:
        """Return (total,): one for the channels of the narrow layer, zero for the others."""
        return self.widen(torch.ones(sum(sizes)), 0, sizes)

    def shares(self, found: Iterable[tuple[Pick, Tensor]], like: Tensor) -> Tensor:
        """Return (total,): for each channel the weights of the layers that have it, summed, in the type of `like`."""
        total: Any = 0.0
        for pick, weight in found:
            sizes = self.sizes(pick)
            total = total + self.widen((weight * like.new_ones(())).expand(sum(sizes)), 0, sizes)
        return cast(Tensor, total)

    def check(self, x: Tensor, dim: int) -> None:
        """Raise SpaceError if `x` has not the channels of the widest layer."""
        if x.shape[dim] != self.total:
            raise SpaceError(
                f"A layer with {self.name}={self.text} reads {self.total} channels while it is open, the most that "
                f"there may be, but got an input of shape {tuple(x.shape)}. What feeds it must have as many: give both "
                f"the same value choice; where tensors are concatenated, write a sum."
            )
