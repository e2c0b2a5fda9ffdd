"""The sum over terms, with the products U = Z P^T kept.

    y = sum_k a_k * U_k + b,        a = scale * s,  b = -sum_k a_k * mean(U_k),  s = (var(U) + eps)^(-1/2)

Backward, dU is what the backends' own BatchNorm gives, and dZ = dU P, dP = dU^T Z. Against `folded` this takes two to
three matrix products for each term instead of five, and some passes over U, which cost less the more channels there are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archgrad.fast.composition import differentiable_gradients, gram, wide

__all__ = ["Kept"]


class Kept(torch.autograd.Function):
    """The sum over rows of pixels with batch statistics, and the mean and biased variance of every term, (T, O) each."""

    @staticmethod
    def forward(
        ctx: Any, scale: Tensor, projections: Tensor, shift: Tensor | None, eps: float, relu: bool, *rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = rows[0].dtype
        products = [z @ p.to(dtype).t() for z, p in zip(rows, projections, strict=True)]
        moments = [torch.batch_norm_update_stats(u, None, None, 0.0) for u in products]
        mean, variance = torch.stack([m for m, _ in moments]), torch.stack([v for _, v in moments])
        inverse = (variance + eps).rsqrt()
        strength = wide(scale) * inverse
        offset = -(strength * mean).sum(0)
        if shift is not None:
            offset = offset + shift
        strength = strength.to(dtype)
        y = torch.addcmul(offset.to(dtype), products[0], strength[0])
        for u, a in zip(products[1:], strength[1:], strict=True):
            y.addcmul_(u, a)
        if relu:
            y.relu_()
        ctx.eps, ctx.relu, ctx.terms = eps, relu, len(rows)
        ctx.save_for_backward(scale, projections, shift, mean, inverse, y if relu else None, *rows, *products)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        scale, projections, shift, mean, inverse, y, *kept = ctx.saved_tensors
        rows, products = kept[: ctx.terms], kept[ctx.terms :]
        g = grads[0]
        if torch.is_grad_enabled():
            needed = [*ctx.needs_input_grad[:3], *ctx.needs_input_grad[5:]]
            d_scale, d_projections, d_shift, *d_rows = differentiable_gradients(
                scale, projections, shift, None, ctx.eps, ctx.relu, rows, g, needed
            )
            return d_scale, d_projections, d_shift, None, None, *d_rows
        if ctx.relu:
            g = torch.ops.aten.threshold_backward(g, y, 0)
        by_scale, by_projection = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        d_scales, d_matrices, d_rows = [], [], []
        for k, (z, u, needed) in enumerate(zip(rows, products, ctx.needs_input_grad[5:], strict=True)):
            d_u, d_scale, _ = torch.ops.aten.native_batch_norm_backward(
                g, u, wide(scale[k]), None, None, mean[k], inverse[k], True, ctx.eps, [True, by_scale, False]
            )
            d_scales.append(d_scale)
            d_matrices.append(gram(d_u, z) if by_projection else None)
            d_rows.append(d_u @ projections[k].to(d_u.dtype) if needed else None)
        d_shift = wide(g.sum(0)) if shift is not None and ctx.needs_input_grad[2] else None
        return (
            torch.stack(d_scales) if by_scale else None,
            torch.stack(d_matrices) if by_projection else None,
            d_shift,
            None,
            None,
            *d_rows,
        )
