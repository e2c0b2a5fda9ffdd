"""The sum over terms whose BatchNorms take their statistics from the batch of all processes.

Written with differentiable operations, as `composition`; one message carries the statistics of all terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from archgrad.distributed.sync_batchnorm import statistics_over_ranks
from archgrad.fast.composition import statistics, variances
from archgrad.fast.pointwise import Term, convolved, rows_of
from archgrad.fast.products import wide
from archgrad.full_precision import full_precision

__all__ = ["blend_over_ranks"]


def blend_over_ranks(
    terms: Sequence[Term], scale: Tensor, *, eps: float, shift: Tensor | None = None, relu: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what `blend` does, with mean and variance over all processes, (T, O) each, and their pixels, (1,).

    Args:
        terms: T summands with equal B, C, O, H and W.
        scale: (T, O), mixing weight times gamma.
        eps: Of the BatchNorms.
        shift: (O,), added to the sum; None for zero.
        relu: Apply a ReLU to the sum.
    """
    terms = [convolved(term) for term in terms]
    rows = [rows_of(term.features) for term in terms]
    with full_precision(rows[0]):
        projections = wide(torch.stack([term.projection for term in terms]))
        own_means, covariances = statistics(rows)
        mean, variance, pixels = statistics_over_ranks(
            torch.bmm(projections, own_means.unsqueeze(2)).squeeze(2), variances(projections, covariances), len(rows[0])
        )
        strength = wide(scale) * (variance + eps).rsqrt()
        folded = strength.unsqueeze(2) * projections
        total = -(strength * mean).sum(0)
        if shift is not None:
            total = total + shift
        total = total.to(rows[0].dtype)
        for z, a in zip(rows, folded.to(rows[0].dtype), strict=True):
            total = torch.addmm(total, z, a.t())
        if relu:
            total = torch.relu(total)
    b, _, h, w = terms[0].features.shape
    y = total.view(b, h, w, -1).permute(0, 3, 1, 2)
    return y, mean.detach(), variance.detach(), pixels
