"""A pool without a BatchNorm, as a step of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from archgrad.fast.native.library import Job, call, image_like
from archgrad.fast.native.native_passes import POOLS
from archgrad.fast.native.other_step import Asked, Found, OtherStep, Run
from archgrad.fast.native.plan import Pool

__all__ = ["Pooled", "pool_along"]


@dataclass(frozen=True)
class Pooled(OtherStep):
    """The pool of an image."""

    reads: tuple[int]
    """The image."""
    pool: Pool
    """Which pool."""

    def forward(self, images: Sequence[Tensor], weights: Tensor, kernels: Sequence[Tensor]) -> list[Tensor]:
        """Return the pool."""
        (x,) = images
        return [_pooled(self.pool, x)]

    def backward(self, asked: Asked) -> Found:
        """As `OtherStep.backward`."""
        (x,), (pooled,), (g,), (target,) = asked.images, asked.made, asked.gs, asked.targets
        if g is None or target is None:
            return Found()
        ones = x.new_ones(x.shape[1])
        job = _job(self.pool, x, pooled)
        job.grad, job.by_grad = g.data_ptr(), ones.data_ptr()
        job.d_input, job.adds = target.image.data_ptr(), target.adds
        call("backpropagate", [job], x.dtype)
        return Found()

    def push(self, run: Run) -> list[Tensor | None]:
        """As `OtherStep.push`."""
        (x,), (pooled,), (along,) = run.images, run.made, run.d_images
        return [None if along is None else pool_along(self.pool, x, along, pooled)]

    def composed(
        self, images: Sequence[Tensor], made: Sequence[Tensor], weights: Tensor, kernels: Sequence[Tensor]
    ) -> list[Tensor]:
        """As `OtherStep.composed`."""
        return [self.pool(images[0])]


def pool_along(pool: Pool, x: Tensor, along: Tensor, pooled: Tensor) -> Tensor:
    """Return the derivative of a pool along a direction of its input, channels_last.

    Args:
        pool: Which pool.
        x: Its input, (B, C, H, W).
        along: Like it.
        pooled: What it gave.
    """
    if pool.kind == "max":
        _, places = F.max_pool2d(x, pool.kernel, pool.stride, pool.padding, 1, pool.over_edge, return_indices=True)
        taken = along.flatten(2).gather(2, places.flatten(2)).view(pooled.shape)
        return taken.contiguous(memory_format=torch.channels_last)
    return _pooled(pool, along)


def _pooled(pool: Pool, x: Tensor) -> Tensor:
    pooled = image_like(x, x.shape[1], *pool.output_size(x.shape[2:]))
    call("transform", [_job(pool, x, pooled)], x.dtype)
    return pooled


def _job(pool: Pool, x: Tensor, pooled: Tensor) -> Job:
    batch, channels, in_height, in_width = x.shape
    kind, kernel, stride, padding, _ = pool
    return Job(
        input=x.data_ptr(), result=pooled.data_ptr(), batch=batch, channels=channels, outputs=channels,
        in_height=in_height, in_width=in_width, height=pooled.shape[2], width=pooled.shape[3],
        pool=POOLS[kind], kernel=kernel, stride=stride, padding=padding,
    )  # fmt: skip
