"""The gradients of a stage, along a direction (see `tangents`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from archgrad.fast.native.library import call
from archgrad.fast.native.native_passes import Normalised, small_gradients
from archgrad.fast.native.other_step import Place, Rows
from archgrad.fast.native.plan import Plan
from archgrad.fast.native.pushed import Pushed
from archgrad.fast.native.tangents import (
    Operand,
    StagePoint,
    Term,
    gated,
    jobs_of_units,
    pixels_of,
    reduced,
    summed,
)

__all__ = ["Pulled", "Wanted", "pull"]


class Wanted(NamedTuple):
    """By what of a stage the derivative of the gradient is wanted."""

    mixing: bool
    """By the mixing weights of all units, and by scales and shifts."""
    weights: Sequence[bool]
    projections: Sequence[bool]


class Pulled(NamedTuple):
    """Derivatives along a direction of a stage's gradients; None for what is zero or was not asked for."""

    scale: Tensor | None
    """(T, O)."""
    shift: Tensor | None
    """(T, O)."""
    mixing: Tensor | None
    """(V,)."""
    weights: Rows
    projections: Rows


class _Line(NamedTuple):
    """by_grad * grad + by_result * result + constant, for each channel."""

    by_grad: Tensor
    by_result: Tensor | None
    constant: Tensor | None

    def rows(self) -> list[_Line]:
        """Return that of each unit, from (T, O)."""
        return [_Line(*own) for own in zip(*(part.unbind() for part in self if part is not None), strict=True)]


class _Small(NamedTuple):
    """What BatchNorm's backward has of each channel, (T, O) each, and its derivatives."""

    line: _Line
    d_line: _Line
    d_scale: Tensor
    """The derivative of the gradient by the scale."""
    d_totals: Tensor
    """That of the gradient by the shift."""


class _Back(NamedTuple):
    """A unit that is gone through backwards; the sum of some of them is a gradient, or its derivative."""

    operand: Operand
    grad: Tensor
    result: Tensor | None
    line: _Line
    place: Place
    by_weight: Tensor | None = None
    by_projection: Tensor | None = None


def pull(
    at: StagePoint,
    d_mixing: Tensor | None,
    pushed: Pushed,
    gs: Rows,
    d_gs: Rows,
    to_inputs: Sequence[Place],
    to_directions: Sequence[Place],
    wanted: Wanted,
) -> Pulled:
    """Return the derivatives of a stage's gradients, and write those by its inputs to where they belong.

    Args:
        at: The stage.
        d_mixing: A direction's part for `mixing`; None for zero.
        pushed: What `push` returned for the direction.
        gs: The gradients by the outputs, channels_last; None for zero.
        d_gs: Their own derivatives; None for zero, as it is wherever the gradient is.
        to_inputs: Where the gradient by each input goes.
        to_directions: Where its derivative goes.
        wanted: What is returned.
    """
    plan, operands = at.plan, pushed.operands
    if plan.relu:
        gs, d_gs = (
            [None if g is None else gated(g, y) for g, y in zip(every, at.outputs, strict=True)] for every in (gs, d_gs)
        )
    if plan.summed:
        gs, d_gs = list(gs) * len(plan.units), list(d_gs) * len(plan.units)
    places = [(to_inputs[unit.input], to_directions[unit.input]) for unit in plan.units]
    needs_weights = list(plan.weight_of_each(wanted.weights))
    needs_projections = list(plan.projection_of_each(wanted.projections))
    backs: list[_Back] = []
    by_scale = by_shift = by_mixing = None
    if at.normalised is not None and at.scale is not None:
        own_gs, own_d_gs = ([every[k] for k in plan.normalised] for every in (gs, d_gs))
        small = _small(at.scale, at.normalised, pushed, own_gs, own_d_gs)
        by_scale, by_shift = (small.d_scale, small.d_totals) if wanted.mixing else (None, None)
        plainly = _Line(torch.ones_like(small.line.by_grad[0]), None, None)
        d_results = _pull_results(at.normalised, pushed, small, own_gs, own_d_gs)
        for t, (k, line) in enumerate(zip(plan.normalised, small.line.rows(), strict=True)):
            if (g := gs[k]) is None or (d_result := d_results[t]) is None:
                continue
            back = _Back(operands[k], g, at.normalised.results[t], line, places[k][0])
            backs += _along_unit(
                back, d_result, plainly, places[k][1], bool(needs_weights[k]), bool(needs_projections[k])
            )
    if plan.values and at.mixing is not None:
        for v, k in enumerate(plan.values):
            if (g := gs[k]) is None:
                continue
            strength = at.mixing[v].expand(g.shape[1]).contiguous()
            back = _Back(operands[k], g, None, _Line(strength, None, None), places[k][0])
            backs.append(back)
            if (d_g := d_gs[k]) is not None:
                backs.append(back._replace(grad=d_g, place=places[k][1]))
            if d_mixing is not None:
                strength = d_mixing[v].expand(g.shape[1]).contiguous()
                backs.append(back._replace(line=_Line(strength, None, None), place=places[k][1]))
        if wanted.mixing:
            by_mixing = _pull_mixing(operands, plan.values, gs, d_gs, like=at.mixing)
    _go_back(backs)
    return Pulled(by_scale, by_shift, by_mixing, *_collected(plan, backs))


