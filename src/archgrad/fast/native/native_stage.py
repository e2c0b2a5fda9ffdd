"""Several pointwise convolutions and BatchNorms, with or without depthwise convolutions before them, as one function.

A cell is made of two kinds of stages. What leaves a state: one input, and an output for each separable convolution's
first half. What enters a node: an input for each term, and one sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from archgrad.fast.native.composed import differentiable_stage_gradients
from archgrad.fast.native.library import image_like
from archgrad.fast.native.native_passes import Normalised, Operands, Target, backward, dense, forward
from archgrad.fast.native.plan import Plan

__all__ = ["run", "run_again"]


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
        projections: T of the same shape (O, C), or (O, C, k, k) where wide, in the order of their units, whose results
            have one size. Pools have none.
        scale: (T, O) of the units with a BatchNorm, mixing weight times gamma; None if there are none.
        shift: (T, O), or (1, O) if the plan is summed; None for zero.
        fixed: Mean and variance, each (T, O), to normalise with; None for those of the batch.
        mixing: Weights of the other units, (V,).

    Returns:
        The sum alone if the plan is summed, else an output for each unit; and the means and biased variances that it
        normalised with, (T, O) each, None without a BatchNorm.

    Raises:
        ValueError: The plan is summed, and units give results of different shapes.
    """
    dtype = inputs[0].dtype
    tensors = [*map(dense, inputs), *(w.contiguous() for w in weights), *map(dense, projections)]
    shift = None if shift is None else shift.to(dtype)
    mean, variance = (None, None) if fixed is None else (fixed[0].to(dtype), fixed[1].to(dtype))
    mean, variance, *outputs = _Stage.apply(plan, scale, shift, mixing, mean, variance, *tensors)
    return outputs, None if mean is None else (mean, variance)


def run_again(
    plan: Plan, operands: Operands, scale: Tensor | None, shift: Tensor | None, mixing: Tensor | None
) -> list[Tensor]:
    """Compute a stage that may have factors, differentiably; arguments as `forward` has them, outputs as `run`.

    With factors, each term of the sum is an output by itself, which then is multiplied.
    """
    inputs, weights, projections, factors = operands
    if not plan.has_factors or factors is None:
        return run(plan, inputs, weights, projections, scale, shift=shift, mixing=mixing)[0]
    terms = [plan.units[k] for k in plan.normalised]
    read = sorted({unit.input for unit in terms})
    units = tuple(unit._replace(input=read.index(unit.input), factor=None) for unit in terms)
    outputs: list[Tensor] = []
    if units:
        alone = Plan(units, plan.eps)
        outputs, _ = run(alone, [inputs[k] for k in read], weights, projections, scale, shift=shift)
    values = [inputs[plan.units[k].input] for k in plan.values]
    if mixing is not None:
        outputs += [weight * x for weight, x in zip(mixing.unbind(), values, strict=True)]
    numbers = [plan.units[k].factor for k in (*plan.normalised, *plan.values)]
    parts = [
        y if number is None else y * factors[number].view(-1, 1, 1, 1)
        for y, number in zip(outputs, numbers, strict=True)
    ]
    return [sum(parts[1:], start=parts[0])]


class _Stage(torch.autograd.Function):
    """(plan, scale, shift, mixing, mean, variance, *inputs, *weights, *projections) -> (mean, variance, *outputs)."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        scale: Tensor | None,
        shift: Tensor | None,
        mixing: Tensor | None,
        mean: Tensor | None,
        variance: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor | None, ...]:
        fixed = None if mean is None or variance is None else (mean, variance)
        outputs, normalised = forward(plan, Operands(*plan.split(tensors)), scale, shift, mixing, fixed)
        results: Sequence[Tensor] = ()
        inverse = None
        if normalised is not None:
            mean, variance, inverse, results = normalised
            ctx.mark_non_differentiable(mean, variance)
        ctx.plan, ctx.fixed, ctx.n_tensors = plan, fixed is not None, len(tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(scale, shift, mixing, mean, variance, inverse, *tensors, *results)
        return mean, variance, *outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        plan, needed = ctx.plan, ctx.needs_input_grad
        scale, shift, mixing, mean, variance, inverse, *large = ctx.saved_tensors
        tensors, results = large[: ctx.n_tensors], [dense(x) for x in large[ctx.n_tensors :]]
        if all(g is None for g in grads[2:]):
            return (None,) * len(needed)
        if torch.is_grad_enabled():
            fixed = (mean, variance) if ctx.fixed else None
            arguments = (scale, shift, mixing, *tensors)
            return differentiable_stage_gradients(plan, arguments, fixed, grads[2:], [*needed[1:4], *needed[6:]])
        inputs, weights, projections = plan.split(tensors)
        inputs, projections = list(map(dense, inputs)), list(map(dense, projections))  # whatever kept them meanwhile
        to_inputs, to_weights, to_projections = plan.split(needed[6:])
        targets = [
            Target(image_like(x, *x.shape[1:]), False) if n else None for x, n in zip(inputs, to_inputs, strict=True)
        ]
        found = backward(
            plan,
            Operands(inputs, weights, projections),
            scale,
            shift,
            mixing,
            None if inverse is None else Normalised(mean, variance, inverse, results),
            [torch.zeros_like(results[t]) if g is None else dense(g) for t, g in enumerate(grads[2:])],
            fixed=ctx.fixed,
            to_inputs=targets,
            to_weights=to_weights,
            to_projections=any(to_projections),
            to_mixing=needed[3],
        )
        by_shift = None
        if needed[2] and found.totals is not None:
            by_shift = found.totals[:1] if plan.summed else found.totals
        by_inputs = [None if target is None else target.image for target in targets]
        by_projections: Sequence[Tensor | None] = found.projections or [None] * len(projections)
        return None, found.scale, by_shift, found.mixing, None, None, *by_inputs, *found.weights, *by_projections
