"""A weighted sum of inverted residuals that read one image, and of other values, as one function of PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from archgrad.fast.composition import gradients_where
from archgrad.fast.depthwise import depthwise
from archgrad.fast.native.inverted_passes import (
    Back,
    Fixed,
    Inverted,
    InvertedOperands,
    Made,
    Moments,
    back,
    forth,
    moments_of,
)
from archgrad.fast.native.library import Job, call, image_like
from archgrad.fast.native.native_passes import Normalised, Target, dense, point, spread

__all__ = ["Blend", "Statistics", "blend_inverted", "compose_inverted"]

Statistics = tuple[tuple[Tensor, Tensor] | None, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Mean and biased variance that each of the three BatchNorms normalised with; None for the first if nothing expands."""
_N = len(InvertedOperands._fields)
_KEPT = 9
"""Tensors that are kept of what a block made."""


class Blend(NamedTuple):
    """What is summed."""

    blocks: Sequence[Inverted]
    """K of them."""
    keeps_input: bool = False
    """Whether the input itself is one of the values, the first."""


def blend_inverted(
    blend: Blend,
    x: Tensor,
    operands: Sequence[InvertedOperands],
    scale: Tensor,
    *,
    shift: Tensor | None = None,
    fixed: Sequence[Sequence[Fixed]] | None = None,
    values: Sequence[Tensor] = (),
    mixing: Tensor | None = None,
) -> tuple[Tensor, list[Statistics]]:
    """Return the sum of scale * (x - mean) * (variance + eps)^(-1/2) for what blocks give, and of weighted values.

    Args:
        blend: What to compute.
        x: (B, C, H, W).
        operands: Of every block.
        scale: (K, O), mixing weight times gamma of the last BatchNorm.
        shift: (O,), added to the sum; None for zero.
        fixed: What the BatchNorms of every block normalise with; None for the statistics of the batch.
        values: (B, O, H', W') each, beside the input.
        mixing: Weights of the values, (V,), first that of the input if it is one; None if there are none.

    Returns:
        The sum, (B, O, H', W'), channels_last, and what the BatchNorms of every block normalised with.
    """
    every = [None if tensor is None else tensor.contiguous() for own in operands for tensor in own]
    given: Sequence[Sequence[Fixed]] = [(None,) * 3] * len(blend.blocks) if fixed is None else fixed
    call = _Call(blend, given, len(values), torch.is_grad_enabled())
    y, *found = _Blend.apply(call, scale, shift, mixing, dense(x), *map(dense, values), *every)
    pairs = list(zip(found[::2], found[1::2], strict=True))
    return y, [
        (None if first[0] is None else first, second, last)
        for first, second, last in zip(pairs[::3], pairs[1::3], pairs[2::3], strict=True)
    ]


class _Call(NamedTuple):
    """What a call is given beside tensors that have gradients."""

    blend: Blend
    fixed: Sequence[Sequence[Fixed]]
    n_values: int
    """Number of values beside the input."""
    is_kept: bool
    """Whether there may be a backward pass."""

    def split(self, items: Sequence[Any]) -> tuple[Sequence[Any], list[InvertedOperands]]:
        """Return what belongs to the values, and to the operands of every block."""
        return items[: self.n_values], _operands_of(items[self.n_values :])


