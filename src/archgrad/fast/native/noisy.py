"""Noise on an image, as a step of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from archgrad.added_noise import AddedNoise
from archgrad.fast.native.library import image_like
from archgrad.fast.native.other_step import Asked, Found, OtherStep, Run, put

__all__ = ["Noisy"]


@dataclass(frozen=True)
class Noisy(OtherStep):
    """An image with noise, which is a constant to gradients."""

    reads: tuple[int]
    """The image."""
    noise: AddedNoise
    """What is added to it."""

    def forward(self, images: Sequence[Tensor], weights: Tensor, kernels: Sequence[Tensor]) -> list[Tensor]:
        """Return the image with noise."""
        (x,) = images
        return [torch.add(x, self.noise.of(x), out=image_like(x, *x.shape[1:]))]

    def backward(self, asked: Asked) -> Found:
        """As `OtherStep.backward`."""
        (g,), (target,) = asked.gs, asked.targets
        if g is not None and target is not None:
            put(g, target)
        return Found()

    def push(self, run: Run) -> list[Tensor | None]:
        """As `OtherStep.push`."""
        return list(run.d_images)

    def composed(
        self, images: Sequence[Tensor], made: Sequence[Tensor], weights: Tensor, kernels: Sequence[Tensor]
    ) -> list[Tensor]:
        """As `OtherStep.composed`."""
        (x,) = images
        return [x + (made[0] - x).detach()]
