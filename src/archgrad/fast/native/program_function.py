"""Stages one after the other as one function of PyTorch's: nothing but what is given out is handed over from node to
node of autograd."""

from __future__ import annotations

from collections.abc import Sequence
from operator import and_
from typing import Any

import torch
from torch import Tensor

from archgrad.fast.native.native_passes import Operands, dense, forward
from archgrad.fast.native.program import Affine, Parts, Program, Step, given_out, line_of, whole
from archgrad.fast.native.program_gradients import Ran, gradients
from archgrad.fast.native.second_backward import differentiable_gradients

__all__ = ["run_program"]


def run_program(
    program: Program,
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    projections: Sequence[Tensor],
    mixing: Tensor | Sequence[Tensor],
    *,
    affine: Sequence[Affine] = (),
    factors: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Compute a program, with BatchNorms by the statistics of the batch.

    Args:
        program: What to compute.
        inputs: (B, C, H, W) each.
        weights: Of the convolutions, in the order of their units, (C, 1, k, k) each.
        projections: In the order of their units, (O, C) or (O, C, 1, 1) each, and (O, C, k, k) if wide.
        mixing: Weights of the units of the steps that sum, for each step first those of units with a BatchNorm. In a
            tensor for each step, if the gradients by those of a step that nothing depends on are to be None.
        affine: Of the BatchNorms, as `norm_parts` of the program, times the mixing weights of what is summed, which are
            then not read; nothing for mixing weights alone. What outputs do not depend on has no gradient.
        factors: (F, B), what the units say that multiplies them; without gradients.

    Returns:
        The outputs, (B, C', H', W') each: what is joined, if anything is, and those apart. Then the means and biased
        variances of the units with a BatchNorm in their order, (K, O) each.
    """
    tensors = [*map(dense, inputs), *(w.contiguous() for w in weights), *map(dense, projections)]
    of_sums = [mixing] if isinstance(mixing, Tensor) else mixing
    scales, shifts = [part.scale for part in affine], [part.shift for part in affine]
    return _Program.apply(program, Parts(len(of_sums), len(affine)), factors, *of_sums, *scales, *shifts, *tensors)


class _Program(torch.autograd.Function):
    """(program, parts, factors, *mixing, *scales, *shifts, *inputs, *weights, *projections) -> (*outputs, means,
    variances)."""

    @staticmethod
    def forward(
        ctx: Any,
        program: Program,
        parts: Parts,
        factors: Tensor | None,
        *given: Tensor,
    ) -> tuple[Tensor, ...]:
        mixing, affine = whole(given[: parts.mixing]), parts.affine(given)
        inputs, weights, projections = program.split(given[parts.all :])
        images = list(inputs)
        means, variances, inverses = [], [], []
        results: list[Tensor] = []
        for step, share in zip(program.steps, program.shares, strict=True):
            if not isinstance(step, Step):
                read = [images[i] for i in step.reads]
                images.extend(step.forward(read, mixing[share.values], projections[share.projections]))
                continue
            plan, reads = step
            operands = Operands(
                [images[i] for i in reads], weights[share.weights], projections[share.projections], factors
            )
            values = mixing[share.values] if plan.values else None
            outputs, normalised = forward(plan, operands, *line_of(plan, mixing, affine, share), values, None)
            images.extend(outputs)
            if normalised is not None:
                means.append(normalised.mean)
                variances.append(normalised.variance)
                inverses.append(normalised.inverse)
                results.extend(normalised.results)
        mean, variance, inverse = map(_rows, (means, variances, inverses), [inputs[0]] * 3)
        ctx.program, ctx.parts = program, parts
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, variance)
        ctx.save_for_backward(mean, variance, inverse, factors, *results, *given, *images[program.n_inputs :])
        return *given_out(program, images), mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        by_outputs, needs = grads[:-2], ctx.needs_input_grad
        if all(g is None for g in by_outputs):
            return (None,) * len(needs)
        needed = [*map(and_, needs[3:], ctx.program.reached(ctx.parts, [g is not None for g in by_outputs]))]
        ran = Ran(ctx.program, ctx.parts, ctx.saved_tensors)
        find = differentiable_gradients if torch.is_grad_enabled() else gradients
        return None, None, None, *find(ran, by_outputs, needed)


def _rows(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.cat(list(parts)) if parts else like.new_empty(0, like.shape[1])
