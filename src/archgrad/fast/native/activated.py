"""A function of every number of an image, as a step of a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from archgrad.fast.native.native_passes import dense
from archgrad.fast.native.other_step import Asked, Found, OtherStep, Place, Rows, Run, put, targets_at

__all__ = ["Activated", "Activation"]


class Activation(NamedTuple):
    """A function of every number of an image, differentiable twice, without weights."""

    function: Callable[..., Tensor]
    """Of PyTorch's."""
    settings: tuple[tuple[str, object], ...] = ()
    """Names and values of its arguments."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return a new image."""
        return self.function(x, **dict(self.settings))


@dataclass(frozen=True)
class Activated(OtherStep):
    """An activation of an image. Nothing of it is kept for the backward pass but the image itself."""

    reads: tuple[int]
    """The image."""
    activation: Activation
    """Which one."""

    def forward(self, images: Sequence[Tensor], weights: Tensor, kernels: Sequence[Tensor]) -> list[Tensor]:
        """As `OtherStep.forward`."""
        return [dense(self.activation(images[0]))]

    def backward(self, asked: Asked) -> Found:
        """As `OtherStep.backward`."""
        (x,), (g,), (target,) = asked.images, asked.gs, asked.targets
        if g is not None and target is not None:
            put(self._times_slope(x, g), target)
        return Found()

    def push(self, run: Run) -> list[Tensor | None]:
        """As `OtherStep.push`."""
        (x,), (along,) = run.images, run.d_images
        return [None if along is None else dense(self._times_slope(x, along))]

    def pull(self, run: Run, gs: Rows, d_gs: Rows, places: Sequence[Place], to_kernels: Sequence[bool]) -> Found:
        """As `OtherStep.pull`."""
        (x,), (g,), (d_g,), (along,) = run.images, gs, d_gs, run.d_images
        parts: list[Tensor] = []
        if d_g is not None:
            parts.append(self._times_slope(x, d_g))
        if g is not None and along is not None:
            parts += self._times_curvature(x, g, along)
        (target,) = targets_at(places) if parts else [None]
        for part in parts if target is not None else ():
            assert target is not None
            put(part, target)
            target = target._replace(adds=True)
        return Found()

    def composed(
        self, images: Sequence[Tensor], made: Sequence[Tensor], weights: Tensor, kernels: Sequence[Tensor]
    ) -> list[Tensor]:
        """As `OtherStep.composed`."""
        return [self.activation(images[0])]

    def _times_slope(self, x: Tensor, g: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.activation(x), x, g.detach())
        return found

    def _times_curvature(self, x: Tensor, g: Tensor, along: Tensor) -> list[Tensor]:
        """The derivative of what `_times_slope` returns along a direction of the image; nothing where it is zero."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.activation(x), x, g.detach(), create_graph=True)
            if not slope.requires_grad:
                return []
            (found,) = torch.autograd.grad(slope, x, along, allow_unused=True)
        return [] if found is None else [found]
