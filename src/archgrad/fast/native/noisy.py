"""Noise on an image, as a step of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from archgrad.added_noise import AddedNoise
from archgrad.fast.native.library import image_like
from archgrad.fast.native.native_passes import Target

__all__ = ["Noisy"]


@dataclass(frozen=True)
class Noisy:
    """An image with noise, which is a constant to gradients."""

    reads: tuple[int]
    """The image."""
    noise: AddedNoise
    """What is added to it."""

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """How many images, weights, projections, terms and values a program has of it."""
        return 1, 0, 0, 0, 0

    def forward(self, images: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
        """Return the image with noise; as `Weave.forward`."""
        (x,) = images
        return [torch.add(x, self.noise.of(x), out=image_like(x, *x.shape[1:]))]

    def backward(
        self,
        images: Sequence[Tensor],
        made: Sequence[Tensor],
        weights: Tensor,
        gs: Sequence[Tensor | None],
        targets: Sequence[Target | None],
        *,
        to_weights: bool,
    ) -> None:
        """Write the gradient by the image to where it belongs; as `Weave.backward`."""
        (g,), (target,) = gs, targets
        if g is None or target is None:
            return
        if target.adds:
            target.image.add_(g)
        else:
            target.image.copy_(g)

    def composed(self, images: Sequence[Tensor], made: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
        """What `forward` returned, from differentiable operations."""
        (x,) = images
        return [x + (made[0] - x).detach()]
