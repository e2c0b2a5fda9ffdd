"""Scaled BatchNorms of pointwise convolutions, written with differentiable operations only.

This is what `folded_matmul` and `batch_norm_matmul` compute in their own ways; a second differentiation goes
through here. A statistic that was saved in a forward pass would be a constant to it, so it is computed again from the
inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from archgrad.fast.products import column_sums, gram

__all__ = [
    "compose",
    "differentiable_gradients",
    "gradients_where",
    "shifted",
    "statistics",
    "variances",
]


def statistics(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Means (T, C) and covariances (T, C, C) of the rows of every term."""
    n = rows[0].shape[0]
    means = torch.stack([column_sums(z) for z in rows]) / n
    squares = torch.stack([gram(z, z) for z in rows])
    return means, torch.baddbmm(squares, means.unsqueeze(2), means.unsqueeze(1), beta=1 / n, alpha=-1)


def variances(projections: Tensor, covariances: Tensor) -> Tensor:
    """diag(P S P^T), (T, O); rounding must not make it negative."""
    return (torch.bmm(projections, covariances) * projections).sum(2).clamp_min(0)


def shifted(offset: Tensor, shift: Tensor | None, summed: bool) -> Tensor:
    """What is added to every output, (1, O) or (T, O), from the offsets of the terms, (T, O)."""
    if summed:
        offset = offset.sum(0, keepdim=True)
    return offset if shift is None else offset + shift


def compose(
    scale: Tensor,
    projections: Tensor,
    shift: Tensor | None,
    fixed: tuple[Tensor, Tensor] | None,
    eps: float,
    relu: bool,
    summed: bool,
    rows: Sequence[Tensor],
) -> list[Tensor]:
    """The sum, or the output of every term, written with differentiable operations only."""
    if fixed is None:
        means, covariances = statistics(rows)
        inverse = (variances(projections, covariances) + eps).rsqrt()
        folded = (scale * inverse).unsqueeze(2) * projections
        offset = -torch.bmm(folded, means.unsqueeze(2)).squeeze(2)
    else:
        inverse = (fixed[1] + eps).rsqrt()
        folded = (scale * inverse).unsqueeze(2) * projections
        offset = -(scale * inverse * fixed[0])
    offset = shifted(offset, shift, summed)
    if summed:
        total = offset[0]
        for z, a in zip(rows, folded, strict=True):
            total = torch.addmm(total, z, a.t())
        outputs = [total]
    else:
        outputs = [torch.addmm(b, z, a.t()) for z, a, b in zip(rows, folded, offset, strict=True)]
    return [torch.relu(y) for y in outputs] if relu else outputs


def differentiable_gradients(
    scale: Tensor,
    projections: Tensor,
    shift: Tensor | None,
    fixed: tuple[Tensor, Tensor] | None,
    eps: float,
    relu: bool,
    summed: bool,
    rows: Sequence[Tensor],
    gs: Sequence[Tensor],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients by (scale, projections, shift, *rows) where `needed`, differentiable again."""
    outputs = compose(scale, projections, shift, fixed, eps, relu, summed, rows)
    inputs = [scale, projections, shift, *rows]
    return gradients_where(needed, outputs, inputs, gs, allow_unused=False)


def gradients_where(
    needed: Sequence[bool],
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor | None],
    gs: Sequence[Tensor],
    *,
    allow_unused: bool,
) -> list[Tensor | None]:
    """The gradients by those inputs that are there and `needed`, differentiable again; None for the others."""
    asked = [need and x is not None for x, need in zip(inputs, needed, strict=True)]
    wanted = [x for x, ask in zip(inputs, asked, strict=True) if ask and x is not None]
    found = iter(torch.autograd.grad(outputs, wanted, gs, create_graph=True, allow_unused=allow_unused))
    return [next(found) if ask else None for ask in asked]
