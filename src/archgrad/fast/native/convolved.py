"""A convolution that a library computes, as a step of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from archgrad.fast.depthwise import Geometry
from archgrad.fast.native.native_passes import dense
from archgrad.fast.native.other_step import Asked, Found, OtherStep, Place, Rows, Run, put, targets_at

__all__ = ["Convolved"]


@dataclass(frozen=True)
class Convolved(OtherStep):
    """Any convolution of an image."""

    reads: tuple[int]
    """The image."""
    geometry: Geometry
    """Stride, padding and dilation."""
    groups: int = 1
    """Of channels."""
    is_biased: bool = False
    """Whether there is a bias behind the weight."""

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """As `OtherStep.counts`."""
        return 1, 0, 1 + self.is_biased, 0, 0

    def forward(self, images: Sequence[Tensor], weights: Tensor, kernels: Sequence[Tensor]) -> list[Tensor]:
        """As `OtherStep.forward`."""
        return [dense(self._of(images[0], kernels))]

    def backward(self, asked: Asked) -> Found:
        """As `OtherStep.backward`."""
        (x,), (g,), (target,) = asked.images, asked.gs, asked.targets
        if g is None:
            return Found(kernels=[None] * len(asked.to_kernels))
        by_x, *by_kernels = self._back(g, x, asked.kernels, [target is not None, *asked.to_kernels])
        if target is not None and by_x is not None:
            put(by_x, target)
        return Found(kernels=by_kernels)

    def push(self, run: Run) -> list[Tensor | None]:
        """As `OtherStep.push`."""
        (x,), (along,), (weight, *_), (d_weight, *d_bias) = run.images, run.d_images, run.kernels, run.d_kernels
        parts: list[Tensor] = []
        if along is not None:
            parts.append(self._of(along, [weight]))
        if d_weight is not None:
            parts.append(self._of(x, [d_weight]))
        sums = [by.view(1, -1, 1, 1) for by in d_bias if by is not None]
        if sums and not parts:
            parts.append(torch.zeros_like(run.made[0]))
        return [dense(sum([*parts[1:], *sums], start=parts[0])) if parts else None]

    def pull(self, run: Run, gs: Rows, d_gs: Rows, places: Sequence[Place], to_kernels: Sequence[bool]) -> Found:
        """As `OtherStep.pull`."""
        (x,), (g,), (d_g,), (along,) = run.images, gs, d_gs, run.d_images
        (weight, *_), (d_weight, *_) = run.kernels, run.d_kernels
        by_kernels: list[Tensor | None] = [None] * len(to_kernels)
        parts: list[tuple[Tensor, Tensor | None, Tensor | None]] = []  # by output, the image, the weight
        if d_g is not None:
            parts.append((d_g, x, weight))
        if g is not None:
            parts.append((g, along, d_weight))
        target = None
        if any(w is not None for _, _, w in parts):
            (target,) = targets_at(places)
        for number, (by, image, kernel) in enumerate(parts):
            is_linear = number > 0 or d_g is None  # in the direction, of which a bias is no factor
            wanted = [target is not None and kernel is not None, to_kernels[0] and image is not None]
            wanted += [asks and not is_linear for asks in to_kernels[1:]]
            stand_ins = [weight if kernel is None else kernel, *run.kernels[1:]]
            by_x, *found = self._back(by, x if image is None else image, stand_ins, wanted)
            if target is not None and by_x is not None:
                put(by_x, target)
                target = target._replace(adds=True)
            by_kernels = [a if b is None else b if a is None else a + b for a, b in zip(by_kernels, found, strict=True)]
        return Found(kernels=by_kernels)

    def composed(
        self, images: Sequence[Tensor], made: Sequence[Tensor], weights: Tensor, kernels: Sequence[Tensor]
    ) -> list[Tensor]:
        """As `OtherStep.composed`."""
        return [self._of(images[0], kernels)]

    def _of(self, x: Tensor, kernels: Sequence[Tensor]) -> Tensor:
        weight, *bias = kernels
        own = self.geometry
        return F.conv2d(x, weight, bias[0] if bias else None, own.stride, own.padding, own.dilation, self.groups)

    def _back(self, g: Tensor, x: Tensor, kernels: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
        """The gradients by the image, the weight and the bias, if there is one, where wanted."""
        weight, *bias = kernels
        if not any(wanted):
            return [None] * len(wanted)
        sizes = [len(weight)] if bias else None
        mask, own = [*wanted, False][:3], self.geometry
        settings = (own.stride, own.padding, own.dilation, False, (0, 0), self.groups)
        found = torch.ops.aten.convolution_backward(g, x, weight, sizes, *settings, mask)
        return [by if asked else None for by, asked in zip(found, wanted, strict=False)]
