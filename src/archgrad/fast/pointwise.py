"""Pointwise convolution, BatchNorm and mixing weight as one matrix product.

Let the rows of Z (n, C) be the pixels of a batch, m their mean and S their covariance, and P (O, C) a pointwise
convolution. The pixels of Z P^T have mean P m and variance v = diag(P S P^T): BatchNorm needs no pass over them. With a
scale w for each output (the mixing weight, times BatchNorm's own gamma where it has one),

    w * BatchNorm(Z P^T) = Z A^T - A m,        A = diag(w s) P,        s = (v + eps)^(-1/2),

and the sum over the operations and edges that enter a node is a sum of such products, accumulated in place. Backward,
with G the gradient by the output, needs two more products for each term:

    dA = G^T Z - (G^T 1) m^T,        dZ = G A + Z M + 1 r^T,        M = (2 / n) P^T diag(dv) P,

where the small matrices dv, r and dP follow from dA by the chain rule (in `folded_matmul`, step by step).

The products with C x O matrices cost n C O operations and passes over Z cost n C; so with many channels it is cheaper
to keep Z P^T and pass over it (`batch_norm_matmul`). `blend` takes the cheaper way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from archgrad.fast import native
from archgrad.fast.batch_norm_matmul import BatchNormMatmul
from archgrad.fast.depthwise import Geometry, depthwise
from archgrad.fast.folded_matmul import FoldedMatmul
from archgrad.fast.grids import both_grids, for_both_grids, grid_size
from archgrad.fast.sums import weighted_total
from archgrad.full_precision import full_precision

__all__ = [
    "NATIVE_UP_TO",
    "Convolution",
    "Moments",
    "Term",
    "blend",
    "convolved",
    "project_each",
    "rows_of",
    "suits_kernels",
]

NATIVE_UP_TO = 192
"""Channels up to which the compiled kernels are preferred: with more, a library's matrix products are the better ones
(measured on AVX2)."""
_INPUTS_UP_TO = 640
"""The same of what a projection without a convolution reads, on AVX-512 (measured with 288 and 576)."""
FOLDED_UP_TO = {False: 16, True: 64}
"""Output channels up to which folding is preferred, by whether the projections need gradients: folding keeps half as
much then (measured on AVX2)."""


class Moments(NamedTuple):
    """Batch statistics of every term before its BatchNorm."""

    mean: Tensor
    """(T, O)."""
    variance: Tensor
    """(T, O), biased."""
    pixels: int
    """Number of pixels n."""


class Convolution(NamedTuple):
    """A depthwise convolution that is still to be done."""

    weight: Tensor
    """(C, 1, kh, kw)."""
    geometry: Geometry


class Term(NamedTuple):
    """One summand of `blend`."""

    features: Tensor
    """(B, C, H, W)."""
    projection: Tensor
    """(O, C), if not `wide`."""
    convolution: Convolution | None = None
    """Of the features, before the projection; None for none."""
    relu: bool = False
    """The features go through a ReLU first."""
    factorized: bool = False
    """The first half of the outputs reads the even rows and columns, the other half the odd ones; no convolution."""
    wide: Geometry | None = None
    """The projection is a dense convolution, (O, C, kh, kw), of this geometry; no other."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, C, H', W') of what the projection reads."""
        if self.factorized:
            return (*self.features.shape[:2], *grid_size(self.features.shape[2:]))
        if self.wide is not None:
            size = self.wide.output_size(self.features.shape[2:], self.projection.shape[2:])
            return (*self.features.shape[:2], *size)
        if self.convolution is None:
            return tuple(self.features.shape)
        weight, geometry = self.convolution
        return (*self.features.shape[:2], *geometry.output_size(self.features.shape[2:], weight.shape[2:]))


def convolved(term: Term) -> Term:
    """The term with all done that comes before its projection."""
    z = F.relu(term.features) if term.relu else term.features
    if term.factorized:
        return Term(both_grids(z), for_both_grids(term.projection))
    if term.wide is not None:
        z = F.conv2d(z, term.projection, None, term.wide.stride, term.wide.padding, term.wide.dilation)
        return Term(z, torch.eye(z.shape[1], dtype=z.dtype, device=z.device))
    return Term(z if term.convolution is None else depthwise(z, *term.convolution), term.projection)


