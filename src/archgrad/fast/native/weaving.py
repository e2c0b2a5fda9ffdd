"""States that pass by a cell's operations, as a step of a program (see `archgrad.partial_channels`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from archgrad.fast.native.library import Job, call, image_like
from archgrad.fast.native.other_step import Asked, Found, OtherStep, Place, Rows, Run, or_zeros, targets_at
from archgrad.partial_channels import interleaved

__all__ = ["Weave"]


@dataclass(frozen=True)
class Weave(OtherStep):
    """What passes by, summed and shuffled with what was mixed, in one pass over all of them.

    It gives the whole, (B, C, H, W), unless nothing was mixed, and the first C/K channels of it.
    """

    reads: tuple[int, ...]
    """What was mixed, (B, C/K, H, W), if anything was; then what passes by, (B, C, H, W) each, whose first C/K channels
    do not count."""
    parts: int
    """K."""
    mixes: bool = True
    """Whether anything was mixed; if not, what passes by is not shuffled."""
    weighted: bool = False
    """Whether what passes by has mixing weights."""

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """How many images, weights, projections, terms and values a program has of it."""
        return 1 + self.mixes, 0, 0, 0, len(self.reads) - self.mixes if self.weighted else 0

    def forward(self, images: Sequence[Tensor], weights: Tensor, kernels: Sequence[Tensor]) -> list[Tensor]:
        """As `OtherStep.forward`; the weights are those of what passes by."""
        jobs = self._jobs(images, weights)
        x = images[-1]
        part = image_like(x, jobs[0].outputs, *x.shape[2:])
        jobs[0].part = part.data_ptr()
        if not self.mixes:
            call("weave", jobs, x.dtype)
            return [part]
        whole = image_like(x, *x.shape[1:])
        jobs[0].output = whole.data_ptr()
        call("weave", jobs, x.dtype)
        return [whole, part]

    def backward(self, asked: Asked) -> Found:
        """As `OtherStep.backward`."""
        images, _, weights, _, gs, targets, to_weights, _ = asked
        jobs = self._jobs(images, weights)
        by_whole, by_part = (None, *gs)[-2:]
        jobs[0].grad = None if by_whole is None else by_whole.data_ptr()
        jobs[0].grad_part = None if by_part is None else by_part.data_ptr()
        by_weights = torch.empty_like(weights) if to_weights and self.weighted else None
        if self.mixes and (mixed := targets[0]) is not None:
            assert not mixed.adds  # nothing else reads it
            jobs[0].d_result = mixed.image.data_ptr()
        for k, (job, target) in enumerate(zip(jobs, targets[self.mixes :], strict=True)):
            if target is not None:
                job.d_input, job.adds = target.image.data_ptr(), target.adds
            if by_weights is not None:
                job.products = by_weights.data_ptr() + k * by_weights.element_size()
        call("unweave", jobs, images[0].dtype)
        return Found(by_weights)

    def push(self, run: Run) -> list[Tensor | None]:
        """As `OtherStep.push`: it is linear in its images, and in its weights."""
        images, made, weights, kernels, d_images, d_weights, _ = run
        found: list[Tensor | None] = [None] * len(made)
        if any(d is not None for d in d_images):
            found = [*self.forward(or_zeros(d_images, images), weights, kernels)]
        if self.weighted and d_weights is not None:
            passing = [torch.zeros_like(x) if k < self.mixes else x for k, x in enumerate(images)]
            more = self.forward(passing, d_weights, kernels)
            found = [y if x is None else x.add_(y) for x, y in zip(found, more, strict=True)]
        return found

    def pull(self, run: Run, gs: Rows, d_gs: Rows, places: Sequence[Place], to_kernels: Sequence[bool]) -> Found:
        """As `OtherStep.pull`."""
        images, made, weights, kernels, d_images, d_weights, _ = run
        nowhere = [None] * len(images)
        by_weights = torch.zeros_like(weights) if self.weighted else None
        parts: list[Tensor | None] = []
        if any(g is not None for g in d_gs):
            asked = Asked(images, made, weights, kernels, d_gs, targets_at(places), to_weights=True)
            parts.append(self.backward(asked).weights)
        if self.weighted and d_weights is not None:
            passing = [None] * self.mixes + targets_at(places[self.mixes :])
            self.backward(Asked(images, made, d_weights, kernels, gs, passing))
        if self.weighted and any(d is not None for d in d_images):
            along = or_zeros(d_images, images)
            asked = Asked(along, made, weights, kernels, gs, nowhere, to_weights=True)
            parts.append(self.backward(asked).weights)
        for part in parts:
            if by_weights is not None and part is not None:
                by_weights += part
        return Found(by_weights)

    def composed(
        self, images: Sequence[Tensor], made: Sequence[Tensor], weights: Tensor, kernels: Sequence[Tensor]
    ) -> list[Tensor]:
        """As `OtherStep.composed`."""
        passing = list(images[self.mixes :])
        if self.weighted:
            passing = [weight * x for weight, x in zip(weights.unbind(), passing, strict=True)]
        total = sum(passing[1:], start=passing[0])
        own = total.shape[1] // self.parts
        if not self.mixes:
            return [total[:, :own]]
        whole = interleaved(images[0], total[:, own:])
        return [whole, whole[:, :own]]

    def _jobs(self, images: Sequence[Tensor], weights: Tensor) -> list[Job]:
        batch, channels, height, width = images[-1].shape
        jobs = [
            Job(
                input=x.data_ptr(), batch=batch, channels=channels, outputs=channels // self.parts,
                height=height, width=width, in_height=height, in_width=width,
            )
            for x in images[self.mixes :]
        ]  # fmt: skip
        if self.mixes:
            jobs[0].result = images[0].data_ptr()
        for k, job in enumerate(jobs if self.weighted else ()):
            job.strength = weights.data_ptr() + k * weights.element_size()
        return jobs