def _small(scale: Tensor, at: Normalised, pushed: Pushed, gs: Rows, d_gs: Rows) -> _Small:
    """As `small_gradients`, and the derivatives of what it returns."""
    here = [(t, g) for t, g in enumerate(gs) if g is not None]
    moved = [(t, g) for t, g in enumerate(d_gs) if g is not None]
    pushed_on = [(t, g, x) for t, g in here if (x := pushed.results[t]) is not None]
    pairs = [(g, at.results[t]) for t, g in (*here, *moved)] + [(g, x) for _, g, x in pushed_on]
    sums = [part.split([len(here), len(moved), len(pushed_on)]) for part in reduced(pairs)]
    products, totals, d_products, d_totals = at.mean.new_zeros(4, *at.mean.shape).unbind()
    rows = [t for t, _ in here]
    products[rows], totals[rows] = sums[0][0], sums[1][0]
    rows = [t for t, _ in moved]
    d_products[rows], d_totals[rows] = sums[0][1], sums[1][1]
    d_products[[t for t, *_ in pushed_on]] += sums[0][2]
    n_pixels = pixels_of(at.results[0])
    strength = scale * at.inverse
    found = small_gradients(scale, strength, at, products, totals, n_pixels)
    d_strength = d_products - pushed.mean * totals - at.mean * d_totals
    d_scale = d_strength * at.inverse + (products - at.mean * totals) * pushed.inverse
    by_result = d_scale * strength * at.inverse + found.scale * (
        pushed.strength * at.inverse + strength * pushed.inverse
    )
    by_result = by_result / -n_pixels
    constant = -by_result * at.mean - found.by_result * pushed.mean
    constant = constant - (pushed.strength * totals + strength * d_totals) / n_pixels
    return _Small(
        _Line(strength, found.by_result, found.constant),
        _Line(pushed.strength, by_result, constant),
        d_scale,
        d_totals,
    )


def _pull_results(at: Normalised, pushed: Pushed, small: _Small, gs: Rows, d_gs: Rows) -> list[Tensor | None]:
    """The derivative of the gradient by each result; None for zero."""
    terms: list[list[Term]] = []
    offsets: list[Tensor | None] = []
    lines = zip(gs, d_gs, small.line.rows(), small.d_line.rows(), at.results, pushed.results, strict=True)
    for g, d_g, line, d_line, result, d_result in lines:
        terms.append([])
        offsets.append(d_line.constant)
        if g is None:
            continue
        pairs = ((g, d_line.by_grad), (result, d_line.by_result), (d_g, line.by_grad), (d_result, line.by_result))
        terms[-1] += [Term(x, by) for x, by in pairs if x is not None and by is not None]
    return summed(terms, offsets)


def _along_unit(
    back: _Back, d_result: Tensor, plainly: _Line, place: Place, to_weight: bool, to_projection: bool
) -> Iterator[_Back]:
    """The way back through one unit, which is the gradient, and those whose sum is its derivative."""
    own = back.operand
    ways = [(back._replace(grad=d_result, line=plainly, place=place), True, True)]
    if (turned := own.by_projection()) is not None:
        ways.append((back._replace(operand=turned, place=place), True, False))
    if (turned := own.by_weight()) is not None:
        ways.append((back._replace(operand=turned, place=place), False, True))
    if (turned := own.by_input()) is not None:
        ways.append((back._replace(operand=turned, place=None), True, True))
    yield back
    for way, moves_weight, moves_projection in ways:
        yield way._replace(
            by_weight=torch.empty_like(own.weight) if to_weight and moves_weight and own.weight is not None else None,
            by_projection=torch.empty_like(own.projection)
            if to_projection and moves_projection and own.projection is not None
            else None,
        )


def _pull_mixing(operands: Sequence[Operand], values: Sequence[int], gs: Rows, d_gs: Rows, *, like: Tensor) -> Tensor:
    """The derivative of the gradient by the mixing weights of units that are only added, (V,)."""
    found = torch.zeros_like(like)
    pairs: list[tuple[Tensor, Tensor]] = []
    into: list[int] = []
    for v, k in enumerate(values):
        for g, x in ((d_gs[k], operands[k].x), (gs[k], operands[k].d_x)):
            if g is not None and x is not None:
                pairs.append((g, x))
                into.append(v)
    products, _ = reduced(pairs) if pairs else ((), None)
    for v, product in zip(into, products, strict=True):
        found[v] += product.sum()
    return found


def _collected(plan: Plan, backs: Sequence[_Back]) -> tuple[Rows, Rows]:
    """The sums by the weights and by the projections, of units that have one; None for what was not asked for."""
    weights: list[Tensor | None] = [None] * len(plan.units)
    projections: list[Tensor | None] = [None] * len(plan.units)
    for back in backs:
        k = back.operand.number
        for part, sums in ((back.by_weight, weights), (back.by_projection, projections)):
            if part is not None:
                sums[k] = part if (so_far := sums[k]) is None else so_far.add_(part)
    return (
        [weights[k] for k, unit in enumerate(plan.units) if unit.geometry is not None],
        [projections[k] for k, unit in enumerate(plan.units) if unit.projected],
    )


def _go_back(backs: Sequence[_Back]) -> None:
    """Write the gradients of all ways back that end somewhere."""
    used = [b for b in backs if not (b.place is None and b.by_weight is None and b.by_projection is None)]
    if not used:
        return
    jobs = jobs_of_units([b.operand for b in used])
    for job, back in zip(jobs, used, strict=True):
        job.grad = back.grad.data_ptr()
        job.by_grad = back.line.by_grad.data_ptr()
        if back.result is not None:
            job.result = back.result.data_ptr()
        if back.line.by_result is not None and back.line.constant is not None:
            job.by_result, job.constant = back.line.by_result.data_ptr(), back.line.constant.data_ptr()
        if back.place is not None:
            target = back.place()
            job.d_input, job.adds = target.image.data_ptr(), target.adds
        if back.by_weight is not None:
            job.d_weight = back.by_weight.data_ptr()
        if back.by_projection is not None:
            job.d_projection = back.by_projection.data_ptr()
    call("backpropagate", jobs, used[0].grad.dtype)
