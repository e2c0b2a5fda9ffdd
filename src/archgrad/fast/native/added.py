"""The sum of two images, as a step of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from archgrad.fast.native.native_passes import dense
from archgrad.fast.native.other_step import Asked, Found, OtherStep, Run, put

__all__ = ["Added"]


@dataclass(frozen=True)
class Added(OtherStep):
    """Two images added."""

    reads: tuple[int, int]
    """The images."""

    def forward(self, images: Sequence[Tensor], weights: Tensor, kernels: Sequence[Tensor]) -> list[Tensor]:
        """As `OtherStep.forward`."""
        one, other = images
        return [dense(one + other)]

    def backward(self, asked: Asked) -> Found:
        """As `OtherStep.backward`."""
        (g,) = asked.gs
        for target in asked.targets:
            if g is not None and target is not None:
                put(g, target)
        return Found()

    def push(self, run: Run) -> list[Tensor | None]:
        """As `OtherStep.push`."""
        one, other = run.d_images
        if one is None or other is None:
            return [other if one is None else one]
        return [dense(one + other)]

    def composed(
        self, images: Sequence[Tensor], made: Sequence[Tensor], weights: Tensor, kernels: Sequence[Tensor]
    ) -> list[Tensor]:
        """As `OtherStep.composed`."""
        one, other = images
        return [one + other]
