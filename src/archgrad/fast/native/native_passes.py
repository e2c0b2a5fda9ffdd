"""A stage forward and backward over plain tensors: what autograd functions are made of.

Both pass over the batch twice, because the statistics of BatchNorm and their gradients need all images at once; in
between, everything about one image stays in the cache. Of all that happens, only the projections' results before
BatchNorm are kept; convolutions are done once more where the gradient by a projection needs their results.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from archgrad.fast.composition import shifted
from archgrad.fast.depthwise import Geometry
from archgrad.fast.grids import grid_size
from archgrad.fast.native.library import Job, call, image_like
from archgrad.fast.native.plan import Plan

__all__ = [
    "POOLS",
    "Gradients",
    "Normalised",
    "Operands",
    "Target",
    "backward",
    "dense",
    "forward",
    "jobs_of",
    "point",
    "small_gradients",
    "spread",
]

Shapes = tuple[tuple[int, ...], ...]

POOLS = {"max": 1, "mean": 2, "padded mean": 3}
"""Numbers of `job.hpp`."""


class Operands(NamedTuple):
    """What the units of a stage read."""

    inputs: Sequence[Tensor]
    """(B, C, H, W) each, channels_last."""
    weights: Sequence[Tensor]
    """(C, 1, k, k) each, of the units with a convolution in their order."""
    projections: Sequence[Tensor]
    """(O, C) or (O, C, 1, 1) each, and (O, C, k, k) if wide, channels_last, of the units with one in their order."""
    factors: Tensor | None = None
    """(F, B), of a program; None if no unit has one."""


class Normalised(NamedTuple):
    """What BatchNorm normalised: a row, or a tensor, for each of T units with one."""

    mean: Tensor
    """(T, O)."""
    variance: Tensor
    """(T, O), biased."""
    inverse: Tensor
    """(T, O): (variance + eps)^(-1/2)."""
    results: Sequence[Tensor]
    """Before BatchNorm, (B, O, H', W') each."""


class Target(NamedTuple):
    """Where the gradient by an input goes."""

    image: Tensor
    """Like the input."""
    adds: bool
    """It holds a gradient already, to which this one is added."""


class Gradients(NamedTuple):
    """Those of a stage; None for what was not asked for."""

    scale: Tensor | None
    """(T, O)."""
    totals: Tensor | None
    """(T, O): sums of the outputs' gradients over pixels, times factors; equal rows if the plan is summed without."""
    mixing: Tensor | None
    """(V,)."""
    weights: Sequence[Tensor | None]
    projections: Sequence[Tensor] | None


