"""The sum over terms, with BatchNorm and scale folded into the projections (see `pointwise`).

Neither Z P^T nor its normalised form is ever kept: what is saved is what the depthwise convolutions gave.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archgrad.fast.composition import differentiable_gradients, gram, statistics, variances, wide

__all__ = ["Folded"]


class Folded(torch.autograd.Function):
    """The sum of `blend` over rows of pixels, and the batch statistics of every term."""

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
        *rows: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (sum, mean, variance)."""
        wide_scale, wide_projections = wide(scale), wide(projections)
        covariances = means = None
        if mean is None or variance is None:
            means, covariances = statistics(rows)
            variance = variances(wide_projections, covariances)
            mean = torch.bmm(wide_projections, means.unsqueeze(2)).squeeze(2)
        inverse = (variance + eps).rsqrt()
        strength = wide_scale * inverse
        folded = (strength.unsqueeze(2) * wide_projections).to(rows[0].dtype)
        offset = -(strength * mean).sum(0)
        if shift is not None:
            offset = offset + shift
        y = torch.addmm(offset.to(rows[0].dtype), rows[0], folded[0].t())
        for z, a in zip(rows[1:], folded[1:], strict=True):
            y.addmm_(z, a.t())
        if relu:
            y.relu_()
        ctx.eps, ctx.relu, ctx.has_shift, ctx.batch = eps, relu, shift is not None, means is not None
        kept = (means, covariances) if means is not None else (mean, variance)
        ctx.save_for_backward(scale, projections, shift, *kept, inverse, folded, y if relu else None, *rows)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradients by scale, projections, shift and rows."""
        scale, projections, shift, means, covariances, inverse, folded, y, *rows = ctx.saved_tensors
        g = grads[0]
        if torch.is_grad_enabled():
            fixed = None if ctx.batch else (means, covariances)
            needed = [*ctx.needs_input_grad[:3], *ctx.needs_input_grad[7:]]
            by_scale, by_projections, by_shift, *by_rows = differentiable_gradients(
                scale, projections, shift, fixed, ctx.eps, ctx.relu, rows, g, needed
            )
            return by_scale, by_projections, by_shift, None, None, None, None, *by_rows
        if ctx.relu:
            g = torch.ops.aten.threshold_backward(g, y, 0)
        total = wide(g.sum(0))  # G^T 1
        scale, projections = wide(scale), wide(projections)
        d_folded = torch.stack([gram(g, z) for z in rows])
        if ctx.batch:
            d_folded = torch.baddbmm(
                d_folded, total.view(1, -1, 1).expand(len(rows), -1, 1), means.unsqueeze(1), alpha=-1
            )
            d_strength = (d_folded * projections).sum(2)
        else:  # the offset is -strength * mean
            d_strength = (d_folded * projections).sum(2) - total * means
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
            constant = -torch.bmm(spread, means.unsqueeze(2)).squeeze(2) - torch.matmul(total, wide(folded)) / n
        if ctx.needs_input_grad[1]:
            d_projections = (scale * inverse).unsqueeze(2) * d_folded
            if ctx.batch:
                d_projections = d_projections + 2 * torch.bmm(weighted, covariances)
        d_rows: list[Tensor | None] = []
        for k, (z, needed) in enumerate(zip(rows, ctx.needs_input_grad[7:], strict=True)):
            if not needed:
                d_rows.append(None)
            elif spread is None or constant is None:
                d_rows.append(g @ folded[k])
            else:
                d_z = torch.addmm(constant[k].to(z.dtype), z, spread[k].to(z.dtype))
                d_rows.append(d_z.addmm_(g, folded[k]))
        d_shift = total if ctx.has_shift and ctx.needs_input_grad[2] else None
        return d_scale, d_projections, d_shift, None, None, None, None, *d_rows
