"""Pointwise convolution, BatchNorm and mixing weight as one matrix product.

Let the rows of Z (n, C) be the pixels of a batch, m their mean and S their covariance, and P (O, C) a pointwise
convolution. The pixels of Z P^T have mean P m and variance v = diag(P S P^T): BatchNorm needs no pass over them. With a
scale w for each output (the mixing weight, times BatchNorm's own gamma where it has one),

    w * BatchNorm(Z P^T) = Z A^T - A m,        A = diag(w s) P,        s = (v + eps)^(-1/2),

and the sum over the operations and edges that enter a node is a sum of such products, accumulated in place. Backward,
with G the gradient by the output, needs two more products for each term:

    dA = G^T Z - (G^T 1) m^T,        dZ = G A + Z M + 1 r^T,        M = (2 / n) P^T diag(dv) P,

where the small matrices dv, r and dP follow from dA by the chain rule (in `_Blend.backward`, step by step). Neither
Z P^T nor its normalised form is ever kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Moments", "Term", "blend", "rows_of"]


class Moments(NamedTuple):
    """Batch statistics of every term before its BatchNorm."""

    mean: Tensor
    """(T, O)."""
    variance: Tensor
    """(T, O), biased."""
    count: int
    """Number of pixels n."""


class Term(NamedTuple):
    """One summand of `blend`."""

    features: Tensor
    """(B, C, H, W)."""
    projection: Tensor
    """(O, C)."""


def blend(
    terms: Sequence[Term],
    scale: Tensor,
    *,
    eps: float,
    shift: Tensor | None = None,
    fixed: tuple[Tensor, Tensor] | None = None,
    relu: bool = False,
) -> tuple[Tensor, Moments]:
    """Return the sum over terms of scale * BatchNorm(projection applied to every pixel of features).

    Args:
        terms: T summands with equal B, C, O, H and W.
        scale: (T, O), mixing weight times gamma.
        eps: Of the BatchNorms.
        shift: (O,), added to the sum; None for zero.
        fixed: Mean and variance, each (T, O), to normalise with; None for those of the batch.
        relu: Apply a ReLU to the sum.

    Returns:
        The sum, (B, O, H, W), channels_last, and the statistics of the batch (of no meaning with `fixed`).
    """
    features = [term.features for term in terms]
    projections = torch.stack([term.projection for term in terms])
    rows = [rows_of(f) for f in features]
    mean, variance = (None, None) if fixed is None else fixed
    y, batch_mean, batch_variance = _Blend.apply(scale, projections, shift, mean, variance, eps, relu, *rows)
    b, _, h, w = features[0].shape
    return y.view(b, h, w, -1).permute(0, 3, 1, 2), Moments(batch_mean, batch_variance, rows[0].shape[0])


def rows_of(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B H W, C), a view of a channels_last tensor."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _statistics(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Means (T, C) and covariances (T, C, C) of the rows of every term."""
    n = rows[0].shape[0]
    means = torch.stack([z.mean(0) for z in rows])
    squares = torch.stack([_gram(z, z) for z in rows])
    return means, torch.baddbmm(squares, means.unsqueeze(2), means.unsqueeze(1), beta=1 / n, alpha=-1)


def _gram(a: Tensor, b: Tensor) -> Tensor:
    """a^T b in single precision at least."""
    if a.dtype in (torch.float16, torch.bfloat16):
        return a.float().t() @ b.float()
    return a.t() @ b


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _variances(projections: Tensor, covariances: Tensor) -> Tensor:
    """diag(P S P^T), (T, O); rounding must not make it negative."""
    return (torch.bmm(projections, covariances) * projections).sum(2).clamp_min(0)


def _compose(
    scale: Tensor,
    projections: Tensor,
    shift: Tensor | None,
    fixed: tuple[Tensor, Tensor] | None,
    eps: float,
    rows: Sequence[Tensor],
) -> Tensor:
    """The sum before the ReLU, written with differentiable operations only."""
    if fixed is None:
        means, covariances = _statistics(rows)
        inverse = (_variances(projections, covariances) + eps).rsqrt()
        folded = (scale * inverse).unsqueeze(2) * projections
        offset = -torch.bmm(folded, means.unsqueeze(2)).sum((0, 2))
    else:
        inverse = (fixed[1] + eps).rsqrt()
        folded = (scale * inverse).unsqueeze(2) * projections
        offset = -(scale * inverse * fixed[0]).sum(0)
    if shift is not None:
        offset = offset + shift
    total = offset
    for z, a in zip(rows, folded, strict=True):
        total = torch.addmm(total, z, a.t())
    return total


class _Blend(torch.autograd.Function):
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
        wide_scale, wide_projections = _wide(scale), _wide(projections)
        covariances = means = None
        if mean is None or variance is None:
            means, covariances = _statistics(rows)
            variance = _variances(wide_projections, covariances)
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
        scale, projections, shift, means, covariances, inverse, folded, y, *rows = ctx.saved_tensors
        g = grads[0]
        if torch.is_grad_enabled():
            return _differentiable_gradients(ctx, g)
        if ctx.relu:
            g = torch.ops.aten.threshold_backward(g, y, 0)
        total = _wide(g.sum(0))  # G^T 1
        scale, projections = _wide(scale), _wide(projections)
        d_folded = torch.stack([_gram(g, z) for z in rows])
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
            constant = -torch.bmm(spread, means.unsqueeze(2)).squeeze(2) - torch.matmul(total, _wide(folded)) / n
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


def _differentiable_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    """The same gradients for a second differentiation, by differentiating the composition from the inputs."""
    scale, projections, shift, means, covariances, _, _, _, *rows = ctx.saved_tensors
    fixed = None if ctx.batch else (means, covariances)
    total = _compose(scale, projections, shift, fixed, ctx.eps, rows)
    if ctx.relu:
        total = torch.relu(total)
    inputs = [scale, projections, shift, *rows]
    needed = [*ctx.needs_input_grad[:3], *ctx.needs_input_grad[7:]]
    wanted = [x for x, need in zip(inputs, needed, strict=True) if need]
    found = iter(torch.autograd.grad(total, wanted, g, create_graph=True))
    d_scale, d_projections, d_shift, *d_rows = [next(found) if need else None for need in needed]
    return d_scale, d_projections, d_shift, None, None, None, None, *d_rows
