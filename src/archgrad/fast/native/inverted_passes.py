"""An inverted residual forward and backward over plain tensors: what an autograd function is made of.

Let the rows of X be the pixels of a batch, m their mean and S their covariance, and P (M, C) the first convolution. The
rows of X P^T have mean P m and variance v = diag(P S P^T), so that the first BatchNorm needs no pass over them, and

    y = a (X P^T - P m) + beta,      a = gamma s,      s = (v + eps)^(-1/2)

is one product. Backward, with G the gradient by y over n pixels and t = G^T 1 its sums,

    dv = -1/2 s^2 (sum of G (y - beta)),      dP = diag(a) (G^T X - t m^T) + 2 diag(dv) P S,
    dX = G diag(a) P + X Q + 1 r^T,           Q = 2/n P^T diag(dv) P,     r = -Q m - P^T (a t) / n.

Since y is the same as its activation wherever G is not zero, the sums of G y need nothing but that.

Of the wide images only what the depthwise convolution gives is kept, and backward the gradient by what follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, NamedTuple

import torch
from torch import Tensor

from archgrad.fast.depthwise import Geometry
from archgrad.fast.native.library import InvertedJob, call, image_like
from archgrad.fast.native.native_passes import Normalised, Target, small_gradients

__all__ = ["Inverted", "InvertedOperands", "Made", "Moments", "back", "forth", "moments_of"]

_WIDEST_VECTOR = 64
"""Bytes."""
Fixed = tuple[Tensor, Tensor] | None
"""Mean and variance to normalise with, (M,) each; None for those of the batch."""


@dataclass(frozen=True)
class Inverted:
    """What an inverted residual computes, without its sum with the input."""

    geometry: Geometry
    """Of the depthwise convolution."""
    expands: bool
    """Whether there is a pointwise convolution before it."""
    eps: tuple[float, float, float]
    """Of the BatchNorms; without the first convolution, the first does not count."""
    limit: float | None = None
    """What the activations are bounded by from above; None for ReLU."""


class InvertedOperands(NamedTuple):
    """What an inverted residual reads beside its input; or something for each of these."""

    expansion: Any
    """(M, C, 1, 1); None where it does not expand, M = C."""
    gamma: Any
    """(M,) of the first BatchNorm; None for ones."""
    beta: Any
    """(M,); None for zeros."""
    weight: Any
    """(M, 1, k, k) of the depthwise convolution."""
    depthwise_gamma: Any
    """(M,) of the second BatchNorm; None for ones."""
    depthwise_beta: Any
    """(M,); None for zeros."""
    projection: Any
    """(O, M, 1, 1)."""


class Moments(NamedTuple):
    """Of the pixels of an image, in double precision."""

    mean: Tensor
    """(C,)."""
    covariance: Tensor
    """(C, C), biased."""


class Made(NamedTuple):
    """What is kept of a forward pass."""

    first: Normalised | None
    """What the first BatchNorm normalised, with statistics in double precision; None where nothing expands."""
    second: Normalised
    convolved: Tensor
    """(B, K), what the depthwise convolution gave, as only the kernels read it."""
    last: Normalised
    """With the result before the last BatchNorm, (B, O, H', W')."""


def moments_of(x: Tensor) -> Moments:
    """Return the mean and covariance of the pixels of an image, (B, C, H, W), channels_last."""
    batch, channels, height, width = x.shape
    found = Moments(*(x.new_empty(*shape, dtype=torch.double) for shape in ((channels,), (channels, channels))))
    job = InvertedJob(batch=batch, channels=channels, hidden=channels, in_height=height, in_width=width)
    _point(job, input=x, mean=found.mean, covariance=found.covariance)
    call("covary", [job], x.dtype)
    return found


def forth(
    block: Inverted, operands: InvertedOperands, x: Tensor, moments: Moments | None, fixed: Sequence[Fixed]
) -> Made:
    """Return what an inverted residual gives before its last BatchNorm.

    Args:
        block: What to compute.
        operands: Of the type of `x`.
        x: (B, C, H, W), channels_last.
        moments: Of `x`; None where the first BatchNorm does not need them.
        fixed: For each of the three BatchNorms.
    """
    job = _job(block, operands, x)
    hidden, outputs = job.hidden, job.outputs
    first = offset = folded = None
    if block.expands:
        matrix = _matrix(operands.expansion)
        if fixed[0] is not None:
            mean, variance = fixed[0][0].double(), fixed[0][1].double()
        else:
            assert moments is not None
            mean = matrix @ moments.mean
            variance = ((matrix @ moments.covariance) * matrix).sum(1).clamp_min(0)
        first = Normalised(mean, variance, (variance + block.eps[0]).rsqrt(), ())
        folded, offset = _folded(operands, matrix, first)
        _point(job, expansion=folded, expansion_offset=offset)
    convolved = x.new_empty(job.batch, _planes(hidden, x.dtype) * job.height * job.width)
    second = _statistics(fixed[1], hidden, x)
    _point(job, input=x, weight=operands.weight, convolved=convolved)
    if fixed[1] is None:
        _point(job, convolved_mean=second[0], convolved_variance=second[1])
    call("widen", [job], x.dtype)
    normalised = Normalised(*second, (second[1] + block.eps[1]).rsqrt(), ())
    line = _line(normalised, operands.depthwise_gamma, operands.depthwise_beta)
    result = image_like(x, outputs, job.height, job.width)
    last = _statistics(fixed[2], outputs, x)
    _point(job, strength=line[0], offset=line[1], projection=operands.projection, result=result)
    if fixed[2] is None:
        _point(job, result_mean=last[0], result_variance=last[1])
    call("narrow", [job], x.dtype)
    return Made(first, normalised, convolved, Normalised(*last, (last[1] + block.eps[2]).rsqrt(), [result]))


class Back(NamedTuple):
    """The gradients of an inverted residual."""

    scale: Tensor
    """(O,), by what the last BatchNorm is multiplied with."""
    operands: InvertedOperands
    """None for what was not asked for."""
    curve: Tensor | None
    """(C, C): of what the gradient by the input has of the input itself; None if there is none of it."""
    constant: Tensor | None
    """(C,): what it has beside."""


def back(
    block: Inverted,
    operands: InvertedOperands,
    x: Tensor,
    moments: Moments | None,
    made: Made,
    scale: Tensor,
    g: Tensor,
    sums: tuple[Tensor, Tensor],
    *,
    fixed: Sequence[bool],
    needed: InvertedOperands,
    to_input: Target | None,
) -> Back:
    """Return the gradients by operands, and write that by the input to where it belongs, but for `Back.curve`.

    Args:
        block: As in `forth`.
        operands: As there.
        x: As there.
        moments: As there.
        made: What it returned.
        scale: (O,), by what the last BatchNorm's outputs were multiplied.
        g: (B, O, H', W'), the gradient by the product, channels_last.
        sums: Those over all pixels of `g` times the result, and of `g`, (O,) each.
        fixed: For each BatchNorm, whether its statistics were given.
        needed: Which gradients by operands are wanted.
        to_input: Where that by `x` goes; None if it is not wanted.
    """
    job = _job(block, operands, x)
    dtype, pixels = x.dtype, job.batch * job.height * job.width
    strength = scale * made.last.inverse
    of_last = small_gradients(scale, strength, made.last, sums[0], sums[1], None if fixed[2] else pixels)
    found: dict[str, Tensor] = {}
    if to_input is None and not any(needed):
        return Back(of_last.scale, InvertedOperands(*[None] * 7), None, None)
    line = _line(made.second, operands.depthwise_gamma, operands.depthwise_beta)
    d_line, totals = torch.empty_like(made.convolved), x.new_empty(2, job.hidden)
    if needed.projection:
        found["projection"] = torch.empty_like(operands.projection)
    _point(job, convolved=made.convolved, strength=line[0], offset=line[1], projection=operands.projection)
    _point(job, result=made.last.results[0], grad=g, by_grad=strength)
    _point(job, by_result=of_last.by_result, constant=of_last.constant, d_line=d_line)
    _point(job, products=totals[0], totals=totals[1], d_projection=found.get("projection"))
    call("narrow_back", [job], dtype)
    gamma = operands.depthwise_gamma
    gamma = torch.ones_like(line[0]) if gamma is None else gamma
    of_second = small_gradients(gamma, line[0], made.second, totals[0], totals[1], None if fixed[1] else pixels)
    if needed.depthwise_gamma:
        found["depthwise_gamma"] = of_second.scale
    if needed.depthwise_beta:
        found["depthwise_beta"] = totals[1]
    of_first = block.expands and any((needed.expansion, needed.gamma, needed.beta, to_input is not None))
    if not (of_first or needed.weight or to_input is not None):
        return Back(of_last.scale, InvertedOperands(**dict.fromkeys(InvertedOperands._fields) | found), None, None)
    if needed.weight:
        found["weight"] = torch.empty_like(operands.weight)
    _point(job, input=x, weight=operands.weight, by_line=line[0], d_weight=found.get("weight"))
    _point(job, by_convolved=of_second.by_result, convolved_constant=of_second.constant)
    if to_input is not None:
        job.d_input, job.adds = to_input.image.data_ptr(), to_input.adds
    curve = constant = None
    if made.first is None:
        call("widen_back", [job], dtype)
    else:
        matrix = _matrix(operands.expansion)
        folded, offset = _folded(operands, matrix, made.first)
        expanded, gram = x.new_empty(2, job.hidden), None
        if needed.expansion or needed.gamma:
            gram = x.new_empty(job.hidden, job.channels)
        _point(job, expansion=folded, expansion_offset=offset, d_expansion=gram)
        _point(job, expansion_products=expanded[0], expansion_totals=expanded[1])
        call("widen_back", [job], dtype)
        of_pixels = None if fixed[0] else (moments, job.batch * job.in_height * job.in_width)
        own, curve, constant = _of_expansion(operands, matrix, made.first, expanded.double(), gram, of_pixels)
        found |= {name: value.to(dtype) for name, value in own.items() if getattr(needed, name)}
    if "expansion" in found:
        found["expansion"] = found["expansion"].view_as(operands.expansion)
    return Back(of_last.scale, InvertedOperands(**dict.fromkeys(InvertedOperands._fields) | found), curve, constant)


def _of_expansion(
    operands: InvertedOperands,
    matrix: Tensor,
    normalised: Normalised,
    sums: Tensor,
    gram: Tensor | None,
    of_pixels: tuple[Moments | None, int] | None,
) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
    """The gradients by the first convolution and its BatchNorm, and the curve and constant of that by the input.

    Args:
        operands: Those of the block.
        matrix: (M, C), the convolution.
        normalised: What its BatchNorm normalised.
        sums: (2, M), of G times the activation, and of G.
        gram: G^T X, (M, C); None if no gradient that depends on it is wanted.
        of_pixels: The moments of the input, and the number of pixels; None where the statistics were given.
    """
    products, totals = sums
    inverse, dtype = normalised.inverse, operands.weight.dtype
    strength = inverse if operands.gamma is None else inverse * operands.gamma
    found = {"beta": totals}
    if gram is not None:
        if operands.gamma is not None:
            found["gamma"] = ((gram * matrix).sum(1) - normalised.mean * totals) * inverse
        found["expansion"] = strength.to(dtype).unsqueeze(1) * gram
    if of_pixels is None:
        return found, None, None
    moments, pixels = of_pixels
    assert moments is not None
    around = products if operands.beta is None else products - operands.beta * totals
    d_variance = (-0.5 * inverse.square() * around).to(dtype)
    matrix = operands.expansion.flatten(1)  # for gradients its own precision is enough
    weighted = d_variance.unsqueeze(1) * matrix
    moved = (strength * totals).to(dtype)
    mean = moments.mean.to(dtype)
    if gram is not None:
        found["expansion"] += 2 * weighted @ moments.covariance.to(dtype) - moved.unsqueeze(1) * mean
    curve = matrix.t() @ weighted * (2 / pixels)
    return found, curve, -(curve @ mean) - matrix.t() @ moved / pixels


def _matrix(convolution: Tensor) -> Tensor:
    """A pointwise convolution as (O, C), in double precision."""
    return convolution.detach().flatten(1).double()


def _folded(operands: InvertedOperands, matrix: Tensor, normalised: Normalised) -> tuple[Tensor, Tensor]:
    """The first convolution and its BatchNorm as a product and an offset, (M, C) and (M,)."""
    strength, offset = _line(normalised, operands.gamma, operands.beta)
    dtype = operands.weight.dtype
    return (strength.unsqueeze(1) * matrix).to(dtype), offset.to(dtype)


def _line(normalised: Normalised, gamma: Tensor | None, beta: Tensor | None) -> tuple[Tensor, Tensor]:
    """A BatchNorm as strength * x + offset."""
    strength = normalised.inverse if gamma is None else normalised.inverse * gamma
    offset = -(strength * normalised.mean)
    return strength, offset if beta is None else offset + beta


def _statistics(fixed: Fixed, channels: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance, (channels,) each: those that are given, or room for those of the batch."""
    if fixed is not None:
        return fixed[0].to(x.dtype), fixed[1].to(x.dtype)
    mean, variance = x.new_empty(2, channels)
    return mean, variance


def _planes(hidden: int, dtype: torch.dtype) -> int:
    """As many channels as the kernels may fill up to."""
    lanes = _WIDEST_VECTOR // dtype.itemsize
    return -(-hidden // lanes) * lanes


def _job(block: Inverted, operands: InvertedOperands, x: Tensor) -> InvertedJob:
    batch, channels, in_height, in_width = x.shape
    kernel, geometry = operands.weight.shape[2:], block.geometry
    height, width = geometry.output_size((in_height, in_width), kernel)
    return InvertedJob(
        batch=batch, channels=channels, in_height=in_height, in_width=in_width, height=height, width=width,
        hidden=operands.weight.shape[0], outputs=operands.projection.shape[0],
        kernel=kernel[0], stride=geometry.stride[0], padding=geometry.padding[0], dilation=geometry.dilation[0],
        limit=nan if block.limit is None else block.limit,
    )  # fmt: skip


def _point(job: InvertedJob, **tensors: Tensor | None) -> None:
    """Let fields of a job point to tensors, which who calls keeps."""
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(job, name, tensor.data_ptr())
