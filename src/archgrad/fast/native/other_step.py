"""Steps of a program that are no stages of operations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from archgrad.fast.native.native_passes import Target

__all__ = ["Asked", "OtherStep"]


class Asked(NamedTuple):
    """What the backward pass of a step is given."""

    images: Sequence[Tensor]
    """What the step reads."""
    made: Sequence[Tensor]
    """What its forward pass returned."""
    weights: Tensor
    """(V,), its mixing weights."""
    gs: Sequence[Tensor | None]
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
    def composed(self, images: Sequence[Tensor], made: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
        """Return what `forward` returned, from differentiable operations."""
