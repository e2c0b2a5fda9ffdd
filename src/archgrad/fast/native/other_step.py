"""Steps of a program that are no stages of operations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from archgrad.fast.native.native_passes import Target

__all__ = ["Asked", "OtherStep", "Place", "Rows", "Run", "or_zeros", "targets_at"]

Rows = Sequence[Tensor | None]
Place = Callable[[], Target] | None
"""Makes room for the gradient by an image where one is written; None if it is not wanted."""


class Run(NamedTuple):
    """What a step was given and made, and a direction of it, of which None is zero."""

    images: Sequence[Tensor]
    """What the step reads."""
    made: Sequence[Tensor]
    """What its forward pass returned."""
    weights: Tensor
    """(V,), its mixing weights."""
    d_images: Rows
    """Like `images`."""
    d_weights: Tensor | None
    """Like `weights`."""


class Asked(NamedTuple):
    """What the backward pass of a step is given."""

    images: Sequence[Tensor]
    """What the step reads."""
    made: Sequence[Tensor]
    """What its forward pass returned."""
    weights: Tensor
    """(V,), its mixing weights."""
    gs: Rows
    """The gradients by what it gives, channels_last; None for zero."""
    targets: Sequence[Target | None]
    """Where the gradient by each image goes; None if it is not wanted."""
    to_weights: bool
    """Whether that by the mixing weights is wanted."""


class OtherStep(ABC):
    """A step that reads images and appends others to them."""

    reads: tuple[int, ...]
    """Numbers of the images that it reads, none twice."""

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """How many images, weights, projections, terms and values a program has of it."""
        return 1, 0, 0, 0, 0

    @abstractmethod
    def forward(self, images: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
        """Return the images that it gives.

        Args:
            images: What it reads.
            weights: (V,), its mixing weights; empty if it has none.
        """

    @abstractmethod
    def backward(self, asked: Asked) -> Tensor | None:
        """Write the gradients by what it reads to where they belong.

        Returns:
            That by the mixing weights, (V,); None if it is not wanted, or if there are none.
        """

    @abstractmethod
    def push(self, run: Run) -> Rows:
        """Return the derivatives along a direction of the images that it gives; None for zero."""

    def pull(self, run: Run, gs: Rows, d_gs: Rows, places: Sequence[Place]) -> Tensor | None:
        """Write the derivatives of the gradients along a direction to where they belong (see `tangents`).

        As it is, this is for steps without mixing weights, whose gradients do not depend on where small changes lead.

        Args:
            run: The step.
            gs: The gradients by what it gives; None for zero.
            d_gs: Their own derivatives; None for zero.
            places: Where what is found by each image goes.

        Returns:
            That by the mixing weights, (V,); None if there are none.
        """
        if any(g is not None for g in d_gs):
            self.backward(Asked(run.images, run.made, run.weights, d_gs, targets_at(places), to_weights=False))
        return None

    @abstractmethod
    def composed(self, images: Sequence[Tensor], made: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
        """Return what `forward` returned, from differentiable operations."""


def targets_at(places: Sequence[Place]) -> list[Target | None]:
    """Make room wherever a gradient is wanted."""
    return [None if place is None else place() for place in places]


def or_zeros(tensors: Rows, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors, with zeros in the place of None."""
    return [torch.zeros_like(x) if t is None else t for t, x in zip(tensors, like, strict=True)]