class _Blend(torch.autograd.Function):
    """(call, scale, shift, mixing, x, *values, *operands) -> (sum, *statistics)."""

    @staticmethod
    def forward(
        ctx: Any,
        call: _Call,
        scale: Tensor,
        shift: Tensor | None,
        mixing: Tensor | None,
        x: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        blend, fixed = call.blend, call.fixed
        values, operands = call.split(tensors)
        shared = any(block.expands and own[0] is None for block, own in zip(blend.blocks, fixed, strict=True))
        moments = moments_of(x) if shared else None
        made: list[Made] = []
        for block, own, given in zip(blend.blocks, operands, fixed, strict=True):
            one = forth(block, own, x, moments, given)
            made.append(one if call.is_kept else one._replace(convolved=x.new_empty(0)))
        y = _combine(made, scale, shift, mixing, [*([x] if blend.keeps_input else []), *values])
        statistics: list[Tensor | None] = []
        for first, second, _, last in made:
            seen = [None, None] if first is None else [first.mean.to(x.dtype), first.variance.to(x.dtype)]
            statistics += [*seen, second.mean, second.variance, last.mean, last.variance]
        ctx.call = call
        ctx.mark_non_differentiable(*(s for s in statistics if s is not None))
        ctx.set_materialize_grads(False)
        # The values are kept for a second derivative even where their weights need no gradient.
        kept = [tensor for one in made for tensor in _flat(one)]
        ctx.save_for_backward(scale, shift, mixing, x, *tensors, *(moments or (None, None)), *kept)
        return y, *statistics

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        call, needed = ctx.call, ctx.needs_input_grad
        scale, shift, mixing, x, *rest = ctx.saved_tensors
        n_tensors = len(needed) - 5
        tensors, (mean, covariance, *flat) = rest[:n_tensors], rest[n_tensors:]
        g = grads[0]
        if g is None:
            return (None,) * len(needed)
        if torch.is_grad_enabled():
            return None, *_differentiable_gradients(call, (scale, shift, mixing, x, *tensors), g, needed[1:])
        g, x = dense(g), dense(x)
        (values, operands), (need_values, needs) = call.split(tensors), call.split(needed[5:])
        to_scale, to_shift, to_mixing, to_x = needed[1:5]
        blend = call.blend
        made = [_unflat(flat[k : k + _KEPT]) for k in range(0, len(flat), _KEPT)]
        weighed = [*([x] if blend.keeps_input else []), *map(dense, values)] if to_mixing else []
        products, totals = _reduce(made, weighed, g)
        weights = [] if mixing is None else list(mixing.unbind())
        by_x = image_like(x, *x.shape[1:]) if to_x else None
        if by_x is not None and blend.keeps_input:
            torch.mul(g, weights[0], out=by_x)
        own_weights = weights[blend.keeps_input :]
        by_values = [g * w if need else None for w, need in zip(own_weights, need_values, strict=True)]
        moments = None if mean is None else Moments(mean, covariance)
        found: list[Back] = []
        for k, block in enumerate(blend.blocks):
            own = back(
                block,
                operands[k],
                x,
                moments,
                made[k],
                scale[k],
                g,
                (products[k], totals[k]),
                fixed=[given is not None for given in call.fixed[k]],
                needed=needs[k],
                to_input=None if by_x is None else Target(by_x, k > 0 or blend.keeps_input),
            )
            found.append(own)
        if by_x is not None:
            _bend(by_x, x, found)
        by_scale = torch.stack([one.scale for one in found]) if to_scale else None
        by_shift = totals[0] if to_shift and shift is not None else None
        by_mixing = products[len(found) :].sum(1) if to_mixing else None
        return None, by_scale, by_shift, by_mixing, by_x, *by_values, *(by for one in found for by in one.operands)


def _operands_of(items: Sequence[Any]) -> list[InvertedOperands]:
    return [InvertedOperands(*items[k : k + _N]) for k in range(0, len(items), _N)]


def _flat(made: Made) -> tuple[Tensor | None, ...]:
    first, second, convolved, last = made
    seen = (None, None) if first is None else (first.mean, first.inverse)
    return *seen, second.mean, second.variance, second.inverse, convolved, last.mean, last.inverse, last.results[0]


def _unflat(flat: Sequence[Any]) -> Made:
    first, inverse, mean, variance, own_inverse, convolved, last, last_inverse, result = flat
    seen = None if first is None else Normalised(first, first, inverse, ())
    second = Normalised(mean, variance, own_inverse, ())
    return Made(seen, second, convolved, Normalised(last, last, last_inverse, [dense(result)]))


def _jobs(made: Sequence[Made], values: Sequence[Tensor]) -> list[Job]:
    """A job for each result, and for each value."""
    jobs = []
    for image in [*(one.last.results[0] for one in made), *values]:
        batch, channels, height, width = image.shape
        jobs.append(
            Job(
                result=image.data_ptr(), batch=batch, channels=channels, outputs=channels,
                height=height, width=width, in_height=height, in_width=width,
            )
        )  # fmt: skip
    return jobs


def _combine(
    made: Sequence[Made], scale: Tensor, shift: Tensor | None, mixing: Tensor | None, values: Sequence[Tensor]
) -> Tensor:
    jobs = _jobs(made, values)
    strength = scale * torch.stack([one.last.inverse for one in made])
    offset = -(strength * torch.stack([one.last.mean for one in made])).sum(0, keepdim=True)
    offset = offset if shift is None else offset + shift
    like = made[0].last.results[0]
    y = torch.empty_like(like)
    point(jobs[: len(made)], strength=strength)
    point(jobs[:1], offset=offset)
    by_channel = None if mixing is None else spread(mixing, jobs[0])
    if by_channel is not None:
        point(jobs[len(made) :], strength=by_channel)
    point(jobs, output=[y] * len(jobs))
    call("combine", jobs, y.dtype)
    return y


def _reduce(made: Sequence[Made], values: Sequence[Tensor], g: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over all pixels of the gradient times each result and value, and of the gradient, (K + V, O) each."""
    jobs = _jobs(made, values)
    products, totals = g.new_empty(2, len(jobs), jobs[0].outputs)
    point(jobs, products=products, totals=totals, grad=[g] * len(jobs))
    call("reduce", jobs, g.dtype)
    return products, totals


def _bend(by_x: Tensor, x: Tensor, found: Sequence[Back]) -> None:
    """Add what the statistics of the blocks' first BatchNorms have of the gradient by the input."""
    curves = [one.curve for one in found if one.curve is not None]
    constants = [one.constant for one in found if one.constant is not None]
    if not curves:
        return
    curve, constant = torch.stack(curves).sum(0).to(x.dtype), torch.stack(constants).sum(0).to(x.dtype)
    rows, by_rows = (image.permute(0, 2, 3, 1).reshape(-1, image.shape[1]) for image in (x, by_x))
    by_rows.addmm_(rows, curve).add_(constant)


def compose_inverted(blend: Blend, arguments: Sequence[Any], n_values: int, fixed: Sequence[Sequence[Fixed]]) -> Tensor:
    """Return what `blend_inverted` does, from differentiable operations.

    Args:
        blend: What to compute.
        arguments: (scale, shift, mixing, x, *values, *operands of every block).
        n_values: Number of values beside the input.
        fixed: What the BatchNorms of every block normalise with; None each for the statistics of the batch.
    """
    scale, shift, mixing, x, *tensors = arguments
    operands = _operands_of(tensors[n_values:])
    total: Any = 0 if shift is None else shift.view(1, -1, 1, 1)
    for block, own, given, own_scale in zip(blend.blocks, operands, fixed, scale, strict=True):
        y = x
        if block.expands:
            y = _normalise(F.conv2d(y, own.expansion), given[0], own.gamma, own.beta, block.eps[0])
            y = _activate(y, block.limit)
        y = depthwise(y, own.weight, block.geometry)
        y = _normalise(y, given[1], own.depthwise_gamma, own.depthwise_beta, block.eps[1])
        y = F.conv2d(_activate(y, block.limit), own.projection)
        total = total + _normalise(y, given[2], own_scale, None, block.eps[2])
    values = [*([x] if blend.keeps_input else []), *tensors[:n_values]]
    for weight, value in zip(() if mixing is None else mixing.unbind(), values, strict=True):
        total = total + weight * value
    return total


def _normalise(x: Tensor, fixed: Fixed, gamma: Tensor | None, beta: Tensor | None, eps: float) -> Tensor:
    mean, variance = (None, None) if fixed is None else (fixed[0].to(x.dtype), fixed[1].to(x.dtype))
    if gamma is not None:
        gamma = gamma.contiguous()  # an expanded one has wrong gradients on channels_last images (torch 2.14)
    return F.batch_norm(x, mean, variance, gamma, beta, training=fixed is None, eps=eps)


def _activate(x: Tensor, limit: float | None) -> Tensor:
    return torch.relu(x) if limit is None else F.hardtanh(x, 0.0, limit)


def _differentiable_gradients(
    call: _Call, arguments: Sequence[Tensor | None], g: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients by all arguments, differentiable again: the sum is computed once more."""
    # As aliases, so that none of them is an ancestor of another in the graph that is differentiated.
    aliases = [None if t is None else t.view_as(t) for t in arguments]
    y = compose_inverted(call.blend, aliases, call.n_values, call.fixed)
    return gradients_where(needed, [y], aliases, [g], allow_unused=True)
