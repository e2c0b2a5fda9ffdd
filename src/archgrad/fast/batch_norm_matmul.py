"""Matrix products followed by BatchNorm, with the products U = Z P^T kept.

    y = sum_k a_k * U_k + b,        a = scale * s,  b = -sum_k a_k * mean(U_k),  s = (var(U) + eps)^(-1/2)

Backward, dU is what the backends' own BatchNorm gives, and dZ = dU P, dP = dU^T Z. Against `folded_matmul` this takes
two or three matrix products for each term instead of five, and some passes over U, which matter less with many
channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archgrad.fast.composition import differentiable_gradients, shifted
from archgrad.fast.products import column_sums, gram, times_small, wide

__all__ = ["BatchNormMatmul"]


class BatchNormMatmul(torch.autograd.Function):
    """Rows of pixels through projection, BatchNorm and scale, summed or each by itself.

    Beside them, the batch mean and biased variance of every term, (T, O) each.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scale: Tensor,
        projections: Tensor,
        shift: Tensor | None,
        eps: float,
        relu: bool,
        summed: bool,
        *rows: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return (mean, variance, sum), or (mean, variance, output of every term)."""
        dtype = rows[0].dtype
        products = [times_small(z, p.to(dtype)) for z, p in zip(rows, projections, strict=True)]
        moments = [torch.batch_norm_update_stats(u, None, None, 0.0) for u in products]
        mean, variance = (wide(torch.stack(parts)) for parts in zip(*moments, strict=True))
        inverse = (variance + eps).rsqrt()
        strength = wide(scale) * inverse
        offset = shifted(-(strength * mean), shift, summed)
        strength, offset = strength.to(dtype), offset.to(dtype)
        if summed:
            y = torch.addcmul(offset[0], products[0], strength[0])
            for u, a in zip(products[1:], strength[1:], strict=True):
                y.addcmul_(u, a)
            outputs = [y]
        else:
            outputs = [torch.addcmul(b, u, a) for u, a, b in zip(products, strength, offset, strict=True)]
        if relu:
            outputs = [y.relu_() for y in outputs]
        ctx.eps, ctx.relu, ctx.summed, ctx.outputs, ctx.terms = eps, relu, summed, len(outputs), len(rows)
        # Rows are kept for a second derivative even where the projections need no gradient.
        ctx.save_for_backward(scale, projections, shift, mean, inverse, *(outputs if relu else ()), *products, *rows)
        ctx.mark_non_differentiable(mean, variance)
        return mean, variance, *outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradients by scale, projections, shift and rows."""
        scale, projections, shift, mean, inverse, *large = ctx.saved_tensors
        outputs, large = (large[: ctx.outputs], large[ctx.outputs :]) if ctx.relu else ([], large)
        products, rows = large[: ctx.terms], large[ctx.terms :]
        gs = [g.contiguous() for g in grads[2:]]
        if torch.is_grad_enabled():
            needed = [*ctx.needs_input_grad[:3], *ctx.needs_input_grad[6:]]
            d_scale, d_projections, d_shift, *d_rows = differentiable_gradients(
                scale, projections, shift, None, ctx.eps, ctx.relu, ctx.summed, rows, gs, needed
            )
            return d_scale, d_projections, d_shift, None, None, None, *d_rows
        if ctx.relu:
            gs = [torch.ops.aten.threshold_backward(g, y, 0) for g, y in zip(gs, outputs, strict=True)]
        by_scale, by_projection = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        d_scales, d_matrices, d_rows = [], [], []
        for k, (u, needed) in enumerate(zip(products, ctx.needs_input_grad[6:], strict=True)):
            # contiguous: a mixing weight spread over channels has stride 0, which the CPU kernel reads past
            weight = wide(scale[k]).contiguous()
            d_u, d_scale, _ = torch.ops.aten.native_batch_norm_backward(
                gs[0 if ctx.summed else k],
                u,
                weight,
                None,
                None,
                mean[k],
                inverse[k],
                True,
                ctx.eps,
                [True, by_scale, False],
            )
            d_scales.append(d_scale)
            if by_projection:
                d_matrices.append(gram(d_u, rows[k]))
            d_rows.append(times_small(d_u, projections[k].t().to(d_u.dtype)) if needed else None)
        d_shift = torch.stack([column_sums(g) for g in gs]) if shift is not None and ctx.needs_input_grad[2] else None
        return (
            torch.stack(d_scales) if by_scale else None,
            torch.stack(d_matrices) if by_projection else None,
            d_shift,
            None,
            None,
            None,
            *d_rows,
        )
