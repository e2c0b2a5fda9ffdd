"""Derivatives of a stage, and of its gradients, along a direction: what a second backward pass is made of.

With y(x) a stage, x all that it reads, and B(x, g) the gradient of <g, y(x)>, a direction x' gives

    y' = dy(x + e x')/de,     B' = dB(x + e x', g + e g')/de        (e = 0),

and the gradient of <u, B(x, g)> is B' along x' = u with g' = 0 by x, and y' along u by g. What is large in them is
linear in the directions, so that the passes of the stage itself compute it: of a projection U = P D(r), D the
convolution and r the input's ReLU,

    U' = P D(r') + P' D(r) + P D'(r),

and of the gradient by r, with G the gradient by U, D^T P^T G' + D^T P'^T G + D'^T P^T G. BatchNorm adds a few numbers
for each channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from archgrad.fast.native.library import Job, call, image_like
from archgrad.fast.native.native_passes import Normalised, Operands, jobs_of, point
from archgrad.fast.native.other_step import Rows
from archgrad.fast.native.plan import Plan, Unit

__all__ = [
    "Along",
    "Operand",
    "StagePoint",
    "Term",
    "gated",
    "jobs_of_units",
    "operands_of",
    "pixels_of",
    "reduced",
    "summed",
]


class StagePoint(NamedTuple):
    """A stage, and where it is differentiated; BatchNorms normalise with the statistics of the batch."""

    plan: Plan
    """Without factors."""
    operands: Operands
    scale: Tensor | None
    """(T, 1) or (T, O), as `native_passes.forward` has it."""
    mixing: Tensor | None
    """(V,)."""
    normalised: Normalised | None
    """As `native_passes.forward` returned it."""
    outputs: Sequence[Tensor]
    """As well."""


class Along(NamedTuple):
    """A direction of what a stage reads; None for zero."""

    inputs: Rows
    weights: Rows
    projections: Rows
    scale: Tensor | None
    shift: Tensor | None
    """(T, O)."""
    mixing: Tensor | None


class Operand(NamedTuple):
    """What one unit of a stage reads, and the directions of these."""

    number: int
    unit: Unit
    x: Tensor
    weight: Tensor | None
    projection: Tensor | None
    d_x: Tensor | None
    """That of the input's ReLU, where the unit has one."""
    d_weight: Tensor | None
    d_projection: Tensor | None

    def by_input(self) -> Operand | None:
        """Return what is linear in the input's direction, which is read in its place; None if there is none."""
        return None if self.d_x is None else self._replace(unit=self.unit._replace(relu=False), x=self.d_x)

    def by_projection(self) -> Operand | None:
        """Return the same with the projection's direction in its place."""
        return None if self.d_projection is None else self._replace(projection=self.d_projection)

    def by_weight(self) -> Operand | None:
        """Return the same with the weight's direction in its place."""
        return None if self.d_weight is None else self._replace(weight=self.d_weight)


class Term(NamedTuple):
    """Of a sum of images."""

    image: Tensor
    strength: Tensor
    """(O,)."""


def operands_of(at: StagePoint, along: Along) -> list[Operand]:
    """What each unit reads."""
    plan = at.plan
    rectified: dict[int, Tensor] = {}
    for unit in plan.units:
        d_x = along.inputs[unit.input]
        if unit.relu and d_x is not None and unit.input not in rectified:
            rectified[unit.input] = gated(d_x, at.operands.inputs[unit.input])
    return [
        Operand(
            number,
            unit,
            at.operands.inputs[unit.input],
            weight,
            projection,
            rectified.get(unit.input) if unit.relu else along.inputs[unit.input],
            d_weight,
            d_projection,
        )
        for number, (unit, weight, projection, d_weight, d_projection) in enumerate(
            zip(
                plan.units,
                plan.weight_of_each(at.operands.weights),
                plan.projection_of_each(at.operands.projections),
                plan.weight_of_each(along.weights),
                plan.projection_of_each(along.projections),
                strict=True,
            )
        )
    ]


def summed(sums: Sequence[Sequence[Term]], offsets: Rows) -> list[Tensor | None]:
    """The sum of strength * image over the terms of each, plus its offset; None without terms."""
    there = [term for terms in sums for term in terms]
    if not there:
        return [None] * len(sums)
    strengths = torch.stack([term.strength for term in there])
    jobs = [_image_job(term.image) for term in there]
    point(jobs, result=[term.image for term in there], strength=strengths)
    found: list[Tensor | None] = []
    kept: list[Tensor] = []
    own = iter(jobs)
    for terms, offset in zip(sums, offsets, strict=True):
        if not terms:
            found.append(None)
            continue
        found.append(y := image_like(terms[0].image, *terms[0].image.shape[1:]))
        for k, job in enumerate(islice(own, len(terms))):
            job.output = y.data_ptr()
            if k == 0 and offset is not None:
                kept.append(offset.contiguous())
                job.offset = kept[-1].data_ptr()
    call("combine", jobs, there[0].image.dtype)
    return found


def reduced(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Sums over the pixels of grad * result, and of grad, (N, O) each."""
    products, totals = pairs[0][0].new_empty(2, len(pairs), pairs[0][0].shape[1])
    jobs = [_image_job(grad) for grad, _ in pairs]
    point(jobs, grad=[grad for grad, _ in pairs], result=[x for _, x in pairs], products=products, totals=totals)
    call("reduce", jobs, products.dtype)
    return products, totals


def jobs_of_units(operands: Sequence[Operand]) -> list[Job]:
    """A job for each of these."""
    plan = Plan(tuple(own.unit._replace(input=k) for k, own in enumerate(operands)))
    weights = [own.weight for own in operands if own.weight is not None]
    projections = [own.projection for own in operands if own.projection is not None]
    return jobs_of(plan, Operands([own.x for own in operands], weights, projections))


def _image_job(image: Tensor) -> Job:
    """A job for images that are channels_last, as a result is."""
    batch, channels, height, width = image.shape
    return Job(
        batch=batch, channels=channels, in_height=height, in_width=width, height=height, width=width, outputs=channels
    )


def gated(x: Tensor, by: Tensor) -> Tensor:
    """The image where another is positive."""
    return torch.ops.aten.threshold_backward(x, by, 0)


def pixels_of(image: Tensor) -> int:
    """Return over how many pixels a BatchNorm takes its means."""
    return image.numel() // image.shape[1]