def dense(x: Tensor) -> Tensor:
    """Return an image, or a projection, as the kernels read it."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def forward(
    plan: Plan,
    operands: Operands,
    scale: Tensor | None,
    shift: Tensor | None,
    mixing: Tensor | None,
    fixed: tuple[Tensor, Tensor] | None,
) -> tuple[list[Tensor], Normalised | None]:
    """Return the sum alone if the plan is summed, else an output for each unit; and what was normalised.

    Args:
        plan: What to compute.
        operands: Of one type.
        scale: (T, O) or (T, 1) of the units with a BatchNorm; None if there are none.
        shift: (T, O), or (1, O) if the plan is summed and has no factors; None for zero.
        mixing: (V,), weights of the other units; None if there are none.
        fixed: Mean and variance to normalise with, (T, O) each; None for those of the batch.
    """
    x = operands.inputs[0]
    jobs = jobs_of(plan, operands)
    normalised = None
    if scale is not None:
        own = [jobs[k] for k in plan.normalised]
        results = [image_like(x, job.outputs, job.height, job.width) for job in own]
        point(own, result=results)
        if fixed is None:
            mean, variance = x.new_empty(2, len(own), own[0].outputs)
            point(own, mean=mean, variance=variance)
        else:
            mean, variance = fixed
        call("transform", own, x.dtype)
        inverse = (variance + plan.eps).rsqrt()
        normalised = Normalised(mean, variance, inverse, results)
        strength, offset = _line(plan, scale, shift, normalised)
        point(own, strength=strength)
        point(own if plan.has_factors else jobs[: len(offset)], offset=offset)
    if mixing is not None:
        by_channel = spread(mixing, jobs[0])
        point([jobs[k] for k in plan.values], strength=by_channel)
    outputs = [image_like(x, job.outputs, job.height, job.width) for job in (jobs[:1] if plan.summed else jobs)]
    point(jobs, output=_for_each(outputs, jobs))
    call("combine", jobs, x.dtype)
    return outputs, normalised


def backward(
    plan: Plan,
    operands: Operands,
    scale: Tensor | None,
    shift: Tensor | None,
    mixing: Tensor | None,
    normalised: Normalised | None,
    gs: Sequence[Tensor],
    *,
    fixed: bool,
    to_inputs: Sequence[Target | None],
    to_weights: Sequence[bool],
    to_projections: bool,
    to_mixing: bool,
) -> Gradients:
    """Return the gradients by what `forward` was given, and write those by its inputs to where they belong.

    Args:
        plan: As there.
        operands: As there.
        scale: As there.
        shift: As there.
        mixing: As there.
        normalised: As `forward` returned it.
        gs: The gradients by the outputs, channels_last.
        fixed: The statistics were given.
        to_inputs: Where the gradient by each input goes; None if it is not wanted.
        to_weights: Whether those by the convolutions' weights are wanted.
        to_projections: Whether those by the projections are.
        to_mixing: Whether that by `mixing` is.
    """
    dtype = gs[0].dtype
    jobs = jobs_of(plan, operands)
    own, values = [jobs[k] for k in plan.normalised], [jobs[k] for k in plan.values]
    point(jobs, grad=_for_each(gs, jobs))
    strength = offset = None
    if scale is not None and normalised is not None:
        strength, offset = _line(plan, scale, shift, normalised)
        point(own, result=normalised.results, strength=strength)
        point(own if plan.has_factors else jobs[: len(offset)], offset=offset)
    reduced = own + values if to_mixing else own
    products, totals = gs[0].new_empty(2, len(reduced), jobs[0].outputs)
    point(reduced, products=products, totals=totals)
    call("reduce", reduced, dtype)
    by_scale = by_totals = by_projections = small = None  # `small` must outlive the call that reads it
    if scale is not None and strength is not None and normalised is not None:
        by_totals = totals[: len(own)]
        pixels = None if fixed else jobs[0].batch * jobs[0].height * jobs[0].width
        small = small_gradients(scale, strength, normalised, products[: len(own)], by_totals, pixels)
        by_scale = small.scale
        point(own, by_grad=strength, by_result=small.by_result, constant=small.constant)
        if to_projections and operands.projections:
            by_projections = [torch.empty_like(p) for p in operands.projections]
            point([job for job in own if job.projection], d_projection=by_projections)
    if mixing is not None:
        by_channel = spread(mixing, jobs[0])
        point(values, by_grad=by_channel)
    by_mixing = products[len(own) :].sum(1) if to_mixing else None
    by_weights = [
        torch.empty_like(w) if wanted else None for w, wanted in zip(operands.weights, to_weights, strict=True)
    ]
    for job, unit, by_weight in zip(jobs, plan.units, plan.weight_of_each(by_weights), strict=True):
        if by_weight is not None:
            job.d_weight = by_weight.data_ptr()
        if (target := to_inputs[unit.input]) is not None:
            job.d_input, job.adds = target.image.data_ptr(), target.adds
    call("backpropagate", jobs, dtype)
    return Gradients(by_scale, by_totals, by_mixing, by_weights, by_projections)


def _line(plan: Plan, scale: Tensor, shift: Tensor | None, normalised: Normalised) -> tuple[Tensor, Tensor]:
    """BatchNorm as strength * result + offset: (T, O), and (T, O), or (1, O) for all of a sum without factors."""
    strength = scale * normalised.inverse
    return strength, shifted(-(strength * normalised.mean), shift, plan.summed and not plan.has_factors)


def spread(mixing: Tensor, job: Job) -> Tensor:
    """(V, O): mixing weights for every channel."""
    return mixing.unsqueeze(1).expand(-1, job.outputs).contiguous()


class _Small(NamedTuple):
    """What BatchNorm's backward has of each channel, (T, O) each."""

    scale: Tensor
    """The gradient by the scale."""
    by_result: Tensor
    constant: Tensor


