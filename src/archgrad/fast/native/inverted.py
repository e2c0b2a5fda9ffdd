"""A weighted sum of inverted residuals that read one image, and of other values, as one function of PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

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
    given = [(None,) * 3] * len(blend.blocks) if fixed is None else fixed
    y, *found = _Blend.apply(blend, given, scale, shift, mixing, dense(x), *map(dense, values), *every)
    pairs = list(zip(found[::2], found[1::2], strict=True))
    return y, [
        (None if first[0] is None else first, second, last)
        for first, second, last in zip(pairs[::3], pairs[1::3], pairs[2::3], strict=True)
    ]


class _Blend(torch.autograd.Function):
    """(blend, fixed, scale, shift, mixing, x, *values, *operands) -> (sum, *statistics)."""

    @staticmethod
    def forward(
        ctx: Any,
        blend: Blend,
        fixed: Sequence[Sequence[Fixed]],
        scale: Tensor,
        shift: Tensor | None,
        mixing: Tensor | None,
        x: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        n_values = len(tensors) - _N * len(blend.blocks)
        values, operands = cast("Sequence[Tensor]", tensors[:n_values]), _operands_of(tensors[n_values:])
        shared = any(block.expands and own[0] is None for block, own in zip(blend.blocks, fixed, strict=True))
        moments = moments_of(x) if shared else None
        given = zip(blend.blocks, operands, fixed, strict=True)
        made = [forth(block, own, x, moments, statistics) for block, own, statistics in given]
        y = _combine(made, scale, shift, mixing, [*([x] if blend.keeps_input else []), *values])
        statistics: list[Tensor | None] = []
        for first, second, _, last in made:
            own = [None, None] if first is None else [first.mean.to(x.dtype), first.variance.to(x.dtype)]
            statistics += [*own, second.mean, second.variance, last.mean, last.variance]
        kept = [tensor for one in made for tensor in _flat(one)]
        ctx.blend, ctx.fixed, ctx.sizes = blend, fixed, (n_values, len(tensors))
        ctx.mark_non_differentiable(*(s for s in statistics if s is not None))
        ctx.set_materialize_grads(False)
        kept_values = values if ctx.needs_input_grad[4] else [None] * n_values
        ctx.save_for_backward(
            scale, shift, mixing, x, *kept_values, *tensors[n_values:], *(moments or (None, None)), *kept
        )
        return y, *statistics

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        blend, needed, (n_values, n_tensors) = ctx.blend, ctx.needs_input_grad, ctx.sizes
        scale, shift, mixing, x, *rest = ctx.saved_tensors
        tensors, (mean, covariance, *flat) = rest[:n_tensors], rest[n_tensors:]
        g = grads[0]
        if g is None:
            return (None,) * len(needed)
        if torch.is_grad_enabled():
            arguments = (scale, shift, mixing, x, *tensors)
            return None, None, *_differentiable_gradients(blend, arguments, n_values, ctx.fixed, g, needed[2:])
        g, x = dense(g), dense(x)
        operands, needs = _operands_of(tensors[n_values:]), _operands_of(needed[6 + n_values :])
        values = [*([x] if blend.keeps_input else []), *map(dense, tensors[:n_values])] if needed[4] else []
        made = [_unflat(flat[9 * k : 9 * k + 9]) for k in range(len(operands))]
        products, totals = _reduce(made, values, g)
        by_values: list[Tensor | None] = []
        weights = [] if mixing is None else list(mixing.unbind())
        by_x = None
        if needed[5]:
            by_x = image_like(x, *x.shape[1:])
            if blend.keeps_input:
                torch.mul(g, weights[0], out=by_x)
        for k in range(n_values):
            by_values.append(g * weights[k + blend.keeps_input] if needed[6 + k] else None)
        adds, found = blend.keeps_input, []
        moments = None if mean is None else Moments(mean, covariance)
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
                fixed=[statistics is not None for statistics in ctx.fixed[k]],
                needed=needs[k],
                to_input=None if by_x is None else Target(by_x, adds),
            )
            found.append(own)
            adds = True
        if by_x is not None:
            _bend(by_x, x, found)
        by_scale = torch.stack([one.scale for one in found]) if needed[2] else None
        by_shift = totals[0] if needed[3] and shift is not None else None
        by_mixing = products[len(found) :].sum(1) if needed[4] else None
        by_operands = [by for one in found for by in one.operands]
        return None, None, by_scale, by_shift, by_mixing, by_x, *by_values, *by_operands


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
    total: Any = None if shift is None else shift.view(1, -1, 1, 1)
    values = [*([x] if blend.keeps_input else []), *tensors[:n_values]]
    operands = _operands_of(tensors[n_values:])
    for block, own, given, own_scale in zip(blend.blocks, operands, fixed, scale, strict=True):
        y = x
        if block.expands:
            y = F.conv2d(y, own.expansion)
            y = _activate(_normalise(y, given[0], own.gamma, own.beta, block.eps[0]), block.limit)
        y = depthwise(y, own.weight, block.geometry)
        y = _normalise(y, given[1], own.depthwise_gamma, own.depthwise_beta, block.eps[1])
        y = F.conv2d(_activate(y, block.limit), own.projection)
        y = _normalise(y, given[2], own_scale, None, block.eps[2])
        total = y if total is None else total + y
    for weight, value in zip(() if mixing is None else mixing.unbind(), values, strict=True):
        total = total + weight * value
    return total


def _normalise(x: Tensor, fixed: Fixed, gamma: Tensor | None, beta: Tensor | None, eps: float) -> Tensor:
    mean, variance = (None, None) if fixed is None else (fixed[0].to(x.dtype), fixed[1].to(x.dtype))
    return F.batch_norm(x, mean, variance, gamma, beta, training=fixed is None, eps=eps)


def _activate(x: Tensor, limit: float | None) -> Tensor:
    return torch.relu(x) if limit is None else F.hardtanh(x, 0.0, limit)


def _differentiable_gradients(
    blend: Blend,
    arguments: Sequence[Tensor | None],
    n_values: int,
    fixed: Sequence[Sequence[Fixed]],
    g: Tensor,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients by all arguments, differentiable again: the sum is computed once more."""
    # As aliases, so that none of them is an ancestor of another in the graph that is differentiated.
    aliases = [None if t is None else t.view_as(t) for t in arguments]
    y = compose_inverted(blend, aliases, n_values, fixed)
    return gradients_where(needed, [y], aliases, [g], allow_unused=True)
