"""Terms with BatchNorm and scale folded into the projections (see `pointwise`).

Neither Z P^T nor its normalised form is ever kept: what is saved is what the depthwise convolutions gave.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archgrad.fast.composition import differentiable_gradients, shifted, statistics, variances
from archgrad.fast.products import column_sums, gram, times_small, wide

__all__ = ["FoldedMatmul"]


class FoldedMatmul(torch.autograd.Function):
    """Rows of pixels through folded projections, summed or each by itself; and the batch statistics of every term."""

    @staticmethod
    def forward(
        ctx: Any,
        scale: Tensor,
        projections: Tensor,
        shift: Tensor | None,
        mean: Tensor | None,
        variance: Tensor | None,
        eps: float,
        relu: bool,
        summed: bool,
        *rows: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return (mean, variance, sum), or (mean, variance, output of every term)."""
        wide_scale, wide_projections = wide(scale), wide(projections)
        covariances = means = None
        if mean is None or variance is None:
            means, covariances = statistics(rows)
            variance = variances(wide_projections, covariances)
            mean = torch.bmm(wide_projections, means.unsqueeze(2)).squeeze(2)
        inverse = (variance + eps).rsqrt()
        strength = wide_scale * inverse
        folded = (strength.unsqueeze(2) * wide_projections).to(rows[0].dtype)
        offset = shifted(-(strength * mean), shift, summed)
        offset = offset.to(rows[0].dtype)
        if summed:
            y = times_small(rows[0], folded[0], offset[0])
            for z, a in zip(rows[1:], folded[1:], strict=True):
                y.addmm_(z, a.t())
            outputs = [y]
        else:
            outputs = [times_small(z, a, b) for z, a, b in zip(rows, folded, offset, strict=True)]
        if relu:
            outputs = [y.relu_() for y in outputs]
        ctx.eps, ctx.relu, ctx.summed, ctx.outputs = eps, relu, summed, len(outputs)
        ctx.has_shift, ctx.batch = shift is not None, means is not None
        kept = (means, covariances) if means is not None else (mean, variance)
        ctx.save_for_backward(scale, projections, shift, *kept, inverse, folded, *(outputs if relu else ()), *rows)
        ctx.mark_non_differentiable(mean, variance)
        return mean, variance, *outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradients by scale, projections, shift and rows."""
        scale, projections, shift, means, covariances, inverse, folded, *large = ctx.saved_tensors
        outputs, rows = (large[: ctx.outputs], large[ctx.outputs :]) if ctx.relu else ([], large)
        gs = [g.contiguous() for g in grads[2:]]
        if torch.is_grad_enabled():
            fixed = None if ctx.batch else (means, covariances)
            needed = [*ctx.needs_input_grad[:3], *ctx.needs_input_grad[8:]]
            by_scale, by_projections, by_shift, *by_rows = differentiable_gradients(
                scale, projections, shift, fixed, ctx.eps, ctx.relu, ctx.summed, rows, gs, needed
            )
            return by_scale, by_projections, by_shift, None, None, None, None, None, *by_rows
        if ctx.relu:
            gs = [torch.ops.aten.threshold_backward(g, y, 0) for g, y in zip(gs, outputs, strict=True)]
        totals = torch.stack([column_sums(g) for g in gs])  # G^T 1 of every output
        of_term = gs * len(rows) if ctx.summed else gs
        scale, projections = wide(scale), wide(projections)
        d_folded = torch.stack([gram(g, z) for g, z in zip(of_term, rows, strict=True)])
        if ctx.batch:
            d_folded = torch.baddbmm(
                d_folded, totals.unsqueeze(2).expand(len(rows), -1, 1), means.unsqueeze(1), alpha=-1
            )
            d_strength = (d_folded * projections).sum(2)
        else:  # the offset is -strength * mean
            d_strength = (d_folded * projections).sum(2) - totals * means
        d_scale = d_strength * inverse if ctx.needs_input_grad[0] else None
        d_projections = None
        spread = constant = None
        if ctx.batch:
            d_variance = -0.5 * d_strength * scale * inverse**3
            weighted = d_variance.unsqueeze(2) * projections  # diag(dv) P
            d_covariance = torch.bmm(projections.transpose(1, 2), weighted)
            n = rows[0].shape[0]
            # dZ = G A + (Z - 1 m^T) 2/n dS - 1 (A^T G^T 1)^T / n
            spread = d_covariance * (2 / n)
            constant = -torch.bmm(spread, means.unsqueeze(2)).squeeze(2)
            constant = constant - torch.matmul(totals.unsqueeze(1), wide(folded)).squeeze(1) / n
            spread, constant = spread.to(rows[0].dtype), constant.to(rows[0].dtype)
        if ctx.needs_input_grad[1]:
            d_projections = (scale * inverse).unsqueeze(2) * d_folded
            if ctx.batch:
                d_projections = d_projections + 2 * torch.bmm(weighted, covariances)
        d_rows: list[Tensor | None] = []
        for k, (g, z, needed) in enumerate(zip(of_term, rows, ctx.needs_input_grad[8:], strict=True)):
            if not needed:
                d_rows.append(None)
            elif spread is None or constant is None:
                d_rows.append(times_small(g, folded[k].t()))
            else:  # the small matrix is symmetric
                d_rows.append(times_small(z, spread[k], constant[k]).addmm_(g, folded[k]))
        d_shift = totals if ctx.has_shift and ctx.needs_input_grad[2] else None
        return d_scale, d_projections, d_shift, None, None, None, None, None, *d_rows
