"""BatchNorm modules behind pointwise convolutions: their scales, their statistics, and what they track."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from archgrad.distributed.sync_batchnorm import is_synchronised
from archgrad.fast.batch_norms import affine, fixed_statistics, track, uses_batch
from archgrad.fast.over_ranks import blend_over_ranks
from archgrad.fast.pointwise import Moments, Term, blend, project_each
from archgrad.fast.sums import weighted_total

__all__ = ["Projected", "normalised", "normalised_sum", "settings"]

Projected = tuple[Term, nn.BatchNorm2d]
"""A pointwise convolution of some features and the BatchNorm behind it."""


def settings(projected: Projected) -> tuple[object, ...]:
    """What must be equal for several to be computed together."""
    term, norm = projected
    shapes = (term.shape, term.projection.shape)
    return (*shapes, norm.eps, uses_batch(norm), is_synchronised(norm), norm.affine)


def normalised(group: Sequence[Projected], *, relu: bool) -> list[Tensor]:
    """Return norm(convolution(features)) of each, with a ReLU behind it if asked for.

    Args:
        group: With equal `settings`.
        relu: Apply a ReLU.
    """
    terms, norms = [term for term, _ in group], [norm for _, norm in group]
    gammas, betas = zip(*(affine(norm) for norm in norms), strict=True)
    shift = None if betas[0] is None else torch.stack(betas)
    scale = (
        terms[0].projection.new_ones(len(group), norms[0].num_features) if gammas[0] is None else torch.stack(gammas)
    )
    eps = norms[0].eps
    if uses_batch(norms[0]) and is_synchronised(norms[0]):
        outputs = []
        for k, term in enumerate(terms):
            y, mean, variance, pixels = blend_over_ranks(
                [term], scale[k : k + 1], eps=eps, shift=None if shift is None else shift[k], relu=relu
            )
            track([norms[k]], mean, variance, pixels)
            outputs.append(y)
        return outputs
    fixed = None if uses_batch(norms[0]) else fixed_statistics(norms)
    outputs, moments = project_each(terms, scale, eps=eps, shift=shift, fixed=fixed, relu=relu)
    _track(norms, moments, fixed)
    return outputs


def normalised_sum(
    group: Sequence[Projected],
    mixing: Tensor,
    values: Sequence[Tensor] = (),
    value_mixing: Tensor | None = None,
) -> Tensor:
    """Return the sum of mixing[k] * norm_k(convolution_k(features_k)), and of more weighted values.

    Args:
        group: T with equal `settings`.
        mixing: (T,).
        values: V tensors of the sum's shape.
        value_mixing: (V,); None if there are none.
    """
    terms, norms = [term for term, _ in group], [norm for _, norm in group]
    scale = mixing.unsqueeze(1)
    shift = None
    if norms[0].affine:
        scale = scale * torch.stack([norm.weight for norm in norms])
        shift = mixing @ torch.stack([norm.bias for norm in norms])
    else:
        scale = scale.expand(-1, norms[0].num_features)
    eps = norms[0].eps
    if uses_batch(norms[0]) and is_synchronised(norms[0]):
        y, mean, variance, pixels = blend_over_ranks(terms, scale, eps=eps, shift=shift)
        track(norms, mean, variance, pixels)
        return y if value_mixing is None else y + weighted_total(values, value_mixing)
    fixed = None if uses_batch(norms[0]) else fixed_statistics(norms)
    y, moments = blend(terms, scale, eps=eps, shift=shift, fixed=fixed, values=values, mixing=value_mixing)
    _track(norms, moments, fixed)
    return y


def _track(norms: Sequence[nn.BatchNorm2d], moments: Moments, fixed: object) -> None:
    if fixed is None:
        track(norms, moments.mean, moments.variance, moments.pixels)
