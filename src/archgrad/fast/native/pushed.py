"""What a stage computes on its way forward, along a direction (see `tangents`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from archgrad.fast.native.library import call, image_like
from archgrad.fast.native.native_passes import Normalised, point
from archgrad.fast.native.other_step import Rows
from archgrad.fast.native.pooled import pool_along
from archgrad.fast.native.tangents import (
    Along,
    Operand,
    StagePoint,
    Term,
    gated,
    jobs_of_units,
    operands_of,
    pixels_of,
    reduced,
    summed,
)

__all__ = ["Pushed", "push"]


class Pushed(NamedTuple):
    """Derivatives along a direction of what a stage computes on its way forward; None for zero."""

    operands: Sequence[Operand]
    """What each unit read."""
    outputs: Rows
    results: Rows
    """Of what is normalised."""
    mean: Tensor
    """(T, O)."""
    inverse: Tensor
    """(T, O)."""
    strength: Tensor
    """(T, O): of scale times inverse."""


def push(at: StagePoint, along: Along) -> Pushed:
    """Return the derivatives of a stage's results along a direction."""
    plan, operands, channels = at.plan, operands_of(at, along), at.outputs[0].shape[1]
    terms: list[list[Term]] = [[] for _ in plan.units]
    offsets: list[Tensor | None] = [None] * len(plan.units)
    results: list[Tensor | None] = []
    mean = inverse = strength = at.outputs[0].new_empty(0, channels)
    if at.normalised is not None and at.scale is not None:
        results = _push_results([operands[k] for k in plan.normalised], at.normalised.results)
        mean, inverse = _push_statistics(at.normalised, results)
        by_result = at.scale * at.normalised.inverse
        strength = at.scale * inverse
        if along.scale is not None:
            strength = strength + along.scale * at.normalised.inverse
        offset = -(strength * at.normalised.mean + by_result * mean)
        offset = offset if along.shift is None else offset + along.shift
        moves_line = along.scale is not None or along.shift is not None
        for t, k in enumerate(plan.normalised):
            result, offsets[k] = results[t], offset[t]
            if result is not None:
                terms[k].append(Term(result, by_result[t]))
            if result is not None or moves_line:
                terms[k].append(Term(at.normalised.results[t], strength[t]))
    for v, k in enumerate(plan.values):
        if at.mixing is not None and (d_x := operands[k].d_x) is not None:
            terms[k].append(Term(d_x, at.mixing[v].expand(channels)))
        if along.mixing is not None:
            terms[k].append(Term(operands[k].x, along.mixing[v].expand(channels)))
    if plan.summed:
        there = [offset for offset in offsets if offset is not None]
        terms, offsets = [[term for own in terms for term in own]], [reduce(torch.add, there) if there else None]
    outputs = summed(terms, offsets)
    if plan.relu:
        outputs = [None if x is None else gated(x, y) for x, y in zip(outputs, at.outputs, strict=True)]
    return Pushed(operands, outputs, results, mean, inverse, strength)


def _push_results(operands: Sequence[Operand], results: Sequence[Tensor]) -> list[Tensor | None]:
    """The derivative of what each of these units gives before BatchNorm; None for zero."""
    parts: list[list[Tensor]] = [[] for _ in operands]
    runs: list[Operand] = []
    found: list[Tensor] = []
    for own, result, into in zip(operands, results, parts, strict=True):
        if own.unit.pool is not None:
            if own.d_x is not None:
                into.append(pool_along(own.unit.pool, own.x, own.d_x, result))
            continue
        for run in (own.by_input(), own.by_projection(), own.by_weight()):
            if run is not None:
                runs.append(run)
                found.append(image_like(result, *result.shape[1:]))
                into.append(found[-1])
    jobs = jobs_of_units(runs)
    point(jobs, result=found)
    call("transform", jobs, results[0].dtype)
    return [reduce(Tensor.add_, own) if own else None for own in parts]


def _push_statistics(at: Normalised, results: Rows) -> tuple[Tensor, Tensor]:
    """The derivatives of mean and inverse, (T, O) each."""
    mean, inverse = torch.zeros_like(at.mean), torch.zeros_like(at.inverse)
    moved = [t for t, result in enumerate(results) if result is not None]
    if not moved:
        return mean, inverse
    n_pixels = pixels_of(at.results[0])
    products, totals = reduced([(x, at.results[t]) for t, x in enumerate(results) if x is not None])
    mean[moved] = totals / n_pixels
    half = (products - at.mean[moved] * totals) / n_pixels  # of the variance's derivative
    inverse[moved] = -(at.inverse[moved] ** 3) * half
    return mean, inverse
