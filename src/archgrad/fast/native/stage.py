"""Several pointwise convolutions and BatchNorms, with or without depthwise convolutions before them, as one function.

A cell is made of two kinds of stages. What leaves a state: one input, and an output for each separable convolution's
first half. What enters a node: an input for each term, and one sum. Both pass over the batch twice forward and twice
backward, because the statistics of BatchNorm and their gradients need all images at once; in between, everything about
one image stays in the cache. Of all that happens, only the projections' results before BatchNorm are kept; convolutions
are done once more where the gradient by a projection needs their results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from archgrad.fast.composition import shifted
from archgrad.fast.grids import grid_size
from archgrad.fast.native.composed import differentiable_stage_gradients
from archgrad.fast.native.library import Job, call, image_like
from archgrad.fast.native.plan import Plan

__all__ = ["run"]


_POOLS = {"max": 1, "mean": 2}  # of `job.hpp`


def run(
    plan: Plan,
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    projections: Sequence[Tensor],
    scale: Tensor | None,
    *,
    shift: Tensor | None = None,
    fixed: tuple[Tensor, Tensor] | None = None,
    mixing: Tensor | None = None,
) -> tuple[list[Tensor], tuple[Tensor, Tensor] | None]:
    """Compute a stage.

    Args:
        plan: What to compute.
        inputs: (B, C, H, W) each.
        weights: Of the convolutions, in the order of their units, (C, 1, k, k) each.
        projections: T of the same shape (O, C), in the order of their units, whose results have one size. Pools have
            none.
        scale: (T, O) of the units with a BatchNorm, mixing weight times gamma; None if there are none.
        shift: (T, O), or (1, O) if the plan is summed; None for zero.
        fixed: Mean and variance, each (T, O), to normalise with; None for those of the batch.
        mixing: Weights of the other units, (V,).

    Returns:
        The sum alone if the plan is summed, else an output for each unit; and the means and biased variances that it
        normalised with, (T, O) each, None without a BatchNorm.
    """
    inputs = [_dense(x) for x in inputs]
    weights = [weight.contiguous() for weight in weights]
    stacked = torch.stack(list(projections)) if projections else None
    dtype = inputs[0].dtype
    shift = None if shift is None else shift.to(dtype)
    fixed = None if fixed is None else (fixed[0].to(dtype), fixed[1].to(dtype))
    mean, variance, *outputs = _Stage.apply(
        plan, scale, stacked, shift, mixing, *(fixed or (None, None)), *inputs, *weights
    )
    return outputs, None if mean is None else (mean, variance)


class _Stage(torch.autograd.Function):
    """(plan, scale, projections, shift, mixing, mean, variance, *inputs, *weights) -> (mean, variance, *outputs)."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        scale: Tensor | None,
        projections: Tensor | None,
        shift: Tensor | None,
        mixing: Tensor | None,
        mean: Tensor | None,
        variance: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor | None, ...]:
        inputs, weights = plan.split(tensors)
        dtype = inputs[0].dtype
        jobs = _jobs(plan, inputs, weights, projections)
        fixed = mean is not None
        results: list[Tensor] = []
        inverse = strength = offset = None
        if scale is not None:
            normalised = [jobs[k] for k in plan.normalised]
            results = [image_like(inputs[0], job.outputs, job.height, job.width) for job in normalised]
            if mean is None or variance is None:
                mean, variance = scale.new_empty(2, *scale.shape)
                _point(normalised, mean=mean, variance=variance)
            _point(normalised, result=results)
            call("transform", normalised, dtype)
            inverse = (variance + plan.eps).rsqrt()
            strength = scale * inverse
            offset = shifted(-(strength * mean), shift, plan.summed)
            ctx.mark_non_differentiable(mean, variance)
        strengths = _by_unit(plan, strength, mixing, jobs[0].outputs)
        outputs = [
            image_like(inputs[0], job.outputs, job.height, job.width) for job in (jobs[:1] if plan.summed else jobs)
        ]
        _point(jobs, strength=strengths, output=outputs * len(jobs) if plan.summed else outputs)
        if offset is not None:
            _point(jobs[: len(offset)], offset=offset)
        call("combine", jobs, dtype)
        ctx.plan, ctx.fixed, ctx.counts = plan, fixed, (len(tensors), len(results))
        ctx.set_materialize_grads(False)
        masks = outputs if plan.relu else []
        ctx.save_for_backward(scale, projections, shift, mixing, mean, variance, inverse, *tensors, *results, *masks)
        return mean, variance, *outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        plan, needed = ctx.plan, ctx.needs_input_grad
        scale, projections, shift, mixing, mean, variance, inverse, *large = ctx.saved_tensors
        tensors, large = large[: ctx.counts[0]], [_dense(x) for x in large[ctx.counts[0] :]]
        results, masks = large[: ctx.counts[1]], large[ctx.counts[1] :]
        if all(g is None for g in grads[2:]):
            return (None,) * len(needed)
        if torch.is_grad_enabled():
            fixed = (mean, variance) if ctx.fixed else None
            arguments = (scale, projections, shift, mixing, *tensors)
            return differentiable_stage_gradients(plan, arguments, fixed, grads[2:], [*needed[1:5], *needed[7:]])
        inputs, weights = plan.split(tensors)
        inputs = [_dense(x) for x in inputs]  # whatever keeps tensors between the passes
        dtype = inputs[0].dtype
        jobs = _jobs(plan, inputs, weights, projections)
        normalised = [jobs[k] for k in plan.normalised]
        _point(normalised, result=results)
        gs = [torch.zeros_like(results[t]) if g is None else _dense(g) for t, g in enumerate(grads[2:])]
        _point(jobs, grad=gs * len(jobs) if plan.summed else gs)
        if masks:
            _point(jobs, mask=masks * len(jobs) if plan.summed else masks)
        products, totals = gs[0].new_empty(2, len(jobs), jobs[0].outputs)
        _point(jobs, products=products, totals=totals)
        call("reduce", jobs, dtype)
        strength = by_scale = by_projections = by_shift = small = None
        if scale is not None:
            own = plan.normalised
            strength = scale * inverse
            pixels = jobs[0].batch * jobs[0].height * jobs[0].width
            small = _small_gradients(
                scale, strength, mean, inverse, products[own], totals[own], None if ctx.fixed else pixels
            )
            by_scale = small.scale
            if needed[3]:
                by_shift = totals[:1] if plan.summed else totals
            _point(normalised, by_result=small.by_result, constant=small.constant)
            if needed[2]:
                by_projections = torch.empty_like(projections)
                _point(normalised, d_projection=by_projections)
        by_mixing = None
        if needed[4]:
            by_mixing = products[plan.values].sum(1)
        strengths = _by_unit(plan, strength, mixing, jobs[0].outputs)
        _point(jobs, by_grad=strengths)
        by_inputs, by_weights = _through(plan, jobs, inputs, weights, needed[7:])
        return None, by_scale, by_projections, by_shift, by_mixing, None, None, *by_inputs, *by_weights


