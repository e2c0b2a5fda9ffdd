"""The gradients of a program that was run.

Between its stages there is no graph: gradients of images that several stages read are added up where they are made, by
the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from archgrad.fast.native.library import image_like
from archgrad.fast.native.native_passes import Normalised, Operands, Target, backward, dense
from archgrad.fast.native.other_step import Asked
from archgrad.fast.native.program import Affine, Parts, Program, Share, Step, gradients_of_images, line_of, whole

__all__ = ["Ran", "gradients", "in_parts", "room_for"]


@dataclass(frozen=True)
class Ran:
    """A program, what it was given, and what it kept."""

    program: Program
    parts: Parts
    """In how many tensors it was given what is small."""
    tensors: tuple[Tensor | None, ...]
    """Mean, variance and inverse, (K, O) each, a row for each unit with a BatchNorm; factors; what was normalised, for
    each of these units; all that was given; the images behind the inputs."""

    @cached_property
    def places(self) -> tuple[slice, slice, slice]:
        """Where what was normalised, what was given and what was made are among the tensors."""
        ends = self.program.shares[-1]
        given = 4 + ends.norms.stop
        made = given + self.parts.all + self.program.n_inputs + ends.weights.stop + ends.projections.stop
        return slice(4, given), slice(given, made), slice(made, made + ends.images.stop - self.program.n_inputs)

    @cached_property
    def affine(self) -> Affine | None:
        """Of the BatchNorms."""
        return self.parts.affine(self.given)

    @property
    def factors(self) -> Tensor | None:
        """Of the terms of sums."""
        return self.tensors[3]

    @property
    def given(self) -> Sequence[Tensor]:
        """Mixing weights, scales, shifts, inputs, weights and projections."""
        return cast("Sequence[Tensor]", self.tensors[self.places[1]])

    @property
    def inputs(self) -> Sequence[Tensor]:
        """The first of the images, as they were given."""
        return self.program.split(self.given[self.parts.all :])[0]

    @cached_property
    def mixing(self) -> Tensor:
        """All mixing weights in a row."""
        return whole(self.given[: self.parts.mixing])

    @cached_property
    def images(self) -> list[Tensor]:
        """All images as the kernels read them, whatever kept tensors meanwhile."""
        made = cast("Sequence[Tensor]", self.tensors[self.places[2]])
        return [dense(x) for x in (*self.inputs, *made)]

    @cached_property
    def weights(self) -> Sequence[Tensor]:
        """Of depthwise convolutions."""
        return self.program.split(self.given[self.parts.all :])[1]

    @cached_property
    def projections(self) -> list[Tensor]:
        """All of them."""
        return [dense(p) for p in self.program.split(self.given[self.parts.all :])[2]]

    @cached_property
    def results(self) -> list[Tensor]:
        """What was normalised."""
        return [dense(x) for x in cast("Sequence[Tensor]", self.tensors[self.places[0]])]

    def aliased(self) -> Ran:
        """Return the same with aliases of what was given, so that none of these is a leaf or an ancestor of another in
        the graph that is differentiated, and what was made has no history."""
        given, made = self.places[1:]
        tensors = list(self.tensors)
        tensors[given] = [None if t is None else t.view_as(t) for t in tensors[given]]
        tensors[made] = [None if t is None else t.detach() for t in tensors[made]]
        return Ran(self.program, self.parts, tuple(tensors))

    def operands(self, step: Step, share: Share) -> Operands:
        """What a stage reads."""
        images = [self.images[i] for i in step.reads]
        return Operands(images, self.weights[share.weights], self.projections[share.projections], self.factors)

    def normalised(self, share: Share) -> Normalised:
        """What BatchNorm normalised in a stage."""
        mean, variance, inverse = cast("Sequence[Tensor]", self.tensors[:3])
        rows = share.norms
        return Normalised(mean[rows], variance[rows], inverse[rows], self.results[rows])


def room_for(images: Sequence[Tensor], i: int, found: dict[int, Tensor]) -> Target:
    """Return where the gradient by an image goes, and make room for it if nothing is there."""
    adds = i in found
    if not adds:
        found[i] = image_like(images[i], *images[i].shape[1:])
    return Target(found[i], adds)


def gradients(ran: Ran, by_outputs: Sequence[Tensor | None], needed: Sequence[bool]) -> list[Tensor | None]:
    """Return the gradients by what was given, None for what is zero or not needed.

    Args:
        ran: The program.
        by_outputs: Those by what it returned.
        needed: For each of what it was given.
    """
    program, parts, affine, images, mixing = ran.program, ran.parts, ran.affine, ran.images, ran.mixing
    needs_mixing, needs_affine = any(needed[: parts.mixing]), any(needed[parts.mixing : parts.all])
    need_inputs, need_weights, need_projections = program.split(needed[parts.all :])
    wanted = list(need_inputs)  # of every image, whether anything asks for its gradient
    for step, share in zip(program.steps, program.shares, strict=True):
        mixes = (needs_mixing and share.values.stop > share.terms.start) or (
            needs_affine and share.norms.stop > share.norms.start
        )
        own = (*need_weights[share.weights], *need_projections[share.projections], mixes)
        wanted += [any(own) or any(wanted[i] for i in step.reads)] * (share.images.stop - share.images.start)
    of_image = gradients_of_images(program, by_outputs)
    by_mixing = torch.zeros_like(mixing) if needs_mixing else None
    by_weights: list[Tensor | None] = [None] * len(ran.weights)
    by_projections: list[Tensor | None] = [None] * len(ran.projections)
    by_affine = Affine(*map(torch.zeros_like, affine)) if affine is not None and needs_affine else None
    for step, share in zip(reversed(program.steps), reversed(program.shares), strict=True):
        rows = share.norms
        gs = [of_image.pop(i, None) for i in range(share.images.start, share.images.stop)]
        if all(part is None for part in gs):
            continue
        targets = [room_for(images, i, of_image) if wanted[i] else None for i in step.reads]
        if not isinstance(step, Step):
            of_step = step.backward(
                Asked(
                    [images[i] for i in step.reads],
                    images[share.images],
                    mixing[share.values],
                    ran.projections[share.projections],
                    gs,
                    targets,
                    by_mixing is not None,
                    need_projections[share.projections],
                )
            )
            by_projections[share.projections] = of_step.kernels
            if of_step.weights is not None and by_mixing is not None:
                by_mixing[share.values] = of_step.weights
            continue
        plan = step.plan
        found = backward(
            plan,
            ran.operands(step, share),
            *line_of(plan, mixing, affine, share),
            mixing[share.values] if plan.values else None,
            ran.normalised(share),
            [torch.zeros_like(images[share.images.start]) if part is None else part for part in gs],
            fixed=False,
            to_inputs=targets,
            to_weights=need_weights[share.weights],
            to_projections=any(need_projections[share.projections]),
            to_mixing=by_mixing is not None and bool(plan.values),
        )
        by_weights[share.weights] = found.weights
        if found.projections is not None:
            by_projections[share.projections] = found.projections
        if by_affine is not None and found.scale is not None and found.totals is not None:
            by_affine.scale[rows], by_affine.shift[rows] = found.scale, found.totals
        if by_mixing is not None and plan.summed:
            if found.scale is not None and affine is None:
                by_mixing[share.terms] = found.scale.sum(1)
            if found.mixing is not None:
                by_mixing[share.values] = found.mixing
    by_inputs = [of_image.get(i) for i in range(program.n_inputs)]
    found_by = (*in_parts(ran, by_mixing, by_affine), *by_inputs, *by_weights, *by_projections)
    return [g if need else None for g, need in zip(found_by, needed, strict=True)]


def in_parts(ran: Ran, by_mixing: Tensor | None, by_affine: Affine | None) -> list[Tensor | None]:
    """Return gradients by all mixing weights, and by all scales and shifts, as those by the parts that were given."""
    n = ran.parts.mixing
    found: list[Tensor | None] = [None] * ran.parts.all
    if by_mixing is not None:
        found[:n] = by_mixing.split([len(part) for part in ran.given[:n]])
    if by_affine is not None:
        rows = ran.program.norm_parts
        every = [by[own] for by in by_affine for own in rows]
        found[n:] = [by.view_as(part) for by, part in zip(every, ran.given[n : ran.parts.all], strict=True)]
    return found
