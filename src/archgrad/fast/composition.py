"""The sum of scaled BatchNorms of pointwise convolutions, written with differentiable operations only.

This is what `folded` and `kept` compute in their own ways; a second differentiation goes through here. A statistic that
was saved in a forward pass would be a constant to it, so it is computed again from the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["compose", "differentiable_gradients", "full_precision", "gram", "statistics", "variances", "wide"]


def statistics(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Means (T, C) and covariances (T, C, C) of the rows of every term."""
    n = rows[0].shape[0]
    means = torch.stack([z.mean(0, dtype=statistics_dtype(z)) for z in rows])
    squares = torch.stack([gram(z, z) for z in rows])
    return means, torch.baddbmm(squares, means.unsqueeze(2), means.unsqueeze(1), beta=1 / n, alpha=-1)


def statistics_dtype(z: Tensor) -> torch.dtype:
    """The type of statistics of z."""
    return torch.promote_types(z.dtype, torch.float32)


def gram(a: Tensor, b: Tensor) -> Tensor:
    """a^T b in single precision at least."""
    if a.dtype in (torch.float16, torch.bfloat16):
        return a.float().t() @ b.float()
    return a.t() @ b


def full_precision(x: Tensor) -> torch.autocast:
    """Leave autocast aside on x's device: statistics and small matrices stay in single precision."""
    return torch.autocast(x.device.type, enabled=False)


def wide(x: Tensor) -> Tensor:
    """x in single precision at least."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def variances(projections: Tensor, covariances: Tensor) -> Tensor:
    """diag(P S P^T), (T, O); rounding must not make it negative."""
    return (torch.bmm(projections, covariances) * projections).sum(2).clamp_min(0)


def compose(
    scale: Tensor,
    projections: Tensor,
    shift: Tensor | None,
    fixed: tuple[Tensor, Tensor] | None,
    eps: float,
    rows: Sequence[Tensor],
) -> Tensor:
    """The sum before the ReLU, written with differentiable operations only."""
    if fixed is None:
        means, covariances = statistics(rows)
        inverse = (variances(projections, covariances) + eps).rsqrt()
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


def differentiable_gradients(
    scale: Tensor,
    projections: Tensor,
    shift: Tensor | None,
    fixed: tuple[Tensor, Tensor] | None,
    eps: float,
    relu: bool,
    rows: Sequence[Tensor],
    g: Tensor,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients by (scale, projections, shift, *rows) where `needed`, differentiable again."""
    total = compose(scale, projections, shift, fixed, eps, rows)
    if relu:
        total = torch.relu(total)
    inputs = [scale, projections, shift, *rows]
    wanted = [x for x, need in zip(inputs, needed, strict=True) if need and x is not None]
    found = iter(torch.autograd.grad(total, wanted, g, create_graph=True))
    return [next(found) if need and x is not None else None for x, need in zip(inputs, needed, strict=True)]