class _Small(NamedTuple):
    """What BatchNorm's backward has of each channel, (T, O) each."""

    scale: Tensor
    """The gradient by the scale."""
    by_result: Tensor
    constant: Tensor


def _small_gradients(
    scale: Tensor,
    strength: Tensor,
    mean: Tensor,
    inverse: Tensor,
    products: Tensor,
    totals: Tensor,
    pixels: int | None,
) -> _Small:
    """From sums over pixels to the gradients by the scale and by the result U of a projection.

    For y = a U + b with a = scale * inverse, b = -a mean + shift, and G the gradient by y over n pixels:

        da = G^T U - mean G^T 1,     dv = -1/2 da scale inverse^3,     dU = a G + 2/n dv (U - mean) - a G^T 1 / n

    With fixed statistics (`pixels` is None) only the first term of dU is left.
    """
    d_strength = products - mean * totals
    if pixels is None:
        nothing = torch.zeros_like(strength)
        return _Small(d_strength * inverse, nothing, nothing)
    by_result = d_strength * scale * inverse**3 / -pixels
    return _Small(d_strength * inverse, by_result, -by_result * mean - strength * totals / pixels)


def _dense(x: Tensor) -> Tensor:
    """The image as the kernels read it."""
    return x.contiguous(memory_format=torch.channels_last)