def small_gradients(
    scale: Tensor, strength: Tensor, normalised: Normalised, products: Tensor, totals: Tensor, pixels: int | None
) -> _Small:
    """From sums over pixels to the gradients by the scale and by the result U of a projection.

    For y = a U + b with a = scale * inverse, b = -a mean + shift, and G the gradient by y over n pixels:

        da = G^T U - mean G^T 1,     dv = -1/2 da scale inverse^3,     dU = a G + 2/n dv (U - mean) - a G^T 1 / n

    With fixed statistics (`pixels` is None) only the first term of dU is left.
    """
    mean, inverse = normalised.mean, normalised.inverse
    d_strength = products - mean * totals
    d_scale = d_strength * inverse
    if pixels is None:
        nothing = torch.zeros_like(strength)
        return _Small(d_scale, nothing, nothing)
    by_result = d_scale * strength * inverse / -pixels
    return _Small(d_scale, by_result, -by_result * mean - strength * totals / pixels)


def _for_each(images: Sequence[Tensor], jobs: Sequence[Job]) -> Sequence[Tensor]:
    """An image for each job; all have the only one if there is one."""
    return images if len(images) == len(jobs) else list(images) * len(jobs)


def jobs_of(plan: Plan, operands: Operands) -> list[Job]:
    """A job for each unit; what is not projected is its own result."""
    shapes = tuple(tuple(x.shape for x in group) for group in operands[:3])
    jobs = []
    matrices = iter(operands.projections)
    weights = plan.weight_of_each(operands.weights)
    for unit, blank, weight in zip(plan.units, _blanks(plan, *shapes), weights, strict=True):
        job = Job.from_buffer_copy(blank)
        job.input = operands.inputs[unit.input].data_ptr()
        if unit.projected:
            job.projection = next(matrices).data_ptr()
        elif unit.pool is None:
            job.result = job.input
        if unit.geometry is not None and weight is not None:
            job.weight = weight.data_ptr()
        if unit.factor is not None and operands.factors is not None:
            job.factor = operands.factors[unit.factor].data_ptr()
        jobs.append(job)
    return jobs


@lru_cache(maxsize=1024)
def _blanks(plan: Plan, inputs: Shapes, weights: Shapes, projections: Shapes) -> list[Job]:
    """The jobs of a plan for operands of these shapes, which point nowhere yet."""
    jobs = []
    matrices = iter(projections)
    for unit, kernel in zip(plan.units, plan.weight_of_each(weights), strict=True):
        batch, channels, height, width = inputs[unit.input]
        job = Job(
            batch=batch, channels=channels, in_height=height, in_width=width, height=height, width=width,
            outputs=channels, relu_input=unit.relu, relu_output=plan.relu,
        )  # fmt: skip
        if unit.projected:
            shape = next(matrices)
            job.outputs = shape[0]
            if unit.wide is not None:
                _set_geometry(job, unit.wide, shape[2:])
            elif unit.factorized:
                job.factorized = True
                job.height, job.width = grid_size((height, width))
        elif unit.pool is not None:
            job.pool = POOLS[unit.pool.kind]
            job.height, job.width = unit.pool.output_size((height, width))
            job.kernel, job.stride, job.padding = unit.pool[1:4]
        if unit.geometry is not None and kernel is not None:
            _set_geometry(job, unit.geometry, kernel[2:])
        jobs.append(job)
    if plan.summed and len({(job.outputs, job.height, job.width) for job in jobs}) > 1:
        sizes = ", ".join(f"({job.outputs}, {job.height}, {job.width})" for job in jobs)
        raise ValueError(f"Summands need equal shapes, but got (C, H, W) of {sizes}.")
    return jobs


def _set_geometry(job: Job, geometry: Geometry, kernel: Sequence[int]) -> None:
    job.height, job.width = geometry.output_size((job.in_height, job.in_width), kernel)
    job.kernel, job.stride = kernel[0], geometry.stride[0]
    job.padding, job.dilation = geometry.padding[0], geometry.dilation[0]


def point(jobs: Sequence[Job], **tensors: Tensor | Sequence[Tensor]) -> None:
    """Let fields of every job point to its own tensor, or row of a tensor; who calls keeps them."""
    for name, parts in tensors.items():
        if isinstance(parts, Tensor):
            start, step = parts.data_ptr(), parts.stride(0) * parts.element_size()
            for k, job in enumerate(jobs):
                setattr(job, name, start + k * step)
        else:
            for job, part in zip(jobs, parts, strict=True):
                setattr(job, name, part.data_ptr())
