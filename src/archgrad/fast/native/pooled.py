"""A pool without a BatchNorm, as a step of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from archgrad.fast.native.library import Job, call, image_like
from archgrad.fast.native.native_passes import POOLS
from archgrad.fast.native.other_step import Asked, OtherStep
from archgrad.fast.native.plan import Pool

__all__ = ["Pooled"]


@dataclass(frozen=True)
class Pooled(OtherStep):
    """The pool of an image."""

    reads: tuple[int]
    """The image."""
    pool: Pool
    """Which pool."""

    def forward(self, images: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
        """Return the pool."""
        (x,) = images
        pooled = image_like(x, x.shape[1], *self.pool.output_size(x.shape[2:]))
        call("transform", [self._job(x, pooled)], x.dtype)
        return [pooled]

    def backward(self, asked: Asked) -> None:
        """As `OtherStep.backward`."""
        (x,), (pooled,), _, (g,), (target,), _ = asked
        if g is None or target is None:
            return
        ones = x.new_ones(x.shape[1])
        job = self._job(x, pooled)
        job.grad, job.by_grad = g.data_ptr(), ones.data_ptr()
        job.d_input, job.adds = target.image.data_ptr(), target.adds
        call("backpropagate", [job], x.dtype)

    def composed(self, images: Sequence[Tensor], made: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
        """As `OtherStep.composed`."""
        return [self.pool(images[0])]

    def _job(self, x: Tensor, pooled: Tensor) -> Job:
        batch, channels, in_height, in_width = x.shape
        kind, kernel, stride, padding, _ = self.pool
        return Job(
            input=x.data_ptr(), result=pooled.data_ptr(), batch=batch, channels=channels, outputs=channels,
            in_height=in_height, in_width=in_width, height=pooled.shape[2], width=pooled.shape[3],
            pool=POOLS[kind], kernel=kernel, stride=stride, padding=padding,
        )  # fmt: skip