def _by_unit(plan: Plan, strength: Tensor | None, mixing: Tensor | None, outputs: int) -> Tensor:
    """What the result of every unit is multiplied by, (K, O)."""
    if mixing is None:
        assert strength is not None
        return strength
    spread = mixing.unsqueeze(1).expand(-1, outputs)
    if strength is None:
        return spread.contiguous()
    rows = strength.new_empty(len(plan.units), outputs)
    rows[plan.normalised] = strength
    rows[plan.values] = spread
    return rows


def _jobs(plan: Plan, inputs: Sequence[Tensor], weights: Sequence[Tensor], projections: Tensor | None) -> list[Job]:
    """A job for each unit; what is not projected is its own result."""
    jobs = []
    matrices = iter(() if projections is None else projections)
    for unit, weight in zip(plan.units, plan.weight_of_each(weights), strict=True):
        x = inputs[unit.input]
        batch, channels, height, width = x.shape
        job = Job(
            batch=batch, channels=channels, in_height=height, in_width=width, height=height, width=width,
            outputs=channels, relu_input=unit.relu, relu_output=plan.relu, input=x.data_ptr(),
        )  # fmt: skip
        if unit.projected:
            matrix = next(matrices)
            job.outputs, job.projection = matrix.shape[0], matrix.data_ptr()
            if unit.factorized:
                job.factorized = True
                job.height, job.width = grid_size((height, width))
        elif unit.pool is None:
            job.result = job.input
        else:
            job.pool = _POOLS[unit.pool.kind]
            job.height, job.width = unit.pool.output_size((height, width))
            job.kernel, job.stride, job.padding = unit.pool[1:]
        if unit.geometry is not None and weight is not None:
            job.height, job.width = unit.geometry.output_size((height, width), weight.shape[2:])
            job.weight, job.kernel = weight.data_ptr(), weight.shape[2]
            job.stride, job.padding = unit.geometry.stride[0], unit.geometry.padding[0]
            job.dilation = unit.geometry.dilation[0]
        jobs.append(job)
    return jobs


def _point(jobs: Sequence[Job], **tensors: Tensor | Sequence[Tensor]) -> None:
    """Let fields of every job point to its own tensor, or row of a tensor; who calls keeps them."""
    for name, parts in tensors.items():
        if isinstance(parts, Tensor):
            start, step = parts.data_ptr(), parts.stride(0) * parts.element_size()
            for k, job in enumerate(jobs):
                setattr(job, name, start + k * step)
        else:
            for job, part in zip(jobs, parts, strict=True):
                setattr(job, name, part.data_ptr())


def _through(
    plan: Plan, jobs: Sequence[Job], inputs: Sequence[Tensor], weights: Sequence[Tensor], needed: Sequence[bool]
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """The gradients by inputs and weights, from jobs that know those by their results."""
    by_weights: list[Tensor | None] = [None] * len(weights)
    by_inputs: list[Tensor | None] = [None] * len(inputs)
    convolution = 0
    for job, unit in zip(jobs, plan.units, strict=True):
        if unit.geometry is not None:
            if needed[len(inputs) + convolution]:
                weight = by_weights[convolution] = torch.empty_like(weights[convolution])
                job.d_weight = weight.data_ptr()
            convolution += 1
        if needed[unit.input]:
            x = inputs[unit.input]
            if (image := by_inputs[unit.input]) is None:
                image = by_inputs[unit.input] = image_like(x, *x.shape[1:])
            job.d_input = image.data_ptr()
    call("backpropagate", jobs, inputs[0].dtype)
    return by_inputs, by_weights
