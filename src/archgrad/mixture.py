"""A row of alphas, and how one forward pass mixes the candidates of that row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["AlphaRow", "Draw", "Mixture", "MixtureTable"]


@dataclass(frozen=True)
class AlphaRow:
    """What one row of alphas decides between."""

    names: tuple[str, ...]
    """The candidates, in the order of the row's entries."""
    n_chosen: int = 1
    """How many of them the discrete architecture takes."""

    def only(self, left: Sequence[int]) -> AlphaRow:
        """Return the row of these candidates alone."""
        return AlphaRow(tuple(self.names[k] for k in left), self.n_chosen)


Draw: TypeAlias = Mapping[str, Tensor]
"""What one pass through one row needs beside the alphas: noise, a temperature, a mask, ..., by name."""


@dataclass(frozen=True)
class Mixture:
    """How one forward pass mixes the candidates of one row of alphas."""

    slots: Tensor
    """(n_chosen, K): row j holds the weight of each candidate in the j-th chosen place. Each row sums to one,
    unless the relaxation says otherwise (`Relaxation.normalised`). What always runs has a column of its own after
    those of the candidates, and an edge weight multiplies all."""
    active: tuple[int, ...]
    """The candidates that run; the others have weight zero in `slots`."""
    straight_through: bool = False
    """Whether an inactive candidate's weight (value 0) is added to the output, so that its alpha gets a gradient."""
    edge: Tensor | None = None
    """0-dimensional, the weight of the edge, by which `slots` are multiplied already; None where it is not weighed."""

    def beside(self, weight: Tensor) -> Mixture:
        """Return the mixture with a column more, for a module that always runs; `weight` is 0-dimensional."""
        column = weight.to(self.slots).expand(self.slots.shape[0], 1)
        return replace(self, slots=torch.cat([self.slots, column], 1), active=(*self.active, self.slots.shape[1]))

    def on_edge(self, weight: Tensor) -> Mixture:
        """Return the mixture of an edge that has a weight, 0-dimensional, among those that enter its node."""
        return replace(self, slots=self.slots * weight, edge=weight)

    @property
    def weights(self) -> Tensor:
        """(K,), the weight of each candidate in the sum over places."""
        return self.slots[0] if self.slots.shape[0] == 1 else self.slots.sum(0)


@dataclass
class MixtureTable:
    """The mixtures of the running forward pass by alpha row; all choices of a supernet share one table."""

    current: dict[str, Mixture] = field(default_factory=dict)

    @contextmanager
    def again(self, mixtures: dict[str, Mixture]) -> Iterator[None]:
        """Put back the mixtures of a forward pass that has ended."""
        before, self.current = self.current, mixtures
        try:
            yield
        finally:
            self.current = before