def blend(
    terms: Sequence[Term],
    scale: Tensor,
    *,
    eps: float,
    shift: Tensor | None = None,
    fixed: tuple[Tensor, Tensor] | None = None,
    relu: bool = False,
    values: Sequence[Tensor] = (),
    mixing: Tensor | None = None,
) -> tuple[Tensor, Moments]:
    """Return the sum over terms of scale * BatchNorm(projection applied to every pixel of features).

    Args:
        terms: T summands with equal B, C, O, H' and W'.
        scale: (T, O), mixing weight times gamma.
        eps: Of the BatchNorms.
        shift: (O,), added to the sum; None for zero.
        fixed: Mean and variance, each (T, O), to normalise with; None for those of the batch.
        relu: Apply a ReLU to the sum; then there are no values.
        values: V more summands, (B, O, H', W') each.
        mixing: Their weights, (V,); None if there are none.

    Returns:
        The sum, (B, O, H', W'), channels_last, and the statistics of the batch (of no meaning with `fixed`).
    """
    shift = None if shift is None else shift.unsqueeze(0)
    if not relu and suits_kernels(terms, scale, *values):
        (total,), moments = _by_stage(terms, scale, eps, shift, fixed, relu, values, mixing, summed=True)
        return total, moments
    (total,), moments = _apply(terms, scale, eps, shift, fixed, relu, summed=True)
    return total if mixing is None else total + weighted_total(values, mixing), moments


def project_each(
    terms: Sequence[Term],
    scale: Tensor,
    *,
    eps: float,
    shift: Tensor | None = None,
    fixed: tuple[Tensor, Tensor] | None = None,
    relu: bool = False,
) -> tuple[list[Tensor], Moments]:
    """Return what `blend` would sum, each by itself; arguments as there, but for a `shift` of (T, O)."""
    if suits_kernels(terms, scale):
        return _by_stage(terms, scale, eps, shift, fixed, relu, (), None, summed=False)
    return _apply(terms, scale, eps, shift, fixed, relu, summed=False)


def _apply(
    terms: Sequence[Term],
    scale: Tensor,
    eps: float,
    shift: Tensor | None,
    fixed: tuple[Tensor, Tensor] | None,
    relu: bool,
    *,
    summed: bool,
) -> tuple[list[Tensor], Moments]:
    terms = [convolved(term) for term in terms]
    rows = [rows_of(term.features) for term in terms]
    projections = torch.stack([term.projection for term in terms])
    with full_precision(rows[0]):
        if fixed is None and not _folds(projections):
            mean, variance, *outputs = BatchNormMatmul.apply(scale, projections, shift, eps, relu, summed, *rows)
        else:
            given = (None, None) if fixed is None else fixed
            mean, variance, *outputs = FoldedMatmul.apply(scale, projections, shift, *given, eps, relu, summed, *rows)
    b, _, h, w = terms[0].features.shape
    return [y.view(b, h, w, -1).permute(0, 3, 1, 2) for y in outputs], Moments(mean, variance, rows[0].shape[0])


def suits_kernels(terms: Sequence[Term], *others: Tensor) -> bool:
    """Return whether the compiled kernels can compute with these, and are the quicker way."""
    weights = []
    for term in terms:
        if term.convolution is not None:
            weight, geometry = term.convolution
            if not native.understands(geometry, weight.shape[2:]):
                return False
            weights.append(weight)
        weights.extend(term[:2])
    return all(map(_is_narrow, terms)) and native.takes(*others, *weights)


def _is_narrow(term: Term) -> bool:
    """Whether the kernels are the quicker way, by the numbers of channels."""
    outputs, *inputs = term.projection.shape
    reads_pixels = term.convolution is None and term.wide is None and not term.factorized
    many = reads_pixels and native.instruction_set() == "avx512"
    return outputs <= NATIVE_UP_TO and max(inputs) <= (_INPUTS_UP_TO if many else NATIVE_UP_TO)


def _by_stage(
    terms: Sequence[Term],
    scale: Tensor,
    eps: float,
    shift: Tensor | None,
    fixed: tuple[Tensor, Tensor] | None,
    relu: bool,
    values: Sequence[Tensor],
    mixing: Tensor | None,
    *,
    summed: bool,
) -> tuple[list[Tensor], Moments]:
    inputs: dict[int, Tensor] = {}
    for x in (*(term.features for term in terms), *values):
        inputs.setdefault(id(x), x)
    at = {key: k for k, key in enumerate(inputs)}
    units = [
        native.Unit(
            at[id(term.features)],
            None if term.convolution is None else term.convolution.geometry,
            relu=term.relu,
            factorized=term.factorized,
            wide=term.wide,
        )
        for term in terms
    ]
    units += [native.Unit(at[id(value)], projected=False) for value in values]
    outputs, statistics = native.run(
        native.Plan(tuple(units), eps, relu=relu, summed=summed),
        list(inputs.values()),
        [term.convolution.weight for term in terms if term.convolution is not None],
        [term.projection for term in terms],
        scale,
        shift=shift,
        fixed=fixed,
        mixing=mixing,
    )
    assert statistics is not None
    b, _, h, w = terms[0].shape
    return outputs, Moments(*statistics, b * h * w)


def _folds(projections: Tensor) -> bool:
    """Whether folding is the cheaper way; a covariance of many more inputs than outputs never pays."""
    c_out, c_in = projections.shape[1:]
    return c_out <= FOLDED_UP_TO[projections.requires_grad] and c_in <= 2 * c_out


def rows_of(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B H W, C), a view of a channels_last tensor."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
