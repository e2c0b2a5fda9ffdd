"""Partial channels: a part of a cell's channels goes through its operations, the others pass by.

With K parts, a node is shuffle(cat(sum_e q_e mixed_e(x_e[: C/K]), sum_e q_e bypass(x_e[C/K :]))), where e are the edges
that enter it, q_e their weights (one without edge weights) and bypass is the identity, or a 2x2 max pool where the
edge's operations halve the size. The shuffle of K groups puts the processed channels at 0, K, 2K, ...

Source: Xu et al. 2020 (PC-DARTS), section 3.2; pool and shuffle are those of their code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from archgrad.errors import SpaceError

__all__ = ["SplitStates", "interleaved"]


class SplitStates:
    """The states of a cell in one pass, from its inputs on.

    Args:
        states: The cell's inputs; with more than one part, tensors (B, C, ...) of which C is a multiple of `parts`.
        parts: K: operations read the first C/K channels. 1 lets them read whole states, which may be of any kind.
        where: Names the cell in messages.

    Raises:
        SpaceError: An input cannot be split.

    Attributes:
        whole: Every state that there is so far.
        read: What operations read of each.
    """

    def __init__(self, states: Sequence[Any], parts: int, where: str) -> None:
        self.whole = list(states)
        self.read = self.whole
        self._parts, self._where = parts, where
        self._passing: dict[tuple[int, Any], Tensor] = {}
        if parts > 1:
            for x in self.whole:
                if not isinstance(x, Tensor) or x.dim() < 2 or x.shape[1] % parts:
                    got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
                    raise SpaceError(
                        f"{where} has partial_channels={parts}, so it needs tensors (B, C, ...) with C a multiple of "
                        f"{parts}, but got {got}. Give the cell other channels."
                    )
            self.read = [self._first(x) for x in self.whole]

    def enter(self, mixed: Any, weights: Sequence[Tensor | None]) -> Any:
        """Add a node, and return what operations read of it.

        Args:
            mixed: The sum of what its edges' operations give.
            weights: Of every edge that enters it, by source; None where edges are not weighed.

        Raises:
            SpaceError: What passes by does not fit what the operations give.
        """
        if self._parts == 1:
            self.whole.append(mixed)
            return mixed
        passed = self.total([self._rest(i, mixed) for i in range(len(self.whole))], weights)
        self.whole.append(interleaved(mixed, passed))
        self.read.append(self._first(self.whole[-1]))
        return self.read[-1]

    def total(self, values: Sequence[Tensor], weights: Sequence[Tensor | None]) -> Tensor:
        """Return the sum of values, each times its weight."""
        terms = [x if q is None else q * x for x, q in zip(values, weights, strict=True)]
        return sum(terms[1:], start=terms[0])

    def _first(self, x: Tensor) -> Tensor:
        return x[:, : x.shape[1] // self._parts]

    def _rest(self, i: int, mixed: Any) -> Tensor:
        """The channels of a state that pass by an edge, in the size that its operations give."""
        x = self.whole[i]
        own, rest = x.shape[1] // self._parts, x[:, x.shape[1] // self._parts :]
        if not isinstance(mixed, Tensor) or mixed.shape[:2] != (x.shape[0], own):
            got = tuple(mixed.shape) if isinstance(mixed, Tensor) else type(mixed).__name__
            raise SpaceError(
                f"{self._where} has partial_channels={self._parts}, so its operations must give {own} of {x.shape[1]} "
                f"channels, but gave {got}. Build candidates with the number of channels divided by the third argument."
            )
        size = mixed.shape[2:]
        if rest.shape[2:] == size:
            return rest
        if (i, size) not in self._passing:
            pooled = F.max_pool2d(rest, 2, ceil_mode=True) if rest.dim() == 4 else rest
            if pooled.shape[2:] != size:
                raise SpaceError(
                    f"{self._where} has partial_channels={self._parts}, with which operations leave the size as it is "
                    f"or halve it, but they make {tuple(size)} of {tuple(rest.shape[2:])}. Give them stride 1 or 2."
                )
            self._passing[i, size] = pooled
        return self._passing[i, size]


def interleaved(first: Tensor, rest: Tensor) -> Tensor:
    """Return both joined along the channels and shuffled: channel g of group c of the result is channel c of group g.

    Args:
        first: (B, C/K, ...), the first group.
        rest: (B, C - C/K, ...), the other K - 1.

    Returns:
        (B, C, ...), channels_last where `first` is.
    """
    groups = [first, *rest.split(first.shape[1], 1)]
    if first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last) and not first.is_contiguous():
        last = torch.stack([group.permute(0, 2, 3, 1) for group in groups], 4)
        return last.flatten(3).permute(0, 3, 1, 2)
    return torch.stack(groups, 2).flatten(1, 2)
