"""Steps of a program that are no stages of operations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from archgrad.fast.native.native_passes import Target

__all__ = ["Asked", "Found", "OtherStep", "Place", "Rows", "Run", "or_zeros", "put", "targets_at"]

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
    kernels: Sequence[Tensor]
    """Of its convolution."""
    d_images: Rows
    """Like `images`."""
    d_weights: Tensor | None
    """Like `weights`."""
    d_kernels: Rows
    """Like `kernels`."""


class Asked(NamedTuple):
    """What the backward pass of a step is given."""

    images: Sequence[Tensor]
    """What the step reads."""
    made: Sequence[Tensor]
    """What its forward pass returned."""
    weights: Tensor
    """(V,), its mixing weights."""
    kernels: Sequence[Tensor]
    """Of its convolution."""
    gs: Rows
    """The gradients by what it gives, channels_last; None for zero."""
    targets: Sequence[Target | None]
    """Where the gradient by each image goes; None if it is not wanted."""
    to_weights: bool = False
    """Whether that by the mixing weights is wanted."""
    to_kernels: Sequence[bool] = ()
    """Whether that by each kernel is wanted."""


class Found(NamedTuple):
    """Gradients that a step found, beside those by images."""

    weights: Tensor | None = None
    """(V,), by the mixing weights; None if it is not wanted, or if there are none."""
    kernels: Rows = ()
    """By the kernels; None for those that are not wanted."""


class OtherStep(ABC):
    """A step that reads images and appends others to them."""

    reads: tuple[int, ...]
    """Numbers of the images that it reads, none twice."""

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """How many images, weights, projections, terms and values a program has of it."""
        return 1, 0, 0, 0, 0

    @abstractmethod
    def forward(self, images: Sequence[Tensor], weights: Tensor, kernels: Sequence[Tensor]) -> list[Tensor]:
        """Return the images that it gives.

        Args:
            images: What it reads.
            weights: (V,), its mixing weights; empty if it has none.
            kernels: Of its convolution; empty if it has none.
        """

    @abstractmethod
    def backward(self, asked: Asked) -> Found:
        """Write the gradients by what it reads to where they belong, and return the others."""

    @abstractmethod
    def push(self, run: Run) -> Rows:
        """Return the derivatives along a direction of the images that it gives; None for zero."""

    def pull(self, run: Run, gs: Rows, d_gs: Rows, places: Sequence[Place], to_kernels: Sequence[bool]) -> Found:
        """Write the derivatives of the gradients along a direction to where they belong (see `tangents`).

        As it is, this is for steps without weights, whose gradients do not depend on where small changes lead.

        Args:
            run: The step.
            gs: The gradients by what it gives; None for zero.
            d_gs: Their own derivatives; None for zero.
            places: Where what is found by each image goes.
            to_kernels: Whether what is found by each kernel is wanted.
        """
        if any(g is not None for g in d_gs):
            self.backward(Asked(run.images, run.made, run.weights, run.kernels, d_gs, targets_at(places)))
        return Found()

    @abstractmethod
    def composed(
        self, images: Sequence[Tensor], made: Sequence[Tensor], weights: Tensor, kernels: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return what `forward` returned, from differentiable operations."""


def targets_at(places: Sequence[Place]) -> list[Target | None]:
    """Make room wherever a gradient is wanted."""
    return [None if place is None else place() for place in places]


def put(found: Tensor, target: Target) -> None:
    """Write a gradient to where it belongs."""
    if target.adds:
        target.image.add_(found)
    else:
        target.image.copy_(found)


def or_zeros(tensors: Rows, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors, with zeros in the place of None."""
    return [torch.zeros_like(x) if t is None else t for t, x in zip(tensors, like, strict=True)]
